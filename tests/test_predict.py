"""consumers/python/predict.py: the recipe of consumers/PHOTOS.md, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageOps

from consumers.python import predict
from tests.photos import encoded, orientation, photo, png_chunks, refused_photos

SCRIPT = Path(predict.__file__)
REFUSED = refused_photos()


def picture(data: bytes, folder: Path) -> np.ndarray:
    """Read a photo from bytes as the command does."""
    path = folder / "photo"
    path.write_bytes(data)
    return predict.to_picture(predict.read_photo(path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a network of the right shape whose answer is always class 3."""
    bias = np.zeros(10, np.float32)
    bias[3] = 5
    text = """<ir_version: 8, opset_import: ["" : 18]>
    net (float[N,784] image) => (float[N,10] probabilities)
        { flat = MatMul(image, w)  logits = Add(flat, b)  probabilities = Softmax(logits) }"""
    network = onnx.parser.parse_model(text)
    weights = np.zeros((784, 10), np.float32)
    network.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    network.graph.initializer.append(onnx.numpy_helper.from_array(bias, "b"))
    onnx.save(network, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as its users do."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_to_picture_fits_trims_and_negates_a_dark_square(tmp_path: Path) -> None:
    image = Image.new("RGB", (140, 200), "white")
    image.paste((55, 55, 55), (30, 70, 86, 98))  # 56×28, so 28×14
    expected = np.zeros((28, 28), np.uint8)
    expected[7:21] = 200
    np.testing.assert_array_equal(picture(encoded(image), tmp_path), expected)


def test_to_picture_puts_the_odd_pixel_after(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 60), "white")
    image.paste("black", (10, 10, 38, 23))  # 28×13: 7 above, 8 below
    rows = np.flatnonzero(picture(encoded(image), tmp_path).any(axis=1))
    assert (rows[0], rows[-1]) == (7, 19)


def test_fit_averages_by_area() -> None:
    values = np.zeros((42, 42), np.int64)
    values[:, 0] = 90  # column 0 covers two thirds of the first new column
    expected = np.zeros((28, 28), np.int64)
    expected[:, 0] = 60
    np.testing.assert_array_equal(predict.fit(values), expected)


@pytest.mark.parametrize("size", [(28, 28), (31, 200), (224, 3), (5, 7)])
def test_fit_equals_repeating_every_pixel(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, size)
    fitted = predict.fit(values)
    height, width = fitted.shape
    repeated = values.repeat(height, axis=0).repeat(width, axis=1)
    sums = repeated.reshape(height, size[0], width, size[1]).sum(axis=(1, 3))
    np.testing.assert_array_equal(fitted, np.floor(sums / values.size + 0.5))


def test_reduce_averages_blocks_and_the_smaller_ones_at_the_edge() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (225, 300, 3)).astype(np.uint8)
    reduced = predict.reduce(Image.fromarray(pixels))
    assert reduced.shape == (113, 150, 3)
    np.testing.assert_array_equal(
        reduced[4, 9], np.floor(pixels[8:10, 18:20].mean(axis=(0, 1)) + 0.5)
    )
    np.testing.assert_array_equal(reduced[112, 0], np.floor(pixels[224, 0:2].mean(axis=0) + 0.5))


def test_to_picture_of_dim_light_is_that_of_bright_light(tmp_path: Path) -> None:
    bright, dim = (
        picture(encoded(photo(ground=(g, g, g), colour=(g // 4,) * 3)), tmp_path).astype(int)
        for g in (252, 160)
    )
    assert abs(bright - dim).max() <= 1


def test_to_picture_of_a_picture_on_black_gives_it_back(tmp_path: Path) -> None:
    original = np.zeros((28, 28), np.uint8)
    original[:, 6:22] = np.arange(100, 212, 4, dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(picture(encoded(Image.fromarray(original)), tmp_path), original)


def test_background_ignores_one_corner() -> None:
    pixels = np.full((100, 100, 3), 250)
    pixels[:20, :20] = 10
    np.testing.assert_array_equal(predict.background(pixels), [250, 250, 250])


def test_flatten_lays_on_white() -> None:
    image = Image.new("RGBA", (1, 1), (100, 0, 255, 51))
    np.testing.assert_array_equal(predict.flatten(image), [[[224, 204, 255]]])


def test_flatten_keeps_the_high_byte_of_16_bits(tmp_path: Path) -> None:
    (tmp_path / "deep").write_bytes(encoded(Image.fromarray(np.array([[0x12FF]], np.uint16))))
    image = predict.read_photo(tmp_path / "deep")
    np.testing.assert_array_equal(predict.flatten(image), [[[0x12] * 3]])


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_read_photo_turns_as_exif_says(value: int, kind: str, tmp_path: Path) -> None:
    image = photo((80, 60), "shoe")
    image.info.clear()
    image.getexif()[0x0112] = value
    turned = ImageOps.exif_transpose(image)
    upright = picture(encoded(turned, kind, quality=100, exif=b""), tmp_path).astype(int)
    data = encoded(image, kind, quality=100, exif=orientation(value))
    assert abs(picture(data, tmp_path) - upright).max() <= 8  # JPEG's blocks lie elsewhere


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_read_photo_takes_the_first_frame(kind: str, tmp_path: Path) -> None:
    first, second = (photo(outline=outline).quantize(16) for outline in ("shirt", "trousers"))
    data = encoded(first, kind, save_all=True, append_images=[second], lossless=True)
    alone = picture(encoded(first), tmp_path).astype(int)
    assert abs(picture(data, tmp_path) - alone).max() <= 1


def test_read_photo_takes_cmyk(tmp_path: Path) -> None:
    plain = picture(encoded(photo()), tmp_path).astype(int)
    data = encoded(photo().convert("CMYK"), "JPEG", quality=100)
    assert abs(picture(data, tmp_path) - plain).max() <= 8


def test_read_photo_takes_50_megapixels(tmp_path: Path) -> None:
    large = picture(encoded(photo((8000, 6250)), "JPEG"), tmp_path).astype(int)
    small = picture(encoded(photo((800, 625))), tmp_path)
    assert abs(large - small).mean() < 3


def test_read_photo_refuses_text_that_unpacks_to_100_megabytes(tmp_path: Path) -> None:
    text = b"a\0\0" + zlib.compress(bytes(100_000_000))
    data = png_chunks(10, 10, 8, (b"zTXt", text), (b"IDAT", zlib.compress(bytes(110))))
    with pytest.raises(ValueError, match="the picture is broken"):
        picture(data, tmp_path)


def test_read_photo_refuses_a_file_above_100_megabytes(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(predict.MAX_BYTES + 1)
    with pytest.raises(ValueError, match="100,000,001 bytes; at most 100,000,000"):
        predict.read_photo(tmp_path / "large")


@pytest.mark.parametrize("name", REFUSED)
def test_read_photo_refuses(name: str, tmp_path: Path) -> None:
    data, reason, _ = REFUSED[name]
    with pytest.raises(ValueError) as refusal:
        picture(data, tmp_path)
    assert reason in str(refusal.value)


def test_main_prints_file_class_probability(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "shirt.png"
    path.write_bytes(encoded(photo()))
    done = run(path, "--model", model)
    assert (done.stdout, done.stderr, done.returncode) == (f"{path}: Dress, 0.9428\n", "", 0)


def test_main_names_the_others_where_some_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "good.png").write_bytes(encoded(photo()))
    names = ["bad.png", "missing.png", ".", "good.png"]
    done = run(*(tmp_path / name for name in names), "--model", model, "--language", "ru")
    assert done.stdout == f"{tmp_path}/good.png: платье, 0.9428\n"
    assert done.stderr.splitlines() == [
        f"predict: {tmp_path}/bad.png: not a PNG, JPEG, WebP, GIF or BMP picture",
        f"predict: {tmp_path}/missing.png: No such file or directory",
        f"predict: {tmp_path}: Is a directory",
    ]
    assert done.returncode == 1


def test_main_prints_json_with_the_refused_in_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded(photo()))
    done = run(tmp_path / "good.png", tmp_path / "none.png", "--json", "--model", model)
    good, none = json.loads(done.stdout)
    assert (good["class"], good["probability"]) == ("Dress", 0.942826)
    assert list(good["probabilities"]) == predict.CLASSES["en"]
    assert none == {"file": str(tmp_path / "none.png"), "error": "No such file or directory"}


def test_main_takes_class_names_from_the_model(model: Path, tmp_path: Path) -> None:
    network = onnx.load(model)
    names = {"en": list("abcdefghij"), "ru": list("абвгдежзий")}
    onnx.helper.set_model_props(network, {"class_names": json.dumps(names)})
    onnx.save(network, model)
    (tmp_path / "photo.png").write_bytes(encoded(photo()))
    assert ": d, 0.9428" in run(tmp_path / "photo.png", "--model", model).stdout


def test_main_takes_a_file_name_that_is_no_text(model: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(path)).write_bytes(encoded(photo()))
    done = run(os.fsdecode(path), "--json", "--model", model)
    assert json.loads(done.stdout)[0]["file"] == os.fsdecode(path)


def test_main_ends_quietly_where_nobody_reads_on(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(photo()))
    command = f"{sys.executable} {SCRIPT} {tmp_path}/photo.png --model {model} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("content", [None, b"not a model", b""])
def test_main_says_in_one_line_that_there_is_no_model(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "none.onnx"
    if content is not None:
        path.write_bytes(content)
    done = run(tmp_path / "photo.png", "--model", path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"predict: {path}: ")
    assert done.stderr.count("\n") == 1


def test_main_refuses_a_model_of_another_shape(model: Path, tmp_path: Path) -> None:
    network = onnx.load(model)
    network.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 785
    del network.graph.node[0]
    network.graph.node[0].input[0] = "b"
    onnx.save(network, model)
    done = run(tmp_path / "photo.png", "--model", model)
    assert "expected tensor(float) [N, 784] → [N, 10], got tensor(float) ['N', 785]" in done.stderr


def test_predict_imports_nothing_of_ours_and_no_tensorflow() -> None:
    code = (
        f"import sys, runpy; sys.argv = ['predict', '--help']; sys.path.insert(0, '')\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'tensorflow', 'keras', 'fashion_mlp', 'stages', 'consumers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
