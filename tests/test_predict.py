"""consumers/python/predict.py: the steps of consumers/PHOTOS.md, and the command."""

from __future__ import annotations

import io
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageOps

from consumers.python import predict
from tests.photos import as_seen, encoded, photo, refused_photos, save_model, shaded, turned

SCRIPT = Path(predict.__file__)
REFUSED = refused_photos()
NAMES = {"en": list("abcdefghij"), "ru": list("абвгдежзий")}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a network whose answer to the photo of a shirt is the fourth class."""
    kernel = np.zeros((784, 10), np.float32)
    kernel[:, 3] = 0.01
    save_model(tmp_path / "model.onnx", kernel, NAMES)
    return tmp_path / "model.onnx"


@pytest.fixture
def shirt(tmp_path: Path) -> Path:
    (tmp_path / "shirt.png").write_bytes(encoded(photo()))
    return tmp_path / "shirt.png"


@pytest.fixture
def answer(tmp_path: Path) -> float:
    """What that network must say of the shirt, in float64."""
    power = np.exp(0.01 * as_seen(encoded(photo()), tmp_path).sum() / 255)
    return float(power / (9 + power))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = predict.main([*map(str, arguments)])
    return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())


def test_to_picture_fits_trims_and_negates_a_dark_square(tmp_path: Path) -> None:
    image = Image.new("RGB", (140, 200), "white")
    image.paste((55, 55, 55), (30, 70, 86, 98))  # 56×28, so 28×14
    expected = np.zeros((28, 28))
    expected[7:21] = 200
    np.testing.assert_array_equal(as_seen(encoded(image), tmp_path), expected)


@pytest.mark.parametrize(
    ("shape", "size"), [((32, 33), (32, 16)), ((20, 40), (20, 10)), ((40, 12), (24, 12))]
)
def test_to_picture_fits_other_shapes(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = Image.new("RGB", (140, 200), "white")
    image.paste("black", (30, 70, 58, 126))  # twice as high as wide
    made = predict.to_picture(image, shape)
    inside = [np.flatnonzero(made.any(axis=axis)) for axis in (1, 0)]
    assert made.shape == shape
    assert tuple(int(np.ptp(place)) + 1 for place in inside) == size
    assert [int(place[0]) for place in inside] == [(shape[i] - size[i]) // 2 for i in (0, 1)]


@pytest.mark.parametrize("size", [(42, 42), (28, 28), (31, 200), (224, 3), (5, 7)])
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
    for block, place in ((pixels[8:10, 18:20], (4, 9)), (pixels[224:, :2], (112, 0))):
        expected = np.floor(block.mean(axis=(0, 1)) + 0.5)
        np.testing.assert_array_equal(reduced[place], expected)


def test_to_picture_of_a_picture_on_black_gives_it_back(tmp_path: Path) -> None:
    original = np.zeros((28, 28), np.uint8)
    original[:, 6:22] = np.arange(100, 212, 4, dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(as_seen(encoded(Image.fromarray(original)), tmp_path), original)


def test_background_ignores_one_corner() -> None:
    pixels = np.full((100, 100, 3), 250)
    pixels[:20, :20] = 10
    np.testing.assert_array_equal(predict.background(pixels), [250, 250, 250])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (1, 1), (100, 0, 255, 51)), [224, 204, 255]),
        (Image.fromarray(np.array([[0x12FF]], np.uint16)), [0x12] * 3),
    ],
    ids=["opacity: on white", "16 bits: the high byte"],
)
def test_flatten(image: Image.Image, expected: list[int], tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(encoded(image))
    flat = predict.flatten(predict.read_photo(tmp_path / "photo"))
    np.testing.assert_array_equal(flat, [[expected]])


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_read_photo_turns_as_exif_says(value: int, kind: str, tmp_path: Path) -> None:
    image = photo((80, 60), "shoe")
    image.getexif()[0x0112] = value
    upright = encoded(ImageOps.exif_transpose(image), kind, quality=100, exif=b"")
    prefix = b"Exif\0\0" if kind == "JPEG" else b""
    data = encoded(photo((80, 60), "shoe"), kind, quality=100, exif=prefix + turned(value))
    # JPEG's blocks lie elsewhere.
    assert abs(as_seen(data, tmp_path) - as_seen(upright, tmp_path)).max() <= 8


def test_read_photo_refuses_a_file_above_100_megabytes(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(predict.MAX_BYTES + 1)
    with pytest.raises(ValueError, match="100,000,001 bytes; at most 100,000,000"):
        predict.read_photo(tmp_path / "large")


@pytest.mark.parametrize("name", REFUSED)
def test_read_photo_refuses(name: str, tmp_path: Path) -> None:
    data, reason, _ = REFUSED[name]
    with pytest.raises(ValueError) as refusal:
        as_seen(data, tmp_path)
    assert reason in str(refusal.value)


def test_main_names_the_others_where_some_are_refused(
    model: Path, shirt: Path, answer: float
) -> None:
    folder = shirt.parent
    (folder / "bad.png").write_text("no picture")
    os.mkfifo(folder / "pipe.png")
    (folder / "empty/.hidden").mkdir(parents=True)
    names = ["bad.png", "missing.png", "empty", "pipe.png", "shirt.png", "a" * 300]
    done = run(*(folder / name for name in names), "--model", model, "--language", "ru")
    assert done.stdout == f"{shirt}: г, {answer:.4f}\n"
    assert done.stderr.splitlines() == [
        f"predict: {folder}/bad.png: not a PNG, JPEG, WebP, GIF or BMP picture",
        f"predict: {folder}/missing.png: No such file or directory",
        f"predict: {folder}/empty: no file in this folder",
        f"predict: {folder}/pipe.png: not a file",
        f"predict: {folder}/{'a' * 300}: File name too long",
    ]
    assert done.returncode == 1


def test_main_prints_json_with_the_refused_in_it(model: Path, shirt: Path, answer: float) -> None:
    done = run(shirt, "none.png", "--json", "--model", model)
    good, none = json.loads(done.stdout)
    assert (good["file"], good["class"]) == (str(shirt), "d")
    assert good["probability"] == pytest.approx(answer, abs=1e-6)
    assert list(good["probabilities"]) == NAMES["en"]
    assert none == {"file": "none.png", "error": "No such file or directory"}


def test_main_takes_folders_and_standard_input(model: Path, shirt: Path, answer: float) -> None:
    folder = shirt.parent / "photos"
    (folder / "deep").mkdir(parents=True)
    for place in ("b.png", "deep/a.png", ".hidden.png"):
        (folder / place).write_bytes(shirt.read_bytes())
    command = [sys.executable, str(SCRIPT), str(folder), "-", "--model", str(model)]
    done = subprocess.run(command, input=shirt.read_bytes(), capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        f"{name}: d, {answer:.4f}" for name in (folder / "b.png", folder / "deep/a.png", "-")
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.stderr == b"predict: -: the file is empty (0 bytes)\n"


def test_main_saves_what_the_network_sees(model: Path, shirt: Path, tmp_path: Path) -> None:
    save = tmp_path / "seen"
    assert run(shirt, shirt, "--save", save, "--model", model).returncode == 0
    assert sorted(path.name for path in save.iterdir()) == ["shirt.png-2.png", "shirt.png.png"]
    for path in save.iterdir():
        with Image.open(path) as saved:
            np.testing.assert_array_equal(np.asarray(saved), as_seen(shirt.read_bytes(), tmp_path))


def test_main_warns_of_a_background_that_is_not_plain(model: Path, tmp_path: Path) -> None:
    shaded().save(tmp_path / "shaded.png")
    photo(noise=5).save(tmp_path / "even.png")
    done = run(tmp_path / "shaded.png", tmp_path / "even.png", "--json", "--model", model)
    (line,) = done.stderr.splitlines()
    assert re.search(r"shaded.png: the background is not plain: \d\d% of the photo's edge", line)
    assert ["warning" in result for result in json.loads(done.stdout)] == [True, False]
    assert done.returncode == 0


def test_to_picture_of_plain_photos_resizes_and_nothing_else(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (30, 50)).astype(np.uint8)
    made = predict.to_picture(Image.fromarray(values), (20, 40), "plain")
    repeated = values.astype(int).repeat(20, axis=0).repeat(40, axis=1)
    sums = repeated.reshape(20, 30, 40, 50).sum(axis=(1, 3))
    np.testing.assert_array_equal(made, np.floor(sums / values.size + 0.5))
    with pytest.raises(ValueError, match="all of one colour"):
        predict.to_picture(Image.new("L", (30, 50), 7), (20, 40), "plain")


@pytest.mark.parametrize("photos", ["trimmed", "plain", "other"])
def test_network_says_what_is_done_to_photos(photos: str, model: Path) -> None:
    network = onnx.load(model)
    network.metadata_props.add(key="photos", value=photos)
    onnx.save(network, model)
    if photos == "other":
        with pytest.raises(ValueError, match="expected trimmed or plain photos, got 'other'"):
            predict.Network(model)
    else:
        assert predict.Network(model).photos == photos


def test_network_refuses_a_model_for_batches_of_another_size(model: Path) -> None:
    network = onnx.load(model)
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(network, model)
    with pytest.raises(ValueError, match=r"expected .* \[N, 784\] .*, got .* \[2, 784\]"):
        predict.Network(model)


def test_network_takes_bytes_where_the_model_does(model: Path, shirt: Path) -> None:
    network = onnx.load(model)
    network.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    network.graph.input[0].name = "bytes"
    network.graph.node.insert(0, onnx.helper.make_node("Cast", ["bytes"], ["image"], to=1))
    (kernel,) = network.graph.initializer
    kernel.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel) / 255, "kernel")
    )
    onnx.save(network, model.with_name("bytes.onnx"))
    picture = as_seen(shirt.read_bytes(), shirt.parent).astype(np.uint8)
    paths = (model, model.with_name("bytes.onnx"))
    scaled, unscaled = (predict.Network(path).predict(picture) for path in paths)
    np.testing.assert_allclose(scaled, unscaled, rtol=1e-5)


def test_main_says_which_package_is_missing(shirt: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(SCRIPT), str(shirt)]  # without installed packages
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 2
    assert done.stderr == "predict: no numpy; pip install onnxruntime pillow numpy\n"


def test_main_takes_a_file_name_that_is_no_text(model: Path, shirt: Path, answer: float) -> None:
    path = os.fsdecode(os.fsencode(shirt.parent) + b"/\x1b[31m\xff")
    shirt.rename(path)
    assert json.loads(run(path, "--json", "--model", model).stdout)[0]["file"] == path
    command = [sys.executable, str(SCRIPT), path, "--model", str(model)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == f"{shirt.parent}/\\x1b[31m\\udcff: d, {answer:.4f}\n"


def test_main_ends_quietly_where_nobody_reads_on(model: Path, shirt: Path) -> None:
    command = shlex.join(map(str, [sys.executable, SCRIPT, shirt, "--model", model])) + " | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("{photo} > /dev/full", "standard output: No space left on device"),
        ("{photo} >&-", "standard output is closed"),
        ("- <&-", "-: standard input is closed"),
        ("{photo} --save {photo}", "--save: {photo}: File exists"),
        ("{long} --save {folder}", "{long}: --save: {folder}/{name}.png: File name too long"),
        ("{photo} --save /proc", "{photo}: --save: /proc/shirt.png.png: No such file or directory"),
    ],
)
def test_main_says_in_one_line_where_it_cannot_read_or_write(
    arguments: str, reason: str, model: Path, shirt: Path
) -> None:
    program = shlex.join(map(str, [sys.executable, SCRIPT, "--model", model]))
    long = shirt.with_name("p" * 250 + ".png")
    shutil.copy(shirt, long)
    places = {"photo": shirt, "long": long, "folder": shirt.parent, "name": long.name}
    command = f"{program} {arguments.format_map(places)}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == f"predict: {reason.format_map(places)}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
def test_read_photo_does_not_wait_for_a_file_that_never_ends() -> None:
    with pytest.raises(ValueError, match="empty"):
        predict.read_photo(Path("/proc/kmsg"))


@pytest.mark.parametrize("content", [None, b"not a model", b""])
def test_main_says_in_one_line_that_there_is_no_model(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "none.onnx"
    if content is not None:
        path.write_bytes(content)
    done = run("photo.png", "--model", path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"predict: {path}: ")
    assert done.stderr.count("\n") == 1


def test_main_refuses_another_language(model: Path) -> None:
    done = run("photo.png", "--model", model, "--language", "de")
    assert (done.returncode, done.stderr) == (2, "predict: --language: the model has en, ru\n")


METADATA = {"class_names": json.dumps(NAMES), "image_shape": "[28, 28]"}
SHAPES = ("[28, x]", "28", '"ab"', "[28]", "[Infinity, 28]", "[-28, -28]")
LISTS = ("{}", '{"en": 5}', '{"en": ["a"], "ru": []}', '{"en": "abcdefghij"}', '{"en": [["a"]]}')
DAMAGED = [{"image_shape": it} for it in SHAPES]
DAMAGED += [{"class_names": it} for it in (*LISTS, "[" * 100_000)]
OTHER_SHAPE = "expected tensor(float) or tensor(uint8) [N, 1024] → probabilities [N, 10], got "


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "no class_names, image_shape in its metadata\n"),
        (METADATA | {"image_shape": "[32, 32]"}, f"{OTHER_SHAPE}tensor(float) ['N', 784]"),
        *((METADATA | it, "class_names, image_shape in metadata: ") for it in DAMAGED),
    ],
)
def test_main_refuses_a_model_whose_metadata_do_not_fit(
    metadata: dict[str, str], says: str, model: Path
) -> None:
    network = onnx.load(model)
    onnx.helper.set_model_props(network, metadata)
    onnx.save(network, model)
    done = run("photo.png", "--model", model)
    assert done.stderr.startswith(f"predict: {model}: {says}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_folder_that_cannot_be_read_is_named_wherever_it_lies(model: Path) -> None:
    user, network = os.geteuid(), predict.Network(model)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        Path(name, "photo.png").touch()
        Path(name, "closed").mkdir(0)
        os.seteuid(user or pwd.getpwnam("nobody").pw_uid)  # root may read everything
        try:
            found = predict.find_photos([Path(name)])
            answer = predict.name_photo(network, found[0], "en", None)
        finally:
            os.seteuid(user)
        assert found == [Path(name, "closed"), Path(name, "photo.png")]
        assert answer["error"] == "Permission denied"


def test_predict_imports_nothing_of_ours_and_no_tensorflow() -> None:
    modules = re.findall(r"^ *(?:from|import) (\w+)", SCRIPT.read_text(encoding="utf-8"), re.M)
    assert set(modules) - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}
