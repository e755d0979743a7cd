"""Name the clothing on photos: predict.py PHOTO… [--json] [--model PATH] [--language en|ru].

Needs onnxruntime, Pillow and numpy, and the model; nothing else of this project. Each photo shows
one thing on a plain background. consumers/PHOTOS.md describes how it becomes a picture of 28×28,
step by step; the numbers in the comments below are its steps.

Exit status: 0, all named; 1, some photo is refused (one line on stderr each, the others are still
named); 2, no model, or wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError

MODEL = Path(__file__).resolve().parents[2] / "models" / "fashion_mlp.onnx"
CLASSES = {  # for a model that does not carry its own, under `class_names` in its metadata
    "en": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
    "ru": [
        *("футболка", "брюки", "свитер", "платье", "пальто"),
        *("туфли", "рубашка", "кроссовки", "сумка", "ботинки"),
    ],
}

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 100_000_000
MAX_PIXELS = 64_000_000
REDUCED = 224  # longest side after step 2: 8 × 28
NEAR = 487  # squared distance in RGB, ⌊(0.05 · 255 · √3)²⌋: 5 %, as the paper has it
FAINT = 13  # of 255: 5 %
SIDE = 28


def read_photo(path: Path) -> Image.Image:
    """Decode a photo, turned upright.

    Raises:
        ValueError: it is not a picture of a known format, is broken, or is too large.
        OSError: it can't be read.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limit below is lower, and says more
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # Pillow's, about details of broken files
        size = file.seek(0, 2)
        if size == 0:
            raise ValueError("the file is empty (0 bytes)")
        if size > MAX_BYTES:
            raise ValueError(f"{size:,} bytes; at most {MAX_BYTES:,} are read")
        file.seek(0)
        if is_without_pixels(file.read(24)):
            raise ValueError("the picture has no pixels (0 wide or 0 high)")
        file.seek(0)
        try:
            image: Image.Image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("not a PNG, JPEG, WebP, GIF or BMP picture") from None
        except Exception as error:  # Pillow raises whatever the broken bytes lead it to
            raise ValueError(f"the picture is broken: {error}") from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{width} × {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are decoded"
            )
        try:
            image.load()
            if image.format in ("JPEG", "MPO", "PNG"):  # MPO: a JPEG with more pictures behind it
                image = ImageOps.exif_transpose(image)
        except Exception as error:
            raise ValueError(f"the picture is broken: {error}") from None
    return image


def is_without_pixels(head: bytes) -> bool:
    """Tell whether a PNG's or a GIF's header says 0; Pillow knows neither for what it is then."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 24:
        return 0 in struct.unpack(">II", head[16:])
    return head.startswith(b"GIF8") and len(head) > 10 and 0 in struct.unpack("<HH", head[6:10])


def flatten(image: Image.Image) -> np.ndarray:
    """Lay an image of any mode on white (step 1): whole numbers (height, width, 3), 0…255."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them
        return np.repeat(np.asarray(image, np.int64)[..., None] >> 8, 3, axis=2)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA"), np.int64)
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    return (colour * opacity + 127) // 255 + 255 - opacity


def rounded(a: Any, b: Any) -> Any:
    """Divide whole numbers, a ≥ 0 and b > 0, and round to nearest, halves up."""
    return (2 * a + b) // (2 * b)


def reduce(image: Image.Image) -> np.ndarray:
    """Average blocks of k×k pixels so that the longest side is at most 224 (steps 1 and 2).

    Returns:
        int64 (height, width, 3), values 0…255.
    """
    width, height = image.size
    k = -(-max(width, height) // REDUCED)
    columns = np.arange(0, width, k)
    widths = np.diff(columns, append=width)[:, None]
    rows = []
    for top in range(0, height, k):  # a strip at a time: 64 megapixels as int64 take 2 GB
        strip = flatten(image.crop((0, top, width, min(top + k, height))))
        sums = np.add.reduceat(strip.sum(axis=0, dtype=np.int64), columns)
        rows.append(rounded(sums, len(strip) * widths))
    return np.stack(rows)


def background(pixels: np.ndarray) -> np.ndarray:
    """Tell the background's colour, int64 (3,), from the four corners (step 3)."""
    side = max(1, min(pixels.shape[:2]) // 20)
    corners = [
        rounded(pixels[rows, columns].sum(axis=(0, 1)), side * side)
        for rows in (slice(side), slice(-side, None))
        for columns in (slice(side), slice(-side, None))
    ]
    return np.sort(corners, axis=0)[1:3].sum(axis=0) // 2


def grey(colour: np.ndarray) -> np.ndarray:
    """Turn RGB (…, 3) into grey (…), values 0…255 (step 4)."""
    return (colour @ np.array([19595, 38470, 7471]) + 32768) >> 16


def fit(values: np.ndarray) -> np.ndarray:
    """Scale grey (height, width) by area so that the longest side is 28 (step 6)."""
    longest = max(values.shape)
    height, width = (max(1, rounded(SIDE * side, longest)) for side in values.shape)
    down = overlaps(values.shape[0], height)
    across = overlaps(values.shape[1], width)
    return rounded(down @ values @ across.T, values.size)


def overlaps(old: int, new: int) -> np.ndarray:
    """Tell how much of each old pixel each new one covers: int64 (new, old), in 1/new pixels."""
    starts, edges = np.arange(new)[:, None] * old, np.arange(old)[None] * new
    return np.maximum(0, np.minimum(starts + old, edges + new) - np.maximum(starts, edges))


def to_picture(image: Image.Image) -> np.ndarray:
    """Turn a decoded photo into what the network sees, uint8 (28, 28): consumers/PHOTOS.md.

    Raises:
        ValueError: there is nothing on the photo.
    """
    pixels = reduce(image)
    ground = background(pixels)
    if grey(ground) < 128:
        pixels, ground = 255 - pixels, 255 - ground
    seen = ((pixels - ground) ** 2).sum(axis=2) > NEAR
    if not seen.any():
        raise ValueError("nothing to see: the photo is all of one colour")
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    trimmed = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    values = fit(grey(trimmed))
    values = 255 - np.minimum(255, rounded(255 * values, grey(ground)))
    if values.max() < FAINT:
        raise ValueError("nothing darker than its background; try a lighter background")
    picture = np.zeros((SIDE, SIDE), np.uint8)
    top, left = ((SIDE - side) // 2 for side in values.shape)
    picture[top : top + values.shape[0], left : left + values.shape[1]] = values
    return picture


def load_model(path: Path) -> onnxruntime.InferenceSession:
    """Load the network: input float32 (n, 784), output float32 (n, 10).

    Raises:
        ValueError: no such file, or not such a network.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `make` makes the model, --model names another")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, with no common base
        raise ValueError(f"{path}: not a model: {str(error).splitlines()[0]}") from None
    given, result = session.get_inputs()[0], session.get_outputs()[0]
    classes = len(class_names(session)["en"])
    if (given.type, given.shape[1:], result.shape[1:]) != (
        "tensor(float)",
        [SIDE * SIDE],
        [classes],
    ):
        raise ValueError(
            f"{path}: expected tensor(float) [N, {SIDE * SIDE}] → [N, {classes}], "
            f"got {given.type} {given.shape} → {result.shape}"
        )
    return session


def class_names(session: onnxruntime.InferenceSession) -> dict[str, list[str]]:
    """List the class names by language, in the order of the network's outputs."""
    carried = session.get_modelmeta().custom_metadata_map.get("class_names")
    return json.loads(carried) if carried else CLASSES


def predict(session: onnxruntime.InferenceSession, picture: np.ndarray) -> np.ndarray:
    """Run the network on one picture uint8 (28, 28): ten probabilities, float32."""
    image = picture.reshape(1, -1) / np.float32(255)
    return session.run(None, {session.get_inputs()[0].name: image})[0][0]


def name_photo(
    session: onnxruntime.InferenceSession, path: Path, names: list[str]
) -> dict[str, Any]:
    """Name one photo, or say under `error` why not."""
    try:
        probabilities = predict(session, to_picture(read_photo(path)))
    except (OSError, ValueError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return {"file": str(path), "error": reason or type(error).__name__}
    best = int(probabilities.argmax())
    return {
        "file": str(path),
        "class": names[best],
        "probability": round(float(probabilities[best]), 6),
        "probabilities": {
            name: round(float(value), 6) for name, value in zip(names, probabilities, strict=True)
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Name the photos of a command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Name the clothing on photos.")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument("--language", choices=CLASSES, default="en", help="of the class names")
    options = parser.parse_args(arguments)
    try:
        session = load_model(options.model)
        names = class_names(session)[options.language]
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    results = []
    for path in options.photos:
        result = name_photo(session, path, names)
        results.append(result)
        if "error" in result:
            print(f"predict: {path}: {result['error']}", file=sys.stderr)
        elif not options.json:
            print(f"{path}: {result['class']}, {result['probability']:.4f}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return int(any("error" in result for result in results))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # odd file names
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
