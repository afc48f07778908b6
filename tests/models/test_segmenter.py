"""Segmentation models: any head on any backbone, at any size."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch.nn import functional as F

import foveate
from foveate.heads import DualHead, FCNHead, PSPHead
from foveate.models import create_segmenter, list_segmenters, published_segmenters
from tests.models.small import SMALL
from tests.models.test_contract import agrees
from tests.published.golden import load_case

NARROW = {
    "dual": {},
    "fcn": {"dim": 16},
    "light": {"dims": (16, 24)},
    "psp": {"dim": 16},
    "semantic_fpn": {"dim": 16, "neck_dim": 24},
    "upernet": {"dim": 16},
}
OUTPUTS = {
    "dual": {"out", "position", "channel", "aux"},
    "fcn": {"out", "aux"},
    "light": {"out"},
    "psp": {"out", "aux"},
    "semantic_fpn": {"out"},
    "upernet": {"out", "aux"},
}


def small(head: str, backbone: str = "pyramid_pico", **kwargs):
    options = {**SMALL.get(backbone, {}), **kwargs}
    return create_segmenter(head, backbone, 5, head_options=NARROW[head], **options)


@pytest.mark.parametrize("head", list_segmenters())
def test_every_head_learns_a_class_for_every_pixel(head):
    torch.manual_seed(0)
    model = small(head)
    logits = model(torch.randn(2, 3, 70, 93))
    assert set(logits) == set(model.loss_weights) == OUTPUTS[head]
    assert {y.shape for y in logits.values()} == {(2, 5, 70, 93)}
    target = torch.randint(5, (2, 70, 93))
    loss = sum(model.loss_weights[name] * F.cross_entropy(y, target) for name, y in logits.items())
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("head", list_segmenters())
def test_in_evaluation_it_gives_logits_alone_and_a_sample_is_as_in_a_batch(head):
    torch.manual_seed(0)
    model = small(head).eval()
    x = torch.randn(2, 3, 45, 67)
    with torch.no_grad():
        logits = model(x)
        alone = torch.cat([model(one[None]) for one in x])
    assert logits.shape == (2, 5, 45, 67)
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", list_segmenters())
def test_symbols_pass_through_it(head):
    torch.manual_seed(0)
    model = small(head, attention="none").eval()
    x = torch.randn(1, 3, 45, 67)
    with torch.no_grad():
        assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.filterwarnings("ignore:one image of one cell")
@pytest.mark.parametrize("head", ["semantic_fpn", "upernet", "psp"])
def test_a_batch_of_one_trains(head):
    logits = small(head)(torch.randn(1, 3, 64, 96))["out"]
    logits.sum().backward()
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("resnet10t", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
        ("pvt_v2_b0", {}),
        ("mobilenetv3_small_050", {}),
        ("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 48, "out_indices": (0, 1, 2, 3)}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*reads images whose sides")
def test_timms_own_backbones_serve_at_any_size(backbone, options):
    model = small("semantic_fpn", backbone, **options).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 70, 93)).shape == (1, 5, 70, 93)


@pytest.mark.parametrize("backbone", ["slide_swin_tiny", "cswin_tiny", "dat_tiny", "pvt_tiny"])
def test_maps_are_normed_as_the_published_networks_norm_them(backbone):
    names = small("semantic_fpn", backbone).state_dict()
    assert ("norms.3.weight" in names) == (backbone != "pvt_tiny")
    assert not any("cls" in name for name in names)
    assert "norms.0.weight" in small("semantic_fpn", backbone, feature_norm=True).state_dict()
    assert not any("norms" in n for n in small("fcn", backbone, feature_norm=False).state_dict())


def test_which_levels_are_read():
    assert small("semantic_fpn", "resnet10t").strides == (4, 8, 16, 32)
    assert small("psp", "resnet10t", output_stride=8).strides == (8, 8)
    model = create_segmenter("light", "seaformer_tiny", 5)
    assert (model.strides, model.head.in_channels) == ((8, 32, 64), (32, 128, 160))
    assert "backbone.model.stages.4.blocks.0.conv.0.conv.weight" in model.state_dict()
    # Semantic FPN needs no more of SeaFormer than its first four stages.
    assert not any(
        ".stages.4." in name for name in small("semantic_fpn", "seaformer_tiny").state_dict()
    )


def test_a_backbone_with_mechanisms_inserted_serves_as_it_is():
    network = timm.create_model("resnet10t", features_only=True)
    changed = foveate.insert(network, "squeeze_excitation")
    model = create_segmenter("semantic_fpn", changed, 5, head_options=NARROW["semantic_fpn"])
    assert model.backbone is changed
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_it_is_a_plain_module():
    torch.manual_seed(0)
    model = small("upernet").eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        other = small("upernet").eval()
        other.load_state_dict(model.state_dict())
        for copied in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(x), expected)
        assert foveate.load_published(small("upernet"), model.state_dict())
        fused = foveate.fuse(model)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "case", "norm"),
    [
        ("nat_tiny", "nat_tiny", "norm{}"),
        pytest.param("slide_swin_tiny", "slide_swin_t", "norm{}", marks=pytest.mark.slow),
        ("cswin_tiny", "cswin_t", "norm{}"),
        ("dat_tiny", "dat_pp_tiny", "norms.{}.norm"),
    ],
)
def test_a_published_checkpoint_loads_whole(backbone, case, norm):
    """The backbone's own names, its norms as its dense form calls them, mmsegmentation's heads."""
    model = create_segmenter("upernet", backbone, 5, head_options=NARROW["upernet"])
    classifier = ("norm.", "head.", "cls_norm.", "cls_head.", "cls_token")
    state = {
        f"backbone.{key}": value
        for key, value in load_case(case).state.items()
        if not key.startswith(classifier)
    }
    expected = {}
    for key, value in model.state_dict().items():
        part, _, rest = key.partition(".")
        theirs = {"head": "decode_head", "auxiliary": "auxiliary_head"}.get(part)
        name = f"{theirs}.{rest}" if theirs else ""
        if part == "norms":
            level, _, leaf = rest.partition(".")
            number = int(level) + (backbone == "cswin_tiny")
            name = f"backbone.{norm.format(number)}.{leaf}"
        if name:
            state[name] = expected[key] = torch.randn(value.shape).to(value.dtype)
    foveate.load_published(model, {"state_dict": state, "meta": {}})
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_what_cannot_be_is_refused_in_the_users_terms():
    with pytest.raises(ValueError, match="unknown head 'upnet'; did you mean 'upernet'"):
        create_segmenter("upnet", "pyramid_pico", 5)
    with pytest.raises(ValueError, match="unknown backbone 'slide_swin_tny'; did you mean 'slide"):
        create_segmenter("upernet", "slide_swin_tny", 5)
    with pytest.raises(ValueError, match="upernet has no option 'dims'; did you mean 'dim'"):
        create_segmenter("upernet", "pyramid_pico", 5, head_options={"dims": 3})
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1"):
        create_segmenter("upernet", "pyramid_pico", 0)
    with pytest.raises(ValueError, match="4 maps are read, and vit_tiny_patch16_224 gives 3"):
        create_segmenter("upernet", "vit_tiny_patch16_224", 5, depth=4, embed_dim=48)
    with pytest.raises(ValueError, match=r"4 maps are read; out_indices=\(1, 2\)"):
        create_segmenter("upernet", "resnet10t", 5, out_indices=(1, 2))
    with pytest.raises(TypeError, match="features_only=True, got Linear"):
        create_segmenter("upernet", torch.nn.Linear(3, 3), 5)
    with pytest.raises(ValueError, match="the backbone is built already"):
        create_segmenter(
            "upernet", timm.create_model("resnet10t", features_only=True), 5, in_chans=1
        )


def cost(row) -> tuple[int, float]:
    with torch.device("meta"):
        model = create_segmenter(row.head, row.backbone, row.num_classes).eval()
    flops = foveate.count_flops(model, torch.empty(1, 3, *row.size, device="meta"))
    return sum(p.numel() for p in model.parameters()), flops / 2


QUICK = ("pvt_tiny", "nat_mini", "slide_swin_tiny", "seaformer_tiny")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.head}-{row.backbone}-{row.size[1]}",
            marks=[] if row.backbone in QUICK else [pytest.mark.slow],
        )
        for row in published_segmenters()
    ],
)
@pytest.mark.filterwarnings("ignore:.*reads images")
def test_costs_are_those_that_were_published(row):
    params, multiply_adds = cost(row)
    printed = ((params, row.params), (multiply_adds, row.multiply_adds))
    fitting = [agrees(ours, theirs) for ours, theirs in printed if theirs]
    assert all(fitting) or row.note
    assert all(agrees(ours, theirs, 0.25) for ours, theirs in printed if theirs)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"backbone": None}, TypeError, "expected the name of a timm model.*got NoneType"),
        ({"out_indices": (0, 1, 1, 2)}, ValueError, "each once, the finest first"),
        ({"out_indices": (3, 2, 1, 0)}, ValueError, "each once, the finest first"),
        ({"out_indices": ()}, ValueError, "each once, the finest first"),
        ({"head_options": {"dim": 0}}, ValueError, "dim must be an integer of at least 1"),
        ({"head_options": {"neck_dim": 0}}, ValueError, "neck_dim must be an integer"),
        ({"head_options": {"strides": (0, 4, 8, 16)}}, ValueError, "strides must be whole numbers"),
        ({"features_only": True}, ValueError, "features_only is set here"),
        ({"auxiliary": "no"}, TypeError, "auxiliary must be True, False or None, got 'no'"),
    ],
)
def test_arguments_are_refused_one_by_one(options, error, said):
    settings = {"head": "semantic_fpn", "backbone": "pyramid_pico", "num_classes": 3, **options}
    with pytest.raises(error, match=said):
        create_segmenter(**settings)


@pytest.mark.parametrize("head", [FCNHead(8, 3, dim=8), PSPHead(8, 3, dim=8), DualHead(8, 3)])
def test_a_head_of_one_map_says_so_where_it_is_given_several(head):
    with pytest.raises(TypeError, match=r"this head reads one map .* got 2 maps"):
        head([torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 2, 2)])
