"""The whole pipeline in a temporary repository, on a small data set from a real HTTP server.

One run of it serves all tests of this module; each leaves the repository as it found it.
"""

from __future__ import annotations

import gzip
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from checks.sandbox import Sandbox
from pipeline.environment import ROOT
from pipeline.files import md5
from release.__main__ import AGAIN, changed
from tests.conftest import snapshot
from tests.docs_cog import stage_lines
from tests.server import body, serving

STAGES = ["fetch", "preprocess", "train", "evaluate", "export"]


def restore(box: Sandbox) -> None:
    """Undo what a test did to files that git or DVC knows."""
    box.good("git checkout --quiet .")
    box.good("dvc checkout --quiet")
    assert box.good("git status --porcelain") == ""


@pytest.fixture(scope="module")
def first_run() -> list[str]:
    """What the first `make` printed, as one text."""
    return []


@pytest.fixture(scope="module")
def box(first_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("pipeline")
    with serving() as server:
        sources = [{"folder": "/nowhere"}, {"url": f"{server.url}/data/"}]
        small = {"train__hidden_units": [16], "train__steps_per_execution": 2}
        made = Sandbox(folder, 300, 100, **small, fetch__sources=sources)
        for path in (folder / "source").iterdir():
            server.answers[f"/data/{path.name}.gz"] = body(gzip.compress(path.read_bytes()))
        who = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
        # User settings of DVC and git stay out.
        made.environment |= {"HOME": str(folder), **dict.fromkeys(who, "test")}
        first_run.append(made.good("make"))
        made.commit()
        yield made


def stages_of(printed: str) -> list[str]:
    """List the stages that DVC says it runs."""
    return re.findall(r"^Running stage '(\w+)'", printed, re.M)


def test_make_runs_every_stage_and_prints_what_readme_shows(
    box: Sandbox, first_run: list[str]
) -> None:
    assert stages_of(first_run[0]) == STAGES
    assert "fetch: /nowhere: no such folder" in first_run[0]
    assert "Traceback" not in first_run[0]
    lines = iter(first_run[0].splitlines())
    for shown in stage_lines(box.folder):  # in this order
        pattern = re.escape(shown).replace("…", ".*")
        assert any(re.fullmatch(pattern, line) for line in lines), shown


def test_git_has_results_and_neither_data_nor_models(box: Sandbox) -> None:
    tracked = set(box.good("git ls-files").splitlines())
    metrics = {f"metrics/{stage}.json" for stage in STAGES[2:]}
    assert tracked >= {"dvc.lock", *metrics, "plots/history.csv", "plots/confusion.csv"}
    models = {name for name in tracked if name.startswith("models/")} - {"models/.gitignore"}
    assert models == {"models/fashion_mlp_exact.onnx", "models/labels.json"}
    assert not [name for name in tracked if name.endswith(("ubyte", ".npy", ".keras"))]


def test_make_resumes_after_everything_was_killed_in_training(box: Sandbox) -> None:
    """`make torture` tries many more faults."""
    model, before = "models/fashion_mlp.keras", box.results()
    (box.folder / ".dvc/cache" / box.object(model)).unlink()
    (box.folder / model).unlink()
    checkpoints = box.folder / ".run"
    process = box.start("make")
    while not [*checkpoints.glob("checkpoint*")]:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "train: resuming after epoch " in box.good("make")
    assert box.results() == before
    assert not [*checkpoints.glob("checkpoint*")]


def test_what_the_last_line_of_an_error_says_brings_the_results_back(box: Sandbox) -> None:
    before = snapshot(box.folder / "models") | snapshot(box.folder / "plots")
    box.set(train__epochs=0)
    status, output = box.run("dvc repro")
    assert status != 0
    assert not (box.folder / "models/fashion_mlp.keras").exists()
    (remedy,) = re.findall(r"^train: .* brings the committed ones back: (.*)$", output, re.M)
    box.good("git checkout params.yaml")
    box.good("bash", "-c", remedy)
    assert snapshot(box.folder / "models") | snapshot(box.folder / "plots") == before
    assert stages_of(box.good("dvc repro")) == []


def test_a_stage_alone_is_refused_where_its_inputs_have_other_parameters(box: Sandbox) -> None:
    box.set(train__epochs=3)
    status, output = box.run("dvc repro --single-item export")
    restore(box)
    says = "export: error: models/fashion_mlp.keras: made with train.epochs 100, and params.yaml"
    assert (status != 0, says in output, "Traceback" in output) == (True, True, False)


def test_a_forged_result_with_a_forged_dvc_lock_is_found_before_a_release(box: Sandbox) -> None:
    head = box.good("git rev-parse HEAD").strip()
    metrics, lock = box.folder / "metrics/evaluate.json", box.folder / "dvc.lock"
    right = md5(metrics)
    metrics.write_text(metrics.read_text().replace('"test_accuracy": 0', '"test_accuracy": 9'))
    lock.write_text(lock.read_text().replace(right, md5(metrics)))
    box.commit()
    try:
        assert "dvc.lock is current" in box.good("make check-lock")
        box.good(*AGAIN)
        assert changed(box.folder) == ["dvc.lock", "metrics/evaluate.json"]
    finally:
        box.good(f"git reset --quiet --hard {head}")


def commands(text: str) -> list[str]:
    """List the commands of a document's blocks, in their order; continued lines as one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    blocks = "".join(block for language, block in fenced if language in ("", "console"))
    return [re.sub(r"\\\n\s*", "", it) for it in re.findall(r"^\$ ((?:.*\\\n)*.*)", blocks, re.M)]


# What the test below does not run, and why.
NOT_RUN = {
    r"make\b": "the Makefile's tests do, and CI",
    r"source ": "`box` has that environment",
    r"python -m http\.server": "serves for ever",
    r"consumers/\.venv": "`make test-consumers` does",
    r"nice .*dvc queue start": "leaves workers running in the background",
    r"dvc .*\b[a-z]{5}-[a-z]{4}\b": "an experiment that DVC gave a name by chance",
    r"dvc (push|pull)": "needs a server, which tests/test_sharing.py has",
    r"python -m stages": "cog runs it, and README shows what it prints",
    r"(python3 -m venv .*)?pip install|python3 -m venv": "installs, away from .venv",
    r"\.venv/bin/python": "tests/test_own_pictures.py does",
    r"python -m fashion_mlp\.prove": "tests/test_prove.py does",
    r"openssl": "tests/test_release.py does",
    r"dvc exp (push|list) origin": "needs a shared repository",
    r"dvc repro": "`box` has; its output is compared below",
}


def test_documented_commands_run(box: Sandbox) -> None:
    documents = [ROOT / "README.md", ROOT / "consumers/README.md", *sorted(ROOT.glob("docs/*.md"))]
    printed: dict[str, str] = {}
    for document in documents:
        for command in commands(document.read_text(encoding="utf-8")):
            if command in printed or any(re.match(one, command) for one in NOT_RUN):
                continue
            command = command.replace("10000", "100")  # there are 300 images
            # One experiment in the queue is enough, and two epochs.
            command = command.replace("--name momentum", "--name momentum -S train.epochs=2")
            command = command.replace("[200],[800]", "[16]").replace(",0.1", "").replace(",0.9", "")
            printed[command] = box.good("bash", "-c", command)
        restore(box)  # parameters that `-S` has set
    assert len(printed) > 8
    assert all(stage in printed["dvc dag"] for stage in STAGES)
    assert "argmax_agreement" in printed["dvc metrics show"]
    changes = printed["dvc params diff main momentum"]
    assert "train.optimizer.config.momentum" in changes
    assert "preprocess.validation_images" in changes
    page = (box.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
    for title in ("Loss by epoch", "Accuracy by epoch", "Confusion matrix"):
        assert page.count(f'"title": "{title}"') + page.count(f'"text": "{title}"') >= 1
