"""What a study compares and how: a plain record that reads from YAML or JSON and writes back.

Everything that decides the numbers of a trial is in the plan, and the plan that ran is saved with
the result, with every default filled in. Each field of :class:`Plan` states its name, type,
default, check and help once; plan files, ``foveate.compare`` and the command line are read by them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml

from foveate.deploy._runtimes import RUNTIMES
from foveate.metrics import ACCURACY, Metric
from foveate.study import settings as read
from foveate.study.entry import Entry, PlanError, nearest
from foveate.study.host import FORMS, own_host, stated_size
from foveate.study.kinds import KINDS, MASK_HEADS, MASK_METRICS

DEFAULT_ATTENTION = ("slide", "window", "multi_head", "sliding_window", "cbam")
DEFAULT_CONTROLS = ("none", "depthwise_conv")
EMBEDDED = ("characters", "digits")
_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
ADDED_LR_SCALE = 10.0
"""By default, how much faster than trained weights that learns which is put between them.

An inserted scale starts at zero, and an optimizer such as Adam moves it by about the learning rate
a step: at that of fine-tuning, a short study would compare the unchanged model with itself.
"""
_WITHOUT_EFFECT = ("workers", "trial_minutes", "cache", "executor", "address")
"""Settings that change no number."""


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where it is there: ten times as fast."""


class Setting(NamedTuple):
    """What a field of the plan states beside its name, type and default.

    Attributes:
        read: ``(key, value) -> value``, checked; raises :class:`PlanError`.
        help: what it is, in one line.
        default: what the default comes to, where the value itself does not say it.
    """

    read: Callable[[str, Any], Any]
    help: str
    default: str | None = None


def _stated(
    read: Callable[[str, Any], Any], help: str, default: str | None = None
) -> dict[str, Setting]:
    return {"setting": Setting(read, help, default)}


@dataclass(frozen=True)
class Plan:
    """A study. A field that is None is decided by :func:`complete` where its help says so.

    :data:`SETTINGS` holds the check and the help of each field; ``foveate compare --help`` shows
    them.
    """

    task: str = field(
        default="classification",
        metadata=_stated(
            read.one_of(*KINDS), "what is learnt: classification, segmentation or detection"
        ),
    )
    attention: tuple[Entry, ...] = field(
        default=tuple(Entry(name) for name in DEFAULT_ATTENTION),
        metadata=_stated(
            read.entries, "mechanisms to compare, with options as NAME:key=value,key=value"
        ),
    )
    controls: tuple[Entry, ...] = field(
        default=tuple(Entry(name, control=True) for name in DEFAULT_CONTROLS),
        metadata=_stated(read.controls, "what they are compared with"),
    )
    seeds: tuple[int, ...] = field(
        default=(0, 1, 2),
        metadata=_stated(
            read.seeds, "how many seeds, or which; one trial of each mechanism for every seed"
        ),
    )
    metric: Metric = field(
        default=ACCURACY,
        metadata=_stated(
            read.metric,
            "what mechanisms are judged by: accuracy or balanced_accuracy; in segmentation "
            "mean_iou, pixel_accuracy, mean_class_accuracy or mean_dice; in detection ap, ap50, "
            "ap75, and of masks mask_ap or mask_ap50",
            "accuracy; mean_iou; ap",
        ),
    )
    data: str = field(
        default="characters",
        metadata=_stated(
            read.path,
            "a folder, list or array of images, torchvision/NAME, or the embedded characters or "
            "digits; in segmentation a folder of images and masks; in detection a folder or file "
            "with annotations of objects (COCO, Pascal VOC, YOLO)",
        ),
    )
    ignore_label: int | None = field(
        default=None,
        metadata=_stated(
            read.maybe_label,
            "in segmentation: label of pixels that count nowhere",
            "255, and what the list of classes says",
        ),
    )
    data_root: str | None = field(
        default=None,
        metadata=_stated(
            read.maybe_path,
            "where named data sets lie or are downloaded to; in detection the folder of the images "
            "that an annotation file names",
            "~/.cache/foveate",
        ),
    )
    limit: int | None = field(
        default=None,
        metadata=_stated(
            read.maybe_whole,
            "train on at most this many images, and measure on a quarter as many",
            "all",
        ),
    )
    image_size: tuple[int, int] | None = field(
        default=None,
        metadata=_stated(
            read.size,
            "height and width, or one number for both; in segmentation of the crops to train on; "
            "in detection what images are fitted into",
            "32 for the embedded images, 64 for others; 128 in segmentation; 192 in detection",
        ),
    )
    duplicates: str = field(
        default="keep",
        metadata=_stated(
            read.one_of("keep", "leave_out"),
            "training images that are held out as well: keep (and say so) or leave_out",
        ),
    )
    cache: str = field(
        default="auto",
        metadata=_stated(
            read.path, "of large images once reduced: auto, none or a directory; changes no number"
        ),
    )
    folds: int | None = field(
        default=None,
        metadata=_stated(
            read.folds,
            "for small sets: pool the images and hold every one out once, in so many folds; a "
            "trial then trains as many models",
            "the set's own split",
        ),
    )
    host: str = field(
        default="pyramid_pico",
        metadata=_stated(
            read.text,
            "the backbone in whose blocks the attention stands, by its timm name; or a model of "
            f"your own to put it in: {FORMS}",
        ),
    )
    host_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata=_stated(read.mapping, "further options of the host")
    )
    head: str = field(
        default="semantic_fpn",
        metadata=_stated(
            read.text,
            "what stands on the host: in segmentation semantic_fpn, upernet, psp, fcn, dual or "
            "light; in detection retinanet, faster_rcnn, mask_rcnn or cascade_mask_rcnn",
            "semantic_fpn; retinanet",
        ),
    )
    head_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata=_stated(read.mapping, "options of the head, such as dim=64"),
    )
    masks: str | None = field(
        default=None,
        metadata=_stated(
            read.maybe_one_of("given", "ellipse", "rectangle"),
            "in detection: the objects' masks: given with the annotations, or drawn from boxes as "
            "an ellipse or a rectangle",
            "given where the head finds masks, else none",
        ),
    )
    weights: str | None = field(
        default=None,
        metadata=_stated(
            read.maybe_path,
            "for a host of your own: a file of weights, or timm for those that timm has of it; in "
            "segmentation and detection of its backbone or of the whole; none trains from scratch",
        ),
    )
    at: str = field(
        default="branch",
        metadata=_stated(
            read.text,
            "in a host of your own: branch or stage, behind which is inserted; or what is "
            "replaced: attention, gate, conv, depthwise or a glob of modules",
        ),
    )
    where: tuple[str, ...] = field(
        default=("*",),
        metadata=_stated(read.globs, "globs of the places in a host of your own", "all"),
    )
    freeze: str | None = field(
        default=None,
        metadata=_stated(
            read.maybe_one_of("norms", "nothing"),
            "of a host of your own: norms (batch norms keep statistics and weights) or nothing",
            "norms with weights, else nothing",
        ),
    )
    added_lr_scale: float | None = field(
        default=None,
        metadata=_stated(
            read.maybe_positive,
            "of what is put into a host of your own: its learning rate over that of the rest",
            "10 with weights, else 1",
        ),
    )
    match: str | None = field(
        default=None,
        metadata=_stated(
            read.match,
            "widen MLPs until all cost the same: multiply_adds, parameters or latency; in a host "
            "of your own: what the control costs as much of as the costliest mechanism",
            "none; multiply_adds in a host of your own",
        ),
    )
    start: str = field(
        default="identity",
        metadata=_stated(
            read.text,
            "of the attention's branch in the host: identity (scaled by zero; what is replaced "
            "stays beside) or plain",
        ),
    )
    epochs: int = field(default=10, metadata=_stated(read.whole, "passes over the training images"))
    batch_size: int = field(default=64, metadata=_stated(read.whole, "images a batch"))
    optimizer: str = field(default="adamw", metadata=_stated(read.text, "a timm name"))
    lr: float | None = field(
        default=None,
        metadata=_stated(
            read.maybe_positive, "highest learning rate", "0.002; 0.0002 with weights"
        ),
    )
    weight_decay: float = field(
        default=0.05, metadata=_stated(read.number, "of weights that are neither biases nor norms")
    )
    schedule: str = field(
        default="cosine", metadata=_stated(read.text, "of the learning rate; a timm name")
    )
    warmup_epochs: float = field(
        default=1.0, metadata=_stated(read.number, "over which the learning rate rises")
    )
    label_smoothing: float = field(
        default=0.0, metadata=_stated(read.share, "share of the target spread over all classes")
    )
    mixup: float = field(
        default=0.0, metadata=_stated(read.number, "timm's mixup alpha; 0 mixes nothing")
    )
    cutmix: float = field(
        default=0.0, metadata=_stated(read.number, "timm's cutmix alpha; 0 mixes nothing")
    )
    class_weights: str = field(
        default="none",
        metadata=_stated(
            read.one_of("none", "balanced"),
            "in segmentation: what pixels of a class count in the loss: none (all alike) or "
            "balanced (by the root of how rare they are)",
        ),
    )
    dice: float = field(
        default=0.0,
        metadata=_stated(
            read.number, "in segmentation: what the Dice loss counts beside the cross entropy"
        ),
    )
    window: tuple[int, int] | None = field(
        default=None,
        metadata=_stated(
            read.size,
            "in segmentation: held-out images are predicted in overlapping windows of this size",
            "whole",
        ),
    )
    clip_grad: float | None = field(
        default=1.0,
        metadata=_stated(
            read.maybe_number, "largest norm of the gradient; null leaves it as it is"
        ),
    )
    tune: str = field(
        default="none",
        metadata=_stated(
            read.one_of("none", "lr"),
            "lr: for each mechanism and control alike, choose the learning rate of lr_grid on a "
            "fifth of the training images",
        ),
    )
    lr_grid: tuple[float, ...] = field(
        default=(),
        metadata=_stated(
            read.numbers, "learning rates that tune tries", "lr times 1/4, 1/2, 1, 2 and 4"
        ),
    )
    select: str = field(
        default="last",
        metadata=_stated(
            read.one_of("last", "best"),
            "the epoch that is reported: last, or best on a fifth of the training images, which "
            "is then not trained on",
        ),
    )
    augment: str = field(
        default="auto",
        metadata=_stated(
            read.text,
            "none, affine (for drawings), photo (timm's transforms) or auto, by the kind of "
            "images; in segmentation of image and mask alike; in detection photo (size, place and "
            "mirror) or none",
        ),
    )
    augment_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata=_stated(
            read.mapping,
            "options of timm's create_transform; in segmentation scale, hflip and color_jitter; in "
            "detection scale and hflip",
        ),
    )
    precision: str = field(
        default="32-true",
        metadata=_stated(read.text, "Lightning's word, such as 32-true or bf16-mixed"),
    )
    device: str = field(
        default="auto",
        metadata=_stated(read.text, "cpu, cuda, mps or auto: cuda where there is one"),
    )
    latency: str = field(
        default="torch",
        metadata=_stated(
            read.one_of(*RUNTIMES),
            "what trained models are timed in: torch, on the device, or their exported files in "
            "onnxruntime, openvino, executorch or litert, on the CPU",
        ),
    )
    executor: str = field(
        default="local",
        metadata=_stated(
            read.one_of("local", "ray"),
            "where trials run: local, in processes on this machine, or ray, on the nodes of a Ray "
            "cluster that share the run directory",
        ),
    )
    address: str = field(
        default="auto",
        metadata=_stated(
            read.text,
            "of the Ray cluster: HOST:PORT of its head, or auto for the one this machine is in",
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_stated(
            read.maybe_whole,
            "trials at a time",
            "one a core, at most 8; 1 on a GPU; as many as a cluster takes",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_stated(
            read.maybe_whole,
            "CPU threads of a trial, and the CPUs that it takes of a cluster",
            "the cores shared among the workers; in a cluster 1, or a GPU's share of the cores",
        ),
    )
    trial_minutes: float | None = field(
        default=None,
        metadata=_stated(
            read.maybe_number, "a trial that takes longer is stopped and counts as failed", "none"
        ),
    )
    imports: tuple[str, ...] = field(
        default=(),
        metadata=_stated(read.paths, "modules or files that register mechanisms of your own"),
    )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that is compared, controls last."""
        return self.attention + self.controls

    @property
    def trials(self) -> list[tuple[Entry, int]]:
        """Every entry with every seed; the first seed of all comes first."""
        return [(entry, seed) for seed in self.seeds for entry in self.entries]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML holds them."""
        values = asdict(self)
        for key in ("attention", "controls"):
            values[key] = [entry_value(entry) for entry in getattr(self, key)]
        values["metric"] = self.metric.name
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def to_yaml(self) -> str:
        """The plan as a file that ``--plan`` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


SETTINGS: dict[str, Setting] = {f.name: f.metadata["setting"] for f in fields(Plan)}
"""What each field of a plan states, by its name."""

TYPES: dict[str, Any] = get_type_hints(Plan)
"""The type of each field of a plan."""


def entry_value(entry: Entry) -> Any:
    """What is compared, as YAML holds it."""
    if not entry.kwargs and entry.label == entry.name:
        return entry.name
    value: dict[str, Any] = {"name": entry.name}
    if entry.kwargs:
        value["kwargs"] = entry.kwargs
    return {**value, "label": entry.label}


def read_plan(values: Mapping[str, Any], where: str = "the plan") -> Plan:
    """A plan from plain values; keys that are missing keep their defaults.

    Raises:
        PlanError: if a key is unknown (with the nearest) or a value does not fit.
    """
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in SETTINGS:
            raise PlanError(f"unknown key {key!r} in {where}{nearest(str(key), SETTINGS)}")
        try:
            checked[key] = SETTINGS[key].read(key, value)
        except PlanError as error:
            raise PlanError(f"{error} (in {where})") from None
    kind = KINDS[checked.get("task", "classification")]
    checked.setdefault("metric", kind.metrics[0])
    if kind.head is not None:
        checked.setdefault("head", kind.head)
    plan = Plan(**checked)
    _check_whole(plan, where)
    return plan


def load_plan(path: Path) -> Plan:
    """A plan from a YAML or JSON file.

    Raises:
        PlanError: if there is none there, or it is not one.
    """
    return read_plan(read_file(path, "plan"), str(path))


def read_file(path: Path, what: str) -> Mapping[str, Any]:
    """The settings in a YAML or JSON file, not checked yet.

    Args:
        path: of it.
        what: it is to be, for messages.

    Raises:
        PlanError: if there is none there, or it holds no mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except FileNotFoundError:
        raise PlanError(f"{what} {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{what} {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise PlanError(
            f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, Mapping):
        raise PlanError(f"{path} holds no {what}: expected lines such as 'epochs: 10'")
    return values


class Cluster(NamedTuple):
    """What a plan must know of the cluster that it is to run on.

    Attributes:
        gpus: of all nodes.
        cores_a_gpu: CPUs for each GPU, where they are fewest; 0 without GPUs.
    """

    gpus: int
    cores_a_gpu: int


def complete(plan: Plan, cluster: Cluster | None = None) -> Plan:
    """The plan with what was left open decided for these data, and where it runs.

    Args:
        plan: as stated.
        cluster: on which it runs; None for this machine.

    Raises:
        PlanError: if the device, or what is to be imported, is not there.
    """
    device = device_of(plan.device) if cluster is None else _device_of(cluster, plan.device)
    own = own_host(plan.host)
    if only_reduces(plan) and plan.controls == Plan().controls:
        plan = replace(plan, controls=plan.controls[:1])  # the whole model, and no convolution
    lr = (2e-3 if plan.weights is None else 2e-4) if plan.lr is None else plan.lr
    workers, threads = _shares(plan, device, cluster)
    return replace(
        plan,
        device=device,
        workers=workers,
        threads=threads,
        image_size=plan.image_size or _image_size(plan),
        data=plan.data if plan.data in EMBEDDED else _absolute(plan.data),
        lr=lr,
        lr_grid=_grid(plan, lr),
        host=str(own._replace(name=_absolute(own.name)))
        if own and own.kind == "file"
        else plan.host,
        weights=plan.weights and _absolute(plan.weights),
        freeze=plan.freeze or (own and ("norms" if plan.weights else "nothing")),
        added_lr_scale=plan.added_lr_scale or (own and (ADDED_LR_SCALE if plan.weights else 1.0)),
        match=plan.match or (own and "multiply_adds"),
        masks=plan.masks or ("given" if _finds_masks(plan) else None),
        imports=tuple(map(_importable, plan.imports)),
    )


def only_reduces(plan: Plan) -> bool:
    """Whether all that is compared makes the host cheaper; nothing is put into it then."""
    from foveate.registry import list_reducers  # late: it loads PyTorch

    known = set(list_reducers())
    return bool(plan.attention) and all(entry.name in known for entry in plan.attention)


def _finds_masks(plan: Plan) -> bool:
    """Whether the head of a detector finds masks; a file's function brings its own."""
    own = own_host(plan.host)
    of_file = own is not None and own.kind == "file"
    return plan.task == "detection" and plan.head in MASK_HEADS and not of_file


def _shares(plan: Plan, device: str, cluster: Cluster | None) -> tuple[int | None, int]:
    """Trials at a time, and threads of each; in a cluster as many trials as there is room for."""
    if cluster is not None:
        return plan.workers, plan.threads or max(1, 0 if device == "cpu" else cluster.cores_a_gpu)
    here = cores()
    workers = plan.workers or (min(here, len(plan.trials), 8) if device == "cpu" else 1)
    return workers, plan.threads or max(1, here // workers)


def own_paths(plan: Plan) -> tuple[Path, ...]:
    """The user's files and folders that a plan names by whole paths, as a complete plan does."""
    own = own_host(plan.host)
    named = [plan.data, plan.weights, own and own.name, *plan.imports]
    return tuple(Path(name) for name in named if name and Path(name).is_absolute())


def _grid(plan: Plan, lr: float) -> tuple[float, ...]:
    if plan.tune == "none" or plan.lr_grid:
        return plan.lr_grid
    return tuple(factor * lr for factor in (0.25, 0.5, 1.0, 2.0, 4.0))


def _image_size(plan: Plan) -> tuple[int, int]:
    """Weights want images of the size that they were trained with; others small ones."""
    if plan.weights is None:
        return (32, 32) if plan.data in EMBEDDED else KINDS[plan.task].size
    return stated_size(plan.host)


def difference(before: Plan, now: Plan) -> str | None:
    """The first key in which two plans differ in a way that changes numbers, in words."""
    old, new = before.to_dict(), now.to_dict()
    for key, value in old.items():
        if key not in _WITHOUT_EFFECT and value != new[key]:
            return f"{key} is {value!r} there and {new[key]!r} here"
    return None


def device_of(name: str) -> str:
    """The device that is meant; of auto, cuda where there is one.

    Raises:
        PlanError: if it is unknown or not available here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if name.split(":")[0] not in _DEVICES:
            raise PlanError(f"unknown device {name!r}; known: {', '.join(_DEVICES)}") from error
        reason = re.split(r"[\n;]|\. |https?:", str(error))[0]
        raise PlanError(f"device {name!r} is not available here: {reason}") from error
    return name


def _device_of(cluster: Cluster, name: str) -> str:
    if name == "auto":
        return "cuda" if cluster.gpus else "cpu"
    if name not in ("cpu", "cuda"):
        raise PlanError(f"device must be cpu, cuda or auto where executor is ray, got {name!r}")
    if name == "cuda" and not cluster.gpus:
        raise PlanError("device is cuda, and no node of the Ray cluster has a GPU")
    return name


def cores() -> int:
    """Of this machine, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


def _importable(name: str) -> str:
    """The path of a file that is there, or the name of a module that is."""
    if name.endswith(".py"):
        if not Path(name).expanduser().is_file():
            raise PlanError(f"imports names {name!r}, and there is no such file")
        return _absolute(name)
    top = name.partition(".")[0]
    if PathFinder.find_spec(top, [os.getcwd()]) is None and find_spec(top) is None:
        raise PlanError(
            f"imports names {name!r}, and there is no such module here; a file is named with its "
            "ending, as in my_attention.py"
        )
    return name


def _check_host(plan: Plan, where: str) -> None:
    own = own_host(plan.host)
    if own is None:
        for key in ("weights", "at", "where", "freeze", "added_lr_scale"):
            if getattr(plan, key) != Plan.__dataclass_fields__[key].default:
                raise PlanError(
                    f"{key} is for a host of your own ({FORMS}), and host is {plan.host} "
                    f"(in {where})"
                )
    elif own.kind == "file" and not own.function.isidentifier():
        raise PlanError(
            f"host {plan.host!r} names no function of the file: {own.name}:build, where "
            f"build(num_classes) gives the model (in {where})"
        )
    elif plan.match == "latency":
        raise PlanError(
            "match cannot be latency in a host of your own: multiply_adds or parameters "
            f"(in {where})"
        )


def _check_task(plan: Plan, where: str) -> None:
    """Refuse a metric, a setting or data of another task."""
    kind = KINDS[plan.task]
    if plan.metric not in kind.metrics:
        raise PlanError(
            f"metric {plan.metric.name} is of another task; {plan.task} has "
            f"{', '.join(metric.name for metric in kind.metrics)} (in {where})"
        )
    for key in {key: None for other in KINDS.values() for key in other.own if key not in kind.own}:
        if getattr(plan, key) != getattr(Plan(), key):
            tasks = " or ".join(task for task, other in KINDS.items() if key in other.own)
            raise PlanError(f"{key} is for task {tasks}, and task is {plan.task} (in {where})")
    if kind.needs is None:
        return
    if plan.data in EMBEDDED:
        raise PlanError(
            f"task {plan.task} needs data with {kind.needs.format(plan.data)} (in {where})"
        )
    if plan.task == "detection":
        _check_masks(plan, where)
        if plan.match == "latency":
            raise PlanError(
                "match cannot be latency in detection, where it depends on what is found: "
                f"multiply_adds or parameters (in {where})"
            )


def _check_masks(plan: Plan, where: str) -> None:
    """Refuse masks that nothing learns, and metrics of masks that nothing finds."""
    own = own_host(plan.host)
    if own is not None and own.kind == "file":
        if plan.metric in MASK_METRICS and plan.masks is None:
            raise PlanError(
                f"metric {plan.metric.name} needs masks: given, ellipse or rectangle (in {where})"
            )
        return
    if plan.head in MASK_HEADS:
        return
    finds = f"{' and '.join(MASK_HEADS)} find masks, and head is {plan.head}"
    if plan.masks is not None:
        raise PlanError(f"masks is {plan.masks}: {finds} (in {where})")
    if plan.metric in MASK_METRICS:
        raise PlanError(f"metric {plan.metric.name} is of masks: {finds} (in {where})")


def _check_whole(plan: Plan, where: str) -> None:
    _check_task(plan, where)
    _check_host(plan, where)
    if plan.match == "latency" and plan.latency != "torch":
        raise PlanError(
            f"match cannot be latency, which hosts are matched by in PyTorch, where latency is "
            f"{plan.latency}: multiply_adds or parameters (in {where})"
        )
    if not plan.entries:
        raise PlanError(f"{where} compares nothing: attention is empty")
    labels = [entry.key for entry in plan.entries]
    for entry in plan.entries:
        if labels.count(entry.key) > 1:
            raise PlanError(f"{entry.label} stands twice in {where}; give each its own label")
    if len(set(plan.seeds)) < len(plan.seeds):
        raise PlanError(f"seeds repeats a number: {list(plan.seeds)} (in {where})")
