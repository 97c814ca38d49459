"""Scheduled unfreezing: which layer groups of a pretrained network train, when and how."""

from project.finetuning.phases import Phase, Plateau
from project.finetuning.schedule import FineTuningSchedule

__all__ = ["FineTuningSchedule", "Phase", "Plateau"]
