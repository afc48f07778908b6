"""Writes what is computed: ``api.md``, ``parity.md``, ``models.md`` and ``generated/``.

Run from a checkout with the ``docs`` and ``test`` extras: ``python docs/generate.py`` writes all,
``python docs/generate.py api`` that page alone (so ``parity``, ``models``, ``mechanisms``).
``python docs/generate.py tools`` tries every family under the tools that people run on a timm
model, for the table of ``models.md``; it compiles and exports, takes hours, and so is not of all.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib
import timm

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

import foveate
from foveate.checks.subject import Subject, examine
from foveate.models import (
    create_detector,
    create_segmenter,
    published_detectors,
    published_figures,
    published_segmenters,
)

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
NOTES = DOCS / "models-notes.md"
TOOLS = DOCS / "models-tools.json"
SIZE = (24, 36)
QUERY = (9, 21)
SHOWN = ("forward", "weights", "gate", "multiply_adds", "fuse", "convert_published")

sys.path.insert(0, str(ROOT))
from tests.models import test_contract as contract  # noqa: E402
from tests.models.small import SMALL  # noqa: E402
from tests.models.test_contract import agrees  # noqa: E402
from tests.models.test_distributed import run as run_distributed  # noqa: E402
from tests.published.golden import largest_differences  # noqa: E402
from tests.published.test_published import ROWS  # noqa: E402
from tests.test_public_api import public_modules, public_names  # noqa: E402


def write_api() -> None:
    """Every public name with the first sentence of its docstring; under generated/, all of it."""
    lines = [
        "# Python interface",
        "",
        "Computed by `python docs/generate.py api` from the docstrings, which `help(foveate.fuse)` "
        "prints whole. Mechanisms are built by name (`foveate.create_attention`); "
        "`foveate.list_attention()` names them, and each has its page. A name that begins with an "
        "underscore is nobody's to rely on.",
        "",
        "## foveate",
        "",
        *api_table(foveate, list(foveate._HOME)),
    ]
    reference = ["# Reference", ""]
    for module in public_modules():
        names = public_names(module)
        lines += ["", f"## {module.__name__}", "", first_sentence(module), ""]
        lines += api_table(module, names)
        reference += [f"## {module.__name__}", "", "```{eval-rst}"]
        reference += [f".. automodule:: {module.__name__}", f"   :members: {', '.join(names)}"]
        reference += ["   :imported-members:"] * hasattr(module, "__all__") + ["```", ""]
    (DOCS / "api.md").write_text("\n".join(lines) + "\n")
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "reference.md").write_text("\n".join(reference))


def api_table(module: ModuleType, names: list[str]) -> list[str]:
    """One row a public name of a module."""
    rows = ((name, getattr(module, name)) for name in names)
    return [
        "| name | what it is |",
        "|---|---|",
        *(f"| `{name}` | {first_sentence(value)} |" for name, value in rows),
    ]


def first_sentence(value: object) -> str:
    """Of the docstring, for Markdown; of data, what it is an instance of."""
    if not (inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)):
        return f"a {type(value).__name__}"
    paragraph = " ".join(inspect.cleandoc(value.__doc__ or "").split("\n\n")[0].split())
    plain = re.sub(r":\w+:`~?(.+?)`", r"`\1`", paragraph).replace("``", "`").replace("|", "\\|")
    return plain


def write_parity() -> None:
    """One row a published case: how far our output is from the published one."""
    by_class = {foveate.describe(name).cls: name for name in foveate.list_attention()}
    rows = defaultdict(list)
    for row in ROWS:
        module, differences = largest_differences(row)
        name = row.mechanism or by_class.get(type(module), type(module).__name__)
        rows[name].append((row.case, max(differences.values()), row.tolerance))
    lines = [
        "# Parity with the publications",
        "",
        "Computed by `python docs/generate.py`. Each case holds what the published implementation "
        "gave for weights and inputs drawn from their names. The difference is the largest "
        "absolute one over all outputs, as a share of the output's largest absolute value, in "
        "float32; the tests hold it below the tolerance.",
        "",
        f"{len(ROWS)} cases of {len(rows)} mechanisms and networks.",
        "",
        "| mechanism or network | case | largest difference | tolerance |",
        "|---|---|---:|---:|",
    ]
    for name in sorted(rows):
        lines += [
            f"| {name} | {case} | {difference:.1e} | {tolerance:.0e} |"
            for case, difference, tolerance in sorted(rows[name])
        ]
    lines += ["", "## Known differences", ""]
    for name in foveate.list_attention():
        spec = foveate.describe(name)
        cases = "" if name in rows else " No published case: the paper is the reference."
        parity = f" {spec.parity.rstrip('.')}." if spec.parity else ""
        lines.append(f"* **{name}** ({spec.source or 'no published code'}).{parity}{cases}")
    (DOCS / "parity.md").write_text("\n".join(lines) + "\n")


def write_models() -> None:
    """One row a backbone: its parameters and multiply-adds beside its publication's."""
    lines = [
        "# Models",
        "",
        "Computed by `python docs/generate.py`. Every backbone is a timm model: "
        '`import foveate.models`, then `timm.create_model("pale_tiny")`, with `features_only=True` '
        "or as an encoder of another library. Multiply-adds are of one image of the size given, "
        "matrix products, convolutions and attention alone. A dash: the publication gives none. "
        "Where ours differ by more than one percent and the printed rounding, the note says why.",
        "",
        "| model | parameters | published | multiply-adds | published | size | top-1, published "
        "| note |",
        "|---|--:|--:|--:|--:|---|--:|---|",
    ]
    sources = defaultdict(list)
    for name, figures in published_figures().items():
        params, multiply_adds = cost(name, figures.size)
        for ours, printed in ((params, figures.params), (multiply_adds, figures.multiply_adds)):
            if printed and not figures.note and not agrees(ours, printed):
                raise ValueError(f"{name}: {ours:.4g} where {printed} is published, and no note")
        height, width = figures.size
        cells = [
            f"`{name}`",
            f"{params / 1e6:.2f}M",
            figures.params or "–",
            f"{multiply_adds / 1e9:.2f}G"
            if multiply_adds >= 1e9
            else f"{multiply_adds / 1e6:.0f}M",
            figures.multiply_adds or "–",
            f"{height}x{width}",
            f"{figures.top1:.1f}" if figures.top1 else "–",
            figures.note.replace("|", "/"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        sources[figures.source].append(name)
    lines += ["", *segmenters_table()]
    lines += ["", *detectors_table()]
    lines += ["", *tools_table()]
    lines += ["", *NOTES.read_text().splitlines()]
    lines += ["", "## Where the published figures stand", ""]
    lines += [f"* {source}: {', '.join(names)}" for source, names in sources.items() if source]
    (DOCS / "models.md").write_text("\n".join(lines) + "\n")


def segmenters_table() -> list[str]:
    """One row a published segmentation model, its cost beside what is printed."""
    lines = [
        "## Segmentation",
        "",
        'Built by `foveate.models.create_segmenter("upernet", "slide_swin_tiny", 150)`. '
        "Multiply-adds are of one image without the auxiliary head, whose parameters count, as in "
        "the publications. A dash: the publication gives none. mIoU is the published one, at one "
        "scale; nothing was trained here.",
        "",
        "| head | backbone | parameters | published | multiply-adds | published | size | data "
        "| mIoU, published | note |",
        "|---|---|--:|--:|--:|--:|---|---|--:|---|",
    ]
    sources = defaultdict(list)
    for row in published_segmenters():
        with torch.device("meta"):
            model = create_segmenter(row.head, row.backbone, row.num_classes).eval()
        params, multiply_adds = cost_of(model, row.size)
        for ours, printed in ((params, row.params), (multiply_adds, row.multiply_adds)):
            if printed and not row.note and not agrees(ours, printed):
                raise ValueError(f"{row}: {ours:.4g} where {printed} is published, and no note")
        cells = [
            row.head,
            f"`{row.backbone}`",
            f"{params / 1e6:.2f}M",
            row.params or "–",
            f"{multiply_adds / 1e9:.2f}G",
            row.multiply_adds or "–",
            "x".join(map(str, row.size)),
            row.data,
            f"{row.miou:.1f}",
            row.note,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        sources[row.source].append(f"{row.head} on {row.backbone}")
    return [*lines, "", *(f"* {source}: {', '.join(rows)}" for source, rows in sources.items())]


def detectors_table() -> list[str]:
    """One row a published detector, its cost beside what is printed."""
    lines = [
        "## Detection",
        "",
        'Built by `foveate.models.create_detector("mask_rcnn", "pvt_small")`. Multiply-adds are of '
        "one image with 1,000 regions and 100 masks, as in the publications. A dash: the "
        "publication gives none. AP is the published one, on COCO's 2017 validation images; "
        "nothing was trained here.",
        "",
        "| detector | backbone | parameters | published | multiply-adds | published | size "
        "| schedule | AP of boxes, published | of masks | note |",
        "|---|---|--:|--:|--:|--:|---|---|--:|--:|---|",
    ]
    sources = defaultdict(list)
    costs: dict[tuple[str, str], tuple[int, int]] = {}
    for row in published_detectors():
        if (row.detector, row.backbone) not in costs:
            with torch.device("meta"):
                model = create_detector(row.detector, row.backbone, row.num_classes).eval()
            costs[row.detector, row.backbone] = cost_of(model, row.size, model.dense)
        params, multiply_adds = costs[row.detector, row.backbone]
        for ours, printed in ((params, row.params), (multiply_adds, row.multiply_adds)):
            if printed and not row.note and not agrees(ours, printed):
                raise ValueError(f"{row}: {ours:.4g} where {printed} is published, and no note")
        cells = [
            row.detector,
            f"`{row.backbone}`",
            f"{params / 1e6:.2f}M",
            row.params or "–",
            f"{multiply_adds / 1e9:.2f}G",
            row.multiply_adds or "–",
            "x".join(map(str, row.size)),
            row.schedule,
            f"{row.box_ap:.1f}",
            f"{row.mask_ap:.1f}" if row.mask_ap else "–",
            row.note,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        named = f"{row.detector} on {row.backbone}"
        if named not in sources[row.source]:
            sources[row.source].append(named)
    return [*lines, "", *(f"* {source}: {', '.join(rows)}" for source, rows in sources.items())]


#: What people do with a timm model, each by the test that holds it.
HOLDS: dict[str, Callable[[str, Path], None]] = {
    "hub": lambda name, folder: contract.test_what_timm_saves_for_its_hub_comes_back(
        name, SMALL[name], folder
    ),
    "meta": lambda name, _: (
        contract.test_memory_taken_after_the_meta_device_is_filled_by_the_state_alone(
            name, SMALL[name]
        )
    ),
    "fx": lambda name, _: contract.test_any_tracer_of_symbols_reads_it(name, SMALL[name]),
    "vmap(grad)": lambda name, _: contract.test_gradients_of_each_sample(name, SMALL[name]),
    "fp16": lambda name, _: contract.test_other_precisions(
        name, SMALL[name], *contract.PRECISIONS["float16"]
    ),
    "bf16": lambda name, _: contract.test_other_precisions(
        name, SMALL[name], *contract.PRECISIONS["bfloat16"]
    ),
    "DDP": lambda name, folder: run_distributed("data_parallel", name, folder),
    "ten sizes": lambda name, _: contract.test_ten_sizes_are_compiled_twice_at_most(name),
    "ONNX": lambda name, folder: contract.test_exported_with_free_sizes_it_is_right_at_each(
        name, folder
    ),
    "compile": lambda name, _: contract.test_compiled(name),
}


def write_tools() -> None:
    """Try every family under every tool, the slowest tools last; what has been tried is kept."""
    found = json.loads(TOOLS.read_text()) if TOOLS.exists() else {}
    for what, check in HOLDS.items():
        for name in SMALL:
            tried = found.setdefault(family_of(name), {})
            if what not in tried:
                tried[what] = fault(check, name)
                TOOLS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def tools_table() -> list[str]:
    """One row a family: what holds for its small form, as :func:`write_tools` found it."""
    found = json.loads(TOOLS.read_text()) if TOOLS.exists() else {}
    sizes = ", ".join(f"{batch}x{height}x{width}" for batch, height, width in contract.EXPORTED_TO)
    lines = [
        "## What holds, family by family",
        "",
        "Computed by `python docs/generate.py tools`, which runs the project's tests on a small "
        "form of each family; a dash has not been tried. *hub*: saved by timm's `save_for_hf` and "
        "read by `local-dir:`. *meta*: built on the meta device, `to_empty`, a state loaded. *fx*: "
        "traced by `torch.fx` and torchvision. *vmap(grad)*: a gradient for each sample. *fp16*, "
        "*bf16*: the whole model, forward and backward. *DDP*: two processes, "
        "`find_unused_parameters=False`. *ten sizes*: at most two compilations with "
        "`dynamic=True`. *ONNX*: of the deployed form, with free batch, height and width "
        "(`Dim.DYNAMIC`), opset "
        f"{contract.OPSET}, run at {sizes}. *compile*: `fullgraph=True`, by the default backend.",
        "",
        f"| family | {' | '.join(HOLDS)} |",
        f"|---|{'---|' * len(HOLDS)}",
    ]
    reasons = []
    for name in SMALL:
        family = family_of(name)
        tried = found.get(family, {})
        cells = [{None: "–", "": "yes"}.get(tried.get(what), "no") for what in HOLDS]
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
        reasons += [f"* {family}, {what}: {tried[what]}" for what in HOLDS if tried.get(what)]
    return [*lines, "", *reasons]


def family_of(name: str) -> str:
    """The file that a backbone is in."""
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def fault(check: Callable[[str, Path], None], name: str) -> str:
    """Why a check fails, in a line; empty where it holds."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(name, Path(folder))
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            return said[0].replace("|", "/")[:200]
    return ""


def large(number: int) -> str:
    """In billions, or in millions where it is less than one."""
    return f"{number / 1e9:.2f}G" if number >= 1e9 else f"{number / 1e6:.0f}M"


def cost(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image."""
    return cost_of(timm.create_model(name, device="meta").eval(), size)


def cost_of(
    model: torch.nn.Module, size: tuple[int, int], call: Callable[[Tensor], object] | None = None
) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image, of a model on the meta device."""
    flops = foveate.count_flops(call or model, torch.empty(1, 3, *size, device="meta"))
    return sum(p.numel() for p in model.parameters()), flops // 2


def write_mechanisms() -> None:
    """The table of all mechanisms, and a page for each."""
    GENERATED.mkdir(exist_ok=True)
    names = foveate.list_attention()
    lines = ["# Mechanisms", "", "| name | role | family | what it is |", "|---|---|---|---|"]
    for name in names:
        spec = foveate.describe(name)
        lines.append(f"| [{name}]({name}.md) | {spec.role} | {spec.family} | {spec.title} |")
        write_page(name)
    lines += ["", "```{toctree}", ":hidden:", "", *names, "```"]
    (GENERATED / "mechanisms.md").write_text("\n".join(lines) + "\n")


def write_page(name: str) -> None:
    """What the mechanism is, its options, and a picture computed from the module."""
    spec = foveate.describe(name)
    module = inspect.getmodule(spec.cls)
    caption = draw(examine(name), GENERATED / f"{name}.png")
    lines = [
        f"# {name}",
        "",
        spec.title,
        "",
        f"![{caption}]({name}.png)",
        "",
        f"*{caption}.*",
        "",
        "```text",
        inspect.cleandoc((module and module.__doc__) or ""),
        "```",
        "",
        "```{eval-rst}",
        f".. autoclass:: {spec.cls.__module__}.{spec.cls.__qualname__}",
        f"   :members: {', '.join(name for name in SHOWN if name in vars(spec.cls))}",
        "```",
        "",
        f"* role: {spec.role}; family: {spec.family}; tags: {', '.join(sorted(spec.tags))}",
        f"* paper: {spec.paper}",
        f"* published code: {spec.source or 'none'}; license: {spec.license or 'none stated'}",
    ]
    (GENERATED / f"{name}.md").write_text("\n".join(lines) + "\n")


def draw(subject: Subject, path: Path) -> str:
    """Draw what the mechanism shows into ``path``; returns what the picture is."""
    module = subject.build()
    with torch.no_grad():
        if subject.role == "aligner":
            _, weights = module(*subject.inputs((12, 16), batch=1))
            picture, caption = weights[0], "Weights of 12 queries (rows) over 16 memory positions"
        elif subject.role == "token_mixer" and "weights" in subject.tags:
            tokens = subject.inputs((6, 8), batch=1)[0]
            picture = module.weights(tokens)[0].mean(0)
            caption = "Weights of 48 queries (rows) over 48 tokens, averaged over heads"
        elif subject.role == "gate":
            x = photograph(subject.dim)
            picture = (x * 0 + module.gate(x))[0].mean(0)
            caption = "The gate on a photograph, averaged over channels"
        else:
            return draw_sight(subject, path)
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    figure.colorbar(axes.imshow(picture, cmap="viridis"))
    axes.set_xticks([])
    axes.set_yticks([])
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return caption


def draw_sight(subject: Subject, path: Path) -> str:
    """What one query of a map sees."""
    module = subject.build(role="mixer")
    sight = foveate.attention_map(module, photograph(subject.dim), QUERY)
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    most = sight.map.max().item()
    # A gradient falls over many orders of magnitude, and what is faint is still seen.
    scale = LogNorm(most * 1e-6, most, clip=True) if sight.measure == "gradient" else None
    figure.colorbar(axes.imshow(sight.map, cmap="viridis", norm=scale))
    axes.plot(QUERY[1], QUERY[0], "x", color="white", markersize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.savefig(path, dpi=110)
    plt.close(figure)
    how = {
        "weights": "its attention weights",
        "gradient": "the squared gradient of its output, on a logarithmic scale of six decades",
    }
    return f"What the query at the cross sees, by {how[sight.measure]}"


def photograph(dim: int) -> Tensor:
    """A photograph as a feature map: 3x3 patches in a fixed random basis, normalised."""
    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None] / 255
    image = F.interpolate(image, SIZE, mode="area")
    basis = torch.randn(dim, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    x = F.conv2d(image - image.mean(), basis, padding=1)
    return x / x.std()


PAGES = {
    "api": write_api,
    "parity": write_parity,
    "models": write_models,
    "tools": write_tools,
    "mechanisms": write_mechanisms,
}

if __name__ == "__main__":
    torch.set_grad_enabled(True)
    if unknown := set(sys.argv[1:]) - set(PAGES):
        sys.exit(f"unknown page {', '.join(sorted(unknown))}; known: {', '.join(PAGES)}")
    for page in sys.argv[1:] or [page for page in PAGES if page != "tools"]:
        PAGES[page]()
