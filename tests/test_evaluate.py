import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from checks.small_data import Data
from fashion_mlp.data.arrays import Split
from fashion_mlp.paths import MODEL
from stages import evaluate as stage
from stages import preprocess, train
from stages.evaluate import (
    by_class,
    class_averages,
    measure,
    pick,
    read_history,
    warn_of_chance,
)
from tests.conftest import CLASSES, HEIGHT, TEST, WIDTH, small_values, snapshot
from tests.oracle import make_images

NAMES = ["a", "b", "c"]
# Right, right (second best: b), wrong (the second is right), wrong (the third is right)
PROBABILITIES = np.array(
    [[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.25, 0.7, 0.05], [0.1, 0.3, 0.6]], np.float32
)
LABELS = np.zeros(4, int)


def test_measure_counts_by_hand() -> None:
    assert measure(PROBABILITIES, LABELS, 0.25, "test", bins=10) == {
        "test_loss": 0.25,
        "test_accuracy": 0.5,
        "test_top2_accuracy": 0.75,
        # Each image alone in its bin: |1 - 0.9|, |1 - 0.5|, |0 - 0.7|, |0 - 0.6|
        "test_calibration_error": (0.1 + 0.5 + 0.7 + 0.6) / 4,
    }


def test_by_class_counts_by_hand() -> None:
    assert list(by_class(PROBABILITIES, LABELS, NAMES)) == [
        ("a", 4, 1.0, 0.5, pytest.approx(2 / 3)),
        ("b", 0, 0.0, 0.0, 0.0),
        ("c", 0, 0.0, 0.0, 0.0),
    ]


def test_measure_of_two_classes_has_both_in_the_top_two() -> None:
    metrics = measure(PROBABILITIES[:, :2], np.array([0, 0, 1, 1]), 0.5, "validation", 5)
    assert metrics["validation_top2_accuracy"] == 1.0


@pytest.mark.parametrize(("accuracy", "loud"), [(0.1, True), (0.125, True), (0.13, False)])
def test_warn_of_chance_is_loud_up_to_two_standard_errors(
    accuracy: float, loud: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.repeat([0, *range(10)], [10, *10 * [99]])  # commonest: 109 of 1,000, so 0.1287
    warn_of_chance(accuracy, labels, "validation")
    printed = capsys.readouterr().err
    assert ("evaluate: WARNING: this network has learnt nothing" in printed) is loud


def test_pick_takes_images_by_number_and_refuses_one_beyond_the_last() -> None:
    split = Split(np.arange(8, dtype=np.float32).reshape(4, 2), np.empty((4, 3), np.float32))
    assert pick(split, [3, 0]).tolist() == [[6, 7], [0, 1]]
    assert pick(split, []).shape == (0, 2)
    with pytest.raises(ValueError, match=r"^evaluate.examples: \[4, 9\] must be below 4, the"):
        pick(split, [3, 4, 9])


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_main_leaves_the_test_set_alone_while_images_are_held_out(
    work: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["loss", "accuracy", "top2_accuracy", "calibration_error"]

    def evaluate(test: bool, images: int) -> Any:
        changes = {"preprocess.validation_images": 60, "evaluate.test": test}
        Path("params.yaml").write_text(yaml.safe_dump(small_values(data, **changes)))
        if test:
            preprocess.main()
            train.main()
        stage.main()
        metrics = json.loads(stage.METRICS.read_text())
        assert [*metrics] == [f"{'test' if test else 'validation'}_{name}" for name in names]
        assert len(rows(stage.CONFUSION)) == images
        assert ("the test set was left alone" in capsys.readouterr().out) is not test
        return metrics

    evaluate(test=True, images=TEST)
    for path in Path("data/prepared").glob("test_*"):  # not so much as read
        path.unlink()
    metrics, last = evaluate(test=False, images=60), rows(Path("plots/history.csv"))[-1]
    for name in ("validation_loss", "validation_accuracy"):
        assert metrics[name] == pytest.approx(float(last[name]), abs=1e-6)


def test_main_measures_what_keras_measures_and_in_russian_draws_other_pictures_alone(
    work: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
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
    names = [row["class"] for row in rows(stage.CLASSES)]
    assert [row["predicted"] for row in rows(stage.CONFUSION)] == [names[it] for it in answers]
    shown = np.load("data/prepared/train_images.npy")[[0, 3]]
    best = network.predict(shown, verbose=0).max(axis=1)
    examples = rows(stage.EXAMPLES)
    assert [row["image"] for row in examples] == ["0", "3"]
    assert [float(row["probability"]) for row in examples] == pytest.approx(best, abs=2e-6)
    expected = f"evaluate: {TEST} test images, test_loss {loss:.4f}, test_accuracy {accuracy:.4f}"
    assert capsys.readouterr().out == f"{expected}; pictures in plots/\n"
    before = snapshot(work)
    values = small_values(data, **{"evaluate.language": "ru"})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    after = snapshot(work)
    changed = {name for name in before if before[name] != after[name]} - {"params.yaml"}
    assert changed == {name for name in before if name.endswith(".png")}
    assert len(changed) == 9


def test_main_says_what_the_font_of_the_pictures_lacks(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["dataset"]["class_names"]["en"][0] = "Hats \N{TOP HAT}"
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    assert capsys.readouterr().out.endswith("boxes for what their font lacks: \N{TOP HAT}\n")


def test_main_draws_a_network_of_two_layers_and_no_examples(work: Path) -> None:
    from fashion_mlp.network.model import build_network, save_network

    network = build_network(HEIGHT * WIDTH, [8, 6], "tanh", CLASSES)
    network.compile(loss="mean_squared_error")
    save_network(network, MODEL)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["evaluate"]["examples"] = []
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    metrics = json.loads(stage.METRICS.read_text())
    assert rows(stage.EXAMPLES) == []
    predicted = network.predict(np.load("data/prepared/test_images.npy"), verbose=0)
    squares = (predicted - np.load("data/prepared/test_labels.npy")) ** 2
    assert metrics["test_loss"] == pytest.approx(squares.mean(), abs=2e-6)


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


def test_main_refuses_a_model_of_another_shape_and_keeps_the_old_metrics(work: Path) -> None:
    from fashion_mlp.network.model import build_network, save_network

    other = build_network(13, [4], "relu", CLASSES)
    other.compile(loss="categorical_crossentropy")
    save_network(other, MODEL)
    stage.METRICS.write_text("old")
    before = snapshot(work)
    with pytest.raises(ValueError) as error:
        stage.main()
    assert str(error.value) == (
        "models/fashion_mlp.keras: expected 12 pixels -> 10 classes, got 13 -> 10; "
        "run `dvc repro --force train`"
    )
    assert snapshot(work) == before
