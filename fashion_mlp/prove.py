"""Tell whether an ONNX file computes what a Keras model computes; where not, which layer differs.

    python -m fashion_mlp.prove MODEL.keras MODEL.onnx IMAGES.npy [--json]

Any model that Keras loads in safe mode, and any ONNX file that onnxruntime runs. Nothing in the
.keras file is executed, and all files are only read. docs/proof.md says what each line means.

Exit status: 0 equal (perhaps up to a limit, which is printed), 1 different, 2 not decided: a file
can't be read, or the comparison can't be made; the text says why.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fashion_mlp.network import engine
from fashion_mlp.proof.double import one_line
from fashion_mlp.proof.findings import DIFFERS, HELD, LIMITED, OPEN, Finding
from pipeline.console import run

VERDICTS = {
    HELD: ("equal", 0),
    LIMITED: ("equal, up to the limit stated", 0),
    DIFFERS: ("different", 1),
    OPEN: ("not decided", 2),
}


def load_images(path: Path) -> list[np.ndarray]:
    """Read an .npy file; or an .npz file, for several inputs, in the model's order.

    Raises:
        ValueError: neither, or not numbers.
        OSError: the file can't be read.
    """
    try:
        if zipfile.is_zipfile(path):
            arrays = list(np.load(path, allow_pickle=False).values())
        else:  # not read before it is used, as it may be larger than memory
            arrays = [np.lib.format.open_memmap(path, mode="r")]
    except OSError:
        raise
    except Exception as error:  # NumPy parses a header as Python: damaged, it raises anything
        raise ValueError(f"{path}: not a whole .npy or .npz file ({error})") from None
    for array in map(np.asarray, arrays):
        if not array.ndim or array.dtype.kind not in "fiub":
            raise ValueError(
                f"{path}: expected numbers of shape (n, …), got {array.dtype} {array.shape}"
            )
    return arrays


def report(findings: Mapping[str, Finding], verdict: str) -> str:
    """Write what each level found: a line each, the verdict last."""
    width = max(map(len, VERDICTS))
    lines = [f"{name:8} {one.result:{width}}  {one.says}" for name, one in findings.items()]
    return "\n".join([*lines, f"prove: {VERDICTS[verdict][0]}"])


def as_json(findings: Mapping[str, Finding], verdict: str) -> str:
    """Write the same as JSON; non-finite numbers become null."""
    levels = {name: finding._asdict() for name, finding in findings.items()}
    return json.dumps(_plain({"verdict": VERDICTS[verdict][0], "levels": levels}), indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fashion_mlp.prove",
        description="Tell whether an ONNX file computes what a Keras model computes.",
    )
    parser.add_argument("keras", metavar="MODEL.keras", type=Path)
    parser.add_argument("onnx", metavar="MODEL.onnx", type=Path)
    parser.add_argument(
        "images", metavar="IMAGES.npy", type=Path, help="inputs as Keras takes them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> None:
    """Compare the files of the command line; exit with the status that the docstring says."""
    options = parse()
    try:
        for path in (options.keras, options.onnx, options.images):
            if path.exists() and not path.is_file() and not path.is_dir():
                raise ValueError(f"{path}: expected a file, got a pipe or a device")
        images = load_images(options.images)
        engine.start()

        from fashion_mlp.proof.comparison import compare, load_onnx, verdict
        from fashion_mlp.proof.known import study

        model = load_onnx(options.onnx)
        findings = compare(study(options.keras, images), model)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was decided") from None
    except Exception as error:  # whatever Keras, TensorFlow and onnx raise: not decided
        if isinstance(error, OSError) and error.filename:
            error = ValueError(f"{error.filename}: {error.strerror}")
        print(f"prove: error: {one_line(error, 500)}", file=sys.stderr)
        sys.exit(2)
    result = verdict(findings)
    print((as_json if options.json else report)(findings, result))
    sys.exit(VERDICTS[result][1])


if __name__ == "__main__":
    run(main, is_stage=False)
