"""evaluate: what the trained network knows, on the test set that the paper never looks at.

reads   models/fashion_mlp.keras, data/prepared/{train,test}_{images,labels}.npy,
        plots/history.csv
writes  metrics/evaluate.json   test_loss, test_accuracy, top-2, calibration, figures by class
        plots/confusion.csv     actual and predicted class of each test image
        plots/*.png             the paper's figures 8 to 11 and what it does not show: confusion,
                                calibration, mistakes, what classes and hidden units look like

The training images serve the pictures alone; every figure but `train_examples` is of the test set.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    top_k_accuracy_score,
)

from fashion_mlp.pictures import charts
from fashion_mlp.network import engine
from fashion_mlp.pictures import paper
from fashion_mlp.pictures import grids as sheets
from pipeline.console import progress, run
from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.pictures.style import Answers
from pipeline.files import write_json, write_text
from pipeline.params import Params, load_params

if TYPE_CHECKING:
    import keras

MODEL = Path("models/fashion_mlp.keras")
METRICS = Path("metrics/evaluate.json")
CONFUSION = Path("plots/confusion.csv")
HISTORY = Path("plots/history.csv")
PICTURES = Path("plots")
WHITE = 255  # the byte that preprocess makes 1
BATCH_SIZE = 1000
DIGITS = 6


def measure(
    probabilities: np.ndarray, one_hot: np.ndarray, names: Sequence[str], bins: int
) -> dict[str, Any]:
    """Compute the figures that need no loss function.

    Args:
        probabilities: float32 (n, classes).
        one_hot: labels, float32 (n, classes).
        names: of the classes.
        bins: of the calibration error.

    Returns:
        test_accuracy, test_top2_accuracy, expected_calibration_error, and by class name
        precision, recall and f1.
    """
    labels, predicted = one_hot.argmax(axis=1), probabilities.argmax(axis=1)
    numbers = range(len(names))
    report = classification_report(
        labels, predicted, labels=numbers, target_names=names, output_dict=True, zero_division=0.0
    )
    figures: dict[str, Any] = {
        "test_accuracy": accuracy_score(labels, predicted),
        "test_top2_accuracy": top_k_accuracy_score(labels, probabilities, k=2, labels=numbers)
        if len(names) > 2
        else 1.0,
        "expected_calibration_error": expected_calibration_error(probabilities, labels, bins),
    }
    figures = {key: round(float(value), DIGITS) for key, value in figures.items()}
    figures["per_class"] = {
        name: {
            "precision": round(report[name]["precision"], DIGITS),
            "recall": round(report[name]["recall"], DIGITS),
            "f1": round(report[name]["f1-score"], DIGITS),
        }
        for name in names
    }
    return figures


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Mean distance between how sure the network is and how often it is right.

    Images are put into bins of equal width by the probability of the class that the network
    names; each bin's |accuracy - mean probability| counts by its number of images.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), eq. 3.

    Args:
        probabilities: float32 (n, classes).
        labels: class numbers (n,).
        bins: how many.
    """
    return calibration(probabilities, labels, bins).error


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> charts.Bins:
    """Put images into bins of equal width by how sure the network is of its answer.

    Args:
        probabilities: float32 (n, classes).
        labels: class numbers (n,).
        bins: how many.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # Bin m holds the confidences in ((m-1)/bins, m/bins], as in the source.
    bin_number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(bin_number, minlength=bins)
    sums = (np.bincount(bin_number, values, bins) for values in (confidence, correct))
    return charts.Bins(count, *(values / np.maximum(count, 1) for values in sums))


def examples(
    probabilities: np.ndarray, numbers: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Say what the network makes of single training images, by their number.

    Args:
        probabilities: float32 (len(numbers), classes).
        numbers: of the images.
        names: of the classes.
    """
    return {
        str(number): {
            "class": int(row.argmax()),
            "name": names[row.argmax()],
            "probability": round(float(row.max()), DIGITS),
        }
        for number, row in zip(numbers, probabilities, strict=True)
    }


def confusion_csv(probabilities: np.ndarray, one_hot: np.ndarray, names: Sequence[str]) -> str:
    """List actual and predicted class of each image, as DVC's `confusion` template reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    for actual, predicted in zip(one_hot.argmax(axis=1), probabilities.argmax(axis=1), strict=True):
        writer.writerow([names[actual], names[predicted]])
    return text.getvalue()


def pick(train: Split, numbers: Sequence[int]) -> np.ndarray:
    """Take single training images: float32 (len(numbers), pixels)."""
    if too_large := [number for number in numbers if number >= len(train.images)]:
        raise ValueError(
            f"evaluate.examples: {too_large} must be below {len(train.images):,}, "
            f"the number of training images"
        )
    return train.images[list(numbers)]


def read_history(path: Path) -> dict[str, list[float]]:
    """Read the log of stage `train`: the values of each column but `epoch`.

    Raises:
        ValueError: not the table that stage `train` writes.
        OSError: the file can't be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        columns = {key: [float(row[key]) for row in rows] for key in rows[0] if key != "epoch"}
        return {"loss": columns.pop("loss"), "accuracy": columns.pop("accuracy")} | columns
    except (IndexError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected a table of epoch, loss, accuracy with an epoch or more; "
            f"run `dvc repro --force train`"
        ) from None


def class_averages(split: Split, image_shape: tuple[int, int]) -> np.ndarray:
    """Average the images of each class: float64 (classes, height, width); 0 where it has none.

    Summed as the bytes that they were, exactly, so that the order of adding can't matter.
    """
    labels = split.labels.argmax(axis=1)
    means = np.zeros((split.labels.shape[1], split.images.shape[1]))
    for label in range(len(means)):
        if len(images := split.images[labels == label]):
            total = np.rint(images * WHITE).astype(np.uint8).sum(axis=0, dtype=np.int64)
            means[label] = total / (len(images) * WHITE)
    return means.reshape(-1, *image_shape)


def draw(
    params: Params,
    network: keras.Model,
    train: Split,
    test: Split,
    predicted: np.ndarray,
    shown: np.ndarray,
    figures: dict[str, Any],
) -> None:
    """Draw all pictures; every one is written, whatever there is to show.

    Args:
        params: all of params.yaml.
        network: two dense layers.
        train: images float32 (n, pixels) and one-hot labels float32 (n, classes).
        test: the same.
        predicted: probabilities of the test images, float32 (n, classes).
        shown: of training image 0 and of those in `evaluate.examples`, float32 (1 + n, classes).
        figures: what `METRICS` will hold.
    """
    language, shape = params.evaluate.language, params.dataset.image_shape
    names = getattr(params.dataset.classes, language)
    paper_data = params.dataset.name == paper.DATASET  # else its numbers mean nothing here

    def answers(split: Split, numbers: Sequence[int], rows: np.ndarray) -> Answers:
        images, one_hot = split.images[list(numbers)], split.labels[list(numbers)]
        return Answers(images.reshape(-1, *shape), one_hot.argmax(axis=1), rows, numbers)

    labels, named = test.labels.argmax(axis=1), predicted.argmax(axis=1)
    wrong = np.flatnonzero(labels != named)
    first = answers(train, range(min(sheets.MOST_TILES, len(train.images))), np.empty(0))
    hidden, outputs = (layer.get_weights()[0] for layer in network.layers)
    levels = {"loss": figures["test_loss"], "accuracy": figures["test_accuracy"]}
    pictures: dict[str, Callable[[Path], None]] = {
        "contact_sheet": lambda path: sheets.contact_sheet(
            path, language, first.images, first.labels, names
        ),
        "examples": lambda path: sheets.answers(
            path, language, answers(train, params.evaluate.examples, shown[1:]), names
        ),
        "first_image": lambda path: charts.first_image(
            path,
            language,
            answers(train, [0], shown[:1]),
            names,
            paper.IMAGE_0 if paper_data else {},
        ),
        "history": lambda path: charts.history(
            path,
            language,
            read_history(HISTORY),
            levels,
            paper.LAST_EPOCHS if paper_data and network.loss == paper.LOSS else (),
            paper.CLAIMED_ACCURACY if paper_data else None,
        ),
        "confusion": lambda path: charts.confusion(
            path, language, confusion_matrix(labels, named, labels=range(len(names))), names
        ),
        "reliability": lambda path: charts.reliability(
            path, language, calibration(predicted, labels, params.evaluate.calibration_bins)
        ),
        "mistakes": lambda path: sheets.mistakes(
            path, language, answers(test, wrong.tolist(), predicted[wrong]), names
        ),
        "averages": lambda path: sheets.averages(
            path, language, class_averages(train, shape), names
        ),
        "hidden_units": lambda path: sheets.hidden_units(
            path, language, (hidden, outputs), shape, names
        ),
    }
    with progress("evaluate", len(pictures), "pictures") as bar:
        for name, draw_picture in pictures.items():
            draw_picture(PICTURES / f"{name}.png")
            bar.update()


def main() -> None:
    params = load_params()
    names = getattr(params.dataset.classes, params.evaluate.language)
    test = load_split("test", params.dataset.pixels, len(names))
    train = load_split("train", params.dataset.pixels, len(names))
    # Image 0 is what the paper's figure 9 shows; the others are figure 11's.
    example_images = pick(train, [0, *params.evaluate.examples])
    engine.start()

    from fashion_mlp.network.model import load_network, mean_loss, probabilities

    network = load_network(MODEL, (params.dataset.pixels, len(names)))
    predicted = probabilities(network, test.images, BATCH_SIZE)
    figures: dict[str, Any] = {
        "test_loss": round(mean_loss(network, predicted, test.labels), DIGITS)
    }
    figures |= measure(predicted, test.labels, names, params.evaluate.calibration_bins)
    shown = probabilities(network, example_images, BATCH_SIZE)
    if params.evaluate.examples:
        figures["train_examples"] = examples(shown[1:], params.evaluate.examples, names)
    draw(params, network, train, test, predicted, shown, figures)
    write_text(CONFUSION, confusion_csv(predicted, test.labels, names))
    write_json(METRICS, figures)
    print(
        f"evaluate: {len(predicted):,} test images, test_loss {figures['test_loss']:.4f}, "
        f"test_accuracy {figures['test_accuracy']:.4f}; pictures in {PICTURES}/"
    )


if __name__ == "__main__":
    run(main)
