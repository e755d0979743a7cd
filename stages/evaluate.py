"""evaluate: what the trained network knows, on images that it was not trained on.

reads   models/fashion_mlp.keras, data/prepared/{train,validation,test}_{images,labels}.npy,
        plots/history.csv
writes  metrics/evaluate.json   loss, accuracy, top-2, calibration: test_… or validation_…
        plots/classes.csv       precision, recall and f1 of each class
        plots/examples.csv      the answers for the training images in `evaluate.examples`
        plots/confusion.csv     actual and predicted class of each image that was measured
        plots/*.png             the paper's figures 8 to 11 and what it does not show: confusion,
                                calibration, mistakes, what classes and hidden units look like

Measured is the test set, which the paper never looks at; while validation images are held out, to
tune on, those are, and the test set is left alone unless `evaluate.test` is true.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fashion_mlp.data.arrays import MAX_PIXEL, Split, load_split
from fashion_mlp.formats import DIGITS, write_csv, write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import HISTORY, MODEL
from fashion_mlp.pictures import charts, grids, paper
from fashion_mlp.pictures.style import Answers, lacking
from pipeline.console import run
from pipeline.params import Params, load_params

if TYPE_CHECKING:
    import keras

METRICS = Path("metrics/evaluate.json")
CLASSES = Path("plots/classes.csv")
EXAMPLES = Path("plots/examples.csv")
CONFUSION = Path("plots/confusion.csv")
PICTURES = Path("plots")
SHOWN = ("loss", "accuracy")  # of the metrics, on the screen


def measure(
    probabilities: np.ndarray, labels: np.ndarray, loss: float, split: str, bins: int
) -> dict[str, float]:
    """Compute the headline metrics.

    Args:
        probabilities: float32 (n, classes).
        labels: class numbers (n,).
        loss: of the images.
        split: test or validation, which the names of the metrics begin with.
        bins: of the calibration error.
    """
    # Here, as it takes a second: the stage's module is imported twice (pipeline/environment.py).
    from sklearn.metrics import accuracy_score, top_k_accuracy_score

    classes = probabilities.shape[1]
    metrics = {
        f"{split}_loss": loss,
        f"{split}_accuracy": accuracy_score(labels, probabilities.argmax(axis=1)),
        f"{split}_top2_accuracy": top_k_accuracy_score(
            labels, probabilities, k=2, labels=range(classes)
        )
        if classes > 2
        else 1.0,
        f"{split}_calibration_error": calibration(probabilities, labels, bins).error,
    }
    return {key: round(float(value), DIGITS) for key, value in metrics.items()}


def by_class(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> Iterator[tuple[str, int, float, float, float]]:
    """Yield for each class its name, its number of images, precision, recall and f1."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted, numbers = probabilities.argmax(axis=1), range(len(names))
    found = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0.0)
    for name, *shares, images in zip(names, *found, strict=True):
        precision, recall, f1 = map(float, shares)
        yield name, int(images), precision, recall, f1


def warn_of_chance(accuracy: float, labels: np.ndarray, split: str) -> None:
    """Say loudly that a network is no better than one that always names the commonest class.

    By two standard errors of the accuracy of such a network.
    """
    chance = np.bincount(labels).max() / len(labels)
    if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / len(labels)):
        line = "!" * 80
        print(
            f"{line}\nevaluate: WARNING: this network has learnt nothing: {split}_accuracy "
            f"{accuracy:.4f}, and {chance:.4f}\ncomes from always naming the commonest class. Try "
            f"another train.optimizer.config.learning_rate,\nor more train.epochs.\n{line}",
            file=sys.stderr,
            flush=True,
        )


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> charts.Bins:
    """Put images into bins of equal width by how sure the network is of its answer.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), whose
    equation 3, the expected calibration error, is the bins' `error`.

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
) -> Iterator[tuple[int, int, str, float]]:
    """Yield what the network makes of single training images: number, class, name, probability.

    Args:
        probabilities: float32 (len(numbers), classes).
        numbers: of the images.
        names: of the classes.
    """
    for number, row in zip(numbers, probabilities, strict=True):
        answer = int(row.argmax())
        yield number, answer, names[answer], float(row[answer])


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
        columns = {
            key: [float(row[key]) for row in rows]
            for key, value in rows[0].items()
            if key != "epoch" and value != ""  # nothing was held out
        }
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
            total = np.rint(images * MAX_PIXEL).astype(np.uint8).sum(axis=0, dtype=np.int64)
            means[label] = total / (len(images) * float(MAX_PIXEL))
    return means.reshape(-1, *image_shape)


def select(split: Split, numbers: Sequence[int], rows: np.ndarray, params: Params) -> Answers:
    """Take single images of a split, with the network's answers `rows`, to draw them."""
    images = split.images[list(numbers)].reshape(-1, *params.dataset.image_shape)
    return Answers(images, split.labels[list(numbers)].argmax(axis=1), rows, numbers)


def draw_data(params: Params, train: Split, measured: Split, predicted: np.ndarray) -> None:
    """Draw the pictures that show images.

    Args:
        params: all of params.yaml.
        train: images float32 (n, pixels) and one-hot labels float32 (n, classes).
        measured: the same.
        predicted: probabilities of the measured images, float32 (n, classes).
    """
    language, names = params.evaluate.language, shown_names(params)
    count = min(grids.MOST_TILES, len(train.images))
    first = select(train, range(count), np.empty(0), params)
    sheet = PICTURES / "contact_sheet.png"
    grids.contact_grid(sheet, language, first.images, first.labels, names)
    wrong = np.flatnonzero(measured.labels.argmax(axis=1) != predicted.argmax(axis=1))
    mistakes = select(measured, wrong.tolist(), predicted[wrong], params)
    grids.mistakes(PICTURES / "mistakes.png", language, mistakes, names, params.measured)
    means = class_averages(train, params.dataset.image_shape)
    grids.averages(PICTURES / "averages.png", language, means, names)


def draw_network(params: Params, network: keras.Model, train: Split, shown: np.ndarray) -> None:
    """Draw what the network says of single images, and what its hidden units look for.

    Args:
        params: all of params.yaml.
        network: dense layers.
        train: images float32 (n, pixels) and one-hot labels float32 (n, classes).
        shown: probabilities of training image 0 and of those in `evaluate.examples`, float32
            (1 + n, classes).
    """
    from fashion_mlp.network.model import layers_of

    language, names = params.evaluate.language, shown_names(params)
    papers = paper.IMAGE_0 if params.dataset.name == paper.DATASET else {}
    first = select(train, [0], shown[:1], params)
    charts.first_image(PICTURES / "first_image.png", language, first, names, papers)
    examples = select(train, params.evaluate.examples, shown[1:], params)
    grids.answers(PICTURES / "examples.png", language, examples, names)
    kernels = [layer.kernel for layer in layers_of(network)]
    path, shape = PICTURES / "hidden_units.png", params.dataset.image_shape
    grids.hidden_units(path, language, kernels, shape, names)


def draw_metrics(
    params: Params,
    labels: np.ndarray,
    predicted: np.ndarray,
    metrics: Mapping[str, float],
    loss: str,
) -> None:
    """Draw the training log, the confusion matrix and the calibration.

    Args:
        params: all of params.yaml.
        labels: class numbers of the measured images (n,).
        predicted: their probabilities, float32 (n, classes).
        metrics: what `METRICS` will hold.
        loss: the name of what the network was trained on.
    """
    from sklearn.metrics import confusion_matrix

    language, names, split = params.evaluate.language, shown_names(params), params.measured
    comparable = params.dataset.name == paper.DATASET  # else the paper's numbers mean nothing
    charts.history(
        PICTURES / "history.png",
        language,
        read_history(HISTORY),
        {key: metrics[f"test_{key}"] for key in ("loss", "accuracy")} if split == "test" else {},
        paper.LAST_EPOCHS if comparable and loss == paper.LOSS else (),
        paper.CLAIMED_ACCURACY if comparable else None,
    )
    matrix = confusion_matrix(labels, predicted.argmax(axis=1), labels=range(len(names)))
    charts.confusion(PICTURES / "confusion.png", language, matrix, names, split)
    bins = calibration(predicted, labels, params.evaluate.calibration_bins)
    charts.reliability(PICTURES / "reliability.png", language, bins, split)


def shown_names(params: Params) -> list[str]:
    """Take the class names in the language of the pictures."""
    return params.dataset.names(params.evaluate.language)


def main() -> None:
    params = load_params()
    names, sizes = params.dataset.names(), (params.dataset.pixels, params.dataset.classes)
    train, measured = (load_split(split, *sizes) for split in ("train", params.measured))
    # Image 0 is what the paper's figure 9 shows; the others are figure 11's.
    example_images = pick(train, [0, *params.evaluate.examples])
    engine.start()

    from fashion_mlp.network.model import load_network, mean_loss, predict

    network = load_network(MODEL, sizes)
    predicted, shown = predict(network, measured.images), predict(network, example_images)
    loss = mean_loss(network.loss, predicted, measured.labels)
    labels, named = measured.labels.argmax(axis=1), predicted.argmax(axis=1)
    metrics = measure(predicted, labels, loss, params.measured, params.evaluate.calibration_bins)
    draw_data(params, train, measured, predicted)
    draw_network(params, network, train, shown)
    draw_metrics(params, labels, predicted, metrics, network.loss)
    header = ["class", "images", "precision", "recall", "f1"]
    write_csv(CLASSES, header, by_class(predicted, labels, names))
    answers = examples(shown[1:], params.evaluate.examples, names)
    write_csv(EXAMPLES, ["image", "class", "name", "probability"], answers)
    pairs = ((names[actual], names[answer]) for actual, answer in zip(labels, named, strict=True))
    write_csv(CONFUSION, ["actual", "predicted"], pairs)
    write_json(METRICS, metrics)
    report(params, metrics, labels)


def report(params: Params, metrics: Mapping[str, float], labels: np.ndarray) -> None:
    """Print the metrics of the measured images, whose class numbers are `labels` (n,)."""
    split = params.measured
    shown = ", ".join(f"{split}_{key} {metrics[f'{split}_{key}']:.4f}" for key in SHOWN)
    left = "; the test set was left alone" if split != "test" else ""
    print(f"evaluate: {len(labels):,} {split} images, {shown}{left}; pictures in {PICTURES}/")
    if boxes := lacking("".join(shown_names(params))):
        print(f"evaluate: note: the pictures have boxes for what their font lacks: {boxes}")
    warn_of_chance(metrics[f"{split}_accuracy"], labels, split)


if __name__ == "__main__":
    run(main)
