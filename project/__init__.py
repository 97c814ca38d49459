"""Three ways to an image classifier: from scratch, complete training, fine-tuning."""

import time

STARTED = time.perf_counter()  # of the process, but for Python's own start

__version__ = "0.1.0"
