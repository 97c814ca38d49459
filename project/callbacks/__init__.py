"""Callbacks that every run has, and those that a config can add."""

from project.callbacks.checkpoint import BestAndLast
from project.callbacks.figures import Figures
from project.callbacks.gradients import GradientNorms
from project.callbacks.predictions import PredictionWriter
from project.callbacks.record import RunRecord
from project.callbacks.report import RunReport
from project.callbacks.resources import ResourceMonitor
from project.callbacks.resume import Resume
from project.callbacks.stopping import StopOnSignal
from project.callbacks.tested import TestResults

__all__ = [
    "BestAndLast",
    "Figures",
    "GradientNorms",
    "PredictionWriter",
    "ResourceMonitor",
    "Resume",
    "RunRecord",
    "RunReport",
    "StopOnSignal",
    "TestResults",
]
