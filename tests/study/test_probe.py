"""A plan is looked at before anything is read, and what is wrong with it is said in its words."""

from __future__ import annotations

import re

import pytest

from foveate.study.plan import complete, read_plan
from foveate.study.probe import probe


def look(**settings):
    plan = complete(read_plan({"controls": [], "image_size": 16, "data": "digits", **settings}))
    told = []
    return probe(plan, told.append), told


def test_every_model_is_built_and_known_by_its_key():
    known, told = look(attention=["cbam"], controls=["none"], augment_kwargs={"hflip": 0.5})
    assert told == ["cbam", "none"]
    assert [(known[key].role, known[key].family) for key in ("cbam", "none")] == [
        ("gate", "gates"),
        ("control", "control"),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": ["slide:kernelsize=3"]}, "slide has no option 'kernelsize'; did you mean "
         "'kernel_size'"),
        ({"attention": ["slide:kernel_size=x"]}, "slide(kernel_size=x) in pyramid_pico at 16x16: "
         "kernel_size must be"),
        ({"host_kwargs": {"dept": 1}}, "pyramid_pico has no option 'dept'; did you mean 'depths'"),
        ({"host_kwargs": {"dept": 1}}, "It takes depths, dims, drop_path_rate, drop_rate,"),
        ({"host_kwargs": {"zzz": 1}}, "pyramid_pico has no option 'zzz'; known: depths, dims"),
        ({"host_kwargs": {"num_classes": 3}}, "host_kwargs cannot set 'num_classes'"),
        ({"host_kwargs": {"depths": 3}}, "host_kwargs of pyramid_pico: "),
        ({"augment_kwargs": {"color_jiter": 0.1}}, "create_transform has no option 'color_jiter'; "
         "did you mean 'color_jitter'"),
        ({"augment_kwargs": {"hflip": "x"}}, "augment_kwargs: hflip='x' does not work: "),
        ({"augment_kwargs": {"scale": 3}}, "augment_kwargs: scale=3 does not work: "),
        ({"augment_kwargs": {"auto_augment": "x"}}, "augment_kwargs: auto_augment='x' does not"),
        ({"augment_kwargs": {"separate": True}}, "augment_kwargs: separate=True does not work: "),
        ({"augment": "affine", "augment_kwargs": {"hflip": 0}}, "augment=affine has none"),
        ({"start": "identiti"}, "unknown start 'identiti'; did you mean 'identity'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_would_be_right(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        look(**{"attention": ["cbam"], **settings})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def f(:", "SyntaxError"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path}', which cannot be imported: {message}"):
        look(attention=["cbam"], imports=[path])
