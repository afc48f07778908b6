"""Every backbone is a timm model in full: each line of the contract, over every model."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import onnxruntime
import pytest
import timm
import torch
from timm.layers import (
    LayerScale2d,
    convert_sync_batchnorm,
    create_feature_extractor,
    freeze_batch_norm_2d,
)
from timm.models import group_parameters, save_for_hf
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import feature_extraction

import foveate
from foveate.models import list_backbones, published_figures
from foveate.models._backbone import Backbone, checkpoint_filter_fn
from tests.models.small import SMALL

SIZE = (64, 96)


def _slow(name: str, kwargs: dict, id: str):
    return pytest.param(name, kwargs, id=id, marks=pytest.mark.slow)


MODELS = [
    *(pytest.param(name, SMALL[name], id=f"{name}-small") for name in SMALL),
    *(_slow(name, {}, name) for name in list_backbones()),
]
WITHOUT_RESIDUALS = ("batnet", "batnet_multi")
"""An Inception network has no residual branch that stochastic depth could drop."""

every_model = pytest.mark.parametrize(("name", "kwargs"), MODELS)
some_models = pytest.mark.parametrize(
    ("name", "kwargs"),
    [*(p if i % 6 == 0 else _slow(*p.values, p.id) for i, p in enumerate(MODELS[: len(SMALL)])),
     *MODELS[len(SMALL) :]],
)  # fmt: skip
"""Every sixth small form each time, all in the slow sweep: for what takes seconds a network."""


def create(name: str, kwargs: dict, **more) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 7, **kwargs, **more}).eval()


def images(*size: int, batch: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *(size or SIZE), generator=generator)


def assert_close(ours, expected, share: float = 1e-4) -> None:
    """Equal within a share of the largest value, whatever the depth has made of rounding."""
    assert ours.shape == expected.shape
    assert ours.isfinite().all()
    assert (ours - expected).abs().max() <= share * expected.abs().max().clamp_min(1e-6)


@every_model
def test_forward_and_backward_reach_every_parameter(name, kwargs):
    model = create(name, kwargs, **({} if name in WITHOUT_RESIDUALS else {"drop_path_rate": 0.1}))
    logits = model(images())
    assert logits.shape[:2] == (2, 7)
    model.train()
    model(images()).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@every_model
@torch.no_grad()
def test_forward_is_features_then_head(name, kwargs):
    model = create(name, kwargs)
    features = model.forward_features(images())
    channels = -1 if features.dim() == 3 else 1
    assert features.shape[channels] == model.num_features
    assert_close(model.forward_head(features), model(images()))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape[1] == model.head_hidden_size


@every_model
@torch.no_grad()
@pytest.mark.parametrize("size", [(75, 61), (32, 32)])
def test_any_input_size(name, kwargs, size):
    model = create(name, kwargs)
    assert model(images(*size)).isfinite().all()
    for feature, info in zip(
        model.forward_intermediates(images(*size), intermediates_only=True),
        model.feature_info,
        strict=True,
    ):
        expected = [-(-side // info["reduction"]) for side in size]
        assert list(feature.shape) == [2, info["num_chs"], *expected]


@every_model
@torch.no_grad()
def test_a_sample_alone_equals_the_sample_in_a_batch(name, kwargs):
    model = create(name, kwargs)
    assert_close(model(images()[:1]), model(images())[:1])


@every_model
@torch.no_grad()
def test_features_only(name, kwargs):
    kwargs = {key: value for key, value in kwargs.items() if key != "num_classes"}
    model = timm.create_model(name, features_only=True, **kwargs).eval()
    features = model(images())
    reductions = model.feature_info.reduction()
    assert reductions == sorted(reductions)
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    for feature, reduction in zip(features, reductions, strict=True):
        assert tuple(feature.shape[2:]) == tuple(-(-side // reduction) for side in SIZE)
    some = timm.create_model(name, features_only=True, out_indices=(0, 2), **kwargs).eval()
    assert [f.shape[1] for f in some(images())] == some.feature_info.channels()


@every_model
@torch.no_grad()
def test_forward_intermediates(name, kwargs):
    model = create(name, kwargs)
    last, every = model.forward_intermediates(images())
    assert_close(last, model.forward_features(images()))
    assert [f.shape[1] for f in every] == [info["num_chs"] for info in model.feature_info]
    two = model.forward_intermediates(images(), [0, 1], stop_early=True, intermediates_only=True)
    for ours, expected in zip(two, every, strict=False):
        assert_close(ours, expected)
    early, _ = model.forward_intermediates(images(), [0, 1], stop_early=True)
    assert isinstance(early, Tensor)
    one = model.forward_intermediates(images(), 1, intermediates_only=True)
    assert_close(one[0], every[-1])
    with pytest.raises((ValueError, AssertionError), match="NCHW"):
        model.forward_intermediates(images(), output_fmt="NLC")


@every_model
@torch.no_grad()
def test_reset_classifier(name, kwargs):
    model = create(name, kwargs)
    model.reset_classifier(0)
    assert model(images()).shape == (2, model.head_hidden_size)
    model.reset_classifier(9)
    assert model(images()).shape == (2, 9)
    assert model.num_classes == 9
    classifier = model.get_classifier()
    for part in classifier if isinstance(classifier, tuple) else (classifier,):
        assert part.weight.shape[0] == 9
    before = model(images())
    with pytest.raises((AssertionError, ValueError)):
        model.reset_classifier(5, "bogus")
    assert torch.equal(model(images()), before)
    if isinstance(model, Backbone):  # timm's own networks have noted the number by then
        assert model.num_classes == 9


@every_model
def test_a_pruned_network_runs_and_every_parameter_learns(name, kwargs):
    model = create(name, kwargs)
    model.prune_intermediate_layers([1])
    assert model.feature_info[1]["num_chs"] in model(images()).shape[1:]
    kwargs = {key: value for key, value in kwargs.items() if key != "num_classes"}
    model = timm.create_model(name, features_only=True, **kwargs)
    sum(feature.square().mean() for feature in model(images())).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@every_model
def test_checkpointing_gradients_changes_nothing(name, kwargs):
    plain, checkpointed = create(name, kwargs), create(name, kwargs)
    checkpointed.set_grad_checkpointing()
    outs = [model(images()) for model in (plain, checkpointed)]
    assert_close(outs[1], outs[0])
    for out in outs:
        out.square().mean().backward()
    for ours, expected in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-5)


@every_model
@torch.no_grad()
def test_in_chans(name, kwargs):
    model = create(name, kwargs, in_chans=4)
    assert model(images(channels=4)).isfinite().all()
    with pytest.raises(ValueError, match="4"):
        model(images(channels=3))
    with pytest.raises((ValueError, TypeError)):
        model(torch.zeros(3, *SIZE))


@every_model
def test_the_configuration_names_the_layers(name, kwargs):
    model = create(name, kwargs)
    first, classifier = model.pretrained_cfg["first_conv"], model.pretrained_cfg["classifier"]
    for part in first if isinstance(first, tuple | list) else (first,):
        assert model.get_submodule(part).weight.shape[1] == 3
    names = classifier if isinstance(classifier, tuple | list) else (classifier,)
    ours = model.get_classifier()
    for part, expected in zip(names, ours if isinstance(ours, tuple) else (ours,), strict=True):
        assert model.get_submodule(part) is expected


@every_model
def test_an_unknown_option_is_refused(name, kwargs):
    with pytest.raises(TypeError, match="no_such_option"):
        create(name, kwargs, no_such_option=1)


@every_model
def test_group_matcher_puts_every_parameter_into_a_layer(name, kwargs):
    model = create(name, kwargs)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sum(map(len, groups.values())) == len(list(model.named_parameters()))
        assert len(groups) > 2
    assert model.no_weight_decay() <= {n for n, _ in model.named_parameters()}


@every_model
@torch.no_grad()
def test_channels_last_gives_the_same(name, kwargs):
    model = create(name, kwargs)
    expected = model(images())
    model = model.to(memory_format=torch.channels_last)
    assert_close(model(images().to(memory_format=torch.channels_last)), expected)


@every_model
def test_device_and_dtype_reach_every_parameter(name, kwargs):
    model = create(name, kwargs, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


@every_model
@torch.no_grad()
def test_state_dict_round_trip(name, kwargs):
    one, other = create(name, kwargs), timm.create_model(name, num_classes=7, **kwargs).eval()
    other.load_state_dict(one.state_dict())
    assert_close(other(images()), one(images()))


@every_model
@torch.no_grad()
def test_what_timm_saves_for_its_hub_comes_back(name, kwargs, tmp_path):
    model = create(name, kwargs)
    save_for_hf(model, str(tmp_path))
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images()), model(images()))
    model.reset_classifier(0, "avg")
    save_for_hf(model, str(tmp_path))
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images()), model(images()))


@every_model
@torch.no_grad()
def test_weights_of_other_classes_and_channels_load_as_in_timm(name, kwargs, tmp_path):
    from safetensors.torch import save_file

    source = create(name, kwargs)
    path = tmp_path / "model.safetensors"
    save_file({key: value.clone() for key, value in source.state_dict().items()}, path)
    overlay = {"file": str(path), "num_classes": 7}
    model = create(
        name, {**kwargs, "num_classes": 3, "in_chans": 1}, pretrained=True,
        pretrained_cfg_overlay=overlay,
    )  # fmt: skip
    assert model(images(channels=1)).shape == (2, 3)
    untouched = model.state_dict()
    kept = [
        key
        for key, value in source.state_dict().items()
        if value.shape == untouched[key].shape and value.is_floating_point()
    ]
    assert len(kept) > len(untouched) // 2
    assert all(torch.equal(source.state_dict()[key], untouched[key]) for key in kept)


@every_model
def test_its_own_weights_load_whole_and_without_a_head(name, kwargs):
    source, model = create(name, kwargs), create(name, kwargs)
    foveate.load_published(model, source.state_dict())
    headless = create(name, {**kwargs, "num_classes": 0}).state_dict()
    assert checkpoint_filter_fn(headless, model).keys() == headless.keys()


@every_model
@torch.no_grad()
def test_symbolic_features(name, kwargs):
    model = create(name, kwargs)
    module = model.feature_info[1]["module"]
    extracted = create_feature_extractor(model, [module])(images())[module]
    every = model.forward_intermediates(images(), intermediates_only=True)
    assert_close(extracted, every[1])


@every_model
@torch.no_grad()
def test_memory_taken_after_the_meta_device_is_filled_by_the_state_alone(name, kwargs):
    model = create(name, kwargs)
    with torch.device("meta"):
        empty = create(name, kwargs)
    empty.to_empty(device="cpu")
    for value in (*empty.parameters(), *empty.buffers()):
        value.fill_(3)
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty(images()), model(images()))


def lively(name, kwargs) -> nn.Module:
    """A model whose norms and biases are not what they start as."""
    model = create(name, kwargs)
    with torch.no_grad():
        for value in model.state_dict().values():
            if not value.is_floating_point():
                continue
            noise = 0.05 * torch.rand_like(value)
            if value.dim() > 1:  # weights: such noise as leaves deep and wide networks finite
                noise = (noise - 0.025) / value[0].numel() ** 0.5
            value.add_(noise)
    return model


@every_model
@torch.no_grad()
@pytest.mark.parametrize(
    "convert",
    [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm],
    ids=["torch", "timm"],
)
def test_norms_made_to_synchronise_change_nothing(name, kwargs, convert):
    model = lively(name, kwargs)
    expected = model(images())
    assert_close(convert(model).eval()(images()), expected)


@every_model
@torch.no_grad()
def test_fusing_folds_norms_of_any_class(name, kwargs):
    model = lively(name, kwargs)
    expected, left = model(images()), set()
    for convert in (nn.Identity(), freeze_batch_norm_2d, convert_sync_batchnorm):
        fused = foveate.fuse(convert(copy.deepcopy(model)).eval())
        assert_close(fused(images()), expected)
        left.add(sum(hasattr(module, "running_var") for module in fused.modules()))
    assert len(left) == 1


@every_model
def test_flops_are_counted_with_and_without_gradients(name, kwargs):
    model = create(name, kwargs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images())
    assert counter.get_total_flops() > 0
    with FlopCounterMode(display=False) as counter:
        model(images())
    assert counter.get_total_flops() > 0


@every_model
def test_gradients_of_each_sample(name, kwargs):
    """By ``vmap`` of ``grad``, as differential privacy takes them, against one by one."""
    dtype = torch.float32 if kwargs else torch.float64  # whole networks multiply up rounding
    model = create(name, kwargs).to(dtype)
    state = {key: value.detach() for key, value in model.named_parameters()}

    def loss(state: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, state, (image[None],)).square().sum()

    x = images().to(dtype)
    each = vmap(grad(loss), in_dims=(None, 0))(state, x)
    alone = grad(loss)(state, x[1])
    largest = max(value.abs().max() for value in alone.values())
    for key, value in alone.items():  # some gradients are zero but for rounding
        assert (each[key][1] - value).abs().max() <= 1e-3 * value.abs().max() + 1e-6 * largest, key


PRECISIONS = {
    "float64": ({"dtype": torch.float64}, 1e-4, 1e-4),
    "bfloat16": ({"dtype": torch.bfloat16}, 0.1, 0.2),
    "float16": ({"dtype": torch.float16}, 0.02, 0.1),
    "channels_last": ({"memory_format": torch.channels_last}, 1e-4, 1e-4),
}
"""By name: what a model is converted to, and the bounds of its logits and of its gradients."""


@every_model
@pytest.mark.parametrize(("form", "share", "of_gradients"), PRECISIONS.values(), ids=PRECISIONS)
def test_other_precisions(name, kwargs, form, share, of_gradients):
    """Logits within a share of float32's largest, gradients within a share of their norm."""

    def logits_and_gradients(form: dict) -> tuple[Tensor, Tensor]:
        model = create(name, kwargs).to(**form)
        logits = model(images().to(**form))
        assert logits.dtype == form.get("dtype", torch.float32)
        wave = torch.sin(torch.arange(logits.numel())).view_as(logits)
        (logits.double() * wave).sum().backward()
        gradients = [p.grad.double().flatten() for p in model.parameters() if p.requires_grad]
        return logits.detach().float(), torch.cat(gradients)

    expected, wanted = logits_and_gradients({})
    logits, gradients = logits_and_gradients(form)
    assert_close(logits, expected, share)
    assert gradients.isfinite().all()
    # Fresh, the small MobileNet's signal fades to 1e-9, and float16 ends at 1e-7.
    if expected.abs().max() > torch.finfo(form.get("dtype", torch.float32)).tiny:
        assert (gradients - wanted).norm() <= of_gradients * wanted.norm()


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (90, 95)])
def test_bfloat16_of_maps_smaller_than_the_windows(size):
    model = create("msg_tiny", {**SMALL["msg_tiny"], "window_size": 7})
    expected = model(images(*size))
    logits = model.bfloat16()(images(*size).bfloat16())
    assert_close(logits.float(), expected, share=0.1)


@pytest.mark.slow
@torch.no_grad()
def test_free_sizes_need_an_example_of_more_than_one_position():
    model = create("dsnet_tiny", SMALL["dsnet_tiny"])
    free = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},)
    with pytest.raises(ValueError, match="at least 4x4 cells here, got 3x5"):
        torch.export.export(model, (images(96, 130),), dynamic_shapes=free)


def test_none_can_be_asked_for_by_name():
    model = timm.create_model("localvit_tiny", gate="none", **SMALL["localvit_tiny"])
    assert isinstance(model.blocks[0].mlp.gate, nn.Identity)
    model = timm.create_model("dat_tiny", **{**SMALL["dat_tiny"], "layer_scale": "none"})
    assert not any(isinstance(module, LayerScale2d) for module in model.modules())


@some_models
@torch.no_grad()
def test_any_tracer_of_symbols_reads_it(name, kwargs):
    """Torch's own and torchvision's, which know nothing of timm; the graph is right at any size."""
    model = create(name, kwargs)
    traced = torch.fx.symbolic_trace(model)
    for size in (SIZE, (75, 61)):
        assert_close(traced(images(*size)), model(images(*size)))
    module = model.feature_info[1]["module"]
    extracted = feature_extraction.create_feature_extractor(model, [module])(images())[module]
    assert_close(extracted, model.forward_intermediates(images(), intermediates_only=True)[1])


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a branching network is many kernels, each a run of the C++ compiler
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_compiled(name):
    model = create(name, SMALL[name])
    torch.compiler.reset()  # models share one forward, which is compiled for so many at most
    compiled = torch.compile(model, fullgraph=True)
    assert_close(compiled(images()), model(images()), share=1e-3)


@some_models
@torch.no_grad()
def test_exported(name, kwargs):
    model = create(name, kwargs)
    exported = torch.export.export(model, (images(),)).module()
    assert_close(exported(images()), model(images()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@some_models
@torch.no_grad()
def test_a_trace_is_right_at_every_size_or_refused(name, kwargs):
    model = create(name, kwargs)
    try:
        traced = torch.jit.trace(model, images(), check_trace=False)
    except RuntimeError as error:
        assert re.fullmatch(r".* torch\.jit\.trace keeps .* use torch\.export.*", str(error))  # noqa: PT017
        return
    for size in ((75, 61), (97, 130)):
        assert_close(traced(images(*size, batch=1)), model(images(*size, batch=1)))


@pytest.mark.parametrize(
    "name",
    [
        # One of each kind every time, all of them in the slow sweep.
        name
        if name in ("slide_swin_tiny", "pyramid_pico")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in SMALL
    ],
)
@torch.no_grad()
def test_the_deployed_form_is_exported(name):
    """In PyTorch's core operators, which choose other strides than those that were recorded."""
    model = lively(name, SMALL[name])
    fused = foveate.fuse(copy.deepcopy(model))
    exported = torch.export.export(fused, (images(),)).run_decompositions().module()
    assert_close(exported(images()), model(images()))


OPSET = 20
"""Of the exported ONNX: the first with grids and windows that overhang as PyTorch has them."""
EXPORTED_FROM = (2, 224, 192)
EXPORTED_TO = ((2, 224, 192), (1, 97, 130), (3, 64, 96), (1, 225, 301), (3, 128, 75))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_exported_with_free_sizes_it_is_right_at_each(name, tmp_path):
    """ONNX with free batch, height and width, at sizes most of which are no multiples of 32."""
    model = lively(name, SMALL[name])
    batch, *size = EXPORTED_FROM
    free = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        foveate.fuse(copy.deepcopy(model)),
        (images(*size, batch=batch),),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes=({0: free, 2: free, 3: free},),
        opset_version=OPSET,
        optimize=False,  # minutes a network, and onnxruntime optimizes by itself
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch, *size in EXPORTED_TO:
        x = images(*size, batch=batch)
        (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(given), model(x), share=1e-3)


COMPILED_AGAIN = {
    "dsnet_tiny": "its coarse stream has one row or column at some of these sizes, and a side of "
    "one is a number to PyTorch's compiler",
    "msg_tiny": "its last messengers stand in one row or column at some of these sizes, and a side "
    "of one is a number to PyTorch's compiler",
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason=COMPILED_AGAIN[name], strict=True))
        if name in COMPILED_AGAIN
        else name
        for name in SMALL
    ],
)
@torch.no_grad()
def test_ten_sizes_are_compiled_twice_at_most(name):
    model = create(name, SMALL[name])
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for step in range(10):
        x = images(64 + 13 * step, 96 + 7 * step)
        assert_close(compiled(x), model(x))
    assert counter.frame_count <= 2


@pytest.mark.parametrize(
    "name",
    [
        # The smallest of a family each time.
        name if name in SMALL else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(published_figures())
    ],
)
def test_parameters_are_the_publications_or_the_difference_is_explained(name):
    figures = published_figures()[name]
    ours = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
    said = f"{ours / 1e6:.3f}M, published {figures.params}"
    if figures.params and not figures.note:
        assert agrees(ours, figures.params), said
    elif figures.params:  # what a note explains is still the same network
        assert agrees(ours, figures.params, share=0.06), said


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(published_figures()))
def test_multiply_adds_are_the_publications_or_the_difference_is_explained(name):
    figures = published_figures()[name]
    if figures.multiply_adds and not figures.note:
        model = timm.create_model(name, device="meta").eval()
        flops = foveate.count_flops(model, torch.empty(1, 3, *figures.size, device="meta"))
        assert agrees(flops / 2, figures.multiply_adds), f"{flops / 2e9:.3f}G"


def agrees(ours: float, printed: str, share: float = 0.01) -> bool:
    """Within a share of the printed figure, or within its rounding."""
    digits, unit = re.fullmatch(r"([\d.]+)([KMG])", printed).groups()
    scale = {"K": 1e3, "M": 1e6, "G": 1e9}[unit]
    rounding = 0.5 * 10.0 ** -len(digits.partition(".")[2]) * scale
    return abs(ours - float(digits) * scale) <= max(rounding, share * float(digits) * scale)


def test_every_family_has_a_small_form():
    families = {timm.model_entrypoint(name).__module__ for name in list_backbones()}
    assert {timm.model_entrypoint(name).__module__ for name in SMALL} == families


def test_every_backbone_of_a_publication_states_its_figures():
    ours = [name for name in list_backbones() if not name.startswith("pyramid_")]
    assert sorted(published_figures()) == ours


def test_registering_overwrites_no_model_of_timm():
    code = (
        "import timm; before = set(timm.list_models()); modules = set(timm.list_modules())\n"
        "import foveate.models as ours\n"
        "added = set(timm.list_models()) - before\n"
        "assert before < set(timm.list_models()); assert added == set(ours.list_backbones())\n"
        "assert not modules & {f.__name__.rpartition('.')[2] for f in ours._FAMILIES}"
    )
    run = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=False)
    assert run.returncode == 0
