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


RUNTIMES = (
    Runtime(
        "onnxruntime",
        "Python, onnxruntime",
        "pip install onnxruntime",
        "{bin}/python consumers/python/classify.py {model}",
    ),
    Runtime(
        "onnx_reference",
        "Python, onnx's reference",
        "pip install onnx",
        "{bin}/python consumers/reference/classify.py {model}",
    ),
    Runtime(
        "openvino",
        "OpenVINO, f32 hint",
        "pip install openvino",
        "{bin}/python consumers/openvino/classify.py {model}",
    ),
    Runtime(
        "opencv",
        "OpenCV dnn",
        "pip install opencv-python-headless",
        "{bin}/python consumers/opencv/classify.py {model}",
    ),
    Runtime(
        "tract",
        "tract",
        "pip install tract",
        "{bin}/python consumers/tract/classify.py {model}",
    ),
    Runtime(
        "node",
        "Node.js, onnxruntime-node",
        "npm install onnxruntime-node",
        "node consumers/node/classify.mjs {model}",
    ),
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
    Runtime(
        "onnxruntime_uint8",
        "Python, onnxruntime, uint8 file",
        "pip install onnxruntime",
        "{bin}/python consumers/python/classify.py {model}",
        uint8=True,
    ),
    Runtime(
        "node_uint8",
        "Node.js, onnxruntime-node, uint8 file",
        "npm install onnxruntime-node",
        "node consumers/node/classify.mjs {model}",
        uint8=True,
    ),
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
