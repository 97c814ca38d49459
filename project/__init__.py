"""Three ways to an image classifier: from scratch, complete training, fine-tuning."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from project.classifier import Classifier as Classifier

STARTED = time.perf_counter()  # of the process, but for Python's own start

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the classifier when it is asked for: torch and Lightning take seconds."""
    if name == "Classifier":
        from project.classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
