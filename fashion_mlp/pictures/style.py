"""Plot style: PNG files whose bytes depend on what is drawn alone.

Not on the clock, the machine's fonts or the user's matplotlibrc: the style is set here, the font
is the DejaVu Sans that Matplotlib brings (it has Cyrillic), and no metadata is written. Values
are rounded before they are drawn, so that noise in their last bits stays invisible.

grids.py draws small images with captions, charts.py curves, bars and a matrix. Every function
of the two takes the path to write, and `language`, which is `en` or `ru`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

from pipeline.files import replacing

WIDTH = 8.8  # inches: 1,056 pixels, shown at 880 or less in a README
DPI = 120
# Okabe and Ito's colours, which people of any colour vision tell apart: jfly.uni-koeln.de/color
BLUE, VERMILION, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#6B6B6B"

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")

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


class Answers(NamedTuple):
    """Images with their labels and what the network says of them.

    images: float32 (n, height, width) in 0…1. labels: class numbers (n,). probabilities:
    float32 (n, classes). numbers: of the images in their split (n,).
    """

    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    numbers: Sequence[int]


def font(name: str) -> Path:
    """Return the path of one of `FONTS`."""
    return Path(mpl.get_data_path(), "fonts/ttf", name)


def lacking(text: str) -> str:
    """Return the characters that the font lacks, such as emoji; boxes are drawn for them."""
    known = FT2Font(font(FONTS[0])).get_charmap()
    return "".join(sorted(sign for sign in set(text) if ord(sign) not in known))


@contextmanager
def drawing(path: Path, height: float, layout: str | None = "constrained") -> Iterator[Figure]:
    """Give a figure in this module's style; write it as PNG if all went well."""
    fontManager.ttflist.clear()  # of this machine, from a file in the user's home
    for name in FONTS:
        fontManager.addfont(font(name))
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # each time anew; `lacking` tells it once
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), layout=layout)  # type: ignore[arg-type]
        yield figure
        with replacing(path) as temporary:
            # Without pyplot a figure draws by Agg, which needs no screen.
            figure.savefig(temporary, format="png", metadata={"Software": None})
