"""Three ways to an image classifier: from scratch, complete training, fine-tuning."""

__version__ = "0.1.0"
