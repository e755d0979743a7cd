"""The runtimes that `make conformance` runs: for each the command of its example."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ONNX = Path("models/fashion_mlp.onnx")
ONNX_UINT8 = Path("models/fashion_mlp_uint8.onnx")
HERE = Path("consumers")
LOCK = HERE / "requirements.lock"
BIN = HERE / ".venv/bin"
WEB = HERE / "web"
ORT_C = HERE / "c_api/onnxruntime"
APT_INSTALL = "apt-get install chromium nodejs npm gcc"


class Runtime(NamedTuple):
    """How to run one runtime's example.

    key: in the metrics. command: {images}, {out} and {build} stand for paths. install: what its
    user types. tools: commands it needs that only root can install. build: commands before it.
    maker: the package in LOCK that makes the program from the model. held: to the bar.
    takes_bytes: its images are uint8.
    """

    key: str
    name: str
    command: Sequence[str]
    install: str
    tools: Sequence[str] = ()
    build: Sequence[Sequence[str]] = ()
    maker: str = ""
    held: bool = True
    takes_bytes: bool = False


def runtimes() -> Iterator[Runtime]:
    """Yield the runtimes; the web page only where its folder is."""
    yield Runtime("onnxruntime", "Python, onnxruntime", python("python"), "pip install onnxruntime")
    yield Runtime(
        "onnx_reference", "Python, onnx's reference", python("reference"), "pip install onnx"
    )
    yield Runtime("openvino", "OpenVINO, f32 hint", python("openvino"), "pip install openvino")
    yield Runtime("opencv", "OpenCV dnn", python("opencv"), "pip install opencv-python-headless")
    yield Runtime("tract", "tract", python("tract"), "pip install tract")
    yield Runtime(
        "node",
        "Node.js, onnxruntime-node",
        node(ONNX),
        "npm install onnxruntime-node",
        tools=["node", "npm"],
    )
    if WEB.exists():
        yield Runtime(
            "web",
            "web page, onnxruntime-web",
            ["node", str(WEB / "conformance.mjs"), str(ONNX), "{images}", "{out}"],
            "npm install onnxruntime-web",
            tools=["node", "npm", "chromium"],
            build=[[sys.executable, str(WEB / "prepare.py")]],
        )
    yield Runtime(
        "c",
        "C99 made from the model",
        c(),
        "pip install emx-onnx-cgen",
        tools=["gcc"],
        build=[generate(), compile_generated()],
        maker="emx-onnx-cgen",
    )
    yield Runtime(
        "onnxruntime_c",
        "onnxruntime's C API",
        c(str(ONNX)),
        "cd consumers/c_api && npm ci",
        tools=["gcc", "npm"],
        build=[compile_and_link()],
    )
    yield Runtime(
        "onnxruntime_uint8",
        "Python, onnxruntime, uint8 file",
        python("python", model=ONNX_UINT8),
        "pip install onnxruntime",
        takes_bytes=True,
    )
    yield Runtime(
        "node_uint8",
        "Node.js, onnxruntime-node, uint8 file",
        node(ONNX_UINT8),
        "npm install onnxruntime-node",
        tools=["node", "npm"],
        takes_bytes=True,
    )
    # Computes in bf16 where the processor can: shown, and not held to the bar.
    yield Runtime(
        "openvino_default",
        "OpenVINO, its default",
        python("openvino", "--default-precision"),
        "pip install openvino",
        held=False,
    )


def python(folder: str, *options: str, model: Path = ONNX) -> list[str]:
    """Make the command of an example in Python, which has an environment of its own."""
    script = str(HERE / folder / "classify.py")
    return [f"{BIN}/python", script, str(model), "{images}", "--probabilities", "{out}", *options]


def node(model: Path) -> list[str]:
    """Make the command of the example in JavaScript."""
    script = str(HERE / "node/classify.mjs")
    return ["node", script, str(model), "{images}", "--probabilities", "{out}"]


def c(*arguments: str) -> list[str]:
    """Make the command of an example in C, once it is built."""
    return ["{build}/classify", *arguments, "{images}", "--probabilities", "{out}"]


def generate() -> list[str]:
    """Make the command that turns the model into one C file, weights included."""
    options = ["--model-name", "fashion_mlp", "--large-weight-threshold", "0"]
    return [f"{BIN}/emx-onnx-cgen", "compile", *options, str(ONNX), "{build}/fashion_mlp.c"]


def compile_generated() -> list[str]:
    """Make the command that compiles it with its example."""
    sources = [str(HERE / "c/classify.c"), "{build}/fashion_mlp.c"]
    return ["gcc", "-std=c99", "-O3", "-o", "{build}/classify", *sources, "-lm"]


def compile_and_link() -> list[str]:
    """Make the command that compiles the C API's example against onnxruntime's library."""
    library = ["-L", f"{ORT_C}/lib", "-lonnxruntime", f"-Wl,-rpath,{(ORT_C / 'lib').resolve()}"]
    source = str(HERE / "c_api/classify.c")
    return [
        "gcc",
        "-std=c99",
        "-O2",
        f"-I{ORT_C}/include",
        "-o",
        "{build}/classify",
        source,
        *library,
    ]


def missing_tools(runtime: Runtime) -> list[str]:
    """Name the commands that a runtime needs and this machine lacks; $CHROMIUM may name one."""
    named = {"chromium": os.environ.get("CHROMIUM", "chromium")}
    return [tool for tool in runtime.tools if not shutil.which(named.get(tool, tool))]


def maker_version(runtime: Runtime, lock: Path = LOCK) -> str:
    """Name the package that makes the program and its version, from the lock; "" without one."""
    if not runtime.maker:
        return ""
    lines = lock.read_text(encoding="utf-8").splitlines()
    pin = next(line for line in lines if line.startswith(f"{runtime.maker}=="))
    return f"{pin.split()[0].removeprefix(f'{runtime.maker}==')}, "
