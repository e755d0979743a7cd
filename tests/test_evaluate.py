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
from fashion_mlp.paths import MODEL
from stages import evaluate as stage
from stages.evaluate import (
    calibration,
    class_averages,
    examples,
    expected_calibration_error,
    measure,
    pick,
    read_history,
)
from tests.conftest import CLASSES, HEIGHT, TEST, WIDTH, Data, small_values, snapshot
from tests.oracle import make_images

NAMES = ["a", "b", "c"]
# Right, right (second best: b), wrong (the second is right), wrong (the third is right)
PROBABILITIES = np.array(
    [[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.25, 0.7, 0.05], [0.1, 0.3, 0.6]], np.float32
)
ONE_HOT = np.eye(3, dtype=np.float32)[[0, 0, 0, 0]]


def test_measure_counts_by_hand() -> None:
    metrics = measure(PROBABILITIES, ONE_HOT, NAMES, bins=10)
    assert metrics["test_accuracy"] == 0.5
    assert metrics["test_top2_accuracy"] == 0.75
    # Each image alone in its bin: |1 - 0.9|, |1 - 0.5|, |0 - 0.7|, |0 - 0.6|
    assert metrics["expected_calibration_error"] == pytest.approx((0.1 + 0.5 + 0.7 + 0.6) / 4)
    assert metrics["per_class"] == {
        "a": {"precision": 1.0, "recall": 0.5, "f1": 0.666667},
        "b": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
    }


def test_measure_by_class_is_what_scikit_learn_says() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 500).astype(np.float32)
    labels = random.integers(0, 3, 500)
    metrics = measure(probabilities, np.eye(3, dtype=np.float32)[labels], NAMES, 15)
    expected = precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    for number, name in enumerate(NAMES):
        got = metrics["per_class"][name]
        values = [float(column[number]) for column in expected[:3]]
        assert [got["precision"], got["recall"], got["f1"]] == pytest.approx(values, abs=1e-6)


def test_measure_of_two_classes_has_both_in_the_top_two() -> None:
    metrics = measure(
        PROBABILITIES[:, :2], np.eye(2, dtype=np.float32)[[0, 0, 1, 1]], ["a", "b"], 5
    )
    assert metrics["test_top2_accuracy"] == 1.0


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
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    network = keras.models.load_model("models/fashion_mlp.keras")
    images = np.load("data/prepared/test_images.npy")
    labels = np.load("data/prepared/test_labels.npy")
    loss, accuracy = network.evaluate(images, labels, verbose=0)
    assert metrics["test_loss"] == pytest.approx(loss, abs=2e-6)
    assert metrics["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    answers = network.predict(images, verbose=0).argmax(axis=1)
    lines = list(csv.DictReader(Path("plots/confusion.csv").read_text("utf-8").splitlines()))
    names = list(metrics["per_class"])
    assert [line["predicted"] for line in lines] == [names[number] for number in answers]
    assert list(metrics["train_examples"]) == ["0", "3"]
    expected = f"evaluate: {TEST} test images, test_loss {loss:.4f}, test_accuracy {accuracy:.4f}"
    assert capsys.readouterr().out == f"{expected}; pictures in plots/\n"


def test_main_in_russian_changes_the_pictures_alone_and_twice_gives_the_same_bytes(
    work: Path, data: Data
) -> None:
    stage.main()
    before = snapshot(work)
    stage.main()
    assert snapshot(work) == before
    values = small_values(data, **{"evaluate.language": "ru"})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    after = snapshot(work)
    changed = {name for name in before if before[name] != after[name]} - {"params.yaml"}
    assert changed == {name for name in before if name.endswith(".png")}
    assert len(changed) == 9


@pytest.mark.parametrize("hidden_units", [[], [8, 6]], ids=str)
def test_main_draws_networks_of_any_depth(work: Path, hidden_units: list[int]) -> None:
    from fashion_mlp.network.model import build_network, save_network

    network = build_network(HEIGHT * WIDTH, hidden_units, "tanh", CLASSES)
    network.compile(loss="mean_squared_error")
    save_network(network, MODEL)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["evaluate"]["examples"] = []
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    assert len([*Path("plots").glob("*.png")]) == 9
    assert "train_examples" not in json.loads(stage.METRICS.read_text())


def test_read_history_reads_what_train_writes(work: Path) -> None:
    history = read_history(Path("plots/history.csv"))
    assert [*history] == ["loss", "accuracy"]
    expected = np.loadtxt("plots/history.csv", delimiter=",", skiprows=1)[:, 1:]
    assert np.array_equal(np.transpose([*history.values()]), expected)


@pytest.mark.parametrize("text", ["", "epoch,loss,accuracy\n", "epoch,loss\n1,2\n", "a,b\n1\n"])
def test_read_history_says_what_it_expected(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv: expected a table .* --force train"):
        read_history(tmp_path / "history.csv")


def test_class_averages_match_float64_and_are_0_where_a_class_has_no_image() -> None:
    images = make_images(50, 6)
    labels = np.arange(50) % 2
    means = class_averages(Split(images, np.eye(3, dtype=np.float32)[labels]), (2, 3))
    assert means.shape == (3, 2, 3)
    expected = images[labels == 1].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(means[1].ravel(), expected, atol=1e-7)
    assert not means[2].any()


def test_calibration_bins_hold_each_image_once() -> None:
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.25, 0.75], [1, 0]], np.float32)
    bins = calibration(probabilities, np.array([0, 1, 1, 0]), bins=5)
    assert bins.images.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(bins.confidence[[2, 4]], [0.5, 0.95])


def test_main_refuses_a_broken_model_and_keeps_the_old_metrics(work: Path) -> None:
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

    other = build_network(pixels, [4], "relu", classes)
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
