"""Small images with captions: the paper's figures 10 and 11, mistakes, averages, hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap

from fashion_mlp.pictures.strings import TEXTS, percent, shorten
from fashion_mlp.pictures.style import BLUE, GREY, INK, VERMILION, WIDTH, Answers, drawing

SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#FFFFFF", VERMILION])
MOST_TILES = 50  # small images in a grid
KEY_WIDTH = 1.75  # inches for each entry of a key of colours
NAME_LENGTH = 14  # letters of a class name that fit under a small image


class Caption(NamedTuple):
    """A line of text under a small image."""

    text: str
    colour: str = INK


def contact_grid(
    path: Path, language: str, images: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    """Draw images in inverted grey with their class names: the paper's figure 10.

    Args:
        path: PNG file to write.
        language: of the texts.
        images: float32 (n, height, width) in 0…1; the first 50 are drawn.
        labels: class numbers (n,).
        names: of the classes.
    """
    captions = [[Caption(names[label])] for label in labels]
    _grid(path, TEXTS[language]["contact_sheet"], images, captions, columns=10)


def answers(path: Path, language: str, shown: Answers, names: Sequence[str]) -> None:
    """Draw images with the class that the network names: the paper's figure 11."""
    texts = TEXTS[language]
    captions = [
        [Caption(texts["number"].format(number), GREY), *lines]
        for number, lines in zip(shown.numbers, _answer_lines(shown, names, language), strict=True)
    ]
    if not len(shown.images):
        _message(path, texts["no_examples"])
        return
    columns = min(10, max(4, len(shown.images)))
    key = [Caption(texts["wrong"], VERMILION), Caption(texts["right"], BLUE)]
    _grid(path, texts["answers"], shown.images, captions, columns, key=key)


def mistakes(path: Path, language: str, wrong: Answers, names: Sequence[str], split: str) -> None:
    """Draw the 10 mistakes that the network is surest of, the surest first."""
    texts = TEXTS[language]
    if not len(wrong.images):
        _message(path, texts["no_mistakes"].format(texts[split]))
        return
    # Rounded, and equals in the order of their numbers: the last bits decide nothing.
    surest = np.argsort(-wrong.probabilities.max(axis=1).round(5), kind="stable")[:10]
    shown = Answers(
        wrong.images[surest],
        wrong.labels[surest],
        wrong.probabilities[surest],
        [wrong.numbers[place] for place in surest],
    )
    captions = list(_answer_lines(shown, names, language))
    _grid(path, texts["mistakes"].format(texts[split]), shown.images, captions, columns=5)


def averages(path: Path, language: str, means: np.ndarray, names: Sequence[str]) -> None:
    """Draw the average image of each class, float (classes, height, width) in 0…1."""
    captions = [[Caption(name)] for name in names]
    columns = min(10, max(5, len(names)))
    _grid(path, TEXTS[language]["averages"], means, captions, columns)


def hidden_units(
    path: Path,
    language: str,
    kernels: Sequence[np.ndarray],
    image_shape: tuple[int, int],
    names: Sequence[str],
) -> None:
    """Draw for each class which pixels speak for it: light vermilion, no light blue.

    Above, the weights of all units, each by its weight to the class: the product of the kernels,
    which leaves out what the activations do between them. Below, the one unit of the last hidden
    layer with the largest weight to the class: most of what is seen there is the noise that the
    weights began as. Without a hidden layer, only the first row.

    Args:
        path: PNG file to write.
        language: of the texts.
        kernels: of all layers, float32 (inputs, units); the last has a unit a class.
        image_shape: height and width.
        names: of the classes; the first 25 are drawn.
    """
    texts, names = TEXTS[language], [*names[: MOST_TILES // 2]]
    *hidden, outputs = (kernel.astype(np.float64) for kernel in kernels)
    outputs = outputs[:, : len(names)]
    rows, strongest = [outputs.T], []
    if hidden:
        product = reduce(np.matmul, hidden)
        strongest = outputs.argmax(axis=0).tolist()
        rows = [(product @ outputs).T, product[:, strongest].T]
    weights = np.concatenate(rows).reshape(-1, *image_shape)
    limits = np.abs(weights).max(axis=(1, 2), keepdims=True)  # each on a scale of its own
    scaled = np.divide(weights, limits, out=np.zeros_like(weights), where=limits > 0)
    whose = [texts["all_units"]] * len(names) + [texts["unit"].format(unit) for unit in strongest]
    captions = [
        [Caption(name), Caption(units, GREY)]
        for name, units in zip(names * (1 + bool(hidden)), whose, strict=True)
    ]
    columns = len(names) if 5 <= len(names) <= 10 else 10 if len(names) > 10 else 5
    key = [Caption(texts["favours"], VERMILION), Caption(texts["against"], BLUE)]
    _grid(path, texts["units"], 0.5 + scaled / 2, captions, columns, SIGNED, key)


def _grid(
    path: Path,
    title: str,
    images: np.ndarray,
    captions: Sequence[Sequence[Caption]],
    columns: int,
    colours: Colormap | str = "binary",
    key: Sequence[Caption] = (),
) -> None:
    """Draw small images row by row, each with its caption; at most 50. `key` explains colours.

    In one pair of axes, measured in inches: 50 pairs take seconds.
    """
    images, captions = images[:MOST_TILES].round(3), captions[:MOST_TILES]
    font = 10 if columns <= 5 else 8.5
    letters = NAME_LENGTH if columns > 5 else 2 * NAME_LENGTH
    cell, line, head = WIDTH / columns, 1.5 * font / 72, 0.42
    # An image fills 88 % of its cell's width, or less where it would be more than twice as high.
    ratio = images.shape[1] / images.shape[2]
    wide = 0.88 * cell * min(1, 2 / ratio)
    tall = max(0.1, wide * ratio)
    row_height = tall + line * max(len(lines) for lines in captions) + 0.14
    height = head + -(-len(images) // columns) * row_height + 0.04
    with drawing(path, height, layout=None) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.text(0.09, 0.12, title, va="top", weight="bold", size=11)
        for number, caption in enumerate(key):
            right = WIDTH - 0.09 - number * KEY_WIDTH
            axes.text(right, 0.12, f"■ {caption.text}", va="top", ha="right", color=caption.colour)
        for place, (image, lines) in enumerate(zip(images, captions, strict=True)):
            row, column = divmod(place, columns)
            middle, top = (column + 0.5) * cell, head + row * row_height
            axes.imshow(
                image,
                cmap=colours,
                vmin=0,
                vmax=1,
                interpolation="nearest",
                extent=(middle - wide / 2, middle + wide / 2, top + tall, top),
                aspect="auto",
            )
            for number, caption in enumerate(lines):
                axes.text(
                    middle,
                    top + tall + 0.04 + number * line,
                    shorten(caption.text, letters),
                    color=caption.colour,
                    size=font,
                    ha="center",
                    va="top",
                )
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)


def _message(path: Path, text: str) -> None:
    """Draw a line of text where there is nothing to show."""
    with drawing(path, height=0.8, layout=None) as figure:
        figure.text(0.01, 0.5, text, va="center", size=11)


def _answer_lines(shown: Answers, names: Sequence[str], language: str) -> Iterator[list[Caption]]:
    """Yield for each image the network's answer, and the label where the answer is wrong."""
    for label, row in zip(shown.labels, shown.probabilities, strict=True):
        answer, probability = int(row.argmax()), percent(row.max(), 1, language)
        if answer == label:
            yield [Caption(names[answer], BLUE), Caption(probability, BLUE)]
        else:
            actual = TEXTS[language]["labelled"].format(names[label])
            yield [Caption(f"{names[answer]}, {probability}", VERMILION), Caption(actual)]
