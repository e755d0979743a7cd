"""consumers: the examples and the snippets of its README, and `make conformance`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.helper import set_model_props

from consumers import conformance
from consumers.conformance import Job, Result, compare, execute, first_fault, read
from consumers.runtimes import MODELS, RUNTIMES, Runtime
from fashion_mlp.export.exact import exact_graph
from fashion_mlp.export.quantize import quantize
from fashion_mlp.network import engine
from pipeline.environment import ROOT
from tests.photos import save_model

README = (ROOT / "consumers/README.md").read_text(encoding="utf-8")
NAMES = ["Amber", "Beige", "Coral", "Denim", "Ebony", "Flax", "Gold", "Hazel", "Ivory", "Jade"]
IN_MAIN_ENVIRONMENT = {"python", "reference"}  # the others run in `make test-consumers`
SNIPPETS = re.findall(  # [folder/classify.x](…), ```language, code; the page has none
    r"^[^#]*\[(\w+)/classify\.\w+\][^#]*?^```(\w+)\n(.*?)^```\n", README, re.M | re.S
)
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join(
        [str(Path(sys.executable).parent), str(ROOT / "consumers/.venv/bin"), os.environ["PATH"]]
    )
}


def needs(folder: str, *values: object) -> Any:
    """Make a case of a test, marked where the main environment is not enough."""
    marks = [] if folder in IN_MAIN_ENVIRONMENT else [pytest.mark.consumers]
    return pytest.param(*values, id=folder, marks=marks)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(7).random((20, 784), np.float32)


@pytest.fixture(scope="module")
def probabilities(images: np.ndarray) -> np.ndarray:
    """What the small model must say, in float64."""
    powers = np.exp(images.astype(np.float64) @ kernel())
    return powers / powers.sum(axis=1, keepdims=True)


def kernel() -> np.ndarray:
    weights = np.random.default_rng(8).normal(size=(784, 10)).astype(np.float32)
    return (weights - weights.mean(axis=0)) / 8  # so that the images differ in class


@pytest.fixture(scope="module")
def project(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model and random images where the pipeline puts its own."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("models", "data/prepared"):
        (folder / name).mkdir(parents=True)
    save_model(folder / "models/fashion_mlp.onnx", kernel(), {"ru": NAMES})
    save_exact(folder / "models/fashion_mlp_exact.onnx")
    labels = {"dataset": "colours", "image_shape": [28, 28], "class_names": {"ru": NAMES}}
    (folder / "models/labels.json").write_text(json.dumps(labels, indent=2))
    np.save(folder / "data/prepared/test_images.npy", images)
    (folder / "consumers").symlink_to(ROOT / "consumers")
    (folder / "node_modules").symlink_to(ROOT / "consumers/node/node_modules")
    return folder


def save_exact(path: Path) -> None:
    """Write the small model's exact form."""
    engine.start()

    from fashion_mlp.network.model import Layer

    layer = Layer(kernel(), np.zeros(10, np.float32), "softmax")
    model = exact_graph(quantize([layer], (28, 28)), 13, 8)
    set_model_props(model, {"class_names": json.dumps({"ru": NAMES})})
    onnx.save(model, path)


def run(command: list[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, **options
    )


def first_names(probabilities: np.ndarray) -> list[str]:
    return [NAMES[number] for number in probabilities[:5].argmax(axis=1)]


@pytest.mark.parametrize(
    ("folder", "language", "code"), [needs(snippet[0], *snippet) for snippet in SNIPPETS]
)
def test_readme_snippet_names_what_the_model_sees(
    folder: str, language: str, code: str, project: Path, probabilities: np.ndarray
) -> None:
    python = sys.executable if folder in IN_MAIN_ENVIRONMENT else "consumers/.venv/bin/python"
    command = {
        "python": [python, "-"],
        "js": ["node", "--input-type=module", "-"],
        "sh": ["bash", "-eu", "-s"],
    }[language]
    done = run(command, project, input=code)
    assert done.returncode == 0, done.stderr
    assert re.findall("|".join(NAMES), done.stdout) == first_names(probabilities)


def test_readme_has_a_snippet_for_every_example() -> None:
    examples = {path.parent.name for path in (ROOT / "consumers").glob("*/classify.*")}
    assert {snippet[0] for snippet in SNIPPETS} == examples - {"web"}  # a page


@pytest.fixture(
    scope="module",
    params=[
        needs(runtime.key, (runtime, file))
        for runtime in RUNTIMES
        for file in runtime.files
        if runtime.enforced and file != "uint8" and runtime.key != "c_arm64"
    ],
)
def example(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], bool]:
    """The command of an example once it is built, without its images; whether it takes bytes."""
    runtime, file = request.param
    folder = tmp_path_factory.mktemp("build")
    job = Job(MODELS[file], Path("images.npy"), 784, 10)
    with chdir(project):
        *build, command = conformance.commands(runtime, job, "probabilities", folder)
    for step in build:
        run(step, project, check=True)
    if runtime.key in IN_MAIN_ENVIRONMENT:
        command[0] = sys.executable
    return command, file == "exact"


def as_bytes(images: np.ndarray) -> np.ndarray:
    return np.rint(255 * images).astype(np.uint8)


def test_example_writes_all_probabilities(
    example: tuple[list[str], bool], project: Path, images: np.ndarray, probabilities: np.ndarray
) -> None:
    command, exact = example
    np.save(project / "images.npy", as_bytes(images) if exact else images)
    done = run(command, project)
    assert done.returncode == 0, done.stderr
    assert re.findall("|".join(NAMES), done.stdout) in (first_names(probabilities), [])  # the page
    assert conformance.SUMMARY.match(done.stdout.splitlines()[-1])
    written = np.fromfile(command[-1], "<f4").reshape(20, 10)
    np.testing.assert_allclose(written, probabilities, atol=1e-2 if exact else 1e-5)


def other_type(images: np.ndarray) -> np.ndarray:
    """Make float32 of bytes, and bytes of float32."""
    is_float = images.dtype == np.float32
    return as_bytes(images) if is_float else (images / 255).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_tied_logits_name_the_first_of_them(classes: int, tmp_path: Path) -> None:
    model = tmp_path / "some/model.onnx"
    model.parent.mkdir()
    save_model(model, np.zeros((6, classes), np.float32), {"en": NAMES[:classes]})
    job = conformance.tied_job(tmp_path, Job(model, tmp_path / "images.npy", 6, classes))
    _, numbers, _ = onnxruntime.InferenceSession(job.model).run(
        None, {"image": np.zeros((4, 6), np.uint8)}
    )
    assert numbers.tolist() == [classes - 2] * 4


UNFIT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the other model's type": other_type,
    "float64": lambda images: images.astype(np.float64),
    "int64": lambda images: np.rint(255 * images).astype(np.int64),
    "big-endian": lambda images: images.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "785 columns": lambda images: np.pad(images, ((0, 0), (0, 1))),
    "one image without its axis": lambda images: images[0],
}


@pytest.mark.parametrize("kind", UNFIT)
def test_example_refuses_an_array_that_does_not_fit(
    kind: str, example: tuple[list[str], bool], project: Path, images: np.ndarray
) -> None:
    command, exact = example
    np.save(project / "images.npy", UNFIT[kind](as_bytes(images) if exact else images))
    done = run(command, project)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch(r"(classify|conformance): .*[Ee]xpected.*\n", done.stderr)


@pytest.mark.consumers
def test_readme_shows_what_a_command_prints() -> None:
    ((command, lines),) = re.findall(r"^```console\n\$ (.*)\n((?:.*\n)*?)```", README, re.M)
    printed = run(command.split(), ROOT, check=True).stdout
    assert re.sub(r"[\d.]+ s$", "", printed) == re.sub(r"[\d.]+ s$", "", lines)


def test_examples_import_nothing_of_ours() -> None:
    ours = re.compile(r"^\s*(from|import) (fashion_mlp|pipeline|stages|checks|consumers)\b", re.M)
    examples = list((ROOT / "consumers").glob("*/classify.py"))
    assert len(examples) == 5
    assert [path for path in examples if ours.search(path.read_text(encoding="utf-8"))] == []


def two_images(**changes: float) -> np.ndarray:
    """Two rows of probabilities; `b2=1` adds 1 to class 2 of the second."""
    rows = np.full((2, 10), 0.05, np.float32)
    rows[0, 3] = rows[1, 7] = 0.55
    for place, change in changes.items():
        rows["ab".index(place[0]), int(place[1])] += np.float32(change)
    return rows


@pytest.mark.parametrize(
    ("expected", "found", "fault"),
    [
        (two_images(), two_images(a1=4e-6, b7=-4e-6), None),
        (
            two_images(),
            two_images(b2=1e-4),
            "image 1: expected Hazel, Coral at 0.0500000; got Hazel, Coral at 0.0501000; "
            "allowed difference 5e-06; 1 of 2 images differ",
        ),
        (two_images(), two_images(a4=np.nan), "Ebony at nan"),
        (two_images(a4=0.499999), two_images(a4=0.500002), "expected Denim"),
    ],
    ids=["inside the tolerance", "outside", "NaN", "another class inside the tolerance"],
)
def test_first_fault(expected: np.ndarray, found: np.ndarray, fault: str | None) -> None:
    said = first_fault(expected, found, NAMES)
    assert said is None if fault is None else fault in str(said)


def test_compare_counts_and_rounds() -> None:
    found = two_images()
    found[1] = found[1, ::-1]
    assert compare(two_images(), "1.0", found) == Result("1.0", 0.5, 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such model')", "exit 1: ValueError: no such model"),
        ("print('hello')", "expected version and seconds in the last line, got ['hello']"),
        ("import time; time.sleep(60)", "timed out after"),
    ],
)
def test_execute_says_what_a_runtime_did_wrong(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "TIMEOUT", 2)
    (tmp_path / "example.py").write_text(code)
    command = f"{{python}} {tmp_path}/example.py"
    runtime = Runtime("x", "X", "pip install x", command)
    with pytest.raises(RuntimeError, match=re.escape(reason)):
        execute(runtime, Job(Path("model.onnx"), Path("images.npy"), 784, 10), "probabilities")


def test_read_refuses_an_output_of_another_length() -> None:
    with pytest.raises(RuntimeError, match="expected 80 bytes, got 3"):
        read(b"123", "<f4", (2, 10))


def test_call_says_how_to_install_a_missing_program() -> None:
    with pytest.raises(RuntimeError, match="no nonesuch; `make conformance-tools` installs it"):
        conformance.call(["nonesuch"])
