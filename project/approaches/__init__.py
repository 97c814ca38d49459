"""The three approaches, each a LightningModule on a common base."""

from project.approaches.base import ImageClassifier, Scheduler
from project.approaches.finetune import FineTuning
from project.approaches.full import FullTraining
from project.approaches.schedulers import WarmupCosine
from project.approaches.scratch import TrainFromScratch

__all__ = [
    "FineTuning",
    "FullTraining",
    "ImageClassifier",
    "Scheduler",
    "TrainFromScratch",
    "WarmupCosine",
]
