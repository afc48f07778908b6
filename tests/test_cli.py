"""The command: what it prints, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foveate import registry
from foveate.cli import COMMANDS, main
from foveate.cli._parser import Parser
from foveate.registry import describe, list_attention
from foveate.saved.info import Architecture
from foveate.saved.rebuild import rebuild
from foveate.study.plan import SETTINGS, TYPES, read_plan
from foveate.training.checkpoint import save_weights
from tests.saved.test_info import CLASSIFIER


@pytest.fixture
def run(capsys):
    def call(*arguments: str):
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(capsys):
    def call(*arguments: str):
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        output = capsys.readouterr()
        assert exit_.value.code == 2
        assert output.out == ""
        assert output.err.startswith("foveate: ")
        assert output.err.count("\n") == 1
        return output.err

    return call


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; sys.argv = ['foveate', '--help']\n"
        "from foveate.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm', 'lightning', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "profile" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_does_not_wait_for_torch(command):
    code = (
        f"import sys; sys.argv = ['foveate', {command!r}, '--help']\n"
        "from foveate.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm', 'lightning', 'rich', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert command in done.stdout


def test_profile_in_runtimes_refuses_what_it_does_not_measure(capsys):
    with pytest.raises(SystemExit):
        main(["profile", "test_resnet", "--runtime", "torch", "--batch", "8"])
    assert "leave out --batch" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_a_default_once_and_never_as_null(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "default: null" not in text
    assert "type: " not in text
    for paragraph in text.split("\n  -"):
        assert paragraph.count("(default:") <= 1, paragraph


def test_help_of_compare_states_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, setting in SETTINGS.items():
        assert f"--{name.replace('_', '-')} " in text
        assert " ".join(setting.help.split()) in text
    for default in ("highest learning rate (default: 0.002; 0.0002 with weights)",
                    "(default: none depthwise_conv)",
                    "(default: 0 1 2)",
                    "(default: 32 for the embedded images, 64 for others; 128 in "
                    "segmentation; 192 in detection)"):  # fmt: skip
        assert default in text
    assert "null)" not in text


def test_every_setting_has_its_option():
    """What is typed is read, and checked, as the same key of a plan file is."""
    from foveate.cli import compare as command
    from foveate.cli._settings import flag, value_of

    parser = Parser()
    command.add_arguments(parser)
    typed = {
        "attention": "a b:x=1", "controls": "c", "seeds": "2", "data": "007", "data_root": "no",
        "limit": "5", "image_size": "8 16", "host": "timm/h", "host_kwargs": "depth=2",
        "match": "parameters", "epochs": "3",
        "batch_size": "4", "optimizer": "sgd", "lr": "1e-3", "weight_decay": "0", "schedule": "s",
        "warmup_epochs": "2", "label_smoothing": ".1", "mixup": "1", "cutmix": "2",
        "clip_grad": "null",
        "augment": "none", "augment_kwargs": "scale=[1,2]", "precision": "p", "device": "d",
        "workers": "6", "threads": "7", "imports": "f.py g", "metric": "balanced_accuracy",
        "duplicates": "leave_out", "cache": "no", "folds": "3", "start": "plain", "tune": "lr",
        "lr_grid": "0.1 0.2", "select": "best", "trial_minutes": "5", "weights": "w.pth",
        "at": "stage", "where": "layer1.* layer2.*", "freeze": "norms", "added_lr_scale": "10",
        "executor": "ray", "address": "host:6379", "latency": "onnxruntime",
    }  # fmt: skip
    of_masks = {
        "task": "segmentation", "head": "upernet", "head_kwargs": "dim=64", "ignore_label": "3",
        "class_weights": "balanced", "dice": "0.5", "window": "32 48",
    }  # fmt: skip
    of_objects = {"task": "detection", "head": "mask_rcnn", "masks": "ellipse"}
    assert {*typed, *of_masks, *of_objects} == SETTINGS.keys()
    for settings in (typed, of_masks, of_objects):
        for name, words in settings.items():
            options = parser.parse_args([flag(name), *words.split()])
            settings[name] = value_of(name, TYPES[name], vars(options)[name])
    assert read_plan({**of_objects, "data": "x"}).masks == "ellipse"
    masked = read_plan({**of_masks, "data": "x"})
    assert (masked.head, masked.head_kwargs, masked.ignore_label) == ("upernet", {"dim": 64}, 3)
    assert (masked.class_weights, masked.dice, masked.window) == ("balanced", 0.5, (32, 48))
    plan = read_plan(typed)
    assert [entry.label for entry in plan.entries] == ["a", "b(x=1)", "c"]
    assert (plan.seeds, plan.data, plan.data_root, plan.image_size) == (
        (0, 1),
        "007",
        "no",
        (8, 16),
    )
    assert (plan.host_kwargs, plan.augment_kwargs) == ({"depth": 2}, {"scale": [1, 2]})
    assert (plan.lr, plan.clip_grad, plan.imports) == (1e-3, None, ("f.py", "g"))
    assert plan.latency == "onnxruntime"
    assert (plan.at, plan.where, plan.added_lr_scale) == ("stage", ("layer1.*", "layer2.*"), 10.0)


def test_list(run):
    names = [item["name"] for item in json.loads(run("list", "--json"))]
    assert names == list_attention()
    gates = run("list", "--family", "gates")
    assert "squeeze_excitation" in gates
    assert "multi_head" not in gates
    assert [item["name"] for item in json.loads(run("list", "multi_h*", "--json"))] == [
        "multi_head"
    ]


OWN = '''
from foveate.contracts import Mixer
from foveate.registry import register


@register("of_this_test", family="own", title="For a test", paper="none")
class OfThisTest(Mixer):
    """x -> x.

    Args:
        dim: channels.
        num_heads: heads.
    """

    def __init__(self, dim, num_heads):
        super().__init__()

    def forward(self, x):
        return x
'''


def test_mechanisms_of_the_user_are_known_by_import(run, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    file = tmp_path / "of_this_test.py"
    file.write_text(OWN)
    assert "For a test" in run("list", "of_*", "--imports", str(file))
    assert "of_this_test" in run("describe", "of_this_test", "--imports", str(file))
    error = refused("list", "--imports", str(tmp_path / "other.py"))
    assert "cannot be imported: no such file" in error
    (tmp_path / "random.py").write_text(OWN)
    error = refused("list", "--imports", str(tmp_path / "random.py"))
    assert "another module called 'random' is imported already: rename the file" in error


def test_describe_says_all_of_the_record(run):
    spec = describe("multi_head")
    text = run("describe", "multi_head")
    for part in (spec.title, spec.paper, spec.source, spec.license, *spec.tags):
        assert part in text
    assert "softmax(q k^T / sqrt(D)) v" in text
    known = json.loads(run("describe", "multi_head", "--json"))
    heads = next(option for option in known["options"] if option["name"] == "num_heads")
    assert heads == {
        "name": "num_heads",
        "required": False,
        "default": 8,
        "meaning": "heads; must divide ``dim``.",
    }


@pytest.mark.parametrize("name", list_attention())
def test_every_mechanism_can_be_described(run, name):
    known = json.loads(run("describe", name, "--json"))
    assert known["options"]
    assert all(option["meaning"] for option in known["options"]), "an option is not documented"


def test_profile_of_every_mechanism(run):
    names = list_attention()
    rows = json.loads(
        run("profile", *names, "--size", "14", "7", "--dim", "32", "--repeats", "1", "--json")
    )
    assert [row["name"] for row in rows] == names
    assert all(row["multiply_adds"] > 0 for row in rows)


def test_profile_of_a_model_at_another_size(run):
    row = json.loads(
        run("profile", "vit_tiny_patch16_224", "--size", "32", "64", "--repeats", "1", "--json")
    )[0]
    assert row["input_size"] == [3, 32, 64]


def test_profile_table(run):
    text = run("profile", "multi_head", "--option", "num_heads=4", "qkv_bias=false", "--size", "4")
    assert "16,448" in text
    assert "0.29 M" in text
    assert "64x4x4" in text
    assert "batch of 1" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "a command is missing"),
        ("lisst", "did you mean 'list'?"),
        ("list --famly gates", "did you mean '--family'?"),
        ("list --family gate", "did you mean 'gates'"),
        ("list --role mixr", "did you mean 'mixer'"),
        ("list nothing*", "no attention matches 'nothing*'"),
        ("describe", "NAME is missing"),
        ("describe multi_heed", "did you mean 'multi_head'"),
        ("profile resnet188", "did you mean 'resnet18'"),
        ("profile multi_heed", "did you mean 'multi_head'"),
        ("profile multi_head --size x", "--size element 1: Expected a int. Got value: x"),
        ("profile multi_head --size 4 4 4", "size takes one or two"),
        ("profile multi_head --size 0", "size takes one or two"),
        ("profile multi_head --num-heads 3", "num_heads could be one of [1, 2, 4]"),
        ("profile multi_head --option kernel=3", "no option 'kernel'"),
        ("profile multi_head --option kernel", "--option takes KEY=VALUE"),
        ("profile multi_head --device nonsense", "device 'nonsense' is not available"),
        ("profile multi_head --batch 0", "batch_size must be"),
        ("profile resnet18 --option kernel=3", "cannot be built"),
        ("profile multi_head --option kernel=[3", "--option kernel cannot be read from '[3'"),
        ("compare --epochs [1", "--epochs cannot be read from '[1'"),
        ("compare --lr {", "--lr cannot be read from '{'"),
        ("compare --set epochs=[1", "--set epochs cannot be read from '[1'"),
        ("compare --attention slide:kernel_size=[1", "kernel_size cannot be read from '[1'"),
        ("compare --attention", "--attention: expected at least one argument"),
        ("compare --seeds", "--seeds: expected at least one argument"),
    ],
)
def test_refusals_take_one_line(refused, arguments, message):
    assert message in refused(*arguments.split())


def test_export_writes_a_file_and_says_what_was_checked(run, refused, tmp_path):
    pytest.importorskip("onnxruntime")
    file = str(tmp_path / "cbam.onnx")
    out = run("export", "cbam", "-o", file, "--size", "12", "--dynamic", "none")
    assert "ONNX opset" in out
    assert "largest relative difference" in out
    assert "the weights are random" in out
    assert "does not say a format" in refused("export", "cbam", "-o", str(tmp_path / "a.zip"))
    assert "say where to" in refused("export", "cbam")
    assert "two sequences" in refused("export", "dot_product", "-o", file)


@pytest.mark.filterwarnings("ignore:.*has changed since")
def test_a_trained_model_is_exported_by_its_file(run, refused, tmp_path):
    onnx = pytest.importorskip("onnx")
    own = f"{Path(__file__).parent / 'study' / 'own_model.py'}:build"
    built = Architecture("own", own, {"width": 4}, digest="0" * 64)
    colored = replace(CLASSIFIER.input, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    info = replace(CLASSIFIER, architecture=built, input=colored)
    save_weights(rebuild(built, len(info.classes), code=own), tmp_path / "model.safetensors", info)
    file = str(tmp_path / "model.onnx")
    out = run("export", str(tmp_path), "-o", file, "--host", own)
    assert "random" not in out
    words = {each.key: each.value for each in onnx.load(file).metadata_props}
    assert json.loads(words["foveate.classes"]) == list(info.classes)
    assert json.loads(words["foveate.mean"]) == list(info.input.mean)
    height, width = info.input.size
    assert words["foveate.images"] == f"batch x {height} x {width}"
    said = refused("export", str(tmp_path), "-o", file, "--weights", "a.safetensors")
    assert "takes no --weights" in said
