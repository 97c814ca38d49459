"""What the command line can do beside fit, validate, test and predict."""

from project.commands.plan import PlanningTrainer

__all__ = ["PlanningTrainer"]
