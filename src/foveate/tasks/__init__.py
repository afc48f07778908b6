"""What a model is trained for: a task gives a loss, predictions and metrics."""

from foveate.tasks.classification import Classification
from foveate.training.task import Task

__all__ = ["Classification", "Task"]
