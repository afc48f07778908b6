"""Plans: read, completed, written, and refused with the key and the nearest right one."""

from __future__ import annotations

import pytest
import yaml

from foveate.study.plan import Entry, Plan, PlanError, complete, difference, load_plan, read_plan


def test_the_default_plan_is_five_mechanisms_two_controls_and_three_seeds():
    plan = Plan()
    assert (len(plan.attention), len(plan.controls), len(plan.trials)) == (5, 2, 21)
    assert plan.data == "characters"
    assert plan.host == "pyramid_pico"


def test_the_default_mechanisms_are_there_and_of_different_kinds():
    from foveate.registry import describe

    specs = [describe(entry.name) for entry in Plan().attention]
    assert len({spec.family for spec in specs}) >= 4
    assert {spec.role for spec in specs} == {"mixer", "token_mixer", "gate"}


def test_a_plan_survives_yaml():
    plan = read_plan(
        {
            "attention": [
                "slide",
                "window:window_size=[4, 8]",
                {"name": "window", "kwargs": {"window_size": 4}, "label": "small window"},
            ],
            "seeds": 2,
            "image_size": [48, 64],
            "lr": "1e-3",
            "augment_kwargs": {"auto_augment": "rand-m9"},
        }
    )
    plan = complete(plan)
    assert read_plan(yaml.safe_load(plan.to_yaml())) == plan
    assert plan.attention[1].kwargs == {"window_size": [4, 8]}
    assert plan.attention[2].label == "small window"
    assert plan.lr == 1e-3
    assert plan.seeds == (0, 1)


def test_paths_of_python_are_taken_where_paths_are_meant(tmp_path):
    values = {"data": tmp_path, "data_root": tmp_path, "cache": tmp_path, "imports": tmp_path / "a"}
    plan = read_plan(values)
    there = str(tmp_path)
    assert (plan.data, plan.data_root, plan.cache) == (there, there, there)
    assert plan.imports == (str(tmp_path / "a"),)
    assert read_plan(yaml.safe_load(plan.to_yaml())) == plan


def test_what_is_to_be_imported_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    (tmp_path / "package").mkdir()
    named = ("mine.py", "mine", "package", "json.decoder")
    assert complete(Plan(imports=named)).imports == (str(tmp_path / "mine.py"), *named[1:])
    for name, message in (("nope", "no such module here"), ("nope.py", "no such file")):
        with pytest.raises(PlanError, match=f"imports names '{name}', and there is {message}"):
            complete(Plan(imports=(name,)))


def test_completing_decides_all_that_was_open():
    plan = complete(Plan())
    assert None not in (plan.workers, plan.threads, plan.image_size)
    assert plan.device in ("cpu", "cuda")
    assert complete(plan) == plan


def test_the_grid_of_learning_rates_is_in_the_plan_where_they_are_tuned():
    assert complete(Plan()).lr_grid == ()
    assert complete(Plan(tune="lr", lr=1.0)).lr_grid == (0.25, 0.5, 1.0, 2.0, 4.0)
    assert complete(read_plan({"tune": "lr", "lr_grid": [0.2, 0.1]})).lr_grid == (0.1, 0.2)


def test_the_metric_is_written_by_its_name():
    plan = complete(read_plan({"metric": "balanced_accuracy"}))
    assert plan.metric.name == "balanced_accuracy"
    assert yaml.safe_load(plan.to_yaml())["metric"] == "balanced_accuracy"
    assert read_plan(yaml.safe_load(plan.to_yaml())) == plan


def test_keys_are_file_names():
    assert Entry("window", {"window_size": [4, 8]}).key == "window_window_size=_4,_8"
    assert Entry("x", label="../a b").key == ".._a_b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch' in the plan; did you mean 'epochs'"),
        ({"atention": []}, "unknown key 'atention' in the plan; did you mean 'attention'"),
        ({"epochs": "ten"}, "epochs must be a whole number of at least 1, got 'ten'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"seeds": [0, 0]}, "seeds repeats a number"),
        ({"seeds": []}, "seeds must be how many"),
        ({"lr": -1}, "lr must be a finite number above 0, got -1"),
        ({"lr": 0}, "lr must be a finite number above 0, got 0"),
        (
            {"weight_decay": float("inf")},
            "weight_decay must be a finite number of at least 0, got inf",
        ),
        ({"mixup": float("nan")}, "mixup must be a finite number of at least 0, got nan"),
        ({"host": object}, "host must be a name, got a type; for a model of your own pass 'timm"),
        (
            {"attention": [object]},
            "got a type; a class of your own gets a name by foveate",
        ),
        ({"label_smoothing": 1}, r"label_smoothing must be a number in \[0, 1\)"),
        ({"image_size": [1, 2, 3]}, "image_size must be one number or height and width"),
        ({"attention": 3}, "attention must be a list"),
        ({"attention": [{"name": "a", "kwarg": {}}]}, "'kwarg' under attention; did you mean"),
        ({"attention": [{"kwargs": {}}]}, "an entry of attention needs a name"),
        ({"attention": ["window:size"]}, "expected NAME:key=value"),
        ({"attention": ["slide", "slide"]}, "slide stands twice"),
        ({"attention": [], "controls": []}, "compares nothing"),
        ({"host_kwargs": [1]}, "host_kwargs must be a mapping"),
        ({"data": 3}, "data must be a name"),
        (
            {"metric": "accuracyy"},
            "metric must be accuracy or balanced_accuracy or mean_iou",
        ),
        ({"folds": 1}, "folds must be a whole number of at least 2"),
        ({"select": "bst"}, "select must be last or best, got 'bst'"),
        ({"tune": "all"}, "tune must be none or lr"),
        ({"lr_grid": [0.1, 0.1]}, "lr_grid must be positive numbers, each once"),
        ({"duplicates": "remove"}, "duplicates must be keep or leave_out"),
        ({"attention": ["slide:kernel_size=[1"]}, "kernel_size cannot be read from"),
    ],
)
def test_a_wrong_plan_is_refused(values, message):
    with pytest.raises(PlanError, match=message):
        read_plan(values)


def test_numbers_with_an_exponent_and_no_point_are_numbers():
    """YAML reads them as text."""
    plan = read_plan({"lr": "1e-3", "label_smoothing": "1e-1", "clip_grad": "1e1"})
    assert (plan.lr, plan.label_smoothing, plan.clip_grad) == (0.001, 0.1, 10.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is neither YAML nor JSON"),
        ("- a", "holds no plan"),
        ("", "holds no plan"),
        ("epoch: 2", r"unknown key 'epoch' in .*study\.yaml"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        load_plan(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        load_plan(tmp_path / "study.yaml")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(PlanError, match="unknown device 'gpu'; known: auto, cpu, cuda"):
        complete(Plan(device="gpu"))
    with pytest.raises(PlanError, match="device 'xpu' is not available here") as info:
        complete(Plan(device="xpu"))
    assert "http" not in str(info.value)


def test_workers_are_no_difference():
    plan = complete(Plan())
    assert difference(plan, complete(Plan(workers=7, threads=plan.threads))) is None
    assert difference(plan, complete(Plan(trial_minutes=3.0, cache="none"))) is None
    epochs = plan.epochs
    assert difference(plan, complete(Plan(epochs=3))) == f"epochs is {epochs} there and 3 here"


def test_a_json_file_is_a_plan_too(tmp_path):
    path = tmp_path / "study.json"
    text = '{"epochs": 3, "attention": [{"name": "window", "kwargs": {"window_size": 4}}]}'
    path.write_text(text)
    plan = load_plan(path)
    assert (plan.epochs, plan.attention[0].label) == (3, "window(window_size=4)")
