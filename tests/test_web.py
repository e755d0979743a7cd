"""consumers/web: the page in real Chromium, and that it sees what predict.py sees.

`make test-web` prepares the page and runs these.
"""

from __future__ import annotations

import base64
import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from consumers.python import predict
from tests.photos import all_photos, encoded, odd_photos, photo, refused_photos

pytestmark = pytest.mark.web

WEB = Path("consumers/web")
REFUSED = refused_photos()
OUTLINE = [(0.35, 0.15), (0.15, 0.3), (0.22, 0.45), (0.32, 0.38), (0.32, 0.85), (0.68, 0.85)]
OUTLINE += [(0.68, 0.38), (0.78, 0.45), (0.85, 0.3), (0.65, 0.15), (0.5, 0.2), (0.35, 0.15)]


class Quiet(SimpleHTTPRequestHandler):
    """Serves without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the page under a path of its own, as any static server would."""
    handler = functools.partial(Quiet, directory=str(WEB.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/web/"
    server.shutdown()


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
def page(open_page: Opener) -> Page:
    return open_page()


@pytest.fixture(scope="module")
def bare(browser: Browser, address: str) -> Iterator[Page]:
    """Open a page to run decode.js in, the page's worker."""
    page = browser.new_page()
    page.goto(address)
    page.evaluate("window.worker = new Worker('decode.js', {type: 'module'})")
    yield page
    page.close()


def decode(page: Page, data: bytes, shape: Sequence[int] = (28, 28)) -> dict[str, Any]:
    """Let the page's worker read a photo: {picture} or {refused}."""
    answer: dict[str, Any] = page.evaluate(
        """async ([data, shape]) => {
          const file = new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]);
          const answer = new Promise((done) => (worker.onmessage = (event) => done(event.data)));
          worker.postMessage({ id: 1, file, shape });
          const { picture, refused } = await answer;
          return { picture: picture && [...picture], refused };
        }""",
        [base64.b64encode(data).decode(), shape],
    )
    return answer


def expected(data: bytes, folder: Path, shape: tuple[int, int] = (28, 28)) -> np.ndarray:
    """Read a photo by predict.py: int64 of a shape."""
    (folder / "photo").write_bytes(data)
    return predict.to_picture(predict.read_photo(folder / "photo"), shape).astype(np.int64)


def choose(page: Page, data: bytes, name: str = "photo.png") -> None:
    page.click("#tab-photo")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def hand_over(page: Page, event: str, data: bytes | None) -> None:
    """Drop or paste a file, or text where there is none."""
    page.evaluate(
        """([name, data]) => {
          const transfer = new DataTransfer();
          if (data === null) transfer.setData("text/plain", "a shirt");
          else {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], "photo.png"));
          }
          const options = { bubbles: true, cancelable: true };
          const event = name === "paste"
            ? new ClipboardEvent(name, { ...options, clipboardData: transfer })
            : new DragEvent(name, { ...options, dataTransfer: transfer });
          document.body.dispatchEvent(event);
        }""",
        [event, None if data is None else base64.b64encode(data).decode()],
    )


def seen(page: Page) -> np.ndarray:
    """Read the 28×28 picture that the page shows."""
    data = page.evaluate(
        """() => {
          const copy = new OffscreenCanvas(28, 28).getContext("2d");
          copy.drawImage(document.querySelector("#picture"), 0, 0);
          return [...copy.getImageData(0, 0, 28, 28).data];
        }"""
    )
    return np.array(data).reshape(28, 28, 4)[..., 0]


def shares(page: Page) -> np.ndarray:
    """Read the ten probabilities from the bars' widths."""
    return np.array(
        page.eval_on_selector_all("#bars i", "bars => bars.map(b => parseFloat(b.style.width))")
    )


def network(picture: np.ndarray) -> np.ndarray:
    """Run onnxruntime outside the browser: probabilities (10,)."""
    return predict.Network(predict.MODEL).predict(picture.astype(np.uint8))


@pytest.mark.parametrize("photos", [all_photos, odd_photos])
def test_decode_sees_what_predict_sees(
    photos: Callable[[], dict[str, bytes]], bare: Page, tmp_path: Path
) -> None:
    differing = {}
    for name, data in photos().items():
        answer = decode(bare, data)
        try:
            picture = expected(data, tmp_path)
        except ValueError as error:
            if not answer["refused"]:
                differing[name] = f"refused by predict.py: {error}"
            continue
        if answer["refused"]:
            differing[name] = f"refused by the page: {answer['refused']['code']}"
        elif (distance := abs(np.reshape(answer["picture"], (28, 28)) - picture).max()) > 1:
            differing[name] = f"{distance} levels apart"
    assert differing == {}


@pytest.mark.parametrize("shape", [(32, 32), (20, 40), (40, 12)])
def test_decode_fits_other_shapes(shape: tuple[int, int], bare: Page, tmp_path: Path) -> None:
    data = encoded(photo(noise=5))
    picture = np.reshape(decode(bare, data, shape)["picture"], shape)
    np.testing.assert_array_equal(picture, expected(data, tmp_path, shape))


@pytest.mark.parametrize("name", REFUSED)
def test_decode_refuses(name: str, bare: Page) -> None:
    data, _, code = REFUSED[name]
    assert decode(bare, data)["refused"]["code"] == code


def test_decode_takes_cmyk(bare: Page, tmp_path: Path) -> None:
    data = encoded(photo().convert("CMYK"), "JPEG")
    picture = np.reshape(decode(bare, data)["picture"], (28, 28))
    assert abs(picture - expected(data, tmp_path)).max() <= 8  # decoders may convert otherwise


def test_strip_click_shows_picture_bars_and_label(page: Page) -> None:
    page.click("#strip button:nth-child(2)")
    expect(page.locator("#result")).to_have_text(re.compile(r"^Pullover, \d+\.\d%$"))
    expect(page.locator("#details")).to_contain_text("That is its label too. Network:")
    raw = np.fromfile("data/raw/t10k-images-idx3-ubyte", np.uint8, count=16 + 2 * 784)[16 + 784 :]
    np.testing.assert_array_equal(seen(page), raw.reshape(28, 28))
    np.testing.assert_allclose(shares(page) / 100, network(raw), atol=2e-6)


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
    expect(page.locator("#result")).to_contain_text("%")
    assert seen(page).max() > 150


def test_photo_is_named_and_text_refused_however_handed_over(page: Page, tmp_path: Path) -> None:
    data = encoded(photo(noise=5))
    choose(page, data)
    expect(page.locator("#details")).to_contain_text("Picture:")
    np.testing.assert_array_equal(seen(page), expected(data, tmp_path))
    np.testing.assert_allclose(shares(page) / 100, network(seen(page)), atol=2e-6)
    data = encoded(photo(outline="trousers"), "JPEG")
    for event in ("drop", "paste"):
        hand_over(page, event, None)
        expect(page.locator("#error")).to_have_text(
            "There is no picture in what was dropped or pasted."
        )
        hand_over(page, event, data)
        expect(page.locator("#details")).to_contain_text("Picture:")
        expect(page.locator("#error")).to_be_hidden()
        assert abs(seen(page) - expected(data, tmp_path)).max() <= 1


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


def draw(page: Page) -> None:
    page.click("#tab-drawing")
    box = page.locator("#sketch").bounding_box()
    assert box
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in OUTLINE]
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
    expect(page.locator("#result")).to_contain_text("%")
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


@pytest.mark.parametrize("locale", ["en", "ru-RU"])
def test_layout_fits_a_phone_in_the_browsers_language(locale: str, open_page: Opener) -> None:
    page = open_page(320, 740, locale=locale, has_touch=True, is_mobile=True)
    expect(page.locator("html")).to_have_attribute("lang", locale[:2])
    for tab in ("tests", "photo", "drawing"):
        page.tap(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.tap("#sketch")
    expect(page.locator("#result")).to_contain_text("%")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_card(scheme: str, open_page: Opener) -> None:
    page = open_page(color_scheme=scheme)
    ink, ground = (
        [int(value) for value in re.findall(r"\d+", page.evaluate(f"getComputedStyle({what}"))]
        for what in (
            "document.querySelector('.hint')).color",
            "document.querySelector('.card')).backgroundColor",
        )
    )
    assert contrast(ink, ground) >= 4.5  # WCAG 2, level AA


def contrast(*colours: list[int]) -> float:
    """Contrast ratio of two sRGB colours, as WCAG 2 defines it."""
    values = np.array([colour[:3] for colour in colours]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    lights = linear @ [0.2126, 0.7152, 0.0722]
    return float((lights.max() + 0.05) / (lights.min() + 0.05))


def test_missing_file_is_named_in_one_line(browser: Browser, address: str) -> None:
    page = browser.new_page(locale="en")
    page.route("**/fashion_mlp.onnx", lambda route: route.fulfill(status=404))
    page.goto(address)
    expect(page.locator("#error")).to_contain_text("The network can't be loaded: ")
    expect(page.locator("#error")).to_contain_text("`make page`")
    page.close()


def test_photos_of_test_pictures_come_back_as_their_class() -> None:
    """1,000 test pictures, enlarged, negated, on white: nearly as many right as there were."""
    images = np.fromfile("data/raw/t10k-images-idx3-ubyte", np.uint8, count=16 + 784_000)[16:]
    labels = np.fromfile("data/raw/t10k-labels-idx1-ubyte", np.uint8, count=1008)[8:]
    trained = predict.Network(predict.MODEL)
    plain, through = [], []
    for image in images.reshape(-1, 28, 28):
        plain.append(trained.predict(image).argmax())
        large = Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC)
        paper = Image.new("L", (450, 500), 255)
        paper.paste(large, (85, 110))
        through.append(trained.predict(predict.to_picture(paper)).argmax())
    right, of = (int((np.array(found) == labels).sum()) for found in (through, plain))
    print(f"photos of test pictures: {right} of 1,000 right; the pictures themselves: {of}")
    assert right >= of - 25
