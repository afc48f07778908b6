"""What a model is trained for: a task gives a loss, predictions and metrics."""

from foveate.tasks.classification import Classification
from foveate.tasks.detection import Detection
from foveate.tasks.detection_metrics import AveragePrecision
from foveate.tasks.reduced_classification import ReducedClassification
from foveate.tasks.segmentation import Segmentation
from foveate.tasks.segmentation_losses import dice_loss, pixel_cross_entropy
from foveate.tasks.segmentation_metrics import AreaMetric
from foveate.training.task import Task

__all__ = [
    "AreaMetric",
    "AveragePrecision",
    "Classification",
    "Detection",
    "ReducedClassification",
    "Segmentation",
    "Task",
    "dice_loss",
    "pixel_cross_entropy",
]
