from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import describe, list_attention, list_reducers
from foveate.checks import (
    CHECKS,
    EXPECTED_FAILURES,
    HOSTS,
    CheckFailure,
    check_attention,
    checks_for,
    examine,
    parametrize_with_checks,
)
from foveate.checks.tables import EXAMPLES, REDUCED, REFUSED
from tests import mechanisms as m

CLEAN = {
    m.CleanMixer: ("weights", "self", "heads", "published", "fusable", "unordered"),
    m.ConvMixer: (),
    m.CleanGate: ("unordered",),
    m.NormGate: ("batch_statistics", "fusable", "unordered"),
    m.CleanTokens: ("weights", "local"),
    m.CleanAligner: ("unordered",),
}

BROKEN = [
    (m.CropsOddMaps, "output_shape", ()),
    (m.PoolsToNothing, "small_sizes", ()),
    (m.FailsOnEmptyBatch, "empty_batch", ()),
    (m.ForgetsFormat, "memory_format", ()),
    (m.IgnoresStrides, "strided_input", ()),
    (m.IgnoresGradientStrides, "strided_gradient", ()),
    (m.WritesToInput, "input_untouched", ()),
    (m.WrongGradient, "gradients", ()),
    (m.ForgetsParameter, "parameters_are_trained", ()),
    (m.DropsOut, "training_mode", ()),
    (m.NormGate, "training_mode", ()),
    (m.MixesSamples, "samples_alone", ()),
    (m.MixesSamples, "neighbour_ignored", ()),
    (m.WeightsOfTwo, "weights_are_distributions", ("weights",)),
    (m.ShowsOtherWeights, "weights_reproduce_output", ("weights",)),
    (m.IgnoresGivenWeights, "other_weights_matter", ("weights",)),
    (m.OverlooksItself, "attends_to_itself", ("weights", "self")),
    (m.CleanMixer, "attends_locally", ("weights", "local")),
    (m.ConvMixer, "positions_unordered", ("unordered",)),
    (m.CleanTokens, "positions_unordered", ("weights", "unordered")),
    (m.GrowsState, "state_is_stable", ()),
    (m.KeepsGraph, "copies", ()),
    (m.NumbersOnCpu, "meta_device", ()),
    (m.WrongCost, "multiply_adds", ()),
    (m.AnswersInFloat, "half", ()),
    (m.FixedFloat, "double", ()),
    (m.BreaksGraph, "compile", ()),
    (m.FreezesSize, "export", ()),
    (m.AcceptsAnything, "wrong_rank", ()),
    (m.AcceptsAnything, "wrong_channels", ()),
    (m.AcceptsAnything, "wrong_dtype", ()),
    (m.AcceptsAnything, "no_positions", ()),
    (m.AcceptsAnything, "wrong_dim", ()),
    (m.AcceptsAnything, "wrong_heads", ("heads",)),
    (m.AcceptsAnything, "unknown_option", ()),
    (m.AddsInsteadOfGating, "gate_multiplies", ()),
    (m.GateOfOtherShape, "gate_multiplies", ()),
    (m.FusesWrongly, "fuse", ("batch_statistics", "fusable")),
    (m.DropsSurplus, "load_published", ("published",)),
    (m.IgnoresMask, "mask_hides", ("weights",)),
    (m.IgnoresMask, "masked_weights", ("weights",)),
    (m.MasksWithInfinity, "mask_of_false", ("weights",)),
    (m.ShowsNothingForMasked, "mask_of_false", ("weights",)),
    (m.GradientOfInfinity, "mask_of_false", ("weights",)),
    (m.SeesAll, "attends_locally", ("weights", "local")),
    (m.ContextOfProjection, "alignment", ()),
    (m.OverflowsInHalf, "half_range", ()),
    (m.OverflowsInHalf, "weights_in_half_range", ("weights",)),
    (m.SlicesItsLayer, "quantized", ()),
    (m.DrawsFromElsewhere, "recomputed", ()),
    (m.HoldsWhatItsStateLacks, "fresh_memory", ()),
    (m.AsksForValues, "gradients_by_sample", ()),
    (m.CopiesItsWeights, "ensemble", ()),
]

#: A form lacks what the tags of its mechanism promise, for the reason given.
NOT_OF_A_FORM = {
    "acmix(attention='patchwise', shift='fixed')": {
        "check_weights": "patchwise attention has weights for each channel",
        "check_other_weights": "patchwise attention has weights for each channel",
        "check_attends": "patchwise attention has weights for each channel",
    },
    "acmix(attention='global', shift='tensor')": {"check_attends_locally": "it is global"},
    "dual(position=False)": {
        "check_weights": "channels attend to channels",
        "check_other_weights": "channels attend to channels",
        "check_attends": "channels attend to channels",
    },
    "scaled_dot_product(causal=True)": {
        "check_alignment": "a query whose past is masked attends to nothing",
    },
    "squeeze_axial(key_dim=5, attn_ratio=1.5, positions=3)": {
        "check_wrong_heads": "key_dim says what a head has, so any number of heads is right",
    },
    "squeeze_excitation(over='height', pool='project')": {
        "check_positions_unordered": "columns are told apart",
    },
    "squeeze_excitation(over='width', excitation='conv', kernel_size=5)": {
        "check_positions_unordered": "rows are told apart",
    },
    "window(window_size=(3, 4), pad='zero', qkv_bias=False)": {
        "check_weights_are_distributions": "padding takes part",
    },
    "window(window_size=4, shift_size=(1, 2), pad='zero')": {
        "check_weights_are_distributions": "padding takes part",
    },
}

FORMS = [
    ("acmix", {"attention": "patchwise", "shift": "fixed"}),
    ("acmix", {"attention": "global", "shift": "tensor"}),
    ("acmix_window", {"window_size": (2, 3), "shift_size": (1, 1)}),
    ("attention_gate", {"normalize": "softmax", "stride": 1}),
    ("bam", {"fusion": "sum", "dilation": 1}),
    ("cbam", {"channel": False, "kernel_size": 3}),
    ("cbam", {"spatial": False, "pools": ("avg",), "bias": False}),
    ("convolutional_projection", {"stride_kv": 1, "qkv_bias": False}),
    ("deformable", {"groups": 2, "stride": 1, "position": "none"}),
    ("deformable", {"offsets": False}),
    ("dual", {"position": False}),
    ("dual", {"channel": False}),
    ("local_predictive", {"score": "concat", "border": "zero"}),
    ("local_monotonic", {"score": "concat", "window": 2}),
    ("multi_head", {"num_heads": 1, "qkv_bias": False}),
    ("neighborhood", {"kernel_size": 3, "dilation": 2}),
    ("neighborhood", {"kernel_size": 5, "rel_pos_bias": False}),
    ("pale", {"num_heads": 1, "pale_size": 3, "qkv_bias": False}),
    ("relation_aware", {"spatial": False}),
    ("relation_aware", {"channel": False}),
    ("residual_attention", {"variant": "port"}),
    ("residual_attention", {"levels": 0}),
    ("routing", {"causal": True, "shared_qk": True, "num_mem_kv": 1}),
    ("san_pairwise", {"kernel_size": 3, "dilation": 2, "share": 4}),
    ("san_patchwise", {"kernel_size": 3, "dilation": 2, "share": 4}),
    ("scaled_dot_product", {"causal": True}),
    ("selective_kernel", {"split_input": True, "groups": 2}),
    ("slide", {"share_qkv": True, "share_kernel": False, "qkv_bias": False}),
    ("slide", {"kernel_size": (3, 5), "dim_reduction": 2, "position_bias": False}),
    ("sliding_window", {"window": 2, "dilation": 2}),
    ("sparse", {"pattern": "fixed", "stride": 4, "causal": False}),
    ("axial_deeplab", {"span": 3}),
    ("squeeze_axial", {"key_dim": 5, "attn_ratio": 1.5, "positions": 3}),
    ("squeeze_excitation", {"reduction": 4, "bias": False, "pool": "max"}),
    ("squeeze_excitation", {"over": "height", "pool": "project"}),
    ("squeeze_excitation", {"over": "width", "excitation": "conv", "kernel_size": 5}),
    ("squeeze_excitation", {"pool": "project", "excitation": "attention"}),
    ("stand_alone", {"kernel_size": (2, 3), "qkv_bias": True}),
    ("talking_heads", {"head_bias": False}),
    ("triplet", {"spatial": False, "kernel_size": 3}),
    ("window", {"window_size": (3, 4), "pad": "zero", "qkv_bias": False}),
    ("window", {"window_size": 4, "shift_size": (1, 2), "pad": "zero"}),
]

SLOW_SAMPLE = [
    ("squeeze_excitation", "check_onnx"),
    ("squeeze_excitation", "check_compiled_code"),
]


@parametrize_with_checks(slow=True)
def test_mechanism(subject, check):
    check(subject)


@pytest.mark.parametrize("subject", [examine(name, **options) for name, options in FORMS], ids=str)
def test_other_forms(subject):
    excused = {
        "check_compile": "slow",
        "check_export": "slow",
        "check_wrong_option": "an option may be idle in a form",
        **EXPECTED_FAILURES.get(subject.name, {}),
        **NOT_OF_A_FORM.get(str(subject), {}),
    }
    for check in checks_for(subject, slow=False):
        if not check.name.startswith(tuple(excused)):
            check(subject)


@given(
    name=st.sampled_from(list_attention()),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    batch=st.integers(0, 3),
    channels_last=st.booleans(),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_size(name, height, width, batch, channels_last):
    subject = examine(name)
    inputs = subject.inputs((height, width), batch=batch)
    if channels_last and inputs[0].dim() == 4:
        inputs = (inputs[0].contiguous(memory_format=torch.channels_last),)
    with torch.no_grad():
        y = subject.build()(*inputs)
    y = y[0] if isinstance(y, tuple) else y
    expected = (*inputs[0].shape[:2], inputs[-1].shape[2]) if len(inputs) > 1 else inputs[0].shape
    assert tuple(y.shape) == tuple(expected)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", ["neighborhood", "slide", "sliding_window"])
def test_threads_change_nothing(name, two_threads):
    subject = examine(name)
    for check in ("gradients", "samples_alone", "strided_gradient", "small_sizes", "empty_batch"):
        CHECKS[f"check_{check}"](subject)


@pytest.mark.parametrize(("name", "check"), SLOW_SAMPLE)
def test_slow_checks_are_sampled(name, check):
    CHECKS[check](examine(name))


@pytest.mark.parametrize("cls", CLEAN)
def test_classes_that_are_not_registered_are_certified(cls):
    check_attention(cls, tags=CLEAN[cls])


@pytest.mark.parametrize(("cls", "check", "tags"), BROKEN)
def test_each_check_finds_what_it_is_for(cls, check, tags):
    with pytest.raises(CheckFailure, match=f"check_{check} failed for {cls.__name__}: "):
        CHECKS[f"check_{check}"](examine(cls, tags=tags))


def test_functions_and_options_are_examined():
    def narrow(dim, **options):
        return m.CleanAligner(dim, memory_dim=4, **options)

    subject = examine(narrow)
    assert (subject.name, subject.role, subject.memory_dim) == ("narrow", "aligner", 4)
    check_attention(narrow)
    subject = examine("multi_head", num_heads=4)
    assert str(subject) == "multi_head(num_heads=4)"
    assert subject.build().num_heads == 4
    assert examine("multi_head", dim=32).build().dim == 32


def test_a_registered_class_is_known_by_its_name():
    subject = examine(describe("multi_head").cls)
    assert subject.name == "multi_head"
    assert subject.tags == describe("multi_head").tags


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ("multi_heads", ValueError, "did you mean 'multi_head'"),
        (3, TypeError, "int"),
        (lambda dim: None, TypeError, "has no role"),
        (dict, TypeError, "has no role"),
    ],
)
def test_what_cannot_be_examined_is_refused(wrong, error, words):
    with pytest.raises(error, match=words):
        check_attention(wrong)


def test_checks_follow_role_and_tags():
    plain, full = (
        {check.name for check in checks_for(examine(m.CleanMixer, tags=tags))}
        for tags in ((), ("weights", "heads"))
    )
    assert full - plain == {
        "check_weights_are_distributions",
        "check_weights_reproduce_output",
        "check_other_weights_matter",
        "check_weights_in_half_range",
        "check_wrong_heads",
    }
    assert "check_mask_hides" not in full
    assert "check_memory_format" not in {c.name for c in checks_for(examine(m.CleanTokens))}
    assert not any(c.slow for c in checks_for(examine(m.CleanGate), slow=False))


def test_expected_failures_are_strict():
    check_attention(m.WrongCost, expected_failures={"check_multiply_adds": "by design"})
    with pytest.raises(CheckFailure, match="passes for ConvMixer though expected to fail"):
        check_attention(m.ConvMixer, expected_failures={"check_multiply_adds": "by mistake"})
    with pytest.raises(ValueError, match="check_of_nothing"):
        check_attention(m.ConvMixer, expected_failures={"check_of_nothing": "?"})


def test_parametrized_cases_carry_their_marks():
    expected = {"WrongCost": {"check_multiply_adds": "by design"}}
    mark = parametrize_with_checks([m.WrongCost], expected_failures=expected, slow=True)
    cases = {case.id: [made.name for made in case.marks] for case in mark.args[1]}
    assert cases["WrongCost-multiply_adds"] == ["xfail"]
    assert cases["WrongCost-onnx"] == ["slow"]
    assert cases["WrongCost-gradients"] == []


def test_the_tables_name_what_exists():
    known = set(list_attention())
    assert set(EXAMPLES) <= known
    assert set(EXPECTED_FAILURES) <= known | set(list_reducers())
    assert set(REDUCED) | set(REFUSED) <= set(list_reducers())
    assert {kind for kinds in REFUSED.values() for kind in kinds} <= set(HOSTS)
    for rows in EXPECTED_FAILURES.values():
        assert set(rows) <= set(CHECKS)
        assert all(rows.values())
