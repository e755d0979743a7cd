"""Charts of a run: the paper's figures 8 and 9, the confusion matrix, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fashion_mlp.pictures.paper import Epoch
from fashion_mlp.pictures.strings import TEXTS, decimal, percent, probability, shorten, thousands
from fashion_mlp.pictures.style import BLUE, GREEN, INK, VERMILION, Answers, drawing

MOST_ROWS = 20  # classes whose probability is drawn
MOST_COUNTS = 20  # classes whose confusion is written as numbers too
MOST_NAMES = 40  # classes that are named beside the confusion matrix
SMALLEST = 1e-10  # probability that is told from 0
NAME_LENGTH = 14  # letters of a class name that fit beside the confusion matrix


class Bins(NamedTuple):
    """Images in bins of equal width by how sure the network is of its answer.

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


def history(
    path: Path,
    language: str,
    log: Mapping[str, Sequence[float]],
    test: Mapping[str, float],
    paper: Sequence[Epoch],
    claimed_accuracy: float | None,
) -> None:
    """Draw loss and accuracy by epoch: the paper's figure 8, its epochs marked where they fit.

    Args:
        path: PNG file to write.
        language: of the texts.
        log: `loss` and `accuracy` of each epoch from 1, and `validation_loss` and
            `validation_accuracy` where images were held out.
        test: `loss` and `accuracy` on the test set; empty where it was left alone.
        paper: lines of the paper's log, drawn with its claim if this run has as many epochs, or
            more; empty where they can't be compared.
        claimed_accuracy: what the paper's text says, or None.
    """
    texts, epochs = TEXTS[language], len(log["loss"])
    if paper and epochs < paper[-1].epoch:
        paper, claimed_accuracy = (), None
    with drawing(path, height=4.4) as figure:
        for key, axes in zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True):
            axes.set_title(texts[key], loc="left", weight="bold", size=11)
            axes.set_xlabel(texts["epoch"])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y")
            _numbers(axes.yaxis, language)
            _curves(axes, log, key, texts, paper)
            if test:
                _point(axes, epochs, test[key], texts["test"], language)
            if key == "accuracy" and claimed_accuracy is not None:
                _level(axes, claimed_accuracy, texts["claim"], language)
            if key == "loss":
                axes.set_ylim(bottom=0)
            axes.set_xlim(0, epochs * 1.04)  # room for the last points
            if paper:
                _zoom(axes, log, key, texts, paper, language)
        # The accuracy's curves are the loss' and more.
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=9
        )


def _point(axes: Axes, epochs: int, value: float, label: str, language: str) -> None:
    """Mark what was measured once, after the last epoch, its value written beside it."""
    axes.plot([epochs], [value], "D", color=GREEN, markersize=6, label=label, clip_on=False)
    axes.annotate(
        decimal(f"{value:.4f}", language),
        (epochs, value),
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        size=9,
        color=GREEN,
    )


def _level(axes: Axes, value: float, label: str, language: str) -> None:
    """Draw a level across the axes, its value written at the right end."""
    axes.axhline(value, color=VERMILION, linestyle=(0, (4, 2)), lw=1.2, label=label)
    axes.annotate(
        decimal(f"{value:g}", language),
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        size=9,
        color=VERMILION,
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
    if held_out := log.get(f"validation_{key}"):
        axes.plot(
            epochs,
            held_out,
            color=INK,
            marker=marker,
            linestyle=(0, (5, 1.5)),
            lw=1.5,
            label=texts["validation"],
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
    """Draw one image and its probabilities, beside the paper's by class number: its figure 9."""
    texts = TEXTS[language]
    # The 20 likeliest, in the order of their numbers; five digits are drawn.
    row = np.array([float(f"{value:.5g}") for value in shown.probabilities[0]])
    drawn = np.sort(np.argsort(-row, kind="stable")[:MOST_ROWS])
    values = np.maximum(row[drawn], SMALLEST)
    with drawing(path, height=max(2.6, 0.9 + 0.28 * len(drawn))) as figure:
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
            written = probability(row[number], language)
            if number in paper:
                theirs = probability(paper[number], language)
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
            FuncFormatter(lambda value, _: probability(value, language))
        )
        right.set_xticks([1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1])
        right.minorticks_off()
        right.set_xlabel(texts["probability"])
        right.set_yticks(places, [shorten(names[number], 24) for number in drawn])
        right.invert_yaxis()
        right.grid(axis="x")


def confusion(
    path: Path, language: str, counts: np.ndarray, names: Sequence[str], split: str
) -> None:
    """Draw the confusion matrix, int (classes, classes): rows are labels, columns answers."""
    texts = TEXTS[language]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    with drawing(path, height=6.6) as figure:
        axes = figure.subplots()
        title = texts["confusion"].format(texts[split])
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)
        # White where there is nothing; the square root, so that mistakes show beside the diagonal.
        shade = PowerNorm(0.5, vmin=0, vmax=1)
        image = axes.imshow(shares, cmap="Blues", norm=shade, aspect="auto")
        axes.set_xlabel(texts["predicted"])
        axes.set_ylabel(texts["label"])
        if len(names) <= MOST_NAMES:
            short = [shorten(name, NAME_LENGTH) for name in names]
            axes.set_xticks(range(len(names)), short, rotation=30, ha="right")
            axes.set_yticks(range(len(names)), short)
        if len(names) <= MOST_COUNTS:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    axes.text(
                        column,
                        row,
                        str(count),
                        ha="center",
                        va="center",
                        color="white" if shares[row, column] > 0.35 else INK,
                        weight="bold" if row == column else "normal",
                    )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, label=texts["share"], pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v, 0, language)))


def reliability(path: Path, language: str, bins: Bins, split: str) -> None:
    """Draw how often the network is right against how sure it is, and how many images that is."""
    texts = TEXTS[language]
    edges = np.linspace(0, 1, len(bins.images) + 1)
    filled = bins.images > 0
    with drawing(path, height=4.2) as figure:
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
        error = texts["error"].format(decimal(f"{bins.error:.4f}", language))
        left.legend(loc="upper left", title=error, alignment="left")
        left.set_ylabel(texts["accuracy"])
        left.set_ylim(0, 1.02)
        left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v, 0, language)))
        right.set_title(texts["counts"], loc="left", weight="bold", size=11)
        right.bar(
            edges[:-1],
            bins.images,
            1 / len(bins.images),
            align="edge",
            color=BLUE,
            edgecolor="white",
        )
        right.set_ylabel(texts["count"].format(texts[split]))
        right.yaxis.set_major_formatter(FuncFormatter(lambda v, _: thousands(v, language)))
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, right):
            axes.set_xlim(0, 1)
            axes.set_xlabel(texts["confidence"])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v, 0, language)))
            axes.grid(axis="y")
            axes.set_axisbelow(True)


def _numbers(axis: Axis, language: str) -> None:
    """Write the numbers of an axis as the language does."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: decimal(f"{value:.6g}", language)))
