"""Name what is on photos: predict.py PHOTO… [--json] [--save FOLDER] [--model PATH].

A PHOTO is a file, a folder (every file in it and below it, but hidden ones) or `-`, standard input.
Needs onnxruntime, Pillow and numpy, and the model; nothing else of this project. Each photo shows
one thing on a plain background. consumers/PHOTOS.md describes how it becomes the network's
picture, step by step; the numbers in the comments below are its steps.

Exit status: 0, all named; 1, some photo is refused (one line on stderr each, the others are still
named); 2, no model, a package is missing, or wrong arguments.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps, UnidentifiedImageError
except ModuleNotFoundError as error:
    print(f"predict: no {error.name}; pip install onnxruntime pillow numpy", file=sys.stderr)
    sys.exit(2)

# The one that lies in git: it is there before anything was trained.
MODEL = Path(__file__).resolve().parents[2] / "models" / "fashion_mlp_exact.onnx"
OUTPUT = "probabilities"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PNG = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 100_000_000
MAX_PIXELS = 64_000_000
STRIP = 1_000_000  # pixels that are reduced at a time
REDUCED = 8  # longest side after step 2, in sides of the network's picture
NEAR = 487  # squared distance in RGB, ⌊(0.05 · 255 · √3)²⌋: 5 %, as the paper has it
FAINT = 13  # of 255: 5 %
ORIENTATION = 0x0112  # EXIF's tag
BUSY = 0.25  # share of a photo's edge that differs from the background; above it, a warning
STDIN = Path("-")


def read_photo(path: Path) -> Image.Image:
    """Decode a photo, turned upright.

    Raises:
        ValueError: it is not a picture of a known format, is broken, or is too large.
        OSError: it can't be read.
    """
    if path == STDIN and not sys.stdin:
        raise ValueError("standard input is closed")
    data = sys.stdin.buffer.read(MAX_BYTES + 1) if path == STDIN else read_file(path)
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:  # of standard input, which says no size
        raise ValueError(f"at most {MAX_BYTES:,} bytes are read")
    return decode(data)


def read_file(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        ValueError: it is too large, or no file.
        OSError: it can't be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe, say, which could be waited for forever
        raise ValueError("not a file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"{status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    return path.read_bytes() if status.st_size else b""  # of some in /proc, reading never ends


def decode(data: bytes) -> Image.Image:
    """Decode a photo from its file's bytes, turned upright.

    Raises:
        ValueError: it is not a picture of a known format, is broken, or is too large.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limit below is lower, and says more
    with decoding():
        data, orientation = strip(data)
    if is_without_pixels(data):
        raise ValueError("the picture has no pixels (0 wide or 0 high)")
    with decoding():
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width} × {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are decoded"
        )
    with decoding():
        image.load()
        key = image.info.get("transparency")
        if image.format == "PNG" and key is not None and image.mode in ("1", "L", "RGB"):
            largest = 2 ** data[24] - 1  # 1, 2, 4 or 8 bits, which Pillow spreads over 0…255
            image.info["transparency"] = (np.array(key) & largest) * (255 // largest)
        if orientation > 1:
            image.getexif()[ORIENTATION] = orientation
            image = ImageOps.exif_transpose(image)
        return image


@contextmanager
def decoding() -> Iterator[None]:
    """Turn whatever Pillow and broken bytes lead to into a ValueError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about details of broken files
        try:
            yield
        except UnidentifiedImageError:
            raise ValueError("not a PNG, JPEG, WebP, GIF or BMP picture") from None
        except Exception as error:
            raise ValueError(f"the picture is broken: {error}") from None


def is_without_pixels(data: bytes) -> bool:
    """Tell whether a PNG's or a GIF's header says 0; Pillow takes neither for a picture then."""
    if data.startswith(PNG):
        return 0 in struct.unpack_from(">II", data, 16)
    return data.startswith(b"GIF8") and len(data) > 10 and 0 in struct.unpack_from("<HH", data, 6)


def strip(data: bytes) -> tuple[bytes, int]:
    """Take out of a PNG or a JPEG what is not its pixels; return the rest and the orientation."""
    if data.startswith(PNG):
        return strip_png(data)
    return strip_jpeg(data) if data.startswith(b"\xff\xd8") else (data, 1)


def strip_png(data: bytes) -> tuple[bytes, int]:
    """Keep the chunks that make a PNG's pixels; return them and the orientation."""
    kept: dict[bytes, list[bytes]] = {
        name: [] for name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
    }
    orientation, at = 1, len(PNG)
    while not kept[b"IEND"]:
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + length + 12]
        (check,) = struct.unpack_from(">I", chunk, length + 8)
        good = check == zlib.crc32(chunk[4:-4])
        if name in kept and not good:
            raise ValueError(f"chunk {name.decode()} is damaged")
        if (at == len(PNG)) != (name == b"IHDR") or (name not in kept and name[:1].isupper()):
            raise ValueError(f"unexpected chunk {name!r}")  # such as Apple's CgBI
        if name == b"IDAT" or not kept.get(name, chunk):
            kept[name].append(chunk)
        elif name == b"eXIf" and good:
            orientation = read_orientation(chunk[8:-4])
        at += length + 12
    bits, colour = kept[b"IHDR"][0][16:18]
    if colour == 3 and not kept[b"PLTE"]:
        raise ValueError("no palette")
    for chunk in kept[b"tRNS"]:
        palette = (len(b"".join(kept[b"PLTE"])) - 12) // 3
        fits = {0: len(chunk) == 14, 2: len(chunk) == 18, 3: len(chunk) <= palette + 12}
        if not fits.get(colour) or (colour, bits) == (2, 16):
            kept[b"tRNS"] = []
    return b"".join([PNG, *(chunk for chunks in kept.values() for chunk in chunks)]), orientation


def strip_jpeg(data: bytes) -> tuple[bytes, int]:
    """Keep the segments that make a JPEG's pixels; return them and the orientation."""
    kept, orientation, at = [data[:2]], 0, 2
    while True:
        start, marker, length = struct.unpack_from(">BBH", data, at)
        if start != 0xFF:
            raise ValueError(f"expected a marker at byte {at}")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        segment = data[at : at + 2 + length]
        at += 2 + length
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and not orientation:
            orientation = read_orientation(segment[10:])
        # Of APP0 to APP15 and comments, two say how colours are stored.
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or segment[4:9] in (b"JFIF\0", b"Adobe"):
            kept.append(segment)
        if marker == 0xDA:  # the scan
            return b"".join([*kept, data[at:]]), orientation or 1


def read_orientation(exif: bytes) -> int:
    """Find the orientation in EXIF data, 1…8; 1 where there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == ORIENTATION:
                return value if (kind, number) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:  # it is cut off, or has no byte order
        pass
    return 1


def flatten(image: Image.Image) -> np.ndarray:
    """Lay an image of any mode on white (step 1): whole numbers (height, width, 3), 0…255."""
    key = image.info.get("transparency")  # the colour that is transparent, or a palette's opacities
    if image.has_transparency_data and image.mode not in ("1", "L", "I", "I;16", "RGB"):
        pixels = np.asarray(image.convert("RGBA"), np.int64)
        colour, opacity = pixels[..., :3], pixels[..., 3:]
        return (colour * opacity + 127) // 255 + 255 - opacity
    if image.mode in ("1", "L"):
        image = image.convert("L")
    elif not image.mode.startswith("I"):
        image = image.convert("RGB")
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    colour = pixels >> 8 if image.mode.startswith("I") else pixels  # 16 bits of grey
    if key is not None:
        colour = np.where((pixels == key).all(axis=2, keepdims=True), 255, colour)
    return np.broadcast_to(colour, (image.height, image.width, 3))


def rounded(a: Any, b: Any) -> Any:
    """Divide whole numbers, a ≥ 0 and b > 0, and round to nearest, halves up."""
    return (2 * a + b) // (2 * b)


def reduce(image: Image.Image, side: int = 28) -> np.ndarray:
    """Average blocks of k×k pixels so that the longest side is at most 8 sides (steps 1 and 2).

    Returns:
        int64 (height, width, 3), values 0…255.
    """
    width, height = image.size
    k = -(-max(width, height) // (REDUCED * side))
    columns = np.arange(0, width, k)
    widths = np.diff(columns, append=width)[:, None]
    strips = []
    step = k * max(1, STRIP // (k * width))
    for top in range(0, height, step):  # 64 megapixels as int64 would take 2 GB
        strip = flatten(image.crop((0, top, width, min(top + step, height))))
        rows = np.arange(0, len(strip), k)
        heights = np.diff(rows, append=len(strip))[:, None, None]
        sums = np.add.reduceat(np.add.reduceat(strip, rows, dtype=np.int64), columns, axis=1)
        strips.append(rounded(sums, heights * widths))
    return np.concatenate(strips)


def background(pixels: np.ndarray) -> np.ndarray:
    """Find the background's colour, int64 (3,), from the four corners (step 3)."""
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


def fit(values: np.ndarray, shape: tuple[int, int] = (28, 28)) -> np.ndarray:
    """Scale grey (height, width) by area to the largest size that fits into a shape (step 6)."""
    height, width = values.shape
    if height * shape[1] >= width * shape[0]:
        new = shape[0], max(1, rounded(width * shape[0], height))
    else:
        new = max(1, rounded(height * shape[1], width)), shape[1]
    return rounded(overlaps(height, new[0]) @ values @ overlaps(width, new[1]).T, values.size)


def overlaps(old: int, new: int) -> np.ndarray:
    """Tell how much of each old pixel each new one covers: int64 (new, old), in 1/new pixels."""
    starts, edges = np.arange(new)[:, None] * old, np.arange(old)[None] * new
    return np.maximum(0, np.minimum(starts + old, edges + new) - np.maximum(starts, edges))


def stretch(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale grey (height, width) by area to a shape, whatever its proportions (step 6)."""
    (height, width), (rows, columns) = values.shape, shape
    return rounded(overlaps(height, rows) @ values @ overlaps(width, columns).T, values.size)


def to_picture(
    image: Image.Image, shape: tuple[int, int] = (28, 28), photos: str = "trimmed"
) -> np.ndarray:
    """Turn a decoded photo into what the network sees, uint8 of a shape: consumers/PHOTOS.md.

    Raises:
        ValueError: there is nothing on the photo.
    """
    return see(image, shape, photos)[0]


def see(image: Image.Image, shape: tuple[int, int], photos: str) -> tuple[np.ndarray, float]:
    """Do what `to_picture` does; give the share of the photo's edge that is not background too."""
    pixels = reduce(image, max(shape))
    ground = background(pixels)
    if photos == "plain":
        values = stretch(grey(pixels), shape)
        if values.min() == values.max():
            raise ValueError("nothing to see: the photo is all of one colour")
        return values.astype(np.uint8), 0.0
    if grey(ground) < 128:
        pixels, ground = 255 - pixels, 255 - ground
    seen = ((pixels - ground) ** 2).sum(axis=2) > NEAR
    if not seen.any():
        raise ValueError("nothing to see: the photo is all of one colour")
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    trimmed = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    values = fit(grey(trimmed), shape)
    values = 255 - np.minimum(255, rounded(255 * values, grey(ground)))
    if values.max() < FAINT:
        raise ValueError("nothing darker than its background; try a lighter background")
    edge = np.ones_like(seen)
    edge[1:-1, 1:-1] = False
    return centre(values, shape).astype(np.uint8), float(seen[edge].mean())


def centre(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Extend a picture with black to a shape (step 8)."""
    before = [(shape[axis] - values.shape[axis]) // 2 for axis in (0, 1)]
    after = [shape[axis] - values.shape[axis] - before[axis] for axis in (0, 1)]
    return np.pad(values, list(zip(before, after, strict=True)))


class Network:
    """A model with what its metadata say: class names by language, the image's shape."""

    def __init__(self, path: Path) -> None:
        """Load it: input float32 in 0…1 or uint8 (n, pixels), output float32 (n, classes).

        Raises:
            ValueError: no such file, or not such a network.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file; `make` writes it; --model names another")
        try:
            model = path.read_bytes()
            self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except Exception as error:  # onnxruntime's own kinds, with no common base
            raise ValueError(f"{path}: not a model: {str(error).splitlines()[0]}") from None
        metadata = self.session.get_modelmeta().custom_metadata_map
        if lacking := {"class_names", "image_shape"} - metadata.keys():
            raise ValueError(f"{path}: no {', '.join(sorted(lacking))} in its metadata")
        try:
            self.names: dict[str, list[str]] = dict(json.loads(metadata["class_names"]))
            lists = self.names.values()
            if not all(isinstance(it, list) and {*map(type, it)} == {str} for it in lists):
                raise ValueError("expected names, a list of texts for each language")
            if len({len(names) for names in lists}) != 1:
                raise ValueError("expected as many names in each language")
            height, width = map(int, json.loads(metadata["image_shape"]))
            if min(height, width) < 1:
                raise ValueError(f"expected an image, got {height} by {width} pixels")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: class_names, image_shape in metadata: {error}") from None
        self.shape = (height, width)
        self.photos = metadata.get("photos", "trimmed")
        if self.photos not in ("trimmed", "plain"):
            raise ValueError(f"{path}: expected trimmed or plain photos, got {self.photos!r}")
        self.check(path)

    def check(self, path: Path) -> None:
        """Check that input and output are what the metadata say.

        Raises:
            ValueError: they are not.
        """
        (height, width), classes = self.shape, len(next(iter(self.names.values())))
        given, *more = self.session.get_inputs()
        shapes = {one.name: one.shape for one in self.session.get_outputs()}
        self.dtype = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}.get(given.type)
        found = (given.shape[1:], shapes.get(OUTPUT, [])[1:])
        fixed = isinstance(given.shape[0], int) and given.shape[0] != 1  # batches of another size
        if more or fixed or not self.dtype or found != ([height * width], [classes]):
            raise ValueError(
                f"{path}: expected tensor(float) or tensor(uint8) [N, {height * width}] → "
                f"{OUTPUT} [N, {classes}], got {given.type} {given.shape} → {shapes}"
                + (f" and {len(more)} more inputs" if more else "")
            )

    def predict(self, picture: np.ndarray) -> np.ndarray:
        """Run the network on one picture, uint8 of its shape: float32 (classes,)."""
        image = picture.reshape(1, -1)
        if self.dtype is np.float32:
            image = image / np.float32(255)
        return self.session.run([OUTPUT], {self.session.get_inputs()[0].name: image})[0][0]


def find_photos(given: list[Path]) -> list[Path]:
    """List the photos that a command line names: of a folder, all files but hidden ones.

    A folder that is empty or can't be read is in the list too, for `name_photo` to say so.
    """
    photos = []
    for path in given:
        photos += (files_in(path) or [path]) if path != STDIN and is_dir(path) else [path]
    return photos


def is_dir(path: Path) -> bool:
    """Say whether it is a folder; no where that can't be told, unlike Path's own."""
    return os.path.isdir(path)  # noqa: PTH112


def files_in(folder: Path) -> list[Path]:
    """List the files in a folder and below it; a folder that can't be read is in the list too."""
    try:
        inner = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return [folder]
    files = []
    for path in inner:
        if not is_dir(path):
            files.append(path)
        elif not path.is_symlink():  # which may lead in circles
            files += files_in(path)
    return files


def name_photo(network: Network, path: Path, language: str, save: Path | None) -> dict[str, Any]:
    """Name one photo, or say under `error` why not; write its picture into a folder."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # which says why where it can't be read
            raise ValueError("no file in this folder")
        picture, edge = see(read_photo(path), network.shape, network.photos)
        probabilities = network.predict(picture)
    except (OSError, ValueError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return {"file": str(path), "error": reason or type(error).__name__}
    if save:
        target = save / f"{'stdin' if path == STDIN else path.name}.png"
        try:
            Image.fromarray(picture).save(unused(target))
        except OSError as error:
            return {"file": str(path), "error": f"--save: {target}: {error.strerror or error}"}
    best = int(probabilities.argmax())
    names = network.names[language]
    rows = zip(names, probabilities, strict=True)
    result = {
        "file": str(path),
        "class": names[best],
        "probability": round(float(probabilities[best]), 6),
        "probabilities": {name: round(float(value), 6) for name, value in rows},
    }
    if edge > BUSY:
        warning = f"the background is not plain: {edge:.0%} of the photo's edge differs from it"
        result["warning"] = warning
    return result


def unused(path: Path) -> Path:
    """Find a name that no file has yet: photo.png, photo-2.png, …."""
    number = 1
    while (found := path if number == 1 else path.with_stem(f"{path.stem}-{number}")).exists():
        number += 1
    return found


def printable(path: Path | str) -> str:
    """Write a file's name, or a text with one, so that it can't control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Name what is on photos.")
    parser.add_argument(
        "photos", metavar="PHOTO", nargs="+", type=Path, help="a file, a folder, or - (stdin)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array, all classes")
    parser.add_argument(
        "--save", metavar="FOLDER", type=Path, help="write what the network sees, as PNG"
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument("--language", help="of the class names, such as en or ru")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Name the photos of a command line; return the exit status."""
    options = parse(arguments)
    try:
        network = Network(options.model)
        language = options.language or next(iter(network.names))
        if language not in network.names:
            raise ValueError(f"--language: the model has {', '.join(network.names)}")
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"predict: --save: {options.save}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    results = []
    for path in find_photos(options.photos):
        result = name_photo(network, path, language, options.save)
        results.append(result)
        if "error" not in result and not options.json:
            name = printable(result["class"])
            print(f"{printable(path)}: {name}, {result['probability']:.4f}")
        for said in {"error", "warning"} & result.keys():
            print(f"predict: {printable(path)}: {result[said]}", file=sys.stderr)
    if options.json:
        ascii_only = (sys.stdout.encoding or "utf-8").lower() != "utf-8"
        print(json.dumps(results, indent=2, ensure_ascii=ascii_only))
    return int(any("error" in result for result in results))


if __name__ == "__main__":
    if not sys.stdout:
        sys.exit("predict: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # odd file names
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader has stopped, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:  # a full disk
        print(f"predict: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
