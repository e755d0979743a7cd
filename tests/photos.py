"""Photos for the tests of predict.py and of the page, generated; and a small model to name them."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw

from consumers.python import predict

OUTLINES = {  # in 0…1 of the photo's width and height
    "shirt": "35,20 15,35 22,48 33,40 33,80 67,80 67,40 78,48 85,35 65,20 50,26",
    "trousers": "35,10 65,10 70,90 55,90 50,35 45,90 30,90",
    "shoe": "10,60 30,55 50,40 75,40 88,65 10,65",
}
GROUNDS = [(255, 255, 255), (253, 253, 253), (240, 236, 228), (200, 205, 210), (20, 18, 25)]
SIZES = [(1, 5), (9, 7), (28, 28), (51, 73), (224, 224), (225, 190), (762, 1000), (1500, 410)]
SIZES += [(2, 5000)]


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
    points = [tuple(map(int, point.split(","))) for point in OUTLINES[outline].split()]
    draw.polygon([(x / 100 * size[0], y / 100 * size[1]) for x, y in points], fill=colour)
    draw.ellipse([size[0] * 0.4, size[1] * 0.45, size[0] * 0.6, size[1] * 0.6], fill=colour[::-1])
    if noise:
        grain = np.random.default_rng(seed).normal(0, noise, (*size[::-1], len(image.getbands())))
        image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
    return image


def shaded() -> Image.Image:
    """A photo in light from the left: its background is not plain."""
    shade = np.linspace(1, 0.8, 300)[None, :, None]
    return Image.fromarray((np.asarray(photo()) * shade).astype(np.uint8))


def as_seen(
    data: bytes, folder: Path, shape: tuple[int, int] = (28, 28), photos: str = "trimmed"
) -> np.ndarray:
    """Read a photo from bytes as predict.py does: int64 of a shape."""
    (folder / "photo").write_bytes(data)
    return predict.to_picture(predict.read_photo(folder / "photo"), shape, photos).astype(np.int64)


def save_model(path: Path, kernel: np.ndarray, names: dict[str, list[str]]) -> None:
    """Write a network of one layer: `image` float32 [N, 784] → `probabilities` [N, 10]."""
    network = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        net (float[N,784] image) => (float[N,10] probabilities)
        { logits = MatMul(image, kernel)  probabilities = Softmax(logits) }""")
    network.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "kernel"))
    metadata = {"class_names": json.dumps(names, ensure_ascii=False), "image_shape": "[28, 28]"}
    onnx.helper.set_model_props(network, metadata)
    onnx.save(network, path)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Write an image as PNG, JPEG, … to bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(entries: list[tuple[int, int, int, int]], order: str = ">") -> bytes:
    """Write EXIF data by hand: (tag, type, count, value as a short)."""
    data = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return data + b"".join(struct.pack(f"{order}HHIHH", *entry, 0) for entry in entries) + bytes(4)


def turned(value: int) -> bytes:
    """EXIF that holds nothing but the orientation, 1…8."""
    return exif([(0x0112, 3, 1, value)])


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """Put segments (their marker, 0xE0…, and content) into a JPEG, behind its first two bytes."""
    data = encoded(photo((60, 45), "shoe"), "JPEG", quality=95)
    added = [struct.pack(">BBH", 0xFF, kind, len(it) + 2) + it for kind, it in segments]
    return data[:2] + b"".join(added) + data[2:]


def jpeg_turned(*data: bytes) -> bytes:
    return jpeg_with(*((0xE1, b"Exif\0\0" + one) for one in data))


def chunk(name: bytes, content: bytes, damage: int = 0) -> bytes:
    check = zlib.crc32(name + content) ^ damage
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(
    samples: np.ndarray, bits: int, colour: int, before: bytes = b"", after: bytes = b""
) -> bytes:
    """Write a PNG by hand: samples (height, width, channels), chunks before and after the data."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits < 8:
        single = rows[..., None] >> np.arange(bits)[::-1] & 1
        rows = np.packbits(single.reshape(height, -1), axis=1)
    rows = rows.astype(">u2" if bits == 16 else np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return png_of(chunk(b"IHDR", header), before, chunk(b"IDAT", data), after, chunk(b"IEND", b""))


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def all_photos() -> dict[str, bytes]:
    """Encode the photos on which predict.py and the page must agree."""
    photos = {}
    for i, size in enumerate(SIZES):
        for j, ground in enumerate(GROUNDS):
            outline = list(OUTLINES)[(i + j) % len(OUTLINES)]
            colour = (230, 200, 90) if ground[0] < 128 else (90, 60, 140)
            image = photo(size, outline, ground, colour, noise=3 * (j % 3), seed=i)
            photos[f"{size[0]}×{size[1]} on {ground}"] = encoded(image)
    noisy, shoe = photo(noise=5), photo((400, 300), "shoe")
    clear = photo(ground=(0, 0, 0, 0), colour=(200, 30, 60, 140), mode="RGBA", noise=8)
    deep = np.asarray(noisy.convert("L")).astype(np.uint16) * 257 - 77
    exact = {"lossless": True, "exact": True}
    several = {"save_all": True, "append_images": [noisy]}
    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("alpha", clear, "PNG", {}),
        ("alpha", clear, "WEBP", exact),
        ("palette", noisy.quantize(32), "PNG", {}),
        ("colours", noisy, "GIF", {}),
        ("colours", noisy, "WEBP", {"quality": 90}),
        ("colours", photo((301, 203), "shoe"), "BMP", {}),
        ("grey", photo().convert("L"), "PNG", {}),
        ("grey", photo().convert("L"), "JPEG", {}),
        ("grey and alpha", clear.convert("LA"), "PNG", {}),
        ("1 bit", photo().convert("1"), "PNG", {}),
        ("16 bits", Image.fromarray(deep), "PNG", {}),
        ("12 megapixels", photo((4000, 3000), "shoe", GROUNDS[2], noise=6), "JPEG", {}),
        ("animated", photo(), "GIF", several),
        ("animated", photo(), "WEBP", several | exact),
        ("animated", photo(), "PNG", several),
        ("orientation", shoe, "WEBP", exact | {"exif": b"Exif\0\0" + turned(6)}),
    ]
    for value in range(1, 9):
        kinds.append((f"orientation {value}", shoe, "JPEG", {"exif": b"Exif\0\0" + turned(value)}))
        kinds.append((f"orientation {value}", shoe, "PNG", {"exif": turned(value)}))
    for name, image, kind, options in kinds:
        photos[f"{name}, {kind}"] = encoded(image, kind, **options)
    return photos


def odd_photos() -> dict[str, bytes]:
    """Make photos with odd metadata and rare forms, on which the two must agree as well."""
    photos = {}
    six = (0x0112, 3, 1, 6)
    tags = (0x0100, 0x010F, 0x0111, 0x011A, 0x02BC, 0x8769, 0x8825, 0x9286, 0xEA1C)
    for tag in tags:
        for kind in range(15):
            for count in (0, 1, 70_000):
                data = exif(sorted([six, (tag, kind, count, 2)]), "<>"[kind % 2])
                photos[f"EXIF {tag:#x}, type {kind}, {count}"] = jpeg_turned(data)
    for entry in ((0x0112, 4, 1, 6), (0x0112, 3, 2, 6), (0x0112, 3, 1, 0), (0x0112, 3, 1, 9)):
        photos[f"EXIF {entry}"] = jpeg_turned(exif([entry]))
    for length in range(len(turned(6))):
        photos[f"EXIF of {length} bytes"] = jpeg_turned(turned(6)[:length])
        photos[f"eXIf of {length} bytes"] = png_with(chunk(b"eXIf", turned(6)[:length]))
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="'
    xmp += b'http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.'
    xmp += b'adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    photos["XMP turns"] = jpeg_with((0xE1, xmp))
    photos["XMP turns, PNG"] = png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp[29:]))
    photos["EXIF twice"] = jpeg_turned(turned(3), turned(6))
    for marker in (*range(0xE0, 0xF0), 0xFE):
        photos[f"segment {marker:#x}"] = jpeg_with((marker, b"odd\0" * 16_000))
    photos["fill bytes"] = jpeg_with((0xFE, b"")).replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1)
    ancillary = b"acTL bKGD cHRM cICP eXIf fcTL gAMA hIST iCCP iTXt pHYs sBIT sPLT sRGB tEXt tIME"
    for name in (ancillary + b" zTXt tRNs").split():
        for length in (0, 1, 3, 200):
            for damage in (0, 1):
                odd = chunk(name, b"odd\0" * length, damage)
                photos[f"{name!r}, {length}, {damage}"] = png_with(odd)
                photos[f"{name!r}, {length}, {damage}, after"] = png_with(after=odd)
    large = b"a\0\0" + zlib.compress(bytes(100_000_000))
    for name in (b"zTXt", b"iCCP"):
        photos[f"{name!r} of 100 MB"] = png_with(chunk(name, large))
    photos["tEXt of 2 MB"] = png_with(chunk(b"tEXt", b"a\0" + b"a" * 2_000_000))
    grey = np.asarray(photo((60, 45), "shoe", (200, 200, 200)).convert("L"))[..., None]
    colours = np.asarray(photo((60, 45), "shoe", (200, 205, 210)))
    for bits in (1, 2, 4, 8, 16):
        levels = grey.astype(int) >> 8 - bits if bits < 16 else grey.astype(int) * 257
        key = int(levels[0, 0, 0])
        for value in (key, key ^ 1, key | 0x4000):
            data = png(levels, bits, 0, chunk(b"tRNS", struct.pack(">H", value)))
            photos[f"grey, {bits} bits, transparent {value}"] = data
        if bits <= 8:
            for opacities in (b"\0" * (key + 1), b"\x80" * 2**bits, b"\0" * 300, b""):
                data = png(levels, bits, 3, palette_of(bits) + chunk(b"tRNS", opacities))
                photos[f"palette, {bits} bits, {len(opacities)} opacities"] = data
    for bits in (8, 16):
        levels = colours.astype(int) * (257 if bits == 16 else 1)
        for high in (0, 0x4000):
            clear = chunk(b"tRNS", struct.pack(">HHH", *(int(one) | high for one in levels[0, 0])))
            photos[f"colours, {bits} bits, {high}"] = png(levels, bits, 2, clear)
    photos["tRNS of 1 byte"] = png(grey, 8, 0, chunk(b"tRNS", b"\xc8"))
    photos["OS/2 BMP"] = os2_bmp(np.asarray(photo((60, 45), "shoe")))
    return photos


def palette_of(bits: int) -> bytes:
    """A palette that is the greys in order."""
    levels = np.arange(2**bits) * (255 // (2**bits - 1))
    return chunk(b"PLTE", levels.astype(np.uint8).repeat(3).tobytes())


def png_with(before: bytes = b"", after: bytes = b"") -> bytes:
    return png(np.asarray(photo((60, 45), "shoe")), 8, 2, before, after)


def os2_bmp(pixels: np.ndarray) -> bytes:
    """Write a BMP with the short header of OS/2 1.x; rows of a multiple of 4 bytes."""
    height, width = pixels.shape[:2]
    data = pixels[::-1, :, ::-1].tobytes()
    header = struct.pack("<IHHHH", 12, width, height, 1, 24)
    return b"BM" + struct.pack("<IHHI", 26 + len(data), 0, 0, 26) + header + data


def refused_photos() -> dict[str, tuple[bytes, str, str]]:
    """Make files that must be refused: what predict.py says of each, and the page's word."""
    half = encoded(photo(noise=20))
    light = photo(ground=(200, 200, 200), colour=(255, 255, 255))
    gif = encoded(photo(), "GIF")
    # 900 megapixels in about 100 KB
    packer = zlib.compressobj(1)
    rows = [packer.compress(bytes(3751 * 1000)) for _ in range(30)]
    bomb, empty = (
        png_of(
            chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)),
            chunk(b"IDAT", data),
            chunk(b"IEND", b""),
        )
        for side, data in ((30_000, b"".join(rows) + packer.flush()), (0, zlib.compress(b"")))
    )
    whole = png_with()
    broken = {
        "PNG's first bytes": half[:20],
        "JPEG's first bytes": encoded(photo(), "JPEG")[:30],
        "half a JPEG": encoded(photo(noise=20), "JPEG")[:9000],
        "PNG, bytes spoilt": half[:60] + b"\0" * 99 + half[159:],
        "PNG without its end": whole[:-12],
        "PNG with a damaged header": whole[:29] + b"\0" + whole[30:],
        "Apple's PNG": png_of(chunk(b"CgBI", b"\x50\0\x20\6"), whole[8:]),
        "PNG with an unknown critical chunk": png_with(chunk(b"ABCD", b"")),
        "PNG without a palette": png(np.zeros((9, 9, 1), np.uint8), 8, 3),
        "JPEG with a damaged segment": jpeg_with((0xFE, b"")).replace(b"\xfe\0\2", b"\xfe\0\7"),
    }
    return {name: (data, "the picture is broken", "broken") for name, data in broken.items()} | {
        "no bytes": (b"", "the file is empty (0 bytes)", "empty"),
        "text": (b"a shirt\n" * 99, "not a PNG, JPEG, WebP, GIF or BMP picture", "notPicture"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG", "notPicture"),
        "TIFF": (encoded(photo(), "TIFF"), "not a PNG", "notPicture"),
        "0×0 PNG": (empty, "no pixels", "noPixels"),
        "0×0 GIF": (gif[:6] + bytes(4) + gif[10:], "no pixels", "noPixels"),
        "bomb": (bomb, "30000 × 30000 pixels; at most 64 megapixels", "tooLarge"),
        "GIF of 4 gigapixels": (
            gif[:6] + b"\xff" * 4 + gif[10:],
            "65535 × 65535 pixels; at most 64 megapixels",
            "tooLarge",
        ),
        "white": (encoded(Image.new("RGB", (500, 400), "white")), "all of one colour", "oneColour"),
        "transparent": (encoded(Image.new("RGBA", (50, 40))), "all of one colour", "oneColour"),
        "white on grey": (encoded(light), "nothing darker than its background", "tooLight"),
    }
