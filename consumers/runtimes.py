"""The runtimes that `make conformance` runs: for each, the commands of its example.

In a command, these stand for paths: {python} of the project's environment, {bin} of the consumers',
{model}, {build} (a scratch folder); {pixels} and {classes} are the model's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

MODELS = {False: Path("models/fashion_mlp.onnx"), True: Path("models/fashion_mlp_uint8.onnx")}
LABELS = Path("models/labels.json")
LOCK = Path("consumers/requirements.lock")
BIN = Path("consumers/.venv/bin")

GENERATE = (
    "{bin}/emx-onnx-cgen compile --model-name fashion_mlp --large-weight-threshold 0 {model} "
    "{build}/fashion_mlp.c"
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


class Runtime(NamedTuple):
    """How to run one runtime's example.

    Attributes:
        key: in conformance.json.
        name: in the table.
        install: what its user types.
        command: takes `IMAGES.npy --probabilities FILE` behind it.
        build: commands before it.
        generator: the package in LOCK that generates the program from the model.
        enforced: whether it must stay within the tolerance.
        uint8: whether it reads the uint8 model.
    """

    key: str
    name: str
    install: str
    command: str
    build: tuple[str, ...] = ()
    generator: str = ""
    enforced: bool = True
    uint8: bool = False


def in_python(key: str, name: str, package: str, folder: str, uint8: bool = False) -> Runtime:
    """Describe an example in Python, which needs one package."""
    command = f"{{bin}}/python consumers/{folder}/classify.py {{model}}"
    return Runtime(key, name, f"pip install {package}", command, uint8=uint8)


def in_node(key: str, name: str, uint8: bool = False) -> Runtime:
    """Describe the example in Node.js."""
    command = "node consumers/node/classify.mjs {model}"
    return Runtime(key, name, "npm install onnxruntime-node", command, uint8=uint8)


RUNTIMES = (
    in_python("onnxruntime", "Python, onnxruntime", "onnxruntime", "python"),
    in_python("onnx_reference", "Python, onnx's reference", "onnx", "reference"),
    in_python("openvino", "OpenVINO, f32 hint", "openvino", "openvino"),
    in_python("opencv", "OpenCV dnn", "opencv-python-headless", "opencv"),
    in_python("tract", "tract", "tract", "tract"),
    in_node("node", "Node.js, onnxruntime-node"),
    Runtime(
        "web",
        "web page, onnxruntime-web",
        "npm install onnxruntime-web",
        "node consumers/web/conformance.mjs {model}",
        build=("{python} consumers/web/prepare.py",),
    ),
    Runtime(
        "c",
        "C99 generated from the model",
        "pip install emx-onnx-cgen",
        "{build}/classify {labels}",
        build=(GENERATE, COMPILE),
        generator="emx-onnx-cgen",
    ),
    Runtime(
        "onnxruntime_c",
        "onnxruntime's C API",
        "cd consumers/c_api && npm ci",
        "{build}/classify {model}",
        build=(COMPILE_C_API,),
    ),
    in_python(
        "onnxruntime_uint8", "Python, onnxruntime, uint8 file", "onnxruntime", "python", uint8=True
    ),
    in_node("node_uint8", "Node.js, onnxruntime-node, uint8 file", uint8=True),
    # Computes in bf16 where the processor can: shown, but not held to the tolerance.
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
