"""Try surgery on one small model of each of timm's architecture families, and write the table.

Models of other libraries are tried where these are installed, and stand in a second table.

Each family runs in a process of its own with a time limit; results are kept, so that an
interrupted survey goes on where it stopped.

    python tools/survey_surgery.py --results survey.json     # what is missing or of older code
    python tools/survey_surgery.py --results survey.json swin_transformer resnet   # these, anew
    python tools/survey_surgery.py --results survey.json --table  # write docs/surgery-table.md

What counts as right: the changed model runs, with the same shapes; insertion changes no number at
the start; and a replaced attention gets every cell of its map where it belongs, which is measured:
with an attention that passes its map on, a small square of the image is changed in three places,
and the cell of each attention's map that changes most must lie there. Where all cells change alike,
because an attention that was left alone averages over the whole map, nothing can be told.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "surgery-table.md"
LIMIT = 600  # seconds of processor time a family, which a busy machine does not lengthen
CONTRAST = 2  # how much more than the mean the cell must change that changes most
PROBED = ((0.2, 0.3), (0.5, 0.8), (0.8, 0.4))  # down and across, as shares of the image
FAMILIES = {
    "beit": "beit_base_patch16_224",
    "byoanet": "eca_botnext26ts_256",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_1024_20_ks9_p14",
    "convnext": "convnext_atto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2_21m",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla34",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mnasnet_small",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_s",
    "fastvit": "fastvit_t12",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d",
    "resnet": "resnet14t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_small_patch14_dinov2",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}

OTHERS = [
    "torchvision:alexnet",
    "torchvision:convnext_tiny",
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:efficientnet_v2_s",
    "torchvision:googlenet",
    "torchvision:inception_v3",
    "torchvision:maxvit_t",
    "torchvision:mnasnet0_5",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:regnet_y_400mf",
    "torchvision:resnet18",
    "torchvision:resnext50_32x4d",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "torchvision:swin_t",
    "torchvision:swin_v2_t",
    "torchvision:vgg11",
    "torchvision:vit_b_32",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:fcn_resnet50",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "torchvision:retinanet_resnet50_fpn",
    "torchvision:ssdlite320_mobilenet_v3_large",
    "transformers:ConvNext",
    "transformers:Dinov2",
    "transformers:Segformer",
    "transformers:Swin",
    "transformers:ViT",
    "segmentation_models_pytorch:DeepLabV3Plus/tu-convnext_atto",
    "segmentation_models_pytorch:FPN/timm-mobilenetv3_small_075",
    "segmentation_models_pytorch:Segformer/mit_b0",
    "segmentation_models_pytorch:Unet/resnet18",
    "ultralytics:yolov8n",
    "ultralytics:yolo11n",
    "ultralytics:yolo12n",
]


def build(name: str) -> tuple[Any, tuple[int, int, int]]:
    """A model with random weights in evaluation mode, and the (C, H, W) of its images."""
    import timm

    library, _, what = name.rpartition(":")
    if library == "":
        try:  # a last norm that starts at zero would make every branch nothing
            model = timm.create_model(what, zero_init_last=False)
        except TypeError:
            model = timm.create_model(what)
        return model.eval(), model.pretrained_cfg["input_size"]
    size = 224
    if library == "torchvision":
        from torchvision.models import get_model

        options = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
        headed = any(part in what for part in ("fcn", "deeplab", "lraspp", "rcnn", "retina", "ssd"))
        options = options.get(what, {"weights_backbone": None} if headed else {})
        model = get_model(what, weights=None, **options)
        if hasattr(model, "transform"):  # a detector, which resizes and pads its images by itself
            model, size = model.backbone, 320
    elif library == "transformers":
        import transformers

        model = getattr(transformers, f"{what}Model")(getattr(transformers, f"{what}Config")())
    elif library == "segmentation_models_pytorch":
        import segmentation_models_pytorch

        decoder, encoder = what.split("/")
        model = getattr(segmentation_models_pytorch, decoder)(encoder, encoder_weights=None)
        size = 128
    else:
        from ultralytics import YOLO

        model, size = YOLO(f"{what}.yaml").model, 256
    return model.eval(), (3, size, size)


def code() -> str:
    """Which state of the code rows come from: what changes models, and what is tried here."""
    files = sorted((ROOT / "src" / "foveate" / "surgery").glob("*.py"))
    tried = "".join(map(inspect.getsource, (build, survey, _attempt, _attention, probe)))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files) + tried.encode()).hexdigest()


def survey(name: str) -> dict[str, Any]:
    """Everything that is tried on one model."""
    import torch

    import foveate

    torch.manual_seed(0)
    torch.set_num_threads(1)
    started = time.time()
    model, size = build(name)
    row: dict[str, Any] = {"model": name, "size": list(size), "code": code()}
    found = foveate.places(model, torch.zeros(2, *size))
    row["traced"] = round(time.time() - started, 1)
    row["notes"] = list(found.notes)
    row["places"] = {kind: sum(not p.unusable for p in found.of(kind)) for kind in
                     ("attention", "gate", "branch", "stage", "conv", "depthwise")}  # fmt: skip
    row["left"] = sorted({f"{p.glob}: {p.unusable}" for p in found if p.unusable})
    row["gates"] = sorted({p.cls for p in found.of("gate")})
    image = torch.randn(1, *size)
    with torch.no_grad():
        before = _tensors(model(image))
        for at in ("branch", "stage"):
            row[at] = _attempt(model, found, "insert", at, "efficient_channel")
            if row[at] is None:
                now = _tensors(model(image))
                row[f"{at}_change"] = max(
                    float((a - b).abs().max()) for a, b in zip(now, before, strict=True)
                )
            foveate.restore(model)
        if row["places"]["gate"]:
            row["gate"] = _attempt(model, found, "replace", "gate", "efficient_channel")
            foveate.restore(model)
        for kind in ("conv", "depthwise"):
            if row["places"][kind]:
                row[kind] = _attempt(model, found, "replace", kind, "neighborhood", kernel_size=3)
                foveate.restore(model)
        if found.of("attention"):
            row |= _attention(model, size, found)
    row["seconds"] = round(time.time() - started, 1)
    return row


def _attempt(
    model: Any, found: Any, call: str, kind: str, mechanism: str, **options: Any
) -> str | None:
    """What is said if a change fails; as foveate.insert and replace, but the look is shared."""
    from foveate.surgery._ledger import Step
    from foveate.surgery.change import carry_out

    start = "identity" if call == "insert" else "swap"
    step = Step(
        call, kind, mechanism, options, start, "auto", [], list(found.trace.nodes[0].shape[1:])
    )
    chosen = found.of(kind)
    if all(place.unusable for place in chosen):
        return "; ".join(sorted({p.unusable for p in chosen})) or f"there is no {kind}"
    try:
        carry_out(model, mechanism, step, chosen)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:400]
    return None


def _tensors(output: Any) -> list[Any]:
    """Every tensor that a model gives."""
    from foveate.surgery._origins import tensors_in

    return [tensor.clone() for tensor in tensors_in(output) if tensor.is_floating_point()]


def _attention(model: Any, size: tuple[int, int, int], found: Any) -> dict[str, Any]:
    import foveate

    failed = _attempt(model, found, "replace", "attention", "neighborhood", kernel_size=3)
    if failed is not None:
        return {"attention": failed}
    done = [change for change in foveate.changes(model) if change.how != "left alone"]
    row = {
        "attention": None,
        "replaced": len(done),
        "how": sorted({change.how for change in done}),
        "kept": sum("qkv" in change.kept for change in done),
        "fresh": sorted({change.note for change in done if "fresh" in change.note}),
        "windows": sum("windows" in change.note for change in done),
        "reordered": sum("in order" in change.note for change in done),
        "probe": probe(model, size),
    }
    foveate.restore(model)
    return row


def probe(model: Any, size: tuple[int, int, int]) -> dict[str, Any]:
    """Whether the maps that new mechanisms get have every cell in its place."""
    import torch

    from foveate.surgery._standing import Standing

    channels, height, width = size
    images = torch.randn(1, channels, height, width).repeat(1 + len(PROBED), 1, 1, 1)
    side = max(8, height // 12)
    for image, (down, across) in zip(images[1:], PROBED, strict=True):
        top, left = int(down * height) - side // 2, int(across * width) - side // 2
        image[:, top : top + side, left : left + side] = -image[:, top : top + side,
                                                                left : left + side]  # fmt: skip
    given: list[tuple[str, torch.Tensor]] = []

    def passed_on(name: str, cells: torch.Tensor) -> torch.Tensor:
        given.append((name, cells.detach()))
        return cells  # attention that moves nothing: what is changed stays where it is

    hooks = [
        standing.mechanism.register_forward_hook(
            lambda module, args, output, name=name: passed_on(name, args[0])
        )
        for name, standing in model.named_modules()
        if isinstance(standing, Standing)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    checked, wrong, untold = 0, [], []
    for name, cells in given:
        if cells.dim() != 4 or min(cells.shape[2:]) < 4:
            continue
        checked += 1
        elsewhere, told = 0, True
        for changed, (down, across) in zip(cells[1:], PROBED, strict=True):
            moved = (changed - cells[0]).abs().mean(0)
            told = told and bool(moved.max() > CONTRAST * moved.mean())
            at = divmod(int(moved.argmax()), moved.shape[1])
            right = (down * moved.shape[0] - 0.5, across * moved.shape[1] - 0.5)
            reach = [1.5 + side / 2 / (whole / cells_) for whole, cells_ in
                     zip((height, width), moved.shape, strict=True)]  # fmt: skip
            elsewhere += any(abs(a - b) > c for a, b, c in zip(at, right, reach, strict=True))
        if not told:
            untold.append(name)
        elif elsewhere > 1:  # deep in a network one may move; in another order hardly any is right
            wrong.append(name)
    return {"checked": checked - len(untold), "wrong": wrong, "untold": untold}


def write_table(results: dict[str, Any]) -> None:
    """The page that the documentation shows."""
    rows = [
        "| family | model | branches | stages | gates | attention | note |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {family} | {results[family]['model']} | {_cells(results[family])} |"
        for family in sorted(results.keys() & FAMILIES.keys())
    ]
    lines = [HEAD.format(**totals(results)), *rows]
    if others := results.keys() & set(OTHERS):
        lines += [OTHER_HEAD]
        lines += [f"| {name} | {_cells(results[name], more=True)} |" for name in sorted(others)]
    TABLE.write_text("\n".join(lines) + "\n")


def _cells(row: dict[str, Any], more: bool = False) -> str:
    if "error" in row:
        return f"| | | | {'| | ' * more}{row['error']}"
    cells = [_inserted(row, "branch"), _inserted(row, "stage"), _gates(row), _replaced(row)]
    if more:
        cells += [_convolutions(row, kind) for kind in ("conv", "depthwise")]
    return " | ".join([*cells, _note(row)])


OTHER_HEAD = """
## Other libraries

Models of torchvision, transformers, segmentation_models_pytorch and Ultralytics, built with random
weights; detectors of torchvision by their backbones, as the whole resizes images by itself.

| model | branches | stages | gates | attention | convolutions | depthwise | note |
|---|---|---|---|---|---|---|---|"""


HEAD = """# Surgery on timm's families

Computed by `tools/survey_surgery.py`: one small model of each family, with random weights, at its
own image size. A number is how many places were changed and ran; insertion must change no output
at the start. An attention counts when every new map has its cells in their places (measured, see
the tool). {said}

* inserted at branches: {branch} of {all} families; at stages: {stage} of {all}
* attention replaced rightly: {attention} of {with_attention} families that have it
* gates replaced: {gate} of {with_gate} families that have them
"""


_LISTED = 12  # names in a sentence


def _state(results: dict[str, Any]) -> str:
    """Which families have no row, and which rows do not come from the code as it is."""
    now = code()
    results = {key: row for key, row in results.items() if key in FAMILIES}
    missing = [family for family in FAMILIES if family not in results]
    older = sorted(family for family, row in results.items() if row.get("code") != now)
    if not missing and not older:
        return "All rows come from one state of the code."
    said = []
    if missing:
        said.append(f"{len(missing)} families have not been run: {', '.join(missing)}.")
    if older:
        which = f": {', '.join(older)}" if len(older) <= _LISTED else ""
        said.append(f"{len(older)} rows are of an earlier state of the code{which}.")
    return " ".join(said)


def totals(results: dict[str, Any]) -> dict[str, Any]:
    """How many families each kind of change serves."""
    rows = [row for key, row in results.items() if key in FAMILIES]
    good = [row for row in rows if "error" not in row]
    return {
        "all": len(rows),
        "said": _state(results),
        "branch": sum(row["branch"] is None and row["branch_change"] == 0 for row in good),
        "stage": sum(row["stage"] is None and row["stage_change"] == 0 for row in good),
        "with_attention": sum("attention" in row for row in good),
        "attention": sum(is_right(row) for row in good),
        "with_gate": sum(row["places"]["gate"] > 0 for row in good),
        "gate": sum(row["places"]["gate"] > 0 and row["gate"] is None for row in good),
    }


def is_right(row: dict[str, Any]) -> bool:
    """Whether attention was replaced, every cell in its place as far as maps were looked at."""
    probed = row.get("probe", {})
    return row.get("attention", "") is None and probed["checked"] > 0 and not probed["wrong"]


def _inserted(row: dict[str, Any], at: str) -> str:
    if row[at] is not None:
        return "no"
    changed = row[f"{at}_change"]
    return str(row["places"][at]) if changed == 0 else f"changes {changed:.1e}"


def _gates(row: dict[str, Any]) -> str:
    if not row["places"]["gate"]:
        return ""
    return f"{row['places']['gate']} ({', '.join(row['gates'])})" if row["gate"] is None else "no"


def _convolutions(row: dict[str, Any], kind: str) -> str:
    if not row["places"][kind]:
        return ""
    return str(row["places"][kind]) if row[kind] is None else "no"


def _replaced(row: dict[str, Any]) -> str:
    if "attention" not in row:
        return ""
    if row["attention"] is not None:
        return "no"
    if row["probe"]["wrong"]:
        return f"scrambled at {len(row['probe']['wrong'])}"
    if not row["probe"]["checked"]:
        return f"{row['replaced']}, on maps too small to look at"
    kept = f", {row['kept']} with their weights" if row["kept"] else ", fresh weights"
    return f"{row['replaced']}{kept}"


def _note(row: dict[str, Any]) -> str:
    said = list(row["notes"])
    tried = ("branch", "stage", "gate", "attention", "conv", "depthwise")
    said += [f"{at}: {row[at]}" for at in tried if isinstance(row.get(at), str)]
    if row.get("windows"):
        said.append("windows put together")
    if row.get("reordered"):
        said.append("tokens put in order")
    if row.get("how") and "beside" in row["how"]:
        said.append("class tokens keep the old attention")
    if untold := row.get("probe", {}).get("untold"):
        said.append(
            f"at {len(untold)} the probe tells nothing: an attention before averages over the map"
        )
    said += [f"left alone: {left}" for left in row["left"]]
    return "; ".join(said).replace("|", "/").replace("\n", " ")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="run these again; default: what is missing")
    parser.add_argument("--results", type=Path, required=True, help="JSON file of all results")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--one", help="run this model in this process and print its row")
    given = parser.parse_args()
    if given.one:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 10))
        print(json.dumps(survey(given.one)))
        return
    models = {**FAMILIES, **dict(zip(OTHERS, OTHERS, strict=True))}
    for family in () if given.table else given.families or models:
        results = json.loads(given.results.read_text()) if given.results.exists() else {}
        if not given.families and results.get(family, {}).get("code") == code():
            continue
        row = _in_a_process(models[family], given.results)
        results = json.loads(given.results.read_text()) if given.results.exists() else {}
        results[family] = row
        given.results.write_text(json.dumps(results, indent=1) + "\n")
        print(family, row.get("error") or {k: row[k] for k in ("branch", "stage", "seconds")},
              flush=True)  # fmt: skip
    if given.results.exists():
        write_table(json.loads(given.results.read_text()))


def _in_a_process(name: str, results: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--results", str(results)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode == -signal.SIGXCPU:
        return {
            "model": name,
            "code": code(),
            "error": f"not done within {LIMIT} seconds of processor time",
        }
    if ran.returncode:
        return {
            "model": name,
            "code": code(),
            "error": (ran.stderr.strip().splitlines() or ["killed"])[-1][:300],
        }
    return json.loads(ran.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
