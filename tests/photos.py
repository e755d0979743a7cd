"""Photos for the tests of predict.py and of the page, generated: shapes on plain backgrounds."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw

OUTLINES = {  # in 0…1 of the photo's width and height
    "shirt": [
        *((0.35, 0.2), (0.15, 0.35), (0.22, 0.48), (0.33, 0.4), (0.33, 0.8), (0.67, 0.8)),
        *((0.67, 0.4), (0.78, 0.48), (0.85, 0.35), (0.65, 0.2), (0.5, 0.26)),
    ],
    "trousers": [
        *((0.35, 0.1), (0.65, 0.1), (0.7, 0.9), (0.55, 0.9), (0.5, 0.35), (0.45, 0.9)),
        (0.3, 0.9),
    ],
    "shoe": [(0.1, 0.6), (0.3, 0.55), (0.5, 0.4), (0.75, 0.4), (0.88, 0.65), (0.1, 0.65)],
}
GROUNDS = [(255, 255, 255), (253, 253, 253), (240, 236, 228), (200, 205, 210), (20, 18, 25)]
SIZES = [
    (1, 5),
    (9, 7),
    (28, 28),
    (51, 73),
    (224, 224),
    (225, 190),
    (762, 1000),
    (1500, 410),
    (2, 5000),
]


def photo(
    size: tuple[int, int] = (300, 400),
    outline: str = "shirt",
    ground: tuple[int, ...] = (255, 255, 255),
    colour: tuple[int, ...] = (90, 60, 140),
    noise: float = 0,
    seed: int = 0,
    mode: str = "RGB",
) -> Image.Image:
    """Draw an outline on a background, with a stripe, with noise in each channel."""
    image = Image.new(mode, size, ground)
    draw = ImageDraw.Draw(image)
    draw.polygon([(x * size[0], y * size[1]) for x, y in OUTLINES[outline]], fill=colour)
    draw.ellipse([size[0] * 0.4, size[1] * 0.45, size[0] * 0.6, size[1] * 0.6], fill=colour[::-1])
    if noise:
        grain = np.random.default_rng(seed).normal(0, noise, (*size[::-1], len(image.getbands())))
        image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
    return image


def photo_of(image: np.ndarray) -> Image.Image:
    """Make a photo, dark on white and ten times as large, of a prepared image in 0…1."""
    pixels = np.rint(255 - 255 * image).astype(np.uint8)
    return Image.fromarray(pixels).resize((10 * image.shape[1], 10 * image.shape[0]))


def save_model(path: Path, kernel: np.ndarray, names: dict[str, list[str]]) -> None:
    """Write a network of one layer: `image` float32 [N, 784] → `probabilities` [N, 10]."""
    network = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        net (float[N,784] image) => (float[N,10] probabilities)
        { logits = MatMul(image, kernel)  probabilities = Softmax(logits) }""")
    network.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "kernel"))
    onnx.helper.set_model_props(network, {"class_names": json.dumps(names, ensure_ascii=False)})
    onnx.save(network, path)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Write an image as PNG, JPEG, … to bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def orientation(value: int) -> Image.Exif:
    """Make EXIF data that holds nothing but the orientation, 1…8."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def all_photos() -> dict[str, bytes]:
    """Encode the photos on which predict.py and the page must agree."""
    photos = {}
    for i, size in enumerate(SIZES):
        for j, ground in enumerate(GROUNDS):
            outline = list(OUTLINES)[(i + j) % len(OUTLINES)]
            colour = (230, 200, 90) if ground[0] < 128 else (90, 60, 140)
            image = photo(size, outline, ground, colour, noise=3 * (j % 3), seed=i)
            photos[f"{size[0]}×{size[1]} on {ground}"] = encoded(image)
    clear = photo(ground=(0, 0, 0, 0), colour=(200, 30, 60, 140), mode="RGBA", noise=8)
    photos["alpha"] = encoded(clear)
    photos["alpha, WebP"] = encoded(clear, "WEBP", lossless=True, exact=True)
    photos["palette"] = encoded(photo(noise=5).quantize(32))
    photos["GIF"] = encoded(photo(noise=5), "GIF")
    photos["BMP"] = encoded(photo((301, 203), "shoe"), "BMP")
    photos["grey"] = encoded(photo().convert("L"))
    photos["grey and alpha"] = encoded(clear.convert("LA"))
    photos["1 bit"] = encoded(photo().convert("1"))
    deep = np.asarray(photo(noise=5).convert("L")).astype(np.uint16) * 257 - 77
    photos["16 bits"] = encoded(Image.fromarray(deep))
    for value in range(1, 9):
        photos[f"JPEG, orientation {value}"] = encoded(
            photo((400, 300), "shoe"), "JPEG", quality=92, exif=orientation(value)
        )
    photos["JPEG, 12 megapixels"] = encoded(
        photo((4000, 3000), "shoe", (240, 236, 228), noise=6), "JPEG"
    )
    photos["JPEG, grey"] = encoded(photo().convert("L"), "JPEG")
    photos["WebP"] = encoded(photo(noise=4), "WEBP", quality=90)
    photos["PNG with an orientation"] = encoded(photo((400, 300), "shoe"), exif=orientation(6))
    photos["WebP with an orientation"] = encoded(
        photo((400, 300), "shoe"), "WEBP", lossless=True, exif=orientation(6)
    )
    frames = [photo(), photo(outline="trousers")]
    photos["animated GIF"] = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    photos["animated WebP"] = encoded(
        frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:]
    )
    return photos


def png_chunks(width: int, height: int, bits: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a grey PNG by hand, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in [(b"IHDR", header), *chunks, (b"IEND", b"")]:
        check = zlib.crc32(name + content)
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
    return data


def bomb() -> bytes:
    """Write a PNG of 900 megapixels in about 100 KB."""
    side = 30_000
    packer = zlib.compressobj(1)
    rows = [packer.compress(bytes(side // 8 + 1) * 1000) for _ in range(side // 1000)]
    return png_chunks(side, side, 1, (b"IDAT", b"".join(rows) + packer.flush()))


def refused_photos() -> dict[str, tuple[bytes, str, str]]:
    """Make files that must be refused: what predict.py says of each, and the page's word."""
    empty = png_chunks(0, 0, 8, (b"IDAT", zlib.compress(b"")))
    half = encoded(photo(noise=20))
    light = photo(ground=(200, 200, 200), colour=(255, 255, 255))
    gif = bytearray(encoded(photo(), "GIF"))
    return {
        "no bytes": (b"", "the file is empty (0 bytes)", "empty"),
        "text": (b"a shirt\n" * 99, "not a PNG, JPEG, WebP, GIF or BMP picture", "notPicture"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG", "notPicture"),
        "TIFF": (encoded(photo(), "TIFF"), "not a PNG", "notPicture"),
        "PNG's first bytes": (half[:20], "the picture is broken", "broken"),
        "JPEG's first bytes": (encoded(photo(), "JPEG")[:30], "the picture is broken", "broken"),
        "PNG, bytes spoilt": (half[:60] + b"\0" * 99 + half[159:], "is broken", "broken"),
        "0×0 PNG": (empty, "no pixels", "noPixels"),
        "0×0 GIF": (bytes(gif[:6] + bytes(4) + gif[10:]), "no pixels", "noPixels"),
        "bomb": (bomb(), "30000 × 30000 pixels; at most 64 megapixels", "tooLarge"),
        "GIF of 4 gigapixels": (
            bytes(gif[:6] + b"\xff" * 4 + gif[10:]),
            "65535 × 65535 pixels; at most 64 megapixels",
            "tooLarge",
        ),
        "half a JPEG": (encoded(photo(noise=20), "JPEG")[:9000], "is broken", "broken"),
        "white": (encoded(Image.new("RGB", (500, 400), "white")), "all of one colour", "oneColour"),
        "transparent": (encoded(Image.new("RGBA", (50, 40))), "all of one colour", "oneColour"),
        "white on grey": (encoded(light), "nothing darker than its background", "tooLight"),
    }
