"""What happens in the processes of a study: looking at a plan, a trial, a measurement."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from torch import nn

import foveate.models  # noqa: F401  registers the hosts with timm
from foveate._files import read_json, write_json
from foveate._random import seed_all
from foveate.analysis.flops import count_flops
from foveate.analysis.profile import profile
from foveate.analysis.sight import attention_layers, layer_inputs, what_a_query_sees
from foveate.arguments import nearest, one_of
from foveate.data.batches import Augment, held_out_batches, train_batches
from foveate.data.images import ImageSet, load, loader_processes
from foveate.models import CONTROLS, list_slots
from foveate.registry import describe, list_attention
from foveate.study.plan import Entry, Plan
from foveate.study.store import Run, held, identity
from foveate.surgery.fuse import fuse
from foveate.tasks.classification import CHECKPOINT, WEIGHTS, Recipe, check_recipe, train

Tell = Callable[[Any], None]
LATENCY_BATCH = 16
_HOSTS = "pyramid_*"


def probe(plan: Plan, classes: int, channels: int, tell: Tell) -> dict[str, dict[str, Any]]:
    """Build every model of a plan and run one image through it, before anything is trained.

    Returns:
        For each key what the files of the study say of it: labels, role, family.

    Raises:
        ValueError: if the host, a mechanism or an option is refused.
    """
    _import_all(plan.imports)
    _check_names(plan)
    check_recipe(_recipe(plan))
    one_of(plan.augment, get_args(Augment), "augment")
    known = {}
    for entry in plan.entries:
        tell(entry.label)
        try:
            model = build(plan, entry, classes, channels)
            with torch.inference_mode():
                model.eval()(torch.zeros(1, channels, *plan.image_size))
        except (ValueError, TypeError) as error:
            size = "x".join(map(str, plan.image_size or ()))
            raise ValueError(f"{entry.label} in {plan.host} at {size}: {error}") from error
        except Exception:
            continue
        known[entry.key] = _about(entry)
    return known


def run_trial(root: Path, entry: Entry, seed: int, tell: Tell) -> dict[str, Any]:
    """Train one model and leave its result in the run directory."""
    run = Run.open(root)
    plan, directory = run.plan, run.trial(entry, seed)
    with held(directory / ".lock", 30.0) as ours:
        if not ours:
            raise RuntimeError(f"another process is at work in {directory}")
        _set_up(plan)
        images = load(run.data)
        seed_all(seed)
        model = build(plan, entry, len(images.classes), images.channels)
        known = costs(model, (images.channels, *(plan.image_size or ())))

        history: list[dict[str, Any]] = []
        if (directory / CHECKPOINT).exists() and (directory / "history.json").exists():
            history = read_json(directory / "history.json")

        def on_event(event: dict[str, Any]) -> None:
            if "accuracy" in event:
                history[event["epoch"] - 1 :] = [event]
                write_json(directory / "history.json", history)
            tell(event)

        outcome = train(model, *_batches(plan, images, seed), _recipe(plan), directory, on_event)
        result = {
            **_about(entry),
            "seed": seed,
            "host": plan.host,
            "status": "done",
            "error": None,
            "epochs": plan.epochs,
            **known,
            **outcome,
        }
        write_json(directory / "history.json", outcome["history"])
        write_json(directory / "trial.json", result)
        return result


def measure(root: Path, entry: Entry, seed: int, tell: Tell) -> dict[str, Any]:
    """Time the trained model, and look at what a query of it sees."""
    from safetensors.torch import load_file

    run = Run.open(root)
    plan = run.plan
    _set_up(plan)
    images = load(run.data)
    seed_all(seed)
    model = build(plan, entry, len(images.classes), images.channels)
    model.load_state_dict(load_file(run.trial(entry, seed) / WEIGHTS))
    model = model.eval().to(plan.device)
    (root / "views").mkdir(exist_ok=True)
    write_json(root / "views" / f"{entry.key}.json", _view(plan, entry, model, images))
    model = fuse(model)
    size = (images.channels, *(plan.image_size or ()))
    cost = profile(model, size, LATENCY_BATCH, plan.device, repeats=50)
    memory = cost.peak_memory
    result = {
        "attention": entry.key,
        "latency_ms": {
            "median": cost.latency_ms,
            "p25": cost.latency_p25_ms,
            "p75": cost.latency_p75_ms,
            "batch": cost.batch_size,
            "repeats": cost.repeats,
        },
        "peak_memory_mb": None if memory is None else memory / 1e6,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "threads": cost.threads,
        "device": cost.device,
    }
    (root / "measured").mkdir(exist_ok=True)
    write_json(root / "measured" / f"{entry.key}.json", result)
    return result


def build(plan: Plan, entry: Entry, classes: int, channels: int) -> nn.Module:
    """The host with what is compared in its blocks."""
    model = timm.create_model(
        plan.host,
        num_classes=classes,
        in_chans=channels,
        attention=entry.name,
        attention_kwargs=entry.kwargs,
        **plan.host_kwargs,
    )
    return model.to(memory_format=torch.channels_last)  # pyrefly: ignore


def _about(entry: Entry) -> dict[str, Any]:
    if entry.name in CONTROLS:
        return {**identity(entry), "role": "control", "family": "control"}
    spec = describe(entry.name)
    return {**identity(entry), "role": spec.role, "family": spec.family}


def _check_names(plan: Plan) -> None:
    for entry in plan.entries:
        if entry.name in list_attention() and entry.name not in list_slots():
            role = describe(entry.name).role
            raise ValueError(f"{entry.name} is an {role}; it cannot stand in a backbone")
        if entry.name not in list_slots():
            raise ValueError(f"unknown attention {entry.name!r}{nearest(entry.name, list_slots())}")
    if not timm.is_model(plan.host):
        raise ValueError(
            f"unknown host {plan.host!r}{nearest(plan.host, timm.list_models(_HOSTS))}"
        )
    try:
        with torch.device("meta"):
            timm.create_model(plan.host, attention="none", attention_kwargs={}, num_classes=2)
    except TypeError as error:
        hosts = ", ".join(timm.list_models(_HOSTS))
        raise ValueError(
            f"host {plan.host} has no slot for an attention by name; hosts that have: {hosts}"
        ) from error


def _set_up(plan: Plan) -> None:
    torch.set_num_threads(plan.threads or 1)
    _import_all(plan.imports)


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        path = Path(name)
        if path.suffix != ".py":
            sys.path.insert(0, "")
            importlib.import_module(name)
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.exists():
            raise ValueError(f"imports names {name!r}, which cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)


def _batches(plan: Plan, images: ImageSet, seed: int) -> tuple[Any, Any]:
    size = plan.image_size or (0, 0)
    learning = train_batches(
        images,
        size,
        plan.batch_size,
        seed,
        augment=plan.augment,
        augment_kwargs=plan.augment_kwargs,
        processes=loader_processes(images.train, plan.device),
    )
    measuring = held_out_batches(
        images, size, 256, processes=0 if images.test.in_memory else learning.processes
    )
    return learning, measuring


def _recipe(plan: Plan) -> Recipe:
    shared = [name for name in Recipe.__dataclass_fields__ if hasattr(plan, name)]
    return Recipe(**{name: getattr(plan, name) for name in shared})


def costs(model: nn.Module, size: tuple[int, ...]) -> dict[str, int]:
    """Parameters as trained; multiply-adds as deployed, for one image of ``size`` (C, H, W)."""
    parameters = sum(p.numel() for p in model.parameters())
    deployed = fuse(copy.deepcopy(model).eval())
    with torch.no_grad():
        flops = count_flops(deployed, torch.zeros(1, *size))
    return {"parameters": parameters, "multiply_adds": flops // 2}


def _view(plan: Plan, entry: Entry, model: nn.Module, images: ImageSet) -> dict[str, Any]:
    """What the middle query of each stage's first slot sees, averaged over held-out images."""
    x, _ = next(iter(held_out_batches(images, plan.image_size or (0, 0), 16, processes=0)))
    x = x.to(plan.device)
    shown = (x[0] - x[0].min()) / (x[0].max() - x[0].min()).clamp_min(1e-6)
    slots = {n: m for n, m in model.named_modules() if n.endswith("blocks.0.slot")}
    chosen = slots or attention_layers(model)
    layers = []
    for name, features in layer_inputs(model, x, list(chosen)).items():
        query = (features.shape[2] // 2, features.shape[3] // 2)
        sight = what_a_query_sees(chosen[name], features, query)
        layers.append(
            {
                "layer": name,
                "query": list(query),
                "measure": sight.measure,
                "map": [[round(value, 6) for value in row] for row in sight.map.tolist()],
            }
        )
    return {
        **identity(entry),
        "image": (shown * 255).round().byte().permute(1, 2, 0).squeeze(-1).tolist(),
        "images": len(x),
        "layers": layers,
    }
