"""The Makefile: thin, for old makes, and deaf to what its variables' values would run."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.environment import ROOT
from tests.processes import run
from tests.tiny import Tiny

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
# What GNU make 3.81 does not know: of 3.82, then of 4.0 to 4.4.
NEWER = (
    r"^\.(ONESHELL|RECIPEPREFIX|SHELLFLAGS)|^(override )?define .*=|^\s*(private|undefine) "
    r"|^[^#\t]*!=|::=|\$\((file|guile|let|intcmp) |^-?load |&:"
    r"|\.(EXTRA_PREREQS|NOTINTERMEDIATE)|(^|\s)\.WAIT"
)
# Modules that run inside .venv.
INSTALLED = {"check", "repair", "presets", "dataset"}


def test_makefile_has_no_feature_newer_than_make_3_81() -> None:
    assert [line for line in MAKEFILE.splitlines() if re.search(NEWER, line)] == []


def test_recipes_are_single_lines_that_call_the_program() -> None:
    joined = re.sub(r"\\\n\s*", "", MAKEFILE)  # lists of targets and of packages go on
    lines = [line for line in joined.splitlines() if line.startswith("\t")]
    calls = [line for line in lines if line.startswith("\t@$(TASK) ")]
    assert len(calls) > 25
    assert lines == calls
    # None is more than a program and its arguments.
    assert not [line for line in calls if re.search(r"[;&|<>`$]", line[len("\t@$(TASK)") :])]


def test_help_lists_every_target() -> None:
    (listed,) = re.findall(r"^TARGETS := ((?:.*\\\n)*.*)", MAKEFILE, re.M)
    targets = set(listed.replace("\\", "").split())
    shown = {line.split()[1] for line in run(ROOT, "make", "help").stdout.splitlines()}
    assert shown == targets
    assert targets == TARGETS


MISTYPED = {
    "tests": "tests is a folder, and no target; did you mean test",
    "docs": "docs is a folder, and no target; `make help`",
    "data": "data is a folder, and no target; did you mean dataset",
    "tset": "tset is no target; did you mean test",
    "check-repo": "check-repo is no target; did you mean check-repro",
    "README.md": "README.md is no target; `make help`",
}


@pytest.mark.parametrize("name", MISTYPED)
def test_a_mistyped_target_gets_one_line_that_helps(name: str) -> None:
    result = run(ROOT, "make", name)
    first, last = result.stderr.splitlines()
    assert first.startswith(f"make: {MISTYPED[name]}")
    assert re.match(rf"make: \*\*\* .*{name}\] Error 2", last)
    assert result.returncode != 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("makefile"))


VALUES = ["HEAD; touch ran $(touch ran) $(shell touch ran) `touch ran`", "a'b\"; touch ran"]


@pytest.mark.parametrize("value", VALUES)
def test_values_of_variables_run_nothing(tiny: Tiny, value: str) -> None:
    for output in (tiny.good("make", "gate", f"REV={value}"), tiny.good("make", "gate", REV=value)):
        assert json.loads(output.splitlines()[-1]) == [value]
    for variable in ("NAME", "SEED"):
        status, output = tiny.run("make", "recipe", f"{variable}={value}")
        assert status != 0
        assert "Traceback" not in output
    assert not (tiny.folder / "ran").exists()
    assert json.loads(tiny.good("make", "gate").splitlines()[-1]) == []  # none is left out


def test_the_name_is_not_the_one_of_the_environment_where_wsl_has_the_computers(tiny: Tiny) -> None:
    status, output = tiny.run("make", "recipe", NAME="quick")
    assert (status, "make: name a preset: NAME=quick; NAME can be: " in output) == (2, True)


@pytest.mark.parametrize("given", [("dataset", "FOLDER=data", "PLAIN=no"), ("lock", "UPGRADE=no")])
def test_a_switch_is_1_or_0(given: tuple[str, ...], tiny: Tiny) -> None:
    status, output = tiny.run("make", *given)
    assert status != 0
    assert output.startswith(f"make: {given[-1].split('=')[0]}: expected 1 or 0; got 'no'\n")


def test_without_python_one_line_says_what_is_needed(tmp_path: Path) -> None:
    for name in ("make", "sh"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    result = run(ROOT, "make", "help", PATH=str(tmp_path))
    first, last = result.stderr.splitlines()
    assert first.startswith("make: needs Python 3.11, 3.12 or 3.13, and finds none; name one: ")
    assert last.startswith("make: *** ")
    (tmp_path / "my-python").symlink_to(sys.executable)  # another name of it is enough
    again = run(ROOT, "make", "help", "PYTHON=my-python", PATH=str(tmp_path))
    assert again.returncode == 0


def modules() -> list[Path]:
    return [path for path in sorted((ROOT / "tasks").glob("*.py")) if path.stem not in INSTALLED]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_tasks_need_the_standard_library_alone(path: Path) -> None:
    # Python 3.8's syntax, though no older one than 3.11 makes the environment: macOS' python3 is
    # old, and has to say what it needs.
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("tasks")} == set()
    assert not foreign & {f"tasks.{name}" for name in INSTALLED}


def test_ci_runs_the_same_targets_here_and_there() -> None:
    def targets(text: str) -> set[str]:
        calls = re.findall(r"^(?:sudo )?make\b([a-z -]*)", text, re.M)
        return {name for call in calls for name in call.split() or ["repro"]}

    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    there = targets("\n".join(step["run"] for step in steps if "run" in step))
    here = targets((ROOT / ".ci/run").read_text(encoding="utf-8"))
    assert there == here | {"gate"}
    assert there <= TARGETS


def test_ci_tries_every_python_that_is_allowed() -> None:
    from tasks.environment import SUPPORTED

    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == ["{}.{}".format(*version) for version in SUPPORTED]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/workflows").iterdir()), ids=lambda it: it.name
)
def test_workflows_pin_actions_by_commit_and_call_targets_that_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)] == []
    jobs = yaml.safe_load(text)["jobs"].values()
    runs = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    called = set(re.findall(r"^ *(?:sudo )?make ([a-z-]+)", runs, re.M))
    assert called <= TARGETS
