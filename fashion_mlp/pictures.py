"""Arrays drawn as PNG files whose bytes depend on what is drawn alone.

Not on the clock, the machine's fonts or the user's matplotlibrc: the style is set here, the font
is the DejaVu Sans that Matplotlib brings (it has Cyrillic), and no metadata is written. Values
are rounded before they are drawn, so that noise in their last bits stays invisible.

Every function takes the path to write, and `language`, which is `en` or `ru`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fashion_mlp.files import replacing
from fashion_mlp.paper import Epoch

WIDTH = 8.8  # inches: 1,056 pixels, shown at 880 or less in a README
DPI = 120
# Okabe and Ito's colours, which people of any colour vision tell apart: jfly.uni-koeln.de/color
BLUE, VERMILION, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#6B6B6B"
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#FFFFFF", VERMILION])
MOST_TILES = 50  # small images on a sheet
MOST_ROWS = 20  # classes whose probability is drawn
MOST_COUNTS = 20  # classes whose confusion is written as numbers too
MOST_NAMES = 40  # classes that are named beside the confusion matrix
NAME_LENGTH = 14  # letters of a class name that fit under a small image
SMALLEST = 1e-10  # probability that is told from 0

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": DPI,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": DPI,
    "text.color": INK,
    "text.parse_math": False,  # a class may be named "$5"
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}

TEXTS = {
    "en": {
        "accuracy": "accuracy",
        "answers": "What the network says of these training images",
        "averages": "The average training image of each class",
        "all_units": "all units",
        "bin": "mean of a bin",
        "claim": "the paper's text: over this",
        "confidence": "probability that the network states",
        "confusion": "Test images by label and by the network's answer",
        "contact_sheet": "The first training images",
        "count": "test images",
        "counts": "How sure is it, and how often?",
        "epoch": "epoch",
        "error": "calibration error {}",
        "first": "What the network says of training image 0",
        "label": "label",
        "labelled": "label: {}",
        "loss": "loss",
        "mistakes": "The mistakes that the network is surest of, on the test set",
        "no_examples": "evaluate.examples names no image",
        "no_mistakes": "The network made no mistake on the test set",
        "number": "no. {}",
        "ours": "this run",
        "paper": "the paper",
        "paper_value": "{} (paper: {})",
        "paper_epochs": "the paper's last epochs",
        "perfect": "as sure as right",
        "predicted": "answer",
        "probability": "probability, logarithmic",
        "reliability": "Is it right as often as it says?",
        "share": "share of the label's images",
        "test": "test set",
        "training": "training images",
        "units": "What speaks for each class: all hidden units together, and the strongest one",
        "unit": "unit {}",
        "validation": "validation images",
    },
    "ru": {
        "accuracy": "доля верных ответов",
        "answers": "Что сеть говорит об этих обучающих изображениях",
        "averages": "Среднее обучающее изображение каждого класса",
        "all_units": "все нейроны",
        "bin": "среднее по интервалу",
        "claim": "текст статьи: более этого",
        "confidence": "вероятность, которую называет сеть",
        "confusion": "Тестовые изображения: метка и ответ сети",
        "contact_sheet": "Первые обучающие изображения",
        "count": "тестовых изображений",
        "counts": "Насколько и как часто она уверена?",
        "epoch": "эпоха",
        "error": "ошибка калибровки {}",
        "first": "Что сеть говорит об обучающем изображении 0",
        "label": "метка",
        "labelled": "метка: {}",
        "loss": "функция потерь",
        "mistakes": "Самые уверенные ошибки сети на тестовой выборке",
        "no_examples": "evaluate.examples не называет изображений",
        "no_mistakes": "На тестовой выборке сеть не ошиблась ни разу",
        "number": "№ {}",
        "ours": "этот прогон",
        "paper": "статья",
        "paper_value": "{} (статья: {})",
        "paper_epochs": "последние эпохи статьи",
        "perfect": "уверенность = правота",
        "predicted": "ответ",
        "probability": "вероятность, логарифмическая шкала",
        "reliability": "Так ли часто она права, как говорит?",
        "share": "доля изображений с этой меткой",
        "test": "тестовая выборка",
        "training": "обучающие изображения",
        "units": "Что говорит за каждый класс: все скрытые нейроны вместе и сильнейший из них",
        "unit": "нейрон {}",
        "validation": "проверочные изображения",
    },
}


class Answers(NamedTuple):
    """Images with their labels and what the network says of them.

    images: float32 (n, height, width) in 0…1. labels: class numbers (n,). probabilities:
    float32 (n, classes). numbers: of the images in their split (n,).
    """

    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    numbers: Sequence[int]


class Bins(NamedTuple):
    """Test images in bins of equal width by how sure the network is of its answer.

    images: how many (bins,). confidence: mean probability of the answer (bins,). accuracy: share of
    right answers (bins,). Both are 0 where a bin is empty.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: Guo et al. 2017 (arXiv:1706.04599), equation 3."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(self.images @ gaps / self.images.sum())


class Caption(NamedTuple):
    """A line of text under a small image."""

    text: str
    colour: str = INK


def contact_sheet(
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
    _sheet(path, TEXTS[language]["contact_sheet"], images, captions, columns=10)


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
    _sheet(path, texts["answers"], shown.images, captions, columns)


def mistakes(path: Path, language: str, wrong: Answers, names: Sequence[str]) -> None:
    """Draw the mistakes that the network is surest of, the surest first.

    Args:
        path: PNG file to write.
        language: of the texts.
        wrong: images whose label is not the network's answer, in any order; 10 are drawn.
        names: of the classes.
    """
    if not len(wrong.images):
        _message(path, TEXTS[language]["no_mistakes"])
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
    _sheet(path, TEXTS[language]["mistakes"], shown.images, captions, columns=5)


def averages(path: Path, language: str, means: np.ndarray, names: Sequence[str]) -> None:
    """Draw the average image of each class, float (classes, height, width) in 0…1."""
    captions = [[Caption(name)] for name in names]
    columns = min(10, max(5, len(names)))
    _sheet(path, TEXTS[language]["averages"], means, captions, columns)


def hidden_units(
    path: Path,
    language: str,
    kernels: tuple[np.ndarray, np.ndarray],
    image_shape: tuple[int, int],
    names: Sequence[str],
) -> None:
    """Draw for each class which pixels speak for it: light vermilion, no light blue.

    Above, the weights of all units, each by its weight to the class; that leaves out what the
    activation does between them. Below, the one unit with the largest weight to the class: most
    of what is seen there is the noise that the weights began as.

    Args:
        path: PNG file to write.
        language: of the texts.
        kernels: of the hidden layer, float32 (pixels, units), and of the output layer, float32
            (units, classes).
        image_shape: height and width.
        names: of the classes; the first 25 are drawn.
    """
    texts, names = TEXTS[language], names[: MOST_TILES // 2]
    hidden, outputs = (kernel.astype(np.float64) for kernel in kernels)
    outputs = outputs[:, : len(names)]
    strongest = outputs.argmax(axis=0)
    weights = np.concatenate([(hidden @ outputs).T, hidden[:, strongest].T])
    weights = weights.reshape(-1, *image_shape)
    limits = np.abs(weights).max(axis=(1, 2), keepdims=True)  # each on a scale of its own
    scaled = np.divide(weights, limits, out=np.zeros_like(weights), where=limits > 0)
    whose = [texts["all_units"]] * len(names) + [texts["unit"].format(unit) for unit in strongest]
    captions = [
        [Caption(name), Caption(units, GREY)]
        for name, units in zip([*names, *names], whose, strict=True)
    ]
    columns = len(names) if 5 <= len(names) <= 10 else 10 if len(names) > 10 else 5
    _sheet(path, texts["units"], 0.5 + scaled / 2, captions, columns, SIGNED)


def history(
    path: Path,
    language: str,
    log: Mapping[str, Sequence[float]],
    test: Mapping[str, float],
    paper: Sequence[Epoch],
    claimed_accuracy: float | None,
) -> None:
    """Draw loss and accuracy by epoch, the paper's epochs marked: its figure 8.

    Args:
        path: PNG file to write.
        language: of the texts.
        log: `loss` and `accuracy` of each epoch from 1; `val_loss`, `val_accuracy` where held out.
        test: `loss` and `accuracy` on the test set.
        paper: lines of the paper's log; empty where they can't be compared.
        claimed_accuracy: what the paper's text says, or None.
    """
    texts = TEXTS[language]
    with _drawing(path, height=4.4) as figure:
        for key, axes in zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True):
            axes.set_title(texts[key], loc="left", weight="bold", size=11)
            axes.set_xlabel(texts["epoch"])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y")
            _numbers(axes.yaxis, language)
            _curves(axes, log, key, texts, paper)
            _level(axes, test[key], f"{test[key]:.4f}", GREEN, texts["test"], language)
            if key == "accuracy" and claimed_accuracy is not None:
                written = f"{claimed_accuracy:g}"
                _level(axes, claimed_accuracy, written, VERMILION, texts["claim"], language)
            if key == "loss":
                axes.set_ylim(bottom=0)
            axes.set_xlim(0, None)
            if paper and paper[-1].epoch <= len(log[key]):
                _zoom(axes, log, key, texts, paper, language)
        # The accuracy's curves are the loss' and more.
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=9
        )


def _level(axes: Axes, value: float, written: str, colour: str, label: str, language: str) -> None:
    """Draw a level across the axes, its value written at the right end."""
    axes.axhline(value, color=colour, linestyle=(0, (4, 2)), lw=1.2, label=label)
    axes.annotate(
        _decimal(written, language),
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        size=9,
        color=colour,
    )


def _curves(
    axes: Axes,
    log: Mapping[str, Sequence[float]],
    key: str,
    texts: Mapping[str, str],
    paper: Sequence[Epoch],
) -> None:
    epochs = range(1, len(log[key]) + 1)
    marker = "o" if len(epochs) < 3 else None  # one epoch makes no line
    axes.plot(epochs, log[key], color=BLUE, marker=marker, label=texts["training"])
    if f"val_{key}" in log:
        axes.plot(
            epochs, log[f"val_{key}"], color=INK, marker=marker, lw=1, label=texts["validation"]
        )
    if paper:
        axes.plot(
            [line.epoch for line in paper],
            [getattr(line, key) for line in paper],
            color=VERMILION,
            linestyle="none",
            marker="o",
            markersize=4,
            markerfacecolor="none",
            label=texts["paper_epochs"],
        )


def _zoom(
    axes: Axes,
    log: Mapping[str, Sequence[float]],
    key: str,
    texts: Mapping[str, str],
    paper: Sequence[Epoch],
    language: str,
) -> None:
    """Draw the paper's epochs again, large, in a free part of the axes."""
    first, last = paper[0].epoch, paper[-1].epoch
    inset = axes.inset_axes((0.4, 0.55 if key == "loss" else 0.17, 0.55, 0.38))
    _curves(inset, log, key, texts, paper)
    values = [getattr(line, key) for line in paper] + list(log[key][first - 1 : last])
    margin = 0.15 * (max(values) - min(values))
    inset.spines[:].set_visible(True)
    inset.set_xlim(first - 0.4, last + 0.4)
    inset.set_ylim(min(values) - margin, max(values) + margin)
    inset.tick_params(labelsize=8)
    inset.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    inset.yaxis.set_major_locator(MaxNLocator(3))
    _numbers(inset.yaxis, language)


def first_image(
    path: Path, language: str, shown: Answers, names: Sequence[str], paper: Mapping[int, float]
) -> None:
    """Draw one image and all its probabilities, the paper's marked: its figure 9.

    Args:
        path: PNG file to write.
        language: of the texts.
        shown: a single image.
        names: of the classes.
        paper: the paper's probabilities by class number; empty where they can't be compared.
    """
    texts = TEXTS[language]
    # The 20 likeliest, in the order of their numbers; five digits are drawn.
    row = np.array([float(f"{value:.5g}") for value in shown.probabilities[0]])
    drawn = np.sort(np.argsort(-row, kind="stable")[:MOST_ROWS])
    values = np.maximum(row[drawn], SMALLEST)
    with _drawing(path, height=max(2.6, 0.9 + 0.28 * len(drawn))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 2.6))
        figure.suptitle(texts["first"], x=0.01, ha="left", weight="bold", size=11)
        left.imshow(shown.images[0], cmap="binary", vmin=0, vmax=1)
        left.set_axis_off()
        left.set_title(texts["labelled"].format(names[shown.labels[0]]), size=10, y=-0.12, va="top")
        places = np.arange(len(drawn))
        right.hlines(places, SMALLEST, values, color=BLUE, lw=1)
        right.plot(values, places, "o", color=BLUE, clip_on=False, label=texts["ours"])
        marked = [place for place, number in enumerate(drawn) if number in paper]
        if marked:
            right.plot(
                [paper[drawn[place]] for place in marked],
                marked,
                "D",
                color=VERMILION,
                markersize=9,
                markerfacecolor="none",
                clip_on=False,
                label=texts["paper"],
            )
            right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
        for place, number in enumerate(drawn):
            written = _probability(row[number], language)
            if number in paper:
                theirs = _probability(paper[number], language)
                written = texts["paper_value"].format(written, theirs)
            right.annotate(
                written,
                (1.0, place),
                xytext=(14, 0),
                textcoords="offset points",
                va="center",
            )
        right.set_xscale("log")
        right.set_xlim(SMALLEST, 1)
        right.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: _probability(value, language))
        )
        right.set_xticks([1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1])
        right.minorticks_off()
        right.set_xlabel(texts["probability"])
        right.set_yticks(places, [_short(names[number], 24) for number in drawn])
        right.invert_yaxis()
        right.grid(axis="x")


def confusion(path: Path, language: str, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw the confusion matrix, int (classes, classes): rows are labels, columns answers."""
    texts = TEXTS[language]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    with _drawing(path, height=6.6) as figure:
        axes = figure.subplots()
        figure.suptitle(texts["confusion"], x=0.01, ha="left", weight="bold", size=11)
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes.set_xlabel(texts["predicted"])
        axes.set_ylabel(texts["label"])
        if len(names) <= MOST_NAMES:
            short = [_short(name, NAME_LENGTH) for name in names]
            axes.set_xticks(range(len(names)), short, rotation=30, ha="right")
            axes.set_yticks(range(len(names)), short)
        if len(names) <= MOST_COUNTS:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    colour = INK if shares[row, column] > 0.5 else "white"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, label=texts["share"], pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _percent(v, 0, language)))


def reliability(path: Path, language: str, bins: Bins) -> None:
    """Draw how often the network is right against how sure it is, and how many images that is."""
    texts = TEXTS[language]
    edges = np.linspace(0, 1, len(bins.images) + 1)
    filled = bins.images > 0
    with _drawing(path, height=4.2) as figure:
        left, right = figure.subplots(1, 2)
        left.set_title(texts["reliability"], loc="left", weight="bold", size=11)
        left.bar(
            edges[:-1][filled],
            bins.accuracy[filled].round(4),
            1 / len(bins.images),
            align="edge",
            color="#A8D1EA",
            edgecolor=BLUE,
        )
        left.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 2)), label=texts["perfect"])
        left.plot(
            bins.confidence[filled].round(4),
            bins.accuracy[filled].round(4),
            "o",
            color=VERMILION,
            label=texts["bin"],
        )
        error = texts["error"].format(_decimal(f"{bins.error:.4f}", language))
        left.legend(loc="upper left", title=error, alignment="left")
        left.set_ylabel(texts["accuracy"])
        left.set_ylim(0, 1.02)
        left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _percent(v, 0, language)))
        right.set_title(texts["counts"], loc="left", weight="bold", size=11)
        right.bar(
            edges[:-1],
            bins.images,
            1 / len(bins.images),
            align="edge",
            color=BLUE,
            edgecolor="white",
        )
        right.set_ylabel(texts["count"])
        right.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _thousands(v, language)))
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, right):
            axes.set_xlim(0, 1)
            axes.set_xlabel(texts["confidence"])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _percent(v, 0, language)))
            axes.grid(axis="y")
            axes.set_axisbelow(True)


@contextmanager
def _drawing(path: Path, height: float, layout: str | None = "constrained") -> Iterator[Figure]:
    """Give a figure in this module's style; write it as PNG if all went well."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), layout=layout)  # type: ignore[arg-type]
        yield figure
        with replacing(path) as temporary:
            # Without pyplot a figure draws by Agg, which needs no screen.
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _sheet(
    path: Path,
    title: str,
    images: np.ndarray,
    captions: Sequence[Sequence[Caption]],
    columns: int,
    colours: Colormap | str = "binary",
) -> None:
    """Draw small images row by row, each with its caption; at most 50.

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
    with _drawing(path, height, layout=None) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.text(0.09, 0.12, title, va="top", weight="bold", size=11)
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
                    _short(caption.text, letters),
                    color=caption.colour,
                    size=font,
                    ha="center",
                    va="top",
                )
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)


def _message(path: Path, text: str) -> None:
    """Draw a line of text where there is nothing to show."""
    with _drawing(path, height=0.8, layout=None) as figure:
        figure.text(0.01, 0.5, text, va="center", size=11)


def _answer_lines(shown: Answers, names: Sequence[str], language: str) -> Iterator[list[Caption]]:
    """Yield for each image the network's answer, and the label where the answer is wrong."""
    for label, row in zip(shown.labels, shown.probabilities, strict=True):
        answer, probability = int(row.argmax()), _percent(row.max(), 1, language)
        if answer == label:
            yield [Caption(names[answer], BLUE), Caption(probability, BLUE)]
        else:
            actual = TEXTS[language]["labelled"].format(names[label])
            yield [Caption(f"{names[answer]}, {probability}", VERMILION), Caption(actual)]


def _numbers(axis: Axis, language: str) -> None:
    """Write the numbers of an axis as the language does."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: _decimal(f"{value:.6g}", language)))


def _decimal(number: str, language: str) -> str:
    """Write a number's decimals behind a point, in Russian behind a comma."""
    return number.replace(".", ",") if language == "ru" else number


def _percent(share: float, digits: int, language: str) -> str:
    return _decimal(f"{100 * share:.{digits}f} %", language)


def _thousands(number: float, language: str) -> str:
    return f"{number:,.0f}".replace(",", "\N{NO-BREAK SPACE}" if language == "ru" else ",")


def _probability(value: float, language: str) -> str:
    """Write a probability so that small ones can be read: 0.99906, 8.1·10⁻⁴."""
    if value >= 0.01 or value == 0:
        return _decimal(f"{value:.5f}".rstrip("0").rstrip("."), language)
    digits, exponent = f"{value:.1e}".split("e")
    factor = "" if digits == "1.0" else f"{_decimal(digits, language)}·"
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{factor}10{power}"


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
