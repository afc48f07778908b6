"""Training a model for any task: the recipe, the loop, the history and the checkpoint.

Imports Lightning, which comes with ``pip install 'foveate[train]'``.
"""

from foveate.training.checkpoint import BEST, CHECKPOINT, WEIGHTS, CheckpointError, load_weights
from foveate.training.distributed import Distribution, ProcessLostError
from foveate.training.history import DivergenceError, EpochRecord, Progress
from foveate.training.loop import TrainingResult, train
from foveate.training.recipe import Recipe, check_recipe
from foveate.training.stages import BEFORE, epochs_before, train_in_stages
from foveate.training.task import Task

__all__ = [
    "BEFORE",
    "BEST",
    "CHECKPOINT",
    "WEIGHTS",
    "CheckpointError",
    "Distribution",
    "DivergenceError",
    "EpochRecord",
    "ProcessLostError",
    "Progress",
    "Recipe",
    "Task",
    "TrainingResult",
    "check_recipe",
    "epochs_before",
    "load_weights",
    "train",
    "train_in_stages",
]
