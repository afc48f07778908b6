"""What happens in the processes that measure: one model looked at, all timed, hosts matched."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import nn

from foveate._random import seed_all
from foveate.analysis.attention_map import attention_layers, attention_map, layer_inputs
from foveate.analysis.flops import count_flops
from foveate.analysis.profile import Passes, device_name, interleaved, peak_memory
from foveate.data.batches import Fit, held_out_batches
from foveate.data.images import ImageSet
from foveate.data.moments import Moments
from foveate.study.early_exits import Exits, exits_of
from foveate.study.entry import Entry, Trained
from foveate.study.host import own_host
from foveate.study.in_runtime import file_of, opened, write
from foveate.study.matching import OPTION, fit
from foveate.study.own_host import CONTROL, RATIO, normalization
from foveate.study.parts import Part, folds
from foveate.study.plan import Plan
from foveate.study.records import (
    TRUTH,
    AttentionMaps,
    Counts,
    ImageMap,
    InRuntime,
    LayerMap,
    MatchedHost,
    Records,
)
from foveate.study.tasks import task_of
from foveate.study.trial import (
    build,
    costs,
    input_size,
    learning_batches,
    measuring_batches,
    read_images,
    set_up,
    subject_of,
)
from foveate.surgery.fuse import fuse
from foveate.training import WEIGHTS, Task, load_weights

Tell = Callable[[Any], None]

SECONDS_A_ROW, MOST_SECONDS = 0.6, 20.0
"""Of a process's rounds: for each model, and for all of them."""

_ROUNDS, _SECONDS, _BATCH = 5, 0.5, 16
"""Of timing while hosts are matched by latency."""


def look(
    root: Path, plan: Plan, model: Trained, size: int, single: Sequence[int], tell: Tell
) -> Counts:
    """Write a trained model's attention maps, and count what a pass takes.

    Args:
        root: the run directory.
        plan: of the study.
        model: that is looked at.
        size: images a pass.
        single: held-out images to show by themselves.
        tell: is told nothing.
    """
    images = _begin(root, plan)
    network = _load(root, plan, model, images)
    maps = attention_maps(plan, model.entry, network, images)
    normal = normalization(plan, network, images.moments, images.channels)
    work = task_of(plan)
    overlays = work.overlays(plan, network, images, list(single), normal)
    if overlays is None:
        maps = replace(maps, single=single_maps(plan, network, images, single))
    else:
        Records(root).write_overlays(model.entry.key, overlays)
    Records(root).write_attention_maps(maps)
    deployed = fuse(network)
    one, batch = _noise(plan, images, 1), _example(plan, deployed, images, size)
    with torch.no_grad():
        exits = _exits(plan, deployed, images)
        multiply_adds = (
            count_flops(work.counted(deployed), one) // 2 if exits is None else exits.multiply_adds
        )
        memory = peak_memory(partial(deployed, batch), plan.device)
    return Counts(
        parameters=sum(p.numel() for p in deployed.parameters()),
        multiply_adds=multiply_adds,
        peak_memory=memory,
        threads=torch.get_num_threads(),
        device=device_name(plan.device),
    )


def write_for_runtime(root: Path, plan: Plan, model: Trained, tell: Tell) -> InRuntime:
    """Export a trained model to the runtime of the plan; ``tell`` is told nothing."""
    images = _begin(root, plan)
    network = _load(root, plan, model, images)
    size = input_size(plan, images.channels)
    return write(plan, network, size, file_of(root, plan, model.entry.key))


def time_models(
    root: Path, plan: Plan, models: Sequence[Trained], size: int, process: int, tell: Tell
) -> dict[str, Passes]:
    """Time passes of ``size`` images, all models in turns; ``tell`` gets each key at first."""
    images = _begin(root, plan)
    in_torch = plan.latency == "torch"
    calls: dict[str, Callable[[], Any]] = {}
    with torch.inference_mode():
        for model in models:
            key = model.entry.key
            tell(key)
            if in_torch:
                network = fuse(_load(root, plan, model, images))
                calls[key] = partial(network, _example(plan, network, images, size))
            else:
                one = input_size(plan, images.channels)
                calls[key] = opened(plan, one, file_of(root, plan, key))
            calls[key]()
        tell("")
        seconds = min(SECONDS_A_ROW * len(calls), MOST_SECONDS)
        return interleaved(calls, seconds, plan.device if in_torch else "cpu", seed=process)


def _begin(root: Path, plan: Plan) -> ImageSet:
    set_up(plan)
    seed_all(0)
    return read_images(root, plan)


def _load(root: Path, plan: Plan, model: Trained, images: ImageSet) -> nn.Module:
    entry, seed = model
    network = build(plan, entry, len(images.classes), images.channels, pretrained=False)
    load_weights(network, Records(root).trial_folder(entry.key, seed) / WEIGHTS)
    return network.eval().to(plan.device)


def _example(plan: Plan, model: nn.Module, images: ImageSet, count: int) -> Any:
    """A batch to measure with: noise, or held-out images where what they show decides the cost."""
    exits = _exits(plan, model, images)
    if exits is not None:
        fold = _first_fold(plan, images)
        part = Part([fold.test], exits.like_all(count))
        batches = measuring_batches(plan, part, fold, model)
        return torch.cat([x for x, _ in batches]).to(plan.device)
    normal = normalization(plan, model, images.moments, images.channels)
    found = task_of(plan).example(plan, images, count, normal)
    return _noise(plan, images, count) if found is None else move_data_to_device(found, plan.device)


def _exits(plan: Plan, model: nn.Module, images: ImageSet) -> Exits | None:
    """Where held-out images leave a cascade."""
    fold = _first_fold(plan, images)
    return exits_of(model, measuring_batches(plan, fold.test, fold, model))


def _first_fold(plan: Plan, images: ImageSet) -> ImageSet:
    """The images as the models that are measured learnt and did not learn from them."""
    return folds(images, plan.folds, plan.image_size or (0, 0))[0].images


def _noise(plan: Plan, images: ImageSet, batch: int) -> torch.Tensor:
    return torch.randn(batch, *input_size(plan, images.channels), device=plan.device)


def attention_maps(plan: Plan, entry: Entry, model: nn.Module, images: ImageSet) -> AttentionMaps:
    """Of the middle query in the first block of each stage, averaged over held-out images."""
    normal = normalization(plan, model, images.moments, images.channels)
    size = plan.image_size or (0, 0)
    x, _ = next(iter(held_out_batches(images, size, 16, normalize=normal, processes=0)))
    x = x.to(plan.device)
    shown = (x[0] - x[0].min()) / (x[0].max() - x[0].min()).clamp_min(1e-6)
    places = {n: m for n, m in model.named_modules() if n.endswith("blocks.0.attention")}
    chosen = places or _of_each_size(attention_layers(model))
    layers = []
    for name, features in layer_inputs(model, x, list(chosen)).items():
        query = (features.shape[2] // 2, features.shape[3] // 2)
        found = attention_map(chosen[name], features, query)
        shares = [[round(value, 6) for value in row] for row in found.map.tolist()]
        layers.append(LayerMap(name, query, found.measure, shares))
    return AttentionMaps(
        subject=subject_of(entry, plan),
        image=(shown * 255).round().byte().permute(1, 2, 0).squeeze(-1).tolist(),
        images=len(x),
        layers=tuple(layers),
    )


def _of_each_size(layers: Mapping[str, Any]) -> dict[str, Any]:
    """The first layer of each number of channels: of each stage, in most models."""
    first = {}
    for name, layer in layers.items():
        first.setdefault(getattr(layer, "dim", None), (name, layer))
    return dict(first.values())


def single_maps(
    plan: Plan, model: nn.Module, images: ImageSet, chosen: Sequence[int]
) -> tuple[ImageMap, ...]:
    """Of the middle query in the first block, in each of the chosen held-out images by itself."""
    places = [n for n, _ in model.named_modules() if n.endswith("blocks.0.attention")]
    names = (places or list(attention_layers(model)))[:1]
    found = []
    for image in chosen if names else ():
        normal = normalization(plan, model, images.moments, images.channels)
        x = _normalized(_fitted(plan, images, image), normal).to(plan.device)
        layer = model.get_submodule(names[0])
        for features in layer_inputs(model, x, names).values():
            query = (features.shape[2] // 2, features.shape[3] // 2)
            shares = attention_map(layer, features, query).map.tolist()
            found.append(ImageMap(image, query, [[round(v, 5) for v in row] for row in shares]))
    return tuple(found)


def take_pictures(root: Path, plan: Plan, chosen: Sequence[int], tell: Tell) -> None:
    """Write the pixels of some held-out images, as models get them."""
    images = _begin(root, plan)
    pixels, labels = task_of(plan).pictures(plan, images, list(chosen))
    Records(root).write_pictures({image: shown.tolist() for image, shown in pixels.items()})
    if labels:
        Records(root).write_overlays(TRUTH, labels)


def _fitted(plan: Plan, images: ImageSet, image: int) -> torch.Tensor:
    """(C, H, W) uint8: a held-out image at the size of the study."""
    return Fit(plan.image_size or (0, 0))(Image.fromarray(images.test[image]))


def _normalized(pixels: torch.Tensor, moments: Moments) -> torch.Tensor:
    """(1, C, H, W): as models get it."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in moments[:2])
    return ((pixels.float() / 255 - mean) / std).unsqueeze(0)


# Hosts at equal cost


def match_hosts(
    plan: Plan, classes: int, channels: int, tell: Callable[[Any], None]
) -> dict[str, MatchedHost]:
    """The host option of each row; ``tell`` gets the label of the one at hand.

    Raises:
        ValueError: if the host has no MLP ratio, or a row cannot be made to cost as much.
    """
    set_up(plan)
    seed_all(0)
    if own_host(plan.host) is not None:
        return _match_controls(plan, classes, channels, tell)
    start = _ratio_of_host(plan)
    cost_of = partial(_cost, plan, classes, channels)
    rows = [cost_of(entry, start) for entry in plan.entries]
    target = max(rows)
    costliest = plan.entries[rows.index(target)]
    found = {}
    for entry in plan.entries:
        tell(entry.label)
        if entry == costliest:
            value, reached = start, target
        elif plan.match == "latency":
            beside = partial(_latency_beside, plan, classes, channels, entry, costliest, start)
            value, share = fit(beside, 1.0, start, entry.label)
            reached = share * target
        else:
            value, reached = fit(partial(cost_of, entry), target, start, entry.label)
        found[entry.key] = MatchedHost(
            entry.key, plan.match or "", OPTION, round(value, 4), reached, target
        )
    return found


def _match_controls(
    plan: Plan, classes: int, channels: int, tell: Callable[[Any], None]
) -> dict[str, MatchedHost]:
    """The width of each control in a host of the user's own: as costly as the costliest mechanism.

    The cost is linear in the width; a mechanism that costs less than a depthwise convolution
    alone leaves the control at that.
    """
    controls = [
        entry for entry in plan.controls if entry.name == CONTROL and RATIO not in entry.kwargs
    ]
    if not plan.attention or not controls:
        return {}
    target = 0.0
    for entry in plan.attention:
        tell(entry.label)
        target = max(target, _cost_of(plan, entry, classes, channels))
    found = {}
    for entry in controls:
        tell(entry.label)
        cost_at = partial(_cost_at_ratio, plan, entry, classes, channels)
        least, whole = cost_at(0.0), cost_at(1.0)
        ratio = round(max(0.0, (target - least) / (whole - least)), 4)
        found[entry.key] = MatchedHost(
            entry.key, plan.match or "", RATIO, ratio, cost_at(ratio), target
        )
    return found


def _cost_at_ratio(plan: Plan, entry: Entry, classes: int, channels: int, ratio: float) -> float:
    return _cost_of(plan, replace(entry, host={RATIO: ratio}), classes, channels)


def _cost_of(plan: Plan, entry: Entry, classes: int, channels: int) -> float:
    known = costs(plan, build(plan, entry, classes, channels, pretrained=False), channels)
    return float(known.parameters if plan.match == "parameters" else known.multiply_adds)


def _ratio_of_host(plan: Plan) -> float:
    """The MLP ratio that the plan's host has as it is."""
    if OPTION in plan.host_kwargs:
        return float(plan.host_kwargs[OPTION])
    with torch.device("meta"):
        host = timm.create_model(plan.host, attention="none", attention_kwargs={}, num_classes=2)
    known = inspect.signature(type(host).__init__).parameters.get(OPTION)
    if known is None or not isinstance(known.default, (int, float)):
        raise ValueError(f"match widens MLPs, and host {plan.host} has no option {OPTION}")
    return float(known.default)


def _cost(plan: Plan, classes: int, channels: int, entry: Entry, ratio: float) -> float:
    model = _model(plan, classes, channels, entry, ratio)
    if plan.match == "latency":
        x = torch.zeros(_BATCH, channels, *(plan.image_size or ()), device=plan.device)
        return _times({"it": (model, x)}, plan.device)["it"]
    known = costs(plan, model, channels)
    return float(known.parameters if plan.match == "parameters" else known.multiply_adds)


def _latency_beside(
    plan: Plan,
    classes: int,
    channels: int,
    entry: Entry,
    other: Entry,
    start: float,
    ratio: float,
) -> float:
    """The row's latency over that of the costliest row, in turns."""
    x = torch.zeros(_BATCH, channels, *(plan.image_size or ()), device=plan.device)
    both = {
        "row": (_model(plan, classes, channels, entry, ratio), x),
        "costliest": (_model(plan, classes, channels, other, start), x),
    }
    times = _times(both, plan.device)
    return times["row"] / times["costliest"]


def _times(models: Mapping[str, tuple[Any, torch.Tensor]], device: str) -> dict[str, float]:
    calls = {}
    for name, (model, x) in models.items():
        calls[name] = partial(fuse(copy.deepcopy(model).eval().to(device)), x)
    with torch.inference_mode():
        found = interleaved(calls, _SECONDS, device, least=_ROUNDS)
    return {name: median(passes.ms) for name, passes in found.items()}


def _model(plan: Plan, classes: int, channels: int, entry: Entry, ratio: float) -> Any:
    return build(plan, replace(entry, host={OPTION: ratio}), classes, channels)


# Steps of training


def step_seconds(root: Path, plan: Plan, keys: Sequence[str], tell: Tell) -> dict[str, float]:
    """By key, seconds of a training step: a batch drawn, forward and backward."""
    set_up(plan)
    images = read_images(root, plan)
    task = task_of(plan).training(plan, images)
    models = (
        (entry.key, build(plan, entry, len(images.classes), images.channels))
        for entry in plan.entries
        if entry.key in keys
    )
    found: dict[str, float] = {}
    batches: Any = None
    for key, model in models:
        if batches is None:  # alike for all rows
            batches = learning_batches(plan, model, images, 0)
            drawing, batch = _drawn(batches)
            batch = move_data_to_device(batch, plan.device)
        learn = partial(_step, task, model.train().to(plan.device), batch)
        passes = interleaved({"step": learn}, 0.0, plan.device, least=2)
        step = median(passes["step"].ms) / 1e3
        # Processes draw while the model computes.
        beside = batches.processes > 0
        found[key] = max(step, drawing / batches.processes) if beside else step + drawing
    return found


def _drawn(batches: Any) -> tuple[float, Any]:
    """Seconds that one process needs for a batch, the faster of two, and the batch."""
    drawn = iter(batches.here())
    seconds = []
    for _ in range(min(2, len(batches))):
        began = time.perf_counter()
        batch = next(drawn)
        seconds.append(time.perf_counter() - began)
    return min(seconds), batch


def _step(task: Task, model: nn.Module, batch: Any) -> None:
    task.losses(model, batch)["loss"].backward()
