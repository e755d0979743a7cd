"""The whole pipeline in a temporary clone, on a small data set from a real HTTP server.

One run of it serves all tests of this module; they stand in the order of a user's session, and
each leaves the clone as it found it.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import yaml

from tests.conftest import ROOT, Data, edited, make_data, other_values, small_values, snapshot
from tests.server import body, serving

STAGES = ["fetch", "preprocess", "train", "evaluate", "export"]


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

    def write_params(self, values: Any) -> None:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def change_params(self, **changes: Any) -> None:
        self.write_params(edited(yaml.safe_load(self.read("params.yaml")), changes))

    def status(self) -> str:
        return self.do("git", "status", "--porcelain")

    def restore(self) -> None:
        """Undo what a test did to files that git or DVC knows."""
        self.do("git", "checkout", "--quiet", ".")
        self.do("dvc", "checkout", "--quiet")
        assert self.status() == ""


def stages_of(printed: str) -> list[str]:
    """List the stages that DVC says it runs."""
    lines = [line for line in printed.splitlines() if line.startswith("Running stage")]
    return [line.split("'")[1] for line in lines]


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
        made.write_params(small_values(images, **{"fetch.sources": sources}))
        made.do("git", "init", "--quiet", "--initial-branch", "main")
        result = made.run("dvc", "repro")
        assert result.returncode == 0, result.stdout + result.stderr
        first_run |= {"out": result.stdout, "err": result.stderr}
        made.do("git", "add", "--all")
        made.do("git", "commit", "--quiet", "--message", "first")
        yield made


def test_repro_runs_every_stage_in_order(clone: Clone, first_run: dict[str, str]) -> None:
    out = first_run["out"]
    assert stages_of(out) == STAGES
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
    assert clone.do("dvc", "repro").endswith("Data and pipelines are up to date.\n")
    assert clone.status() == ""


@pytest.mark.parametrize(
    ("edits", "due"),
    [
        (["pipeline/*.py", "stages/fetch.py", "fashion_mlp/training/worker.py"], []),
        (["fashion_mlp/pictures/charts.py"], ["evaluate"]),
        (["fashion_mlp/training/loop.py", "fashion_mlp/proof/levels.py"], ["train", "export"]),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_an_edit_runs_again_what_it_can_change(
    clone: Clone, edits: list[str], due: list[str]
) -> None:
    paths = [path for pattern in edits for path in clone.folder.glob(pattern)]
    assert len(paths) >= len(edits)
    for path in paths:
        path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    assert list(json.loads(clone.do("dvc", "status", "--json"))) == due
    clone.do("git", "checkout", "--quiet", ".")


def test_a_renamed_class_trains_nothing_again(clone: Clone) -> None:
    clone.change_params(**{"dataset.class_names.en": [f"class {n}" for n in range(10)]})
    assert list(json.loads(clone.do("dvc", "status", "--json"))) == ["evaluate", "export"]
    clone.do("git", "checkout", "--quiet", ".")


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


DEEP = {"train.epochs": "3", "train.hidden_units": "[24,12]"}
# DVC writes the first as the text 1e-05; the second is no key of params.yaml yet.
OPTIMIZER = {
    "train.optimizer.config.learning_rate": "0.00001",
    "+train.optimizer.config.momentum": "0.9",
}


@pytest.fixture(scope="class")
def experiment(clone: Clone) -> Iterator[str]:
    """Two hidden layers, and another optimizer, set by `dvc exp run -S`."""
    settings = [part for item in (DEEP | OPTIMIZER).items() for part in ("-S", "=".join(item))]
    yield clone.do("dvc", "exp", "run", "--name", "deep", *settings)
    clone.restore()


class TestExperiment:
    def test_exp_run_trains_with_the_values_set(self, clone: Clone, experiment: str) -> None:
        assert "learning_rate: 1e-05" in clone.read("params.yaml")
        assert isinstance(yaml.safe_load("1e-05"), str)  # what the schema has to bear
        assert stages_of(experiment) == ["train", "evaluate", "export"]
        assert len(clone.read("plots/history.csv").splitlines()) == 1 + 3

    def test_two_layers_are_proven_on_all_images(self, clone: Clone, experiment: str) -> None:
        dense = "MatMul -> Add -> "
        assert f"export: structure: {dense}Relu -> {dense}Relu -> {dense}Softmax" in experiment
        proof = json.loads(clone.read("metrics/export.json"))
        assert proof["argmax_agreement"] == proof["uint8_bit_identical"] == proof["images"] == 400
        assert proof["weights_bit_identical"] == 784 * 24 + 24 + 24 * 12 + 12 + 12 * 10 + 10
        images = onnxruntime.InferenceSession(str(clone.folder / "models/fashion_mlp.onnx"))
        names = [value.name for value in images.get_inputs() + images.get_outputs()]
        assert names == ["image", "probabilities"]

    def test_exp_show_lists_the_experiment(self, clone: Clone, experiment: str) -> None:
        lines = clone.do("dvc", "exp", "show", "--csv", "--no-pager").splitlines()
        (row,) = [row for row in csv.DictReader(lines) if row["Experiment"] == "deep"]
        assert row["train.epochs"] == "3"
        metrics = json.loads(clone.read("metrics/train.json"))
        assert float(row["train_loss"]) == metrics["train_loss"]

    def test_params_diff_names_old_and_new(self, clone: Clone, experiment: str) -> None:
        changes = json.loads(clone.do("dvc", "params", "diff", "--json"))["params.yaml"]
        assert changes["train.epochs"] == {"old": 2, "new": 3, "diff": 1}
        assert set(changes) == {key.removeprefix("+") for key in DEEP | OPTIMIZER}

    def test_metrics_diff_shows_what_it_did(self, clone: Clone, experiment: str) -> None:
        changes = json.loads(clone.do("dvc", "metrics", "diff", "--json"))
        loss = changes["metrics/train.json"]["train_loss"]
        assert loss["new"] > loss["old"]
        assert loss["diff"] == pytest.approx(loss["new"] - loss["old"])

    def test_plots_diff_writes_a_page(self, clone: Clone, experiment: str, tmp_path: Path) -> None:
        clone.do("dvc", "plots", "diff", "HEAD", "workspace", "--out", str(tmp_path))
        assert "workspace" in (tmp_path / "index.html").read_text(encoding="utf-8")


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a wrong value": (
        {"train.epochs": -1},
        "train",
        "params.yaml: train.epochs: input should be greater than or equal to 1; got -1",
    ),
    "an unknown key": (
        {"preprocess.validation_image": 5},
        "preprocess",
        "params.yaml: preprocess.validation_image is unknown (value 5); "
        "known here: validation_images",
    ),
    "an unknown option of the optimizer": (
        {"train.optimizer.config.momentun": 0.9},
        "train",
        "params.yaml: train.optimizer.config.momentun is unknown (value 0.9); SGD knows ",
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
    clone.change_params(**changes)
    result = clone.run("dvc", "repro", "--single-item", stage)
    assert result.returncode != 0
    (said,) = [line for line in result.stderr.splitlines() if line.startswith(f"{stage}: ")]
    assert said.startswith(f"{stage}: error: {message}")
    assert "Traceback" not in result.stderr + result.stdout
    assert clone.read("dvc.lock") == lock
    clone.restore()


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
    clone.change_params(**{"gate.tolerances.test_loss": 0.5, "fetch.timeout": 3})
    assert clone.do("dvc", "status") == "Data and pipelines are up to date.\n"
    clone.do("git", "checkout", "--quiet", ".")


def test_exp_run_sets_every_key(clone: Clone) -> None:
    fixed = {"dataset.image_shape", "dataset.classes", "train.device"}  # the data's; the machine's
    others = other_values(yaml.safe_load(clone.read("params.yaml")))
    assert set(others) > fixed
    settings = [f"-S{key}={value}" for key, value in others.items() if key not in fixed]
    clone.do("dvc", "exp", "run", "--temp", "--name", "others", *settings)
    (ref,) = clone.do("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/others").split()
    proof = json.loads(clone.do("git", "show", f"{ref}:metrics/export.json"))
    assert proof["argmax_agreement"] == proof["images"] == 399  # one is held out
    lock = yaml.safe_load(clone.do("git", "show", f"{ref}:dvc.lock"))["stages"]
    trained = lock["train"]["params"]["params.yaml"]["train"]
    assert trained["hidden_units"] == [3, 2]
    assert trained["optimizer"]["class_name"] == "Adam"
    assert clone.status() == ""
