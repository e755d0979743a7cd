import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.environment import ROOT
from tests.processes import run

TRAIN = """
import hashlib, os
import numpy as np
from fashion_mlp.network import engine
engine.start()
from fashion_mlp.data.arrays import Split
from fashion_mlp.training.loop import fit
from pipeline.params import Train
random = np.random.default_rng(0)
split = Split(
    random.random((900, 784), np.float32), np.eye(10, dtype=np.float32)[np.arange(900) % 10]
)
nothing = Split(split.images[:0], split.labels[:0])
params = Train(epochs=2, batch_size=30, hidden_units=[800, 40])
layers, history = fit(params, split, nothing, (28, 28))
weights = b"".join(layer.kernel.tobytes() + layer.bias.tobytes() for layer in layers)
print(hashlib.sha256(weights).hexdigest(), *history["loss"])
"""


def finished(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(ROOT, sys.executable, "-c", code, **environment)


def test_start_trains_to_the_same_bits_whatever_the_threads_and_the_processor() -> None:
    one = finished(TRAIN, TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    four = finished(TRAIN, TF_NUM_INTRAOP_THREADS="4", ONEDNN_MAX_CPU_ISA="AVX2")
    assert (one.returncode, one.stdout) == (0, four.stdout)


def test_start_is_silent_and_refuses_to_come_too_late() -> None:
    code = (
        "from fashion_mlp.network import engine\n"
        "engine.start(); engine.start()\n"
        "import gc; print(gc.isenabled())\n"
        "import os; del os.environ['FASHION_MLP_ENGINE']\n"
        "try: engine.start()\n"
        "except RuntimeError as error: print(error)\n"
    )
    done = finished(code)
    assert (
        done.stdout == "True\nTensorFlow was imported before engine.start(); call start() first\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


FAULTS = {
    "os.abort()": (-6, "needs AVX"),
    "raise ImportError('no libcudart')": (
        1,
        "needs AVX\nTensorFlow can't be loaded: no libcudart; ",
    ),
    "raise KeyboardInterrupt": (130, "needs AVX"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_start_shows_what_was_printed_when_the_import_fails_or_aborts(
    fault: str, tmp_path: Path
) -> None:
    status, says = FAULTS[fault]
    (tmp_path / "keras.py").write_text(f"import os\nos.write(2, b'needs AVX\\n')\n{fault}\n")
    code = (
        "import sys\n"
        "from fashion_mlp.network import engine\n"
        "try: engine.start()\n"
        "except RuntimeError as error: print(error, file=sys.stderr); sys.exit(1)\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    done = finished(code, PYTHONPATH=str(tmp_path), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr.startswith(says)) == (status, True), done.stderr
    assert [path.name for path in tmp_path.glob("tmp*")] == []


def test_start_refuses_a_gpu_that_is_not_there() -> None:
    code = (
        "from fashion_mlp.network import engine\n"
        "try: engine.start('gpu')\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert finished(code, CUDA_VISIBLE_DEVICES="").stdout == (
        "params.yaml: train.device: expected a GPU that TensorFlow can use, found none; "
        "set it to cpu\n"
    )
