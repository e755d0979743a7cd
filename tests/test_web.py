"""consumers/web: the page in real Chromium, and that it sees what predict.py sees.

`make test-web` prepares the page and runs these.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.parser
import pytest
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFilter import MaxFilter, MinFilter
from playwright.sync_api import Browser, Page, Route, expect
from sklearn.datasets import load_sample_image

from consumers.python import predict
from consumers.web import prepare
from report.__main__ import build
from tests.photos import all_photos, as_seen, encoded, odd_photos, photo, refused_photos, shaded
from tests.server import serving_folder

pytestmark = pytest.mark.web

WEB = Path("consumers/web")
REFUSED = refused_photos()
TABS = ("tests", "photo", "drawing")
OUTLINE = [(0.35, 0.15), (0.15, 0.3), (0.22, 0.45), (0.32, 0.38), (0.32, 0.85), (0.68, 0.85)]
OUTLINE += [(0.68, 0.38), (0.78, 0.45), (0.85, 0.3), (0.65, 0.15), (0.5, 0.2), (0.35, 0.15)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the page under a path of its own."""
    with serving_folder(WEB.parent) as server:
        yield f"{server}web/"


Opener = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Opener]:
    """Open the page in a fresh profile; at the end, no errors and no foreign requests."""
    contexts, complaints, requests = [], [], []

    def opener(width: int = 1200, height: int = 800, **options: Any) -> Page:
        options = {"locale": "en", **options}
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", lambda request: requests.append(request.url))
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield opener
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((address, f"blob:{address[:-4]}"))] == []


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of the page that a test may damage: its folder and its address."""
    folder = tmp_path / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    with serving_folder(folder) as server:
        yield folder, server


@pytest.fixture
def page(open_page: Opener) -> Page:
    return open_page()


@pytest.fixture
def blank(browser: Browser) -> Iterator[Page]:
    """An English page that is not opened yet, for what makes the browser complain."""
    page = browser.new_page(locale="en")
    yield page
    page.close()


@pytest.fixture(scope="module")
def bare(browser: Browser, address: str) -> Iterator[Page]:
    """Open a page to run decode.js in, the page's worker."""
    page = browser.new_page()
    page.goto(address)
    page.evaluate("window.worker = new Worker('decode.js', {type: 'module'})")
    yield page
    page.close()


def decode(
    page: Page, data: bytes, shape: Sequence[int] = (28, 28), photos: str = "trimmed"
) -> dict[str, Any]:
    """Let the page's worker read a photo: {picture, edge} or {refused}."""
    answer: dict[str, Any] = page.evaluate(
        """async ([data, shape, photos]) => {
          const file = new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]);
          const answer = new Promise((done) => (worker.onmessage = (event) => done(event.data)));
          worker.postMessage({ id: 1, file, shape, photos });
          const { picture, edge, refused } = await answer;
          return { picture: picture && [...picture], edge, refused };
        }""",
        [base64.b64encode(data).decode(), shape, photos],
    )
    return answer


def choose(page: Page, data: bytes, name: str = "photo.png") -> None:
    page.click("#tab-photo")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def hand_over(page: Page, event: str, *files: bytes) -> None:
    """Drop or paste files, or text where there is none."""
    page.evaluate(
        """([name, files]) => {
          const transfer = new DataTransfer();
          if (!files.length) transfer.setData("text/plain", "a shirt");
          for (const data of files) {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], "photo.png"));
          }
          const options = { bubbles: true, cancelable: true };
          const event = name === "paste"
            ? new ClipboardEvent(name, { ...options, clipboardData: transfer })
            : new DragEvent(name, { ...options, dataTransfer: transfer });
          document.body.dispatchEvent(event);
        }""",
        [event, [base64.b64encode(data).decode() for data in files]],
    )


def seen(page: Page) -> np.ndarray:
    """Read the 28×28 picture that the page shows, its grey values."""
    return canvas(page)[..., 0]


def canvas(page: Page) -> np.ndarray:
    """Read the picture as RGBA (28, 28, 4)."""
    data = page.evaluate(
        """() => {
          const copy = new OffscreenCanvas(28, 28).getContext("2d");
          copy.drawImage(document.querySelector("#picture"), 0, 0);
          return [...copy.getImageData(0, 0, 28, 28).data];
        }"""
    )
    return np.array(data).reshape(28, 28, 4)


def shares(page: Page) -> np.ndarray:
    """Read the ten probabilities from the bars' widths."""
    return np.array(
        page.eval_on_selector_all("#bars i", "bars => bars.map(b => parseFloat(b.style.width))")
    )


@functools.cache
def network() -> predict.Network:
    """The network, for onnxruntime outside the browser."""
    return predict.Network(predict.MODEL)


@functools.cache
def labelled() -> tuple[np.ndarray, np.ndarray]:
    """The test pictures, uint8 (10000, 28, 28), and their labels."""
    images = np.fromfile("data/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    return images, np.fromfile("data/raw/t10k-labels-idx1-ubyte", np.uint8)[8:]


@pytest.mark.parametrize("photos", [all_photos, odd_photos])
def test_decode_sees_what_predict_sees(
    photos: Callable[[], dict[str, bytes]], bare: Page, tmp_path: Path
) -> None:
    differing = {}
    for name, data in photos().items():
        answer = decode(bare, data)
        try:
            (tmp_path / "photo").write_bytes(data)
            picture, edge = predict.see(predict.read_photo(tmp_path / "photo"), (28, 28), "trimmed")
        except ValueError as error:
            if not answer["refused"]:
                differing[name] = f"refused by predict.py: {error}"
            continue
        if answer["refused"]:
            differing[name] = f"refused by the page: {answer['refused']['code']}"
        elif (
            distance := abs(np.reshape(answer["picture"], (28, 28)) - picture.astype(int)).max()
        ) > 1:
            differing[name] = f"{distance} levels apart"
        elif abs(answer["edge"] - edge) > 0.02:  # a JPEG's pixels may lie a level apart
            differing[name] = f"edge {answer['edge']} and {edge}"
    assert differing == {}


@pytest.mark.parametrize("photos", ["trimmed", "plain"])
@pytest.mark.parametrize("shape", [(32, 32), (20, 40), (40, 12)])
def test_decode_fits_other_shapes(
    shape: tuple[int, int], photos: str, bare: Page, tmp_path: Path
) -> None:
    data = encoded(photo(noise=5))
    picture = np.reshape(decode(bare, data, shape, photos)["picture"], shape)
    np.testing.assert_array_equal(picture, as_seen(data, tmp_path, shape, photos))


@pytest.mark.parametrize("name", REFUSED)
def test_decode_refuses(name: str, bare: Page) -> None:
    data, _, code = REFUSED[name]
    assert decode(bare, data)["refused"]["code"] == code


def test_decode_takes_cmyk(bare: Page, tmp_path: Path) -> None:
    data = encoded(photo().convert("CMYK"), "JPEG")
    picture = np.reshape(decode(bare, data)["picture"], (28, 28))
    assert abs(picture - as_seen(data, tmp_path)).max() <= 8  # decoders may convert otherwise


def test_strip_click_shows_picture_bars_and_label(page: Page) -> None:
    page.click("#strip button:nth-child(2)")
    expect(page.locator("#result")).to_have_text(re.compile(r"^Pullover, \d+\.\d%$"))
    expect(page.locator("#details")).to_contain_text("That is its label too. Network:")
    picture = labelled()[0][1]
    np.testing.assert_array_equal(seen(page), picture)
    np.testing.assert_allclose(shares(page) / 100, network().predict(picture), atol=2e-6)


def test_page_by_keyboard_alone(page: Page) -> None:
    stops = []
    for _ in range(3):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert stops[1:] == ["tab-tests", "Test picture 1: Ankle boot"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Test picture 2: Pullover"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    expect(page.locator("#result")).to_contain_text("Pullover")
    page.focus("#tab-tests")
    page.keyboard.press("End")
    expect(page.locator("#tests")).to_be_hidden()
    page.focus("#sketch")
    for key, times in [("Space", 1), ("ArrowDown", 20), ("ArrowRight", 8), ("Space", 1)]:
        for _ in range(times):
            page.keyboard.press(key)
    expect(page.locator("#details")).to_contain_text("network: ")
    assert seen(page).max() > 150


def test_photo_is_named_and_text_refused_however_handed_over(page: Page, tmp_path: Path) -> None:
    data = encoded(photo(noise=5))
    choose(page, data)
    expect(page.locator("#details")).to_contain_text("Picture:")
    np.testing.assert_array_equal(seen(page), as_seen(data, tmp_path))
    answer = network().predict(seen(page).astype(np.uint8))
    np.testing.assert_allclose(shares(page) / 100, answer, atol=2e-6)
    data = encoded(photo(outline="trousers"), "JPEG")
    for event in ("drop", "paste"):
        hand_over(page, event)
        expect(page.locator("#error")).to_have_text(
            "There is no picture in what was dropped or pasted."
        )
        hand_over(page, event, data)
        expect(page.locator("#details")).to_contain_text("Picture:")
        expect(page.locator("#error")).to_be_hidden()
        assert abs(seen(page) - as_seen(data, tmp_path)).max() <= 1


def test_what_can_not_be_read_is_refused(page: Page, tmp_path: Path) -> None:
    (tmp_path / "gone.png").write_bytes(encoded(photo()))
    page.evaluate("document.body.append(Object.assign(document.createElement('input'), "
                  "{ type: 'file', id: 'gone' }))")  # fmt: skip
    page.set_input_files("#gone", tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    page.evaluate("""() => {
      const transfer = new DataTransfer();
      transfer.items.add(document.getElementById("gone").files[0]);
      const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
      document.body.dispatchEvent(new DragEvent("drop", options));
    }""")
    says = "This can't be read: it is a folder, or the file is gone."
    expect(page.locator("#error")).to_have_text(says)
    page.evaluate("document.getElementById('gone').remove()")


@pytest.fixture
def loading(blank: Page, address: str) -> tuple[Page, Route]:
    """A page whose network is held back, and what lets it come."""
    held: list[Route] = []
    blank.route("**/model.onnx", lambda route: held.append(route))
    blank.goto(address)
    expect(blank.locator("#details")).to_contain_text("MB")
    return blank, held[0]


def test_a_drop_of_text_stays_refused_when_the_network_has_loaded(
    loading: tuple[Page, Route],
) -> None:
    page, held = loading
    hand_over(page, "paste")
    expect(page.locator("#error")).to_contain_text("There is no picture")
    held.continue_()
    expect(page.locator("html")).to_have_attribute("data-ready", "")
    expect(page.locator("#error")).to_contain_text("There is no picture")


def test_error_stands_alone_and_goes_with_the_next_answer(page: Page) -> None:
    choose(page, b"not a picture")
    error = page.locator("#error")
    expect(error).to_have_text("This is not a PNG, JPEG, WebP, GIF or BMP picture.")
    assert error.get_attribute("role") == "alert"
    assert shares(page).sum() == 0
    expect(page.locator("#result")).to_have_text("")
    choose(page, encoded(photo()))
    expect(page.locator("#result")).to_contain_text("%")
    expect(error).to_be_hidden()


def test_page_answers_while_a_photo_of_50_megapixels_is_decoded(page: Page) -> None:
    choose(page, encoded(photo((8000, 6250), "shoe"), "JPEG"))
    page.click("#tab-tests")
    page.click("#strip button:nth-child(1)")
    expect(page.locator("#details")).to_contain_text("label")
    page.wait_for_timeout(3000)  # the photo's late answer must not replace the newer one
    expect(page.locator("#details")).to_contain_text("label")


def test_of_several_photos_the_first_is_named_and_the_others_are_counted(page: Page) -> None:
    photos = [encoded(photo(outline=it)) for it in ("trousers", "shoe", "shirt")]
    hand_over(page, "drop", *photos)
    expect(page.locator("#result")).to_contain_text("Trouser")
    says = re.compile("^Only the first of 3 photos was used[.] Picture: ")
    expect(page.locator("#details")).to_have_text(says)
    hand_over(page, "drop", photos[0])
    expect(page.locator("#details")).to_have_text(re.compile("^Picture: "))


def test_what_is_no_picture_takes_the_place_of_a_photo_that_is_being_read(page: Page) -> None:
    hand_over(page, "drop", encoded(photo()))
    expect(page.locator("#preview")).to_be_visible()
    hand_over(page, "drop", encoded(photo((4000, 4000), "shoe"), "JPEG"))
    hand_over(page, "drop")
    expect(page.locator("#preview")).to_be_hidden()
    page.wait_for_timeout(2000)  # its late answer must not replace the error
    expect(page.locator("#error")).to_contain_text("There is no picture")


def draw(page: Page) -> None:
    page.click("#tab-drawing")
    scribble(page, OUTLINE)


def scribble(page: Page, outline: Sequence[tuple[float, float]]) -> None:
    """Draw a line through points in 0…1 of the canvas."""
    box = page.locator("#sketch").bounding_box()
    assert box
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in outline]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points:
        page.mouse.move(*point)
    page.mouse.up()


def test_drawing_is_named_and_undone_without_further_requests(page: Page) -> None:
    later: list[str] = []
    page.on("request", lambda request: later.append(request.url))
    draw(page)
    expect(page.locator("#result")).to_contain_text("T-shirt/top")
    assert seen(page)[14, 14] > 150  # filled
    page.click("#undo")
    expect(page.locator("#result")).to_have_text("Choose a picture")
    assert seen(page).max() == 0
    page.uncheck("#filled")
    draw(page)
    expect(page.locator("#details")).to_contain_text("network: ")
    assert seen(page)[16, 14] == 0
    page.click("#clear")
    expect(page.locator("#result")).to_have_text("Choose a picture")
    assert later == []


def test_altered_canvas_is_reported(page: Page) -> None:
    page.evaluate(
        """() => {
          const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;
          OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...area) {
            const image = read.apply(this, area);
            image.data[40] ^= 1;
            return image;
          };
        }"""
    )
    draw(page)
    expect(page.locator("#error")).to_contain_text("This browser alters what a page reads")


def test_language_is_switched_and_remembered(page: Page) -> None:
    page.click("#strip button:nth-child(2)")
    page.click("text=Русский")
    expect(page.locator("#result")).to_have_text(re.compile(r"^свитер, \d+,\d\s%$"))
    assert page.evaluate("document.documentElement.lang") == "ru"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("h1")).to_have_text("Что это?")
    expect(page.locator("#bars li:nth-child(10) span:first-child")).to_have_text("ботинки")


def test_strings_are_the_same_in_both_languages(page: Page) -> None:
    strings = page.evaluate("import('./strings.js').then(({ STRINGS }) => STRINGS)")
    gaps = [
        {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in strings[language].items()}
        for language in ("en", "ru")
    ]
    assert gaps[0] == gaps[1]


@pytest.mark.parametrize(
    ("width", "locale"), [(320, "en"), (320, "ru-RU"), (390, "en"), (1280, "en")]
)
def test_layout_fits_the_screen_in_the_browsers_language_and_the_card_keeps_its_height(
    width: int, locale: str, open_page: Opener
) -> None:
    page = open_page(width, 740, locale=locale, has_touch=width < 400, is_mobile=width < 400)
    expect(page.locator("html")).to_have_attribute("lang", locale[:2])
    heights = set()
    for tab in TABS:
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        box = page.locator(".card").first.bounding_box()
        assert box
        heights.add(box["height"])
    assert len(heights) == 1
    page.click("#sketch")
    expect(page.locator("#result")).to_contain_text("%")


def test_missing_file_is_named_in_one_line(blank: Page, address: str) -> None:
    blank.route("**/model.onnx", lambda route: route.fulfill(status=404))
    blank.goto(address)
    error = blank.locator("#error")
    expect(error).to_contain_text("A file of the page can't be loaded: /web/vendor/model.onnx: 404")
    expect(error).to_contain_text("`make page`")
    blank.unroute("**/model.onnx")
    blank.click("#strip button:nth-child(1)")  # the next question tries again
    expect(blank.locator("#result")).to_have_text(re.compile(r"^Ankle boot, "))


def test_what_is_asked_while_the_network_loads_is_kept_and_answered(
    loading: tuple[Page, Route], tmp_path: Path
) -> None:
    page, held = loading
    page.click("#strip button:nth-child(2)")
    expect(page.locator("#result")).to_have_text("Loading the network…")
    expect(page.locator("#details")).to_have_text(re.compile(r"^\d+\.\d of \d\d\.\d MB$"))
    data = encoded(photo(noise=5))
    choose(page, data)
    expect(page.locator("#preview")).to_be_visible()
    np.testing.assert_array_equal(seen(page), as_seen(data, tmp_path))
    assert page.get_attribute("html", "data-ready") is None
    held.continue_()
    expect(page.locator("#details")).to_contain_text("Picture:")
    np.testing.assert_array_equal(seen(page), as_seen(data, tmp_path))


def test_undecided_answer_names_both_classes(page: Page) -> None:
    names, sure, undecided = network().names["en"], 0, 0
    for number, picture in enumerate(labelled()[0][:60]):  # those that the page shows
        row = network().predict(picture)
        first, second = np.argsort(-row)[:2]
        if row[first] < 2 * row[second]:
            undecided += 1
            page.click(f"#strip button:nth-child({number + 1})")
            expect(page.locator("#result")).to_have_text(f"{names[first]} or {names[second]}")
            expect(page.locator("#details")).to_contain_text("Undecided: ")
        elif sure < 5:
            sure += 1
            page.click(f"#strip button:nth-child({number + 1})")
            expect(page.locator("#result")).to_have_text(re.compile(rf"^{names[first]}, [\d.]+%$"))
    assert sure and undecided


def test_odd_photos_and_drawings_get_a_warning_and_no_others(page: Page) -> None:
    warning = page.locator("#warning")
    choose(page, encoded(shaded()))
    expect(warning).to_have_text(re.compile(r"^The background is not plain: \d\d% of the photo's"))
    choose(page, encoded(photo(noise=5)))
    expect(page.locator("#details")).to_contain_text("Picture:")
    expect(warning).to_be_hidden()
    page.click("#tab-drawing")
    page.uncheck("#filled")
    scribble(page, [(0.2, 0.2), (0.8, 0.25), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)])
    expect(warning).to_contain_text("This hardly resembles any picture")
    page.click("#clear")
    expect(warning).to_be_hidden()
    page.check("#filled")
    draw(page)
    expect(page.locator("#result")).to_contain_text("T-shirt/top")
    expect(warning).to_be_hidden()


def test_likeness_is_the_cosine_to_the_nearest_average(page: Page) -> None:
    images = np.fromfile("data/raw/train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 784)
    labels = np.fromfile("data/raw/train-labels-idx1-ubyte", np.uint8)[8:]
    means = np.array([np.rint(images[labels == label].mean(axis=0)) for label in range(10)])
    cosines = images[:50] @ means.T / np.linalg.norm(means, axis=1)
    cosines /= np.linalg.norm(images[:50].astype(float), axis=1)[:, None]
    found = page.evaluate(
        """async (pictures) => {
          const { likeness, loadAbout } = await import("./classify.js");
          const about = await loadAbout();
          return pictures.map((picture) => likeness(about, Uint8Array.from(picture)));
        }""",
        images[:50].tolist(),
    )
    np.testing.assert_allclose(found, cosines.max(axis=1), rtol=1e-9)


def test_measure_leaves_each_picture_out_of_its_average() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3, dtype=np.uint8), [100, 50, 1])
    images = random.integers(0, 80, (151, 12)).astype(np.uint8)
    images[np.arange(151), labels] += 150
    nearest = []
    for number, image in enumerate(images.astype(float)):
        rest = np.arange(151) != number
        groups = [images[rest & (labels == label)] for label in range(3)]
        means = [group.mean(axis=0) for group in groups if len(group)]
        nearest.append(max(it @ image / np.sqrt((it @ it) * (image @ image)) for it in means))
    averages, least = prepare.measure(images, labels)
    assert least == round(float(np.quantile(nearest, 0.01)), 3)
    np.testing.assert_array_equal(averages[1], np.rint(images[labels == 1].mean(axis=0)))
    assert prepare.measure(images[:99], labels[:99])[1] == 0  # too few to tell


def test_prepare_that_fails_keeps_the_page_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "VENDOR", tmp_path / "vendor")
    monkeypatch.setattr(prepare, "COPIED", {"model.onnx": tmp_path / "missing"})
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor/page.json").write_text("{}")
    assert prepare.main() == 1
    assert [path.name for path in (tmp_path / "vendor").iterdir()] == ["page.json"]


def test_prepare_refuses_data_that_the_model_was_not_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in prepare.RAW.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(prepare, "VENDOR", tmp_path / "vendor")
    monkeypatch.setattr(prepare, "RAW", tmp_path)
    assert prepare.main() == 1
    assert re.match(
        r"page: data/raw/\S+: expected the file that .*; `make`", capsys.readouterr().err
    )
    assert not (tmp_path / "vendor").exists()


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://example.com/a/b.git", "https://example.com/a/b"),
        ("https://user:secret@example.com/a/b", "https://example.com/a/b"),
        ("git@example.com:a/b.git", "https://example.com/a/b"),
        ("ssh://git@example.com/a/b.git", "https://example.com/a/b"),
        ("/home/someone/clone", "page.js"),
        ("", "page.js"),
    ],
)
def test_source_is_where_this_was_cloned_from_without_secrets(
    origin: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    if origin:
        subprocess.run(["git", "remote", "add", "origin", origin], cwd=tmp_path, check=True)
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    assert prepare.source_address() == address


def test_accuracy_and_card_are_the_models_own(page: Page) -> None:
    metadata = network().session.get_modelmeta().custom_metadata_map
    right = round(100 * float(metadata["test_accuracy"]))
    expect(page.locator("#about")).to_contain_text(f"right on {right} of 100 test pictures")
    expect(page).to_have_title(f"What is this? · {metadata['dataset']}")
    page.click("summary")
    expect(page.locator("#card")).to_contain_text(metadata["test_accuracy"])
    assert re.fullmatch(r"https://.+|page\.js", page.get_attribute("#source", "href") or "")


@pytest.mark.parametrize(("accuracy", "says"), [(0.0, True), (1.0, True), (None, False)])
def test_any_accuracy_that_was_measured_is_said(
    accuracy: float | None, says: bool, copied: tuple[Path, str], blank: Page
) -> None:
    folder, address = copied
    about = json.loads((folder / "vendor/page.json").read_text(encoding="utf-8"))
    (folder / "vendor/page.json").write_text(json.dumps({**about, "accuracy": accuracy}))
    blank.goto(address)
    expect(blank.locator("#about")).to_contain_text("It runs in this browser")
    said = blank.get_by_text(f"It is right on {100 * (accuracy or 0):.0f} of 100 test pictures.")
    assert said.count() == says


def test_of_many_classes_the_most_probable_have_bars(copied: tuple[Path, str], blank: Page) -> None:
    folder, address = copied
    text = "rising (uint8[N, 784] image) => (float[N, 30] probabilities) {"
    text += "pixels = Cast<to = 1>(image) values = MatMul(pixels, weights) "
    text += "probabilities = Softmax(values) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {text}')
    weights = np.tile(np.arange(30, dtype=np.float32) / 1e6, (784, 1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    onnx.save(model, folder / "vendor/model.onnx")
    about = json.loads((folder / "vendor/page.json").read_text(encoding="utf-8"))
    about["bytes"]["model.onnx"] = (folder / "vendor/model.onnx").stat().st_size
    about["classes"] = {"en": (names := [f"class {number}" for number in range(30)])}
    (folder / "vendor/page.json").write_text(json.dumps(about))
    blank.goto(address)
    bars = blank.locator("#bars li:visible span:first-child")
    expect(bars).to_have_text(names[:20])
    blank.click("#strip button:nth-child(1)")
    expect(bars).to_have_text(names[10:])


VENDORED = ("page.json", "averages.bin", "pictures.bin", "model.onnx", "onnxruntime.js",
            "onnxruntime.wasm")  # fmt: skip
CUT_OFF = {f"vendor/{name}": ("#error", f"vendor/{name}: ") for name in VENDORED}
CUT_OFF |= dict.fromkeys(("page.js", "strings.js"), ("#result", "The page's scripts are cut off"))


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_file_that_is_cut_off_is_reported(
    name: str, copied: tuple[Path, str], blank: Page
) -> None:
    (folder, address), (place, says) = copied, CUT_OFF[name]
    os.truncate(folder / name, (folder / name).stat().st_size // 2)
    blank.goto(address)
    expect(blank.locator(place)).to_contain_text(says)


def test_another_network_is_shown_although_the_old_one_is_in_the_browsers_cache(
    copied: tuple[Path, str], browser: Browser
) -> None:
    folder, address = copied
    path = folder / "vendor/page.json"
    context = browser.new_context(locale="en")
    for month, name in enumerate(("Fashion-MNIST", "Shapes")):
        path.write_text(path.read_text(encoding="utf-8").replace("Fashion-MNIST", name))
        os.utime(path, (1e9 + 1e6 * month,) * 2)  # long ago: browsers keep such a file for months
        page = context.new_page()
        page.goto(address)
        expect(page).to_have_title(f"What is this? · {name}")
    context.close()


def test_without_scripts_the_page_says_so_and_shows_nothing_else(
    browser: Browser, address: str
) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    expect(page.locator("noscript")).to_be_visible()
    expect(page.locator("main")).to_be_hidden()
    page.close()


def test_bars_are_seen_where_the_system_sets_the_colours(open_page: Opener) -> None:
    page = open_page(forced_colors="active")
    page.click("#strip button:nth-child(1)")
    bars = page.eval_on_selector_all(
        "#bars .best i, #bars .best div",
        "bars => bars.map((bar) => getComputedStyle(bar).backgroundColor)",
    )
    assert len(set(bars)) == 2


TYPES = {"text/plain": "The server sends page.js as text/plain; browsers run text/javascript alone"}
TYPES["none"] = "The page's scripts can't be loaded; it needs a web server"


@pytest.mark.parametrize("kind", TYPES)
def test_scripts_of_a_wrong_type_or_missing_are_reported(
    kind: str, blank: Page, address: str
) -> None:
    reply = {"status": 404} if kind == "none" else {"content_type": kind, "body": "1"}
    blank.route("**/page.js", lambda route: route.fulfill(**reply))
    blank.goto(address)
    expect(blank.locator("#result")).to_contain_text(TYPES[kind])


def test_missing_worker_is_reported(blank: Page, address: str) -> None:
    blank.route("**/decode.js", lambda route: route.fulfill(status=404))
    blank.goto(address)
    blank.wait_for_selector("html[data-ready]")
    choose(blank, encoded(photo()))
    expect(blank.locator("#error")).to_contain_text("decode.js, which reads photos")


def test_classify_is_a_module_for_other_pages(blank: Page, address: str) -> None:
    types = (WEB / "classify.d.ts").read_text(encoding="utf-8")
    blank.goto(address.replace("/web/", "/photos/"))  # another page of the same server
    answer = blank.evaluate(
        """async () => {
          const module = await import("/web/classify.js");
          const photo = await (await fetch("/photos/boot.png")).blob();
          const answer = await module.classify(photo, "ru");
          const refused = await module.classify(new Blob(["text"])).catch((error) => error);
          return { ...answer, picture: [...answer.picture], exports: Object.keys(module),
            refused: [refused instanceof module.Refused, refused.code] };
        }"""
    )
    assert set(re.findall(r"export (?:function|class) (\w+)", types)) <= set(answer.pop("exports"))
    assert answer.pop("refused") == [True, "notPicture"]
    (fields,) = re.findall(r"interface Answer {(.*?)^}", types, re.S | re.M)
    assert set(re.findall(r"^  (\w+):", fields, re.M)) == set(answer)
    photos = predict.name_photo(network(), Path("consumers/photos/boot.png"), "ru", None)
    assert answer["name"] == photos["class"]
    assert answer["probability"] == pytest.approx(photos["probability"], abs=5e-6)
    assert [row["name"] for row in answer["classes"]] == list(photos["probabilities"])


def test_snippet_of_readme_names_a_photo(blank: Page, address: str) -> None:
    readme = (WEB.parent / "README.md").read_text(encoding="utf-8")
    (html,) = re.findall(r"```html\n(.*?)```", readme, re.S)
    blank.route("**/mine.html", lambda route: route.fulfill(content_type="text/html", body=html))
    blank.goto(address.replace("/web/", "/mine.html"))
    blank.set_input_files("input", WEB.parent / "photos/boot.png")
    expect(blank.locator("p")).to_have_text(re.compile(r"^Ankle boot, 0\.82"))


def test_what_is_touched_measures_44_pixels(open_page: Opener) -> None:
    page = open_page(390, 844, has_touch=True, is_mobile=True)
    sizes: dict[str, float] = {}
    for tab in TABS:
        page.tap(f"#tab-{tab}")
        sizes |= page.evaluate(
            """() => Object.fromEntries(
              [...document.querySelectorAll("button, a, summary, label, canvas[tabindex]")]
                .filter((one) => one.checkVisibility({ visibilityProperty: true }))
                .map((one) => [one.outerHTML, one.getBoundingClientRect()])
                .map(([html, { width, height }]) => [html, Math.min(width, height)]))"""
        )
    assert len(sizes) > 60
    assert {html: size for html, size in sizes.items() if size < 44} == {}


def test_nothing_black_is_shown_while_there_is_no_picture(page: Page) -> None:
    for fault in (False, True):
        if fault:
            choose(page, b"not a picture")
            expect(page.locator("#error")).to_be_visible()
        assert canvas(page).max() == 0  # transparent
        ground = page.evaluate(
            "getComputedStyle(document.querySelector('#picture')).backgroundColor"
        )
        assert min(int(value) for value in re.findall(r"\d+", ground)) > 200


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en"), ("dark", "ru-RU")])
def test_axe_finds_nothing(scheme: str, locale: str, open_page: Opener) -> None:
    page = open_page(390, 844, color_scheme=scheme, locale=locale, bypass_csp=True)
    page.add_script_tag(path=WEB / "node_modules/axe-core/axe.min.js")
    page.click("summary")
    faults = audit(page)
    page.click("#strip button:nth-child(1)")
    faults += audit(page)
    choose(page, encoded(shaded()))
    expect(page.locator("#warning")).to_be_visible()
    faults += audit(page)
    choose(page, b"not a picture")
    expect(page.locator("#error")).to_be_visible()
    faults += audit(page)
    draw(page)
    faults += audit(page)
    assert faults == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_in_the_report(
    scheme: Literal["light", "dark"], width: int, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(build(Path()), encoding="utf-8")
    page = browser.new_page(
        bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 800}
    )
    page.goto(f"file://{tmp_path}/report.html")
    page.add_script_tag(path=WEB / "node_modules/axe-core/axe.min.js")
    assert audit(page) == []
    page.close()


def audit(page: Page) -> list[str]:
    """Run axe-core: each fault with its place."""
    page.wait_for_timeout(300)  # the bars are animated
    found: list[str] = page.evaluate(
        """async () => {
          const { violations } = await axe.run();
          return violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
        }"""
    )
    return found


# What consumers/PHOTOS.md says was measured: printed by `make test-web`.


def on_paper(image: np.ndarray, ground: np.ndarray) -> Image.Image:
    """Enlarge a picture ten times and lay it, dark, in the middle of a background (500, 450, 3)."""
    large = Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC)
    mask = Image.fromarray(np.where(image > 12, 255, 0).astype(np.uint8)).resize((280, 280))
    paper = Image.fromarray(ground.astype(np.uint8))
    paper.paste(large.convert("RGB"), (85, 110), mask)
    return paper


def grounds() -> dict[str, list[np.ndarray]]:
    """Backgrounds: white, light that falls off to one side, parts of photos."""
    white = np.full((500, 450, 3), 255.0)
    random = np.random.default_rng(0)
    photos = []
    for name in ("china.jpg", "flower.jpg"):
        source = load_sample_image(name)  # of scikit-learn
        for _ in range(10):
            top, left = random.integers(0, 147), random.integers(0, 220)
            cut = Image.fromarray(source[top : top + 280, left : left + 420])
            photos.append(np.asarray(cut.resize((450, 500))))
    fall = {
        f"light falling off by {percent} %": [
            white * np.linspace(1, 1 - percent / 100, 450)[:, None]
        ]
        for percent in (5, 10, 20)
    }
    return {"white": [white], **fall, "parts of photos": photos}


@pytest.mark.parametrize("kind", grounds())
def test_busy_backgrounds_get_a_warning(kind: str) -> None:
    backgrounds = grounds()[kind]
    warned = right = 0
    for number, (image, label) in enumerate(zip(*(it[:100] for it in labelled()), strict=True)):
        paper = on_paper(image, backgrounds[number % len(backgrounds)])
        picture, edge = predict.see(paper, (28, 28), "trimmed")
        warned += edge > predict.BUSY
        right += network().predict(picture).argmax() == label
    print(f"background, {kind}: {right} of 100 right, {warned} warnings")
    if kind == "white":
        assert warned == 0
    elif right < 50:
        assert warned > 80


def outlines(image: np.ndarray) -> Image.Image:
    """Draw along the edge of what is on a picture, with a pen of the page's width."""
    mask = Image.fromarray(np.where(image > 40, 255, 0).astype(np.uint8)).resize((112, 112))
    wide, narrow = (np.asarray(mask.filter(it(7))) > 127 for it in (MaxFilter, MinFilter))
    line = np.where(wide & ~narrow, 51, 255).astype(np.uint8)
    return Image.fromarray(line).resize((560, 560))


def letter(number: int) -> Image.Image:
    image = Image.new("L", (560, 560), 255)
    font = ImageFont.truetype(findfont("DejaVu Sans"), 420)
    ImageDraw.Draw(image).text((120, 60), chr(ord("A") + number % 26), 51, font)
    return image


def lines(number: int) -> Image.Image:
    """A scribble of three straight lines."""
    image = Image.new("L", (560, 560), 255)
    points = np.random.default_rng(number).uniform(60, 500, (4, 2))
    ImageDraw.Draw(image).line([tuple(point) for point in points], fill=51, width=32)
    return image


def test_drawings_unlike_the_training_pictures_get_a_warning() -> None:
    images, _ = labelled()
    white = grounds()["white"][0]
    drawn = {
        "test pictures on white": [on_paper(image, white) for image in images[:100]],
        "their outlines": [outlines(image) for image in images[:100]],
        "letters": [letter(number) for number in range(26)],
        "three lines": [lines(number) for number in range(100)],
    }
    made = {kind: np.array([predict.to_picture(it) for it in them]) for kind, them in drawn.items()}
    averages = np.fromfile(WEB / "vendor/averages.bin", np.uint8).reshape(-1, 784).astype(float)
    averages /= np.linalg.norm(averages, axis=1, keepdims=True)
    least = json.loads((WEB / "vendor/page.json").read_text(encoding="utf-8"))["least"]
    shares = {}
    for kind, pictures in {"test pictures": images, **made}.items():
        flat = pictures.reshape(len(pictures), -1).astype(float)
        cosines = flat @ averages.T / np.linalg.norm(flat, axis=1, keepdims=True)
        warned = int((cosines.max(axis=1) < least).sum())
        print(f"unlike, {kind}: {warned:,} of {len(pictures):,} get a warning")
        shares[kind] = warned / len(pictures)
    assert max(shares["test pictures"], shares["test pictures on white"]) < 0.03
    assert min(shares["their outlines"], shares["three lines"]) > 0.4


def test_undecided_answers_are_right_half_of_the_time() -> None:
    images, labels = labelled()
    rows = np.array([network().predict(image) for image in images])
    order = np.argsort(-rows, axis=1)
    first, second = (np.take_along_axis(rows, order, axis=1)[:, i] for i in (0, 1))
    undecided, right = first < 2 * second, order[:, 0] == labels
    both = right | (order[:, 1] == labels)
    print(
        f"undecided: {undecided.sum():,} of 10,000; right {right[undecided].mean():.2f}, "
        f"one of the two {both[undecided].mean():.2f}; "
        f"the others right {right[~undecided].mean():.2f}"
    )
    assert right[undecided].mean() < 0.6 < 0.9 < right[~undecided].mean()


def test_photos_of_test_pictures_come_back_as_their_class() -> None:
    """1,000 test pictures, enlarged, negated, on white: nearly as many right as there were."""
    images, labels = (it[:1000] for it in labelled())
    plain, through = [], []
    for image in images:
        plain.append(network().predict(image).argmax())
        large = Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC)
        paper = Image.new("L", (450, 500), 255)
        paper.paste(large, (85, 110))
        through.append(network().predict(predict.to_picture(paper)).argmax())
    right, of = (int((np.array(found) == labels).sum()) for found in (through, plain))
    print(f"photos of test pictures: {right} of 1,000 right; the pictures themselves: {of}")
    assert right >= of - 25
