import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from fashion_mlp.data.arrays import Split
from stages import evaluate as stage
from stages.evaluate import (
    confusion_csv,
    examples,
    expected_calibration_error,
    measure,
    pick,
)
from tests.conftest import CLASSES, TEST, Data, small_values, snapshot

NAMES = ["a", "b", "c"]
# Right, right (second best: b), wrong (the second is right), wrong (the third is right)
PROBABILITIES = np.array(
    [[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.25, 0.7, 0.05], [0.1, 0.3, 0.6]], np.float32
)
ONE_HOT = np.eye(3, dtype=np.float32)[[0, 0, 0, 0]]


def test_measure_counts_by_hand() -> None:
    figures = measure(PROBABILITIES, ONE_HOT, NAMES, bins=10)
    assert figures["test_accuracy"] == 0.5
    assert figures["test_top2_accuracy"] == 0.75
    # Each image alone in its bin: |1 - 0.9|, |1 - 0.5|, |0 - 0.7|, |0 - 0.6|
    assert figures["expected_calibration_error"] == pytest.approx((0.1 + 0.5 + 0.7 + 0.6) / 4)
    assert figures["per_class"] == {
        "a": {"precision": 1.0, "recall": 0.5, "f1": 0.666667},
        "b": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
    }


def test_measure_by_class_is_what_scikit_learn_says() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 500).astype(np.float32)
    labels = random.integers(0, 3, 500)
    figures = measure(probabilities, np.eye(3, dtype=np.float32)[labels], NAMES, 15)
    expected = precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    for number, name in enumerate(NAMES):
        got = figures["per_class"][name]
        values = [float(column[number]) for column in expected[:3]]
        assert [got["precision"], got["recall"], got["f1"]] == pytest.approx(values, abs=1e-6)


def test_measure_of_two_classes_has_both_in_the_top_two() -> None:
    figures = measure(
        PROBABILITIES[:, :2], np.eye(2, dtype=np.float32)[[0, 0, 1, 1]], ["a", "b"], 5
    )
    assert figures["test_top2_accuracy"] == 1.0


def calibration_by_the_book(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equations 2 and 3, as written."""
    total = 0.0
    confidence, answer = probabilities.max(axis=1), probabilities.argmax(axis=1)
    for m in range(1, bins + 1):
        members = [i for i, p in enumerate(confidence) if (m - 1) / bins < p <= m / bins]
        if members:
            accuracy = np.mean([answer[i] == labels[i] for i in members])
            mean = np.mean([float(confidence[i]) for i in members])
            total += len(members) / len(labels) * abs(accuracy - mean)
    return total


@given(seed=st.integers(0, 10**6), bins=st.integers(1, 30))
def test_expected_calibration_error_is_the_sources_formula(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(4), 60).astype(np.float32)
    labels = random.integers(0, 4, 60)
    got = expected_calibration_error(probabilities, labels, bins)
    assert got == pytest.approx(calibration_by_the_book(probabilities, labels, bins), abs=1e-9)


@pytest.mark.parametrize(("right", "error"), [(True, 0.0), (False, 1.0)])
def test_expected_calibration_error_of_the_certain(right: bool, error: float) -> None:
    labels = np.arange(3) if right else (np.arange(3) + 1) % 3
    assert expected_calibration_error(np.eye(3, dtype=np.float32), labels, 15) == error


def test_examples_name_class_and_probability() -> None:
    assert examples(PROBABILITIES[:2], [156, 988], NAMES) == {
        "156": {"class": 0, "name": "a", "probability": 0.9},
        "988": {"class": 0, "name": "a", "probability": 0.5},
    }


def test_confusion_csv_has_a_line_an_image() -> None:
    names = ['T-shirt "top", red', "b", "сумка"]
    lines = list(csv.reader(confusion_csv(PROBABILITIES, ONE_HOT, names).split("\n")))
    assert lines == [
        ["actual", "predicted"],
        [names[0], names[0]],
        [names[0], names[0]],
        [names[0], "b"],
        [names[0], "сумка"],
        [],
    ]


def test_pick_takes_images_by_number() -> None:
    split = Split(np.arange(8, dtype=np.float32).reshape(4, 2), np.empty((4, 3), np.float32))
    assert pick(split, [3, 0]).tolist() == [[6, 7], [0, 1]]
    assert pick(split, []).shape == (0, 2)


def test_pick_refuses_a_number_beyond_the_last_image() -> None:
    split = Split(np.zeros((4, 2), np.float32), np.empty((4, 3), np.float32))
    with pytest.raises(ValueError) as error:
        pick(split, [3, 4, 9])
    assert str(error.value) == (
        "evaluate.examples: [4, 9] must be below 4, the number of training images"
    )


def test_main_measures_what_keras_measures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    stage.main()
    figures = json.loads(Path("metrics/evaluate.json").read_text())
    network = keras.models.load_model("models/fashion_mlp.keras")
    images = np.load("data/prepared/test_images.npy")
    labels = np.load("data/prepared/test_labels.npy")
    loss, accuracy = network.evaluate(images, labels, verbose=0)
    assert figures["test_loss"] == pytest.approx(loss, abs=2e-6)
    assert figures["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    answers = network.predict(images, verbose=0).argmax(axis=1)
    lines = list(csv.DictReader(Path("plots/confusion.csv").read_text("utf-8").splitlines()))
    names = list(figures["per_class"])
    assert [line["predicted"] for line in lines] == [names[number] for number in answers]
    assert list(figures["train_examples"]) == ["0", "3"]
    expected = f"evaluate: {TEST} test images, test_loss {loss:.4f}, test_accuracy {accuracy:.4f}"
    assert capsys.readouterr().out == f"{expected}; pictures in plots/\n"


def test_main_names_the_classes_in_russian(work: Path, data: Data) -> None:
    values = small_values(data, **{"evaluate.language": "ru", "evaluate.examples": []})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    figures = json.loads(Path("metrics/evaluate.json").read_text(encoding="utf-8"))
    assert list(figures["per_class"])[9] == "ботинки"
    assert len(figures["per_class"]) == CLASSES
    assert "train_examples" not in figures


def test_main_twice_writes_the_same_bytes(work: Path) -> None:
    stage.main()
    before = snapshot(work)
    stage.main()
    assert snapshot(work) == before


def test_main_refuses_a_broken_model_and_keeps_the_old_figures(work: Path) -> None:
    stage.main()
    path = Path("models/fashion_mlp.keras")
    path.write_bytes(path.read_bytes()[:1000])
    before = snapshot(work)
    with pytest.raises(ValueError, match=r"fashion_mlp\.keras: not a whole \.keras file"):
        stage.main()
    assert snapshot(work) == before


@pytest.mark.parametrize(("pixels", "classes"), [(13, CLASSES), (12, CLASSES + 1)])
def test_main_refuses_a_model_of_another_shape(work: Path, pixels: int, classes: int) -> None:
    from fashion_mlp.network.model import build_network, save_network

    other = build_network(pixels, 4, "relu", classes)
    other.compile(loss="categorical_crossentropy")
    save_network(other, Path("models/fashion_mlp.keras"))
    before = snapshot(work)
    with pytest.raises(ValueError) as error:
        stage.main()
    assert str(error.value) == (
        f"models/fashion_mlp.keras: expected 12 pixels -> 10 classes, got {pixels} -> {classes}; "
        f"run `dvc repro --force train`"
    )
    assert snapshot(work) == before
