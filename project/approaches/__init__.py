"""The three approaches, each a LightningModule on a common base."""

from project.approaches.base import ImageClassifier
from project.approaches.finetune import FineTuning
from project.approaches.full import FullTraining
from project.approaches.schedulers import Scheduler, WarmupCosine
from project.approaches.scratch import TrainFromScratch

__all__ = [
    "FineTuning",
    "FullTraining",
    "ImageClassifier",
    "Scheduler",
    "TrainFromScratch",
    "WarmupCosine",
]
