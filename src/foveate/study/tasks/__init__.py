"""What a trial does for each task: the model, the batches, the predictions; one file a task."""

from foveate.study.plan import Plan
from foveate.study.tasks.base import StudyTask
from foveate.study.tasks.classification import ClassificationStudy
from foveate.study.tasks.detection import DetectionStudy
from foveate.study.tasks.segmentation import SegmentationStudy

__all__ = ["StudyTask", "task_of"]

_TASKS: dict[str, StudyTask] = {
    "classification": ClassificationStudy(),
    "detection": DetectionStudy(),
    "segmentation": SegmentationStudy(),
}


def task_of(plan: Plan) -> StudyTask:
    """What trials of a plan do."""
    return _TASKS[plan.task]
