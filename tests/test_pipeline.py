"""The whole pipeline in a temporary clone, on a small data set from a real HTTP server.

One run of it serves all tests of this module; they stand in the order of a user's session, and
each leaves the clone as it found it.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from tests.conftest import ROOT, Data, edited, make_data, small_values, snapshot
from tests.docs import DOCS, README, check_shown, lines_of, pattern, printed_by_stages, shown
from tests.photos import photo_of
from tests.server import body, serving

STAGES = ["fetch", "preprocess", "train", "evaluate", "export"]
METRICS = [f"metrics/{stage}.json" for stage in STAGES[2:]]


class Clone:
    """A git repository with the pipeline in it, and what a user does there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # As after `source .venv/bin/activate`; user settings of DVC and git stay out.
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder.parent),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def do(self, *command: str) -> str:
        result = self.run(*command)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def params(self, **changes: Any) -> None:
        """Write params.yaml with other values; a value of `...` deletes the key."""
        values = edited(yaml.safe_load(self.read("params.yaml")), changes)
        for key, value in changes.items():
            if value is ...:
                *parents, last = key.split(".")
                node = values
                for parent in parents:
                    node = node[parent]
                del node[last]
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def status(self) -> str:
        return self.do("git", "status", "--porcelain")


@pytest.fixture(scope="module")
def images() -> Data:
    return make_data(300, 100, 28, 28)


@pytest.fixture(scope="module")
def first_run() -> dict[str, str]:
    """What the first `dvc repro` printed."""
    return {}


@pytest.fixture(scope="module")
def clone(
    images: Data, first_run: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clone]:
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    made = Clone(folder)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    with serving() as server:
        for name, content in images.contents.items():
            server.answers[f"/data/{name}.gz"] = body(gzip.compress(content))
        sources = [{"folder": "/nowhere"}, {"url": f"{server.url}/data/"}]
        values = small_values(
            images, **{"fetch.sources": sources, "train.hidden_units": 32, "train.batch_size": 40}
        )
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (folder / "params.yaml").write_text(text, encoding="utf-8")
        made.do("git", "init", "--quiet", "--initial-branch", "main")
        result = made.run("dvc", "repro")
        assert result.returncode == 0, result.stdout + result.stderr
        first_run |= {"out": result.stdout, "err": result.stderr}
        made.do("git", "add", "--all")
        made.do("git", "commit", "--quiet", "--message", "first")
        yield made


def test_repro_runs_every_stage_in_order(clone: Clone, first_run: dict[str, str]) -> None:
    out = first_run["out"]
    ran = [line.split("'")[1] for line in out.splitlines() if line.startswith("Running stage")]
    assert ran == STAGES
    assert "fetch: 4 files, " in out
    assert "preprocess: 300 train, 0 validation, 100 test" in out
    assert "on 400 of 400 images" in out
    assert "fetch: /nowhere: not installed" in first_run["err"]
    assert "Traceback" not in first_run["err"]


def test_repro_commits_metrics_and_ignores_data_and_models(clone: Clone) -> None:
    tracked = set(clone.do("git", "ls-files").splitlines())
    assert tracked >= {
        "dvc.lock",
        "metrics/train.json",
        "metrics/evaluate.json",
        "metrics/export.json",
        "plots/history.csv",
        "plots/confusion.csv",
    }
    assert not [name for name in tracked if name.endswith(("ubyte", ".npy", ".keras", ".onnx"))]
    assert clone.status() == ""


def test_repro_again_runs_no_stage(clone: Clone) -> None:
    out = clone.do("dvc", "repro")
    assert "Running stage" not in out
    assert out.endswith("Data and pipelines are up to date.\n")
    assert clone.status() == ""


def test_repro_writes_a_lost_lock_again(clone: Clone) -> None:
    (clone.folder / "dvc.lock").unlink()
    clone.do("dvc", "repro")  # DVC remembers no run with uncached outputs: training runs again
    assert clone.status() == ""


def test_metrics_show_every_stages_figures(clone: Clone) -> None:
    shown = json.loads(clone.do("dvc", "metrics", "show", "--json"))[""]["data"]
    train = shown["metrics/train.json"]["data"]
    assert set(train) == {"train_loss", "train_accuracy"}
    assert {"test_loss", "test_accuracy"} <= set(shown["metrics/evaluate.json"]["data"])
    assert shown["metrics/export.json"]["data"]["argmax_agreement"] == 400


def test_plots_show_writes_a_page_with_every_plot(clone: Clone, tmp_path: Path) -> None:
    clone.do("dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for title in ("Loss by epoch", "Accuracy by epoch", "Confusion on the test set"):
        assert page.count(f'"title": "{title}"') + page.count(f'"text": "{title}"') >= 1


def test_dag_shows_the_stages(clone: Clone) -> None:
    lines = clone.do("dvc", "dag", "--dot").splitlines()
    assert '"preprocess" -> "train";' in lines
    assert '"train" -> "evaluate";' in lines
    assert '"train" -> "export";' in lines
    assert '"evaluate" -> "export";' not in lines


def test_artifacts_get_brings_the_onnx_file(clone: Clone, tmp_path: Path) -> None:
    # How DVC's model registry names a version; it sees annotated tags only.
    clone.do("git", "tag", "--annotate", "fashion-mlp@v1.0.0", "--message", "test")
    target = tmp_path / "got.onnx"
    clone.do("dvc", "artifacts", "get", str(clone.folder), "fashion-mlp", "--out", str(target))
    assert target.read_bytes() == (clone.folder / "models/fashion_mlp.onnx").read_bytes()
    (image,) = onnxruntime.InferenceSession(str(target)).get_inputs()
    assert (image.name, image.shape) == ("image", ["N", 784])


@pytest.fixture(scope="module")
def experiment(clone: Clone) -> Iterator[str]:
    """Two parameters set by `dvc exp run -S`, one of which DVC writes as the text 1e-05."""
    yield clone.do(
        *("dvc", "exp", "run", "--name", "slow"),
        *("-S", "train.epochs=3", "-S", "train.optimizer.learning_rate=0.00001"),
    )
    clone.do("git", "checkout", "--quiet", ".")
    clone.do("dvc", "checkout")
    assert clone.status() == ""


def test_exp_run_trains_with_the_values_set(clone: Clone, experiment: str) -> None:
    assert "learning_rate: 1e-05" in clone.read("params.yaml")
    assert isinstance(yaml.safe_load("1e-05"), str)  # what the schema has to bear
    ran = [line for line in experiment.splitlines() if line.startswith("Running stage")]
    assert [line.split("'")[1] for line in ran] == ["train", "evaluate", "export"]
    assert len(clone.read("plots/history.csv").splitlines()) == 1 + 3


def test_exp_show_lists_the_experiment(clone: Clone, experiment: str) -> None:
    lines = clone.do("dvc", "exp", "show", "--csv", "--no-pager").splitlines()
    rows = {row["Experiment"]: row for row in csv.DictReader(lines)}
    assert rows["slow"]["train.epochs"] == "3"
    assert (
        float(rows["slow"]["train_loss"])
        == json.loads(clone.read("metrics/train.json"))["train_loss"]
    )


def test_params_diff_names_old_and_new(clone: Clone, experiment: str) -> None:
    changes = json.loads(clone.do("dvc", "params", "diff", "--json"))["params.yaml"]
    assert changes["train.epochs"] == {"old": 2, "new": 3, "diff": 1}
    assert set(changes) == {"train.epochs", "train.optimizer.learning_rate"}


def test_metrics_diff_shows_what_it_did(clone: Clone, experiment: str) -> None:
    changes = json.loads(clone.do("dvc", "metrics", "diff", "--json"))
    loss = changes["metrics/train.json"]["train_loss"]
    assert loss["new"] > loss["old"]
    assert loss["diff"] == pytest.approx(loss["new"] - loss["old"])


def test_plots_diff_writes_a_page(clone: Clone, experiment: str, tmp_path: Path) -> None:
    clone.do("dvc", "plots", "diff", "HEAD", "workspace", "--out", str(tmp_path))
    assert "workspace" in (tmp_path / "index.html").read_text(encoding="utf-8")


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "negative epochs": (
        {"train.epochs": -1},
        "train",
        "params.yaml: train.epochs: input should be greater than or equal to 1; got -1",
    ),
    "a missing key": (
        {"train.batch_size": ...},
        "train",
        "params.yaml: train.batch_size is missing; add it (`git show HEAD:params.yaml` "
        "has every key)",
    ),
    "an unknown key": (
        {"preprocess.validation_image": 5},
        "preprocess",
        "params.yaml: preprocess.validation_image is unknown (value 5); "
        "known here: validation_images",
    ),
    "too many held out": (
        {"preprocess.validation_images": 300},
        "preprocess",
        "preprocess.validation_images: 300 leaves no image to train on; the training set has 300",
    ),
    "an image that is not there": (
        {"evaluate.examples": [300]},
        "evaluate",
        "evaluate.examples: [300] must be below 300, the number of training images",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_repro_refuses_bad_parameters_in_one_line(clone: Clone, name: str) -> None:
    changes, stage, message = BAD[name]
    lock = clone.read("dvc.lock")
    clone.params(**changes)
    try:
        result = clone.run("dvc", "repro", "--single-item", stage)
        assert result.returncode != 0
        said = [line for line in result.stderr.splitlines() if line.startswith(f"{stage}: ")]
        assert said == [f"{stage}: error: {message}"]
        assert "Traceback" not in result.stderr + result.stdout
        assert clone.read("dvc.lock") == lock
    finally:
        clone.do("git", "checkout", "--quiet", ".")
        clone.do("dvc", "checkout")
    assert clone.status() == ""


def test_a_stage_refuses_a_truncated_raw_file_and_leaves_what_was_there(clone: Clone) -> None:
    path = clone.folder / "data/raw/t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    before = snapshot(clone.folder / "data/prepared")
    path.unlink()  # it may be a link into the cache
    path.write_bytes(content[:-1])
    result = clone.run("python", "-m", "stages.preprocess")
    path.write_bytes(content)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "preprocess: error: data/raw/t10k-labels-idx1-ubyte: damaged: expected MD5 "
    )
    assert result.stderr.count("\n") == 1
    assert snapshot(clone.folder / "data/prepared") == before


def test_repro_mends_a_raw_file_that_was_damaged(clone: Clone) -> None:
    path = clone.folder / "data/raw/t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    clone.do("dvc", "repro")
    assert path.read_bytes() == content
    assert clone.status() == ""


def test_repro_runs_no_stage_for_what_no_stage_reads(clone: Clone) -> None:
    clone.params(**{"gate.tolerances.test_loss": 0.5})
    assert "Running stage" not in clone.do("dvc", "repro")
    clone.do("git", "checkout", "--quiet", ".")


# Every knob, at a value that is not its default; the paper's learning rate gets the one that
# DVC writes as `1e-05`, which YAML reads as text.
KNOBS = {
    "dataset.name": "Small",
    "dataset.license": "none",
    "fetch.timeout": 5,
    "preprocess.validation_images": 20,
    "train.seed": 7,
    "train.hidden_units": 16,
    "train.activation": "tanh",
    "train.loss": "mean_squared_error",
    "train.optimizer.name": "SGD",
    "train.optimizer.learning_rate": "0.00001",
    "train.optimizer.momentum": 0.9,
    "train.optimizer.nesterov": "true",
    "train.optimizer.weight_decay": 0.001,
    "train.optimizer.ema_momentum": 0.5,
    "train.optimizer.schedule": "cosine",
    "train.batch_size": 50,
    "train.epochs": 2,
    "train.standardize": "true",
    "train.dropout": 0.5,
    "train.flip": "true",
    "train.mixup": "0.25",
    "train.warp": "1.5",
    "train.precision": "bfloat16",
    "train.steps_per_execution": 3,
    "evaluate.language": "ru",
    "evaluate.calibration_bins": 5,
    "evaluate.examples": "[1,2]",
    "export.opset": 17,
    "export.ir_version": 9,
    "export.tolerance": "0.00002",
    "export.batch_sizes": "[3]",
    "export.int8": "true",
    "gate.tolerances.other": 0.1,
}


def test_exp_run_sets_every_knob(clone: Clone) -> None:
    values = yaml.safe_load(clone.read("params.yaml"))
    fixed = {"dataset.image_shape", "dataset.classes", "fetch.sources", "fetch.files"}
    known = {".".join(path) for path in leaves(values)}
    tolerances = {key for key in known if key.startswith("gate.")}
    assert {key for key in known if key not in fixed} - tolerances <= set(KNOBS)
    settings = [part for key, value in KNOBS.items() for part in ("-S", f"{key}={value}")]
    clone.do("dvc", "exp", "run", "--temp", "--name", "knobs", *settings)
    (ref,) = clone.do("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/knobs").split()
    found = yaml.safe_load(clone.do("git", "show", f"{ref}:params.yaml"))
    assert found["train"]["optimizer"]["learning_rate"] in ("1e-05", 1e-05)
    assert "int8_test_accuracy" in clone.do("git", "show", f"{ref}:metrics/export.json")


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the keys that hold a value; classes, sources and files are one."""
    if isinstance(values, dict) and path[-1:] not in (("classes",), ("files",)):
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


# What can't be run as it stands: it needs this project's environment, serves for ever, or is run
# with a mistake in params.yaml by a test of its own. That the targets of `make` are there is
# tested; CI runs them.
NOT_RUN = ("source ", "make", "python -m http.server", "python -m stages.")
# Outputs that README shows: compared by the tests below or, where it takes the trained model, by
# tests/test_consumers.py.
COMPARED = {
    "make",
    "python -m stages.train     # with `epoch: 100` for `epochs: 100`",
    "dvc metrics diff main momentum",
    "python consumers/python/predict.py boot.png",
}
# Shown and not compared: how many tests there are, and how long they took.
NOT_COMPARED = {"make test"}


def test_documented_commands_run(clone: Clone) -> None:
    documented = [found.command for path in [README, *DOCS] for found in shown(path)]
    commands = [command for command in documented if not command.startswith(NOT_RUN)]
    assert len(commands) > 5
    image = np.load(clone.folder / "data/prepared/test_images.npy")[0].reshape(28, 28)
    photo_of(image).save(clone.folder / "boot.png")
    try:
        for command in commands:
            clone.do("bash", "-c", command)
    finally:
        clone.do("git", "clean", "--quiet", "--force", "boot.png", "dvc_plots")
        clone.do("git", "checkout", "--quiet", ".")
        clone.do("dvc", "checkout", "--quiet")


def test_every_output_that_readme_shows_is_compared() -> None:
    assert {found.command for found in shown(README) if found.lines} == COMPARED | NOT_COMPARED


def test_readme_shows_what_make_prints(clone: Clone, first_run: dict[str, str]) -> None:
    of_stages = tuple(f"{stage}: " for stage in STAGES)
    printed = [line for line in first_run["out"].splitlines() if line.startswith(of_stages)]
    source = printed[0].rsplit(" from ", 1)[1]
    check_shown(printed_by_stages(clone.folder, source), printed)
    in_readme = [line for line in lines_of("make") if line.startswith(of_stages)]
    check_shown(printed_by_stages(ROOT, "Debian package dataset-fashion-mnist"), in_readme)
    (of_proof,) = re.findall(
        r"^```\n(export: .*?)```", (ROOT / "docs/proof.md").read_text("utf-8"), re.S | re.M
    )
    assert of_proof.splitlines() == [line for line in in_readme if line.startswith("export: ")]


@pytest.mark.parametrize("command", ["make", "make test"])
def test_readme_shows_what_the_makefile_says(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    echoes = re.findall(r'echo "(make: .*)"$', makefile, re.M)
    # $(VENV), and the version of Python that was found, are known to make alone.
    says = [re.sub(r"\$\(VENV\)|\$\$\(.*--version\)", "…", echo) for echo in echoes]
    lines = [line for line in lines_of(command) if line.startswith("make: ")]
    assert lines
    for line in lines:
        assert any(re.fullmatch(pattern([text]), f"{line}\n") for text in says), line


def test_readme_shows_what_a_wrong_key_prints(clone: Clone) -> None:
    (command,) = (one for one in COMPARED if one.startswith("python -m stages."))
    wrong, right = re.findall("`(.+?)`", command)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert text.count(f"  {right}\n") == 1
    (clone.folder / "params.yaml").write_text(text.replace(right, wrong), encoding="utf-8")
    try:
        result = clone.run("bash", "-c", command)
    finally:
        clone.do("git", "checkout", "--quiet", ".")
    assert result.returncode == 1
    check_shown(lines_of(command), result.stderr.splitlines())


def test_readme_shows_what_metrics_diff_prints(tmp_path: Path) -> None:
    # The experiment takes minutes to train: its figures are taken from the table, where each
    # stands twice. Those of main, the changes and the layout are compared.
    lines = lines_of("dvc metrics diff main momentum")
    rows = [re.split("  +", line) for line in lines if line.startswith("metrics/")]
    stated = {key: (float(new), float(change)) for _, key, _, new, change in rows}
    repository = Clone(tmp_path / "repository")
    for name in ("dvc.yaml", ".dvc/config", *METRICS):
        (repository.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, repository.folder / name)
    repository.do("git", "init", "--quiet", "--initial-branch", "main")
    repository.do("git", "add", "--all")
    repository.do("git", "commit", "--quiet", "--message", "main")
    repository.do("git", "checkout", "--quiet", "-b", "momentum")
    for name in METRICS:
        values = json.loads(repository.read(name))
        for path in leaves(values):
            key, value = ".".join(path), reduce(getitem, path, values)
            if key in stated:
                values = edited(values, {key: type(value)(changed(value, *stated[key]))})
            elif "per_class" in key:  # has a line in what is left out: columns are as wide
                values = edited(values, {key: value / 2})
        (repository.folder / name).write_text(json.dumps(values), encoding="utf-8")
    repository.do("git", "commit", "--quiet", "--all", "--message", "momentum")
    head, *printed = repository.do("bash", "-c", "dvc metrics diff main momentum").splitlines()
    printed.sort(key=lambda line: line.split()[0])  # DVC lists the files in any order
    check_shown(lines, [line.rstrip() for line in (head, *printed)])


def changed(value: float, new: float, change: float) -> float:
    """Find the figure of six digits that DVC writes as `new`, and its change as `change`."""
    near = (round(new + step / 1e6, 6) for step in sorted(range(-5, 6), key=abs))
    fits = [it for it in near if (round(it, 5), round(it - value, 5)) == (new, change)]
    assert fits, f"{value} and a change of {change} do not give {new}"
    return fits[0]


def test_documented_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    texts = [path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *DOCS]]
    named = {name for text in texts for name in re.findall(r"`(?:sudo )?make ([a-z-]+)", text)}
    assert named
    assert named <= targets


def test_readme_states_the_committed_figures() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    metrics = {
        name: json.loads((ROOT / f"metrics/{name}.json").read_text(encoding="utf-8"))
        for name in ("train", "evaluate", "export")
    }
    evaluate, export = metrics["evaluate"], metrics["export"]
    for figure in (
        f"| 0.8936 | {metrics['train']['train_accuracy']:.4f} |",
        f"| 0.3051 | {metrics['train']['train_loss']:.4f} |",
        f"**{evaluate['test_accuracy']:.4f}** | loss {evaluate['test_loss']:.4f} |",
        f"9, {evaluate['train_examples']['0']['probability']:.5f} |",
        f"{export['argmax_agreement']:,} of {export['images']:,}",
        f"{export['argmax_certified']:,} certified by a rounding bound, "
        f"{export['argmax_listed']} listed",
    ):
        assert figure in readme
