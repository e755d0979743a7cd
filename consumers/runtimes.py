"""The runtimes that `make conformance` runs: for each, the commands of its example.

In a command, these stand for paths: {python} of the project's environment, {bin} of the consumers',
{model}, {build} (a scratch folder); {pixels} and {classes} are the model's.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import onnx

MODELS = {
    "float32": Path("models/fashion_mlp.onnx"),
    "uint8": Path("models/fashion_mlp_uint8.onnx"),
    "exact": Path("models/fashion_mlp_exact.onnx"),
}
LABELS = Path("models/labels.json")
LOCK = Path("consumers/requirements.lock")
BIN = Path("consumers/.venv/bin")

GENERATE = (
    "{bin}/emx-onnx-cgen compile --model-name fashion_mlp --large-weight-threshold 0 "
    "--input-dim N=1 {model} {build}/fashion_mlp.c"
)
COMPILE = (
    "gcc -std=c99 -O3 -DPIXELS={pixels} -DCLASSES={classes} -o {build}/classify "
    "consumers/c/classify.c {build}/fashion_mlp.c -lm"
)
COMPILE_C_API = (
    "gcc -std=c99 -O2 -I consumers/c_api/onnxruntime/include -o {build}/classify "
    "consumers/c_api/classify.c -L consumers/c_api/onnxruntime/lib -lonnxruntime "
    "-Wl,-rpath,{root}/consumers/c_api/onnxruntime/lib"
)


def graph_hash(path: Path) -> str:
    """Compute the SHA-256 of what an ONNX file computes: of all but its metadata."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


class Runtime(NamedTuple):
    """How to run one runtime's example.

    Attributes:
        key: in conformance.json.
        name: in the table.
        install: what its user types.
        command: takes `IMAGES.npy --output NAME --save FILE` behind it.
        build: commands before it.
        generator: the package in LOCK that generates the program from the model.
        files: of MODELS, those that it reads.
        enforced: whether it must give what Keras, or every runtime, gives.
    """

    key: str
    name: str
    install: str
    command: str
    build: tuple[str, ...] = ()
    generator: str = ""
    files: tuple[str, ...] = ("float32", "exact")
    enforced: bool = True


def in_python(key: str, name: str, package: str, *files: str) -> Runtime:
    """Describe an example in Python, which needs one package."""
    command = f"{{bin}}/python consumers/{key}/classify.py {{model}}"
    return Runtime(key, name, f"pip install {package}", command, files=("float32", *files, "exact"))


def in_c(key: str, name: str, compiler: str, run: str = "") -> Runtime:
    """Describe the C example, for one compiler."""
    return Runtime(
        key,
        name,
        "pip install emx-onnx-cgen",
        f"{run}{{build}}/classify {{labels}}",
        build=(GENERATE, COMPILE.replace("gcc", compiler, 1)),
        generator="emx-onnx-cgen",
        files=("exact",),
    )


RUNTIMES = (
    in_python("python", "Python, onnxruntime", "onnxruntime", "uint8"),
    in_python("reference", "Python, onnx's reference", "onnx"),
    in_python("openvino", "OpenVINO, f32 hint", "openvino"),
    in_python("opencv", "OpenCV dnn", "opencv-python-headless"),
    in_python("tract", "tract", "tract"),
    Runtime(
        "node",
        "Node.js, onnxruntime-node",
        "npm install --ignore-scripts onnxruntime-node",
        "node consumers/node/classify.mjs {model}",
        files=("float32", "uint8", "exact"),
    ),
    Runtime(
        "web",
        "web page, onnxruntime-web",
        "npm install --ignore-scripts onnxruntime-web",
        "node consumers/web/conformance.mjs {model}",
        build=("{python} consumers/web/prepare.py",),
    ),
    Runtime(
        "c_api",
        "onnxruntime's C API",
        "make conformance",
        "{build}/classify {model}",
        build=(COMPILE_C_API,),
    ),
    in_c("c", "C99 generated from the model", "gcc"),
    # -ffp-contract=fast is gcc's default there: sums use fused multiply-add.
    in_c(
        "c_arm64",
        "the same on 64-bit ARM, emulated",
        "aarch64-linux-gnu-gcc -static -ffp-contract=fast",
        "qemu-aarch64 ",
    ),
    # Computes in bf16 where the processor can: shown, but not held to anything.
    Runtime(
        "openvino_default",
        "OpenVINO, its default",
        "pip install openvino",
        "{bin}/python consumers/openvino/classify.py --default-precision {model}",
        enforced=False,
    ),
)


def locked_version(package: str) -> str:
    """Read from LOCK which version of a package is installed."""
    (version,) = re.findall(rf"^{package}==(\S+)", LOCK.read_text(encoding="utf-8"), re.M)
    return version
