"""What every picture must be: the same bytes anywhere, both languages, any shape of data."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import FontManager, json_dump
from PIL import Image

from fashion_mlp.pictures import charts, grids, paper, strings, style

NAMES = {
    "en": ["T-shirt/top", "Trouser", "Ankle boot"],
    "ru": ["футболка", "Ёж, щит и ёлка", "ботинки"],
}


def some(images: int, shape: tuple[int, int], classes: int, seed: int = 1) -> style.Answers:
    random = np.random.default_rng(seed)
    return style.Answers(
        random.random((images, *shape), np.float32),
        random.integers(0, classes, images),
        random.dirichlet(np.ones(classes), images).astype(np.float32),
        list(range(images)),
    )


def draw_all(
    folder: Path,
    language: str = "en",
    shape: tuple[int, int] = (28, 28),
    names: list[str] | None = None,
    images: int = 60,
    units: Sequence[int] = (8,),
    epochs: int = 101,
) -> dict[str, bytes]:
    """Draw every picture of made-up data; return the files' bytes by name."""
    names = names or NAMES[language]
    classes = len(names)
    shown = some(images, shape, classes)
    random = np.random.default_rng(2)
    sizes = [shape[0] * shape[1], *units, classes]
    kernels = [random.normal(size=of).astype(np.float32) for of in pairwise(sizes)]
    counts = random.integers(0, 1000, (classes, classes))
    bins = charts.Bins(*(np.arange(5.0) / scale for scale in (0.01, 5, 6)))
    first = some(1, shape, classes)
    log = {
        key: np.geomspace(0.5, 0.3, epochs).tolist()
        for key in ("loss", "accuracy", "validation_loss", "validation_accuracy")
    }
    level = {"loss": 0.4, "accuracy": 0.5}

    def path(name: str) -> Path:
        return folder / f"{name}.png"

    grids.contact_grid(path("sheet"), language, shown.images, shown.labels, names)
    grids.answers(path("answers"), language, shown, names)
    grids.mistakes(path("mistakes"), language, shown, names, "test")
    charts.first_image(path("first"), language, first, names, {0: 0.1})
    grids.averages(path("averages"), language, shown.images[:classes], names)
    grids.hidden_units(path("units"), language, kernels, shape, names)
    charts.confusion(path("confusion"), language, counts, names, "validation")
    charts.reliability(path("reliability"), language, bins, "test")
    charts.history(path("history"), language, log, level, paper.LAST_EPOCHS, 0.98)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """A glyph that the font lacks, or a layout that fails, is a warning of Matplotlib's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_pictures_have_the_same_bytes_in_another_process_with_another_style(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 31\naxes.grid: True\n")
    json_dump(FontManager(), fonts := tmp_path / f"fontlist-v{FontManager.__version__}.json")
    fonts.write_text(fonts.read_text().replace("ttf/DejaVuSans", "ttf/DejaVuSerif"))
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    code = "import sys, pathlib, tests.test_pictures as t; t.draw_all(pathlib.Path(sys.argv[1]))"
    settings = dict.fromkeys(("MATPLOTLIBRC", "MPLCONFIGDIR"), str(tmp_path))
    environment = os.environ | settings | {"TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(there)], env=environment, check=True)
    assert draw_all(here) == {file.name: file.read_bytes() for file in sorted(there.iterdir())}


def test_pictures_have_russian_glyphs_and_hold_no_clock_and_no_version(tmp_path: Path) -> None:
    assert style.lacking("".join([*strings.TEXTS["ru"].values(), *NAMES["ru"]])) == ""
    for name in draw_all(tmp_path, "ru"):
        with Image.open(tmp_path / name) as image:
            assert set(image.info) == {"dpi"}, name
            assert image.width == round(style.WIDTH * style.DPI), name


def test_pictures_state_the_same_texts_in_both_languages() -> None:
    en, ru = strings.TEXTS["en"], strings.TEXTS["ru"]
    assert en.keys() == ru.keys()
    assert {key: text.count("{}") for key, text in en.items()} == {
        key: text.count("{}") for key, text in ru.items()
    }


@pytest.mark.parametrize(
    ("shape", "classes", "images", "units"),
    [((12, 20), 3, 30, []), ((1, 784), 2, 2, [7, 5]), ((9, 3), 30, 30, [1])],
)
def test_pictures_take_other_data_and_any_depth(
    tmp_path: Path, shape: tuple[int, int], classes: int, images: int, units: list[int]
) -> None:
    names = [rf"$\frac {number} {'long ' * 9}$" for number in range(classes)]
    assert len(draw_all(tmp_path, "en", shape, names, images, units, epochs=3)) == 9


def test_names_that_the_font_lacks_are_drawn_without_a_flood_of_warnings(tmp_path: Path) -> None:
    names = ["Hats \N{TOP HAT}", "鞋", "Ж"]
    assert style.lacking("".join(names)) == "鞋\N{TOP HAT}"
    grids.averages(tmp_path / "a.png", "en", np.zeros((3, 4, 4), np.float32), names)


@pytest.mark.parametrize(("epochs", "fits"), [(3, False), (99, False), (100, True), (400, True)])
def test_history_draws_the_paper_and_its_claim_only_where_its_epochs_fit(
    tmp_path: Path, epochs: int, fits: bool
) -> None:
    log = {"loss": epochs * [0.3], "accuracy": epochs * [0.89]}
    of_paper = (paper.LAST_EPOCHS, paper.CLAIMED_ACCURACY)
    charts.history(tmp_path / "a.png", "en", log, {}, *of_paper)
    charts.history(tmp_path / "b.png", "en", log, {}, (), None)
    same = (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert same is not fits


def test_mistakes_and_answers_say_when_there_are_none(tmp_path: Path) -> None:
    none = some(0, (28, 28), 3)
    grids.mistakes(tmp_path / "mistakes.png", "ru", none, NAMES["ru"], "test")
    grids.answers(tmp_path / "answers.png", "ru", none, NAMES["ru"])
    for name in ("mistakes", "answers"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.height < 100
            assert len(image.getcolors(10_000) or []) > 10  # grey levels of letters


def test_mistakes_ignore_the_last_bits_of_probabilities(tmp_path: Path) -> None:
    wrong = some(40, (6, 6), 2)
    equal = np.full((40, 2), [0.625, 0.375], np.float32)
    noise = np.random.default_rng(3).integers(-2, 3, (40, 2)) * np.float32(2**-24)
    wrong, noisy = (wrong._replace(probabilities=equal + by) for by in (np.float32(0), noise))
    grids.mistakes(tmp_path / "a.png", "en", wrong, NAMES["en"], "test")
    grids.mistakes(tmp_path / "b.png", "en", noisy, NAMES["en"], "test")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_contact_grid_draws_white_where_the_pixel_is_0(tmp_path: Path) -> None:
    images = np.zeros((1, 4, 4), np.float32)
    images[0, 0, 0] = 1
    grids.contact_grid(tmp_path / "x.png", "en", images, np.array([0]), ["a"])
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("L"))
    left, top = round(0.06 * 0.88 * style.DPI), round(0.42 * style.DPI)
    side = round(0.88 * 0.88 * style.DPI)
    tile = pixels[top : top + side, left : left + side]
    assert tile[side // 8, side // 8] == 0
    assert tile[side // 8 :, side // 2 :].min() == 255
