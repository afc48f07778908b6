"""What the project's own files say of each other: versions, linters, workflows, forms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import foveate

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
LINTERS = {"codespell", "import-linter", "pyrefly", "ruff"}


def pins() -> dict[str, str]:
    """The linters' versions in the test extra."""
    stated = dict(
        found.groups() for line in EXTRAS["test"] if (found := re.fullmatch(r"(.+)==(.+)", line))
    )
    return {name: stated[name] for name in LINTERS}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def jobs() -> dict[str, Any]:
    return {
        f"{path.stem}/{name}": job for path in WORKFLOWS for name, job in read(path)["jobs"].items()
    }


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_one_version_everywhere():
    version = PROJECT["project"]["version"]
    assert foveate.__version__ == version
    assert read(ROOT / "CITATION.cff")["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert released[0][0] == version
    assert str(read(ROOT / "CITATION.cff")["date-released"]) == released[0][1]
    linked = re.findall(r"^\[(.+?)\]: https", changes, re.MULTILINE)
    assert linked == ["Unreleased", *(number for number, _ in released)]


def test_the_citation_names_this_project():
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Homepage"]


def test_linters_are_the_same_everywhere():
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"]
    revisions = {repo["repo"].rsplit("/", 1)[1]: repo.get("rev") for repo in hooks if "rev" in repo}
    assert revisions["ruff-pre-commit"] == f"v{pins()['ruff']}"
    assert revisions["codespell"] == f"v{pins()['codespell']}"
    # The others run from the environment, where the test extra has put them.
    (local,) = [repo for repo in hooks if repo["repo"] == "local"]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}


def test_the_same_linters_run_everywhere():
    lint = commands(jobs()["lint/lint"])
    assert 'python -m pip install --editable ".[test]"' in lint
    linted = set(lint[1:])
    script = (ROOT / ".ci" / "run").read_text()
    assert {line.strip() for line in re.findall(r"\.venv/bin/([^&\n]+)", script)} == linted
    hooks = [
        hook["id"] for r in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in r["hooks"]
    ]
    assert {"ruff-check", "ruff-format", "codespell", "pyrefly", "lint-imports"} <= set(hooks)


def test_workflows_run_what_the_readme_promises():
    found = re.search(r"<!-- command: test -->\n```sh\n(.*)\n```", (ROOT / "README.md").read_text())
    assert found
    command = found[1]
    assert commands(jobs()["tests/readme"]) == ["bash .ci/run"]
    (install,) = re.findall(r'pip install --quiet (--editable "\S+")', command)
    (run,) = re.findall(r"\.venv/bin/(pytest.*)$", command)
    for name in ("tests/tests", "tests/oldest"):
        first, second = commands(jobs()[name])
        assert first.startswith(f"python -m pip install {install}")
        assert second == f"python -m {run}"


def test_the_oldest_versions_that_are_claimed_are_tried():
    install = commands(jobs()["tests/oldest"])[0]
    claimed = dict(line.split(">=") for line in PROJECT["project"]["dependencies"])
    assert f'"torch=={claimed["torch"]}.*"' in install
    assert f'"timm=={claimed["timm"]}"' in install


def test_three_systems_and_the_pythons_that_are_claimed():
    matrix = jobs()["tests/tests"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert PROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert len(matrix["python"]) == 2


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_whole(path):
    workflow = read(path)
    # YAML reads the key `on` as True.
    assert set(workflow) - {"concurrency"} == {"name", True, "permissions", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        for step in job["steps"]:
            assert len({"uses", "run"} & set(step)) == 1
            assert re.fullmatch(r"[\w./-]+@v[\d.]+", step.get("uses", "a/b@v1"))


def test_wheels_are_for_no_one_python():
    assert PROJECT["tool"]["scikit-build"]["wheel"]["py-api"] == "py3"
    for name in ("wheels/kernels", "wheels/portable"):
        assert any("-py3-none-" in line for line in commands(jobs()[name]))


@pytest.mark.parametrize(
    "path", [form for form in FORMS if form.stem != "config"], ids=lambda path: path.stem
)
def test_issue_forms_are_whole(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    identifiers = [field["id"] for field in form["body"]]
    assert len(identifiers) == len(set(identifiers))
    for field in form["body"]:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
        assert ("options" in field["attributes"]) == (field["type"] in {"dropdown", "checkboxes"})


def test_every_extra_exists_that_another_asks_for():
    for lines in EXTRAS.values():
        for line in lines:
            if found := re.fullmatch(r"foveate\[(.+)\]", line):
                assert set(found[1].split(",")) <= set(EXTRAS)
