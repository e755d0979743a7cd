from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from consumers import conformance, runtimes
from consumers.conformance import Output, Result, compare, execute, first_fault
from consumers.runtimes import Runtime
from pipeline.params import load_params
from tests.docs import check_shown, lines_of, shown
from tests.photos import photo_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "consumers/README.md").read_text(encoding="utf-8")
NAMES = load_params().dataset.classes.en
IN_MAIN_ENVIRONMENT = ("Python, onnxruntime", "Python, onnx's reference")
EXAMPLES = sorted((ROOT / "consumers").glob("*/classify.*"))
CONSUMERS_BIN = ROOT / "consumers/.venv/bin"


class Snippet(NamedTuple):
    section: str
    language: str
    code: str
    printed: str


def snippets() -> list[Snippet]:
    """Those that name the first images; the page has none, `make conformance` runs it itself."""
    found = []
    for section in re.split(r"^### ", README, flags=re.M)[1:]:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```\n", section, flags=re.M | re.S)
        if blocks:
            (language, code), *output = blocks
            printed = output[0][1] if output else ""
            found.append(Snippet(section.split("\n")[0], language, code, printed))
    return found


def cases() -> list[object]:
    """Those that need more than the main environment run in `make test-consumers`."""
    return [
        pytest.param(
            snippet,
            id=snippet.section,
            marks=[] if snippet.section in IN_MAIN_ENVIRONMENT else pytest.mark.consumers,
        )
        for snippet in snippets()
    ]


def names_in(text: str) -> list[str]:
    return re.findall("|".join(map(re.escape, NAMES)), text)


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, list[str]]:
    """A small model and random images where the pipeline puts its own; and the right names."""
    rng = np.random.default_rng(7)
    images = rng.random((20, 784), np.float32)
    hidden, output = rng.normal(size=(784, 16)), rng.normal(size=(16, 10))
    hidden -= hidden.mean(axis=0)  # so that the images differ in what is seen
    logits = np.maximum(images @ hidden.astype(np.float32), 0) @ output.astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["image", "hidden"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["activations"]),
        helper.make_node("MatMul", ["activations", "output"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 784])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(hidden.astype(np.float32), "hidden"),
            numpy_helper.from_array(output.astype(np.float32), "output"),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"class_names": json.dumps({"en": NAMES})})
    for folder in ("models", "data/prepared"):
        (tmp_path / folder).mkdir(parents=True)
    onnx.save(model, tmp_path / "models/fashion_mlp.onnx")
    np.save(tmp_path / "data/prepared/test_images.npy", images)
    (tmp_path / "consumers").symlink_to(ROOT / "consumers")
    (tmp_path / "node_modules").symlink_to(ROOT / "consumers/node/node_modules")
    return tmp_path, [NAMES[number] for number in logits[:5].argmax(axis=1)]


@pytest.mark.parametrize("snippet", cases())
def test_readme_snippet_names_what_the_model_sees(
    snippet: Snippet, project: tuple[Path, list[str]]
) -> None:
    folder, expected = project
    main = snippet.section in IN_MAIN_ENVIRONMENT
    python = sys.executable if main else str(CONSUMERS_BIN / "python")
    command = {
        "python": [python, "-"],
        "js": ["node", "--input-type=module", "-"],
        "sh": ["bash", "-eu", "-s"],
    }[snippet.language]
    path = {"PATH": f"{CONSUMERS_BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command,
        input=snippet.code,
        cwd=folder,
        env=os.environ | path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert names_in(done.stdout) == expected


@pytest.mark.parametrize("folder", ["python", "reference"])
def test_example_writes_all_probabilities(folder: str, project: tuple[Path, list[str]]) -> None:
    root, expected = project
    example = f"consumers/{folder}/classify.py"
    files = ["models/fashion_mlp.onnx", "data/prepared/test_images.npy"]
    command = [sys.executable, example, *files, "--probabilities", "out.bin"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    probabilities = np.fromfile(root / "out.bin", "<f4").reshape(20, 10)
    assert names_in(said) == expected == [NAMES[row.argmax()] for row in probabilities[:5]]
    assert np.allclose(probabilities.sum(axis=1), 1)


@pytest.mark.consumers
def test_readme_prints_what_the_exported_model_sees() -> None:
    printed = {snippet.section: names_in(snippet.printed) for snippet in snippets()}
    code = next(snippet.code for snippet in snippets() if snippet.section in IN_MAIN_ENVIRONMENT)
    said = subprocess.run(
        [sys.executable, "-"], input=code, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert len(names_in(said)) == 5
    assert {tuple(names) for names in printed.values() if names} == {tuple(names_in(said))}


@pytest.mark.consumers
def test_readme_shows_what_predict_prints_of_the_first_test_image(tmp_path: Path) -> None:
    image = np.load(ROOT / "data/prepared/test_images.npy")[0].reshape(28, 28)
    photo_of(image).save(tmp_path / "boot.png")
    (tmp_path / "consumers").symlink_to(ROOT / "consumers")
    command = "python consumers/python/predict.py boot.png"
    check_shown(lines_of(command), printed(command, tmp_path))


@pytest.mark.consumers
def test_readme_shows_what_an_example_prints() -> None:
    (found,) = shown(ROOT / "consumers/README.md")
    # Seconds differ from run to run.
    check_shown(
        [re.sub(r" in [\d.]+ s$", " in … s", line) for line in found.lines],
        printed(found.command, ROOT),
    )


def printed(command: str, folder: Path) -> list[str]:
    """Run a command as a user does in an activated environment."""
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command.split(), cwd=folder, env=os.environ | path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_readme_has_a_snippet_for_every_example() -> None:
    assert len(snippets()) == len(EXAMPLES) == 8


def test_readme_table_is_what_the_metrics_say() -> None:
    metrics = json.loads((ROOT / "consumers/conformance.json").read_text(encoding="utf-8"))
    results = {key: Result(**values) for key, values in metrics["runtimes"].items()}
    assert list(results) == [runtime.key for runtime in runtimes.runtimes()]
    table = conformance.table(results, metrics["images"])
    assert table in README
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_runtimes_examples_import_nothing_of_ours() -> None:
    ours = re.compile(r"^\s*(from|import) (fashion_mlp|stages|checks|consumers)\b", re.M)
    assert [path for path in EXAMPLES if ours.search(path.read_text(encoding="utf-8"))] == []


def test_consumers_dvc_yaml_lists_every_example() -> None:
    stages = yaml.safe_load((ROOT / "consumers/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    examples = {f"consumers/{path.parent.name}/{path.name}" for path in EXAMPLES}
    assert examples <= set(stages["conformance"]["deps"])


def two_images() -> np.ndarray:
    expected = np.full((2, 10), 0.05, np.float32)
    expected[0, 3] = expected[1, 7] = 0.55
    return expected


def test_first_fault_accepts_what_is_inside_the_bar() -> None:
    assert first_fault(two_images(), two_images() + np.float32(4e-6), NAMES) is None


def test_first_fault_names_image_class_and_values() -> None:
    found = two_images()
    found[1, 2] += 1e-4
    fault = first_fault(two_images(), found, NAMES)
    assert fault is not None
    assert fault.startswith("image 1: expected Sneaker, Pullover at 0.0500000; got Sneaker, Pullo")
    assert "at 0.0501000; allowed 5e-06 apart; 1 of 2 images differ" in fault


def test_first_fault_reports_nan() -> None:
    found = two_images()
    found[0, 4] = np.nan
    assert "Coat at nan" in (first_fault(two_images(), found, NAMES) or "nothing")


def test_first_fault_reports_another_class_inside_the_bar() -> None:
    expected = two_images()
    expected[0, 4] = expected[0, 3] - np.float32(1e-6)
    found = expected.copy()
    found[0, 4] += np.float32(3e-6)
    assert "expected Dress" in (first_fault(expected, found, NAMES) or "nothing")


def test_compare_counts_and_rounds() -> None:
    found = two_images()
    found[1] = found[1, ::-1]
    result = compare(two_images(), Output("1.0", found, 0.000123))
    assert result == Result("1.0", 0.5, 1, 16000)


def test_write_results_keeps_a_file_where_only_the_speed_differs(tmp_path: Path) -> None:
    path, result = tmp_path / "conformance.json", Result("1.0", 1e-6, 10, 500)
    assert conformance.write_results({"x": result}, 10, path)
    before = path.read_bytes()
    assert not conformance.write_results({"x": result._replace(images_per_second=7)}, 10, path)
    assert path.read_bytes() == before
    assert conformance.write_results({"x": result._replace(max_difference=2e-6)}, 10, path)


def stand_in(code: str) -> Runtime:
    return Runtime("x", "X", [sys.executable, "-c", code, "{images}", "{out}"], "pip install x")


def test_execute_reads_the_pages_json(tmp_path: Path) -> None:
    code = (
        "import array, json, sys; array.array('f', range(20)).tofile(open(sys.argv[2], 'wb'));"
        "print(json.dumps(dict(runtime='page in X 3', version='1.2', seconds=0.5)))"
    )
    output = execute(stand_in(code), tmp_path / "images.npy", (2, 10))
    assert (output.version, output.seconds) == ("1.2 in X 3", 0.5)
    assert output.probabilities.tolist() == np.arange(20.0).reshape(2, 10).tolist()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such model')", "exit 1: ValueError: no such model"),
        ("print('hello')", "does not say version and seconds: 'hello'"),
        ("print('x 1: 2 images in 0.1 s')", "expected 80 bytes of probabilities, got no"),
        (
            "import sys; open(sys.argv[2], 'wb').write(b'123'); print('x 1: 2 images in 0.1 s')",
            "expected 80 bytes of probabilities, got 3",
        ),
    ],
)
def test_execute_says_what_a_runtime_did_wrong(code: str, reason: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(reason)):
        execute(stand_in(code), Path("images.npy"), (2, 10))


def test_execute_stops_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "TIMEOUT", 0.5)
    with pytest.raises(RuntimeError, match="timed out after"):
        execute(stand_in("import time; time.sleep(60)"), Path("images.npy"), (2, 10))


def test_missing_tools_names_those_not_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    runtime = stand_in("")._replace(tools=["python", "chromium"])
    assert runtimes.missing_tools(runtime) == ["chromium"]


def test_maker_version_comes_from_the_lock() -> None:
    runtime = stand_in("")._replace(maker="emx-onnx-cgen")
    pin = runtimes.maker_version(runtime, ROOT / "consumers/requirements.lock").rstrip(", ")
    assert f"emx-onnx-cgen=={pin} " in (ROOT / "consumers/requirements.lock").read_text()
