from __future__ import annotations

import pytest

from foveate import describe, list_attention
from foveate.checks import (
    CHECKS,
    EXPECTED_FAILURES,
    CheckFailure,
    check_attention,
    checks_for,
    examine,
    parametrize_with_checks,
)
from foveate.checks.tables import EXAMPLES
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
    (m.SeesAll, "attends_locally", ("weights", "local")),
    (m.ContextOfProjection, "alignment", ()),
]

SLOW_SAMPLE = [
    ("multi_head", "check_onnx"),
    ("squeeze_excitation", "check_onnx"),
    ("squeeze_excitation", "check_compiled_code"),
]


@parametrize_with_checks(slow=True)
def test_mechanism(subject, check):
    check(subject)


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
    assert set(EXPECTED_FAILURES) <= known
    for rows in EXPECTED_FAILURES.values():
        assert set(rows) <= set(CHECKS)
        assert all(rows.values())
