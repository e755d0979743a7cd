"""The whole pipeline in a temporary clone, on a small data set from a real HTTP server.

One run of it serves all tests of this module; they stand in the order of a user's session, and
each leaves the clone as it found it.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from tests.conftest import ROOT, Data, edited, make_data, other_values, small_values, snapshot
from tests.docs_cog import stage_lines
from tests.photos import encoded, photo_of
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
        "plots/classes.csv",
        "plots/examples.csv",
    }
    models = {name for name in tracked if name.startswith("models/")} - {"models/.gitignore"}
    assert models == {"models/fashion_mlp_exact.onnx", "models/labels.json"}
    assert not [name for name in tracked if name.endswith(("ubyte", ".npy", ".keras"))]
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


def test_what_no_result_depends_on_trains_nothing_again(clone: Clone) -> None:
    clone.change_params(**{"gate.tolerances.test_loss": 0.5, "fetch.timeout": 3})
    assert list(json.loads(clone.do("dvc", "status", "--json"))) == []
    clone.change_params(**{"dataset.class_names.en": [f"class {n}" for n in range(10)]})
    assert list(json.loads(clone.do("dvc", "status", "--json"))) == ["evaluate", "export"]
    clone.do("git", "checkout", "--quiet", ".")


def test_artifacts_get_brings_the_onnx_file(clone: Clone, tmp_path: Path) -> None:
    # How DVC's model registry names a version; it sees annotated tags only.
    clone.do("git", "tag", "--annotate", "fashion-mlp@v1.0.0", "--message", "test")
    target = tmp_path / "got.onnx"
    clone.do("dvc", "artifacts", "get", str(clone.folder), "fashion-mlp", "--out", str(target))
    assert target.read_bytes() == (clone.folder / "models/fashion_mlp_exact.onnx").read_bytes()
    (image,) = onnxruntime.InferenceSession(str(target)).get_inputs()
    assert (image.name, image.shape) == ("image", ["N", 784])


def test_exp_run_sets_every_key_and_proves_two_layers(clone: Clone) -> None:
    fixed = {"dataset.image_shape", "dataset.classes", "train.device"}  # the data's; the machine's
    others = other_values(yaml.safe_load(clone.read("params.yaml")))
    assert set(others) > fixed
    others |= {
        "train.hidden_units": "[24,12]",
        "train.optimizer.class_name": "RMSprop",
        "train.optimizer.config.learning_rate": "0.00001",  # DVC writes the text 1e-05
        "+train.optimizer.config.momentum": "0.9",  # no key of params.yaml yet
    }
    settings = [f"-S{key}={value}" for key, value in others.items() if key not in fixed]
    printed = clone.do("dvc", "exp", "run", "--name", "others", *settings)
    assert stages_of(printed) == ["preprocess", "train", "evaluate", "export"]
    assert re.search(r"export: structure: (MatMul -> Add -> \w+( -> )?){3}\n", printed)
    proof = json.loads(clone.read("metrics/export.json"))
    assert proof["argmax_agreement"] == proof["images"] == 400
    weights = 784 * 24 + 24 + 24 * 12 + 12 + 12 * 10 + 10
    assert f"weights_bit_identical,{weights}\n" in clone.read("metrics/proof.csv")
    assert "learning_rate: 1e-05" in clone.read("params.yaml")
    trained = yaml.safe_load(clone.read("dvc.lock"))["stages"]["train"]["params"]["params.yaml"]
    assert trained["train"]["hidden_units"] == [24, 12]
    assert trained["train"]["optimizer"]["class_name"] == "RMSprop"
    clone.restore()


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a wrong value": (
        {"train.epochs": -1},
        "train",
        "params.yaml: train.epochs: input should be greater than or equal to 1; got -1",
    ),
    "an unknown option of the optimizer": (
        {"train.optimizer.config.momentun": 0.9},
        "train",
        "params.yaml: train.optimizer.config.momentun is unknown (value 0.9); SGD knows ",
    ),
    "an image that is not there": (
        {"evaluate.examples": [300]},
        "evaluate",
        "evaluate.examples: [300] must be below 300, the number of training images",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_stage_refuses_bad_parameters_in_one_line(clone: Clone, name: str) -> None:
    changes, stage, message = BAD[name]
    clone.change_params(**changes)
    result = clone.run("python", "-m", f"stages.{stage}")
    assert result.returncode == 1
    assert result.stderr.startswith(f"{stage}: error: {message}")
    assert result.stderr.count("\n") == 1
    clone.restore()


def test_what_the_last_line_of_an_error_says_brings_the_results_back(clone: Clone) -> None:
    before = snapshot(clone.folder / "models") | snapshot(clone.folder / "plots")
    clone.change_params(**{"train.epochs": 0})
    result = clone.run("dvc", "repro")
    assert result.returncode != 0
    assert not (clone.folder / "models/fashion_mlp.keras").exists()
    (remedy,) = re.findall(r"^train: .* brings the committed ones back: (.*)$", result.stderr, re.M)
    clone.do("git", "checkout", "params.yaml")
    clone.do("bash", "-c", remedy)
    assert snapshot(clone.folder / "models") | snapshot(clone.folder / "plots") == before
    assert stages_of(clone.do("dvc", "repro")) == []


def test_a_truncated_raw_file_is_refused_and_repro_mends_it(clone: Clone) -> None:
    path = clone.folder / "data/raw/t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    before = snapshot(clone.folder / "data/prepared")
    path.unlink()  # it may be a link into the cache
    path.write_bytes(content[:-1])
    result = clone.run("python", "-m", "stages.preprocess")
    assert result.returncode == 1
    assert result.stderr.startswith(
        "preprocess: error: data/raw/t10k-labels-idx1-ubyte: damaged: expected MD5 "
    )
    assert result.stderr.count("\n") == 1
    assert snapshot(clone.folder / "data/prepared") == before
    clone.do("dvc", "repro")
    assert path.read_bytes() == content
    assert clone.status() == ""


def commands(text: str) -> list[str]:
    """List the commands of a document's blocks, in their order; continued lines as one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    blocks = "".join(block for language, block in fenced if language in ("", "console"))
    return [re.sub(r"\\\n\s*", "", it) for it in re.findall(r"^\$ ((?:.*\\\n)*.*)", blocks, re.M)]


# What the test below does not run, and why.
NOT_RUN = {
    r"make\b": "the Makefile's tests do, and CI",
    r"source ": "`clone` has that environment",
    r"python -m http\.server": "serves for ever",
    r"consumers/\.venv": "`make test-consumers` does",
    r"nice .*dvc queue start": "`make torture` does",
    r"dvc .*\b[a-z]{5}-[a-z]{4}\b": "an experiment that DVC gave a name by chance",
    r"dvc (push|pull)": "needs a server, which tests/test_sharing.py has",
    r"python -m stages": "cog runs it, and README shows what it prints",
    r"pip install": "installs, away from .venv",
    r"\.venv/bin/python": "tests/test_own_pictures.py does",
    r"python -m fashion_mlp\.prove": "tests/test_prove.py does",
    r"openssl": "tests/test_release.py does",
    r"dvc exp list origin": "tests/test_tasks.py does, between two clones",
    r"dvc repro": "`clone` has; its output is compared below",
}


def test_documented_commands_run(clone: Clone) -> None:
    documents = [ROOT / "README.md", ROOT / "consumers/README.md", *sorted(ROOT.glob("docs/*.md"))]
    printed: dict[str, str] = {}
    for document in documents:
        for command in commands(document.read_text(encoding="utf-8")):
            if any(re.match(pattern, command) for pattern in NOT_RUN):
                continue
            command = command.replace("10000", "100")  # there are 300 images
            # One experiment in the queue is enough.
            command = command.replace("[200],[800]", "[16]").replace(",0.1", "").replace(",0.9", "")
            if "photo.png" in command:
                image = np.load(clone.folder / "data/prepared/test_images.npy")[0]
                (clone.folder / "photo.png").write_bytes(encoded(photo_of(image.reshape(28, 28))))
            printed[command] = clone.do("bash", "-c", command)
            (clone.folder / "photo.png").unlink(missing_ok=True)
        clone.restore()  # parameters that `-S` has set
    assert len(printed) > 8
    assert all(stage in printed["dvc dag"] for stage in STAGES)
    assert "argmax_agreement" in printed["dvc metrics show"]
    changes = printed["dvc params diff main momentum"]
    assert "train.optimizer.config.momentum" in changes
    assert "preprocess.validation_images" in changes
    page = (clone.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
    for title in ("Loss by epoch", "Accuracy by epoch", "Confusion matrix"):
        assert page.count(f'"title": "{title}"') + page.count(f'"text": "{title}"') >= 1


def test_repro_prints_what_readme_shows(clone: Clone, first_run: dict[str, str]) -> None:
    lines = iter(first_run["out"].splitlines())
    for shown in stage_lines(clone.folder):  # in this order
        pattern = re.escape(shown).replace("…", ".*")
        assert any(re.fullmatch(pattern, line) for line in lines), shown
