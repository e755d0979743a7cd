"""TensorFlow, started so that the same numbers come out on every processor.

Measured (docs/reproducibility.md): what moves the bits of a training run is how the libraries
under TensorFlow cut up a matrix product, which they decide by the processor's vector width, its
caches and the number of threads. XLA hands a plain product (neither side transposed on the left)
to YNNPACK, which has kernels that add in one order everywhere, and uses them when told so.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.console import held_back

XLA_FLAGS = (
    # YNNPACK's kernels that add in the same order on every processor, and no approximations
    # that depend on it.
    "--xla_cpu_enable_platform_dependent_math=false",
    # A transposed left side would go to Eigen and oneDNN, which cut by caches and threads:
    # keep the transposition apart, so that the product stays plain (see network/products.py).
    "--xla_disable_hlo_passes=transpose-folding",
    # a * b + c * d has two fused forms, fma(a, b, round(c * d)) and fma(c, d, round(a * b)). At
    # level 3 LLVM has a pass of its own for ARM, which takes the other one than it does for x86.
    "--xla_backend_optimization_level=2",
    # What XLA compiles itself: no instruction newer than AVX2, even where there are some.
    "--xla_cpu_max_isa=AVX2",
)

# Optional imports of Keras that nothing here uses; skipping them saves a second.
UNUSED = ("matplotlib", "sklearn")

# Options of glibc's mallopt, from malloc.h, with what they are set to.
MALLOPT = (
    (-3, 32 << 20),  # M_MMAP_THRESHOLD, bytes: smaller blocks come from the heap (its maximum)
    (-1, 256 << 20),  # M_TRIM_THRESHOLD, bytes: so much freed memory stays with the process
    (-2, 64 << 20),  # M_TOP_PAD, bytes: the heap grows by so much at a time
)


def start(device: str = "cpu") -> None:
    """Import TensorFlow and Keras with portable arithmetic and without start-up noise.

    Call it before anything else imports Keras. It costs 2 to 3 s the first time, nothing after.

    Args:
        device: cpu; or gpu, the first that is visible, whose bits are its own.

    Raises:
        RuntimeError: TensorFlow was imported before, without the settings made here; or there is
            no GPU.
    """
    if os.environ.get("FASHION_MLP_ENGINE") == str(os.getpid()):
        return
    if "tensorflow" in sys.modules:
        raise RuntimeError("TensorFlow was imported before engine.start(); call start() first")
    os.environ["XLA_FLAGS"] = " ".join(XLA_FLAGS)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json says
    # 2: errors only. 3: not even those, as TensorFlow tells of a lost worker in dozens of lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if "TF_CONFIG" in os.environ else "2")
    _keep_freed_memory()
    if watched := sys.stderr.isatty():
        print("starting TensorFlow …", end="\r", file=sys.stderr, flush=True)
    _import_quietly(device)
    if watched:
        print("\x1b[K", end="", file=sys.stderr, flush=True)  # clears that line
    os.environ["FASHION_MLP_ENGINE"] = str(os.getpid())


def _choose(device: str) -> None:
    """Make one device visible."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU") if device == "gpu" else []
    if device == "gpu" and not gpus:
        raise RuntimeError(
            "params.yaml: train.device: expected a GPU that TensorFlow can use, found none; "
            "set it to cpu"
        )
    tf.config.set_visible_devices(gpus[:1], "GPU")


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is glibc.

    A matrix product packs its operands into blocks that it allocates and frees at each call. By
    default, glibc returns such blocks to the system, which clears them anew: a quarter of a
    training run's time (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOPT:
            mallopt(option, value)


def _import_quietly(device: str) -> None:
    """Import TensorFlow and Keras, holding back what libraries print to file descriptor 2.

    They print before any setting of theirs can stop them (CUDA not found, oneDNN is on). Where
    the import fails or kills this process, what they printed is shown.
    """
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: can't be imported
    try:
        with held_back(), _objects_that_stay():
            import keras
            import tensorflow  # noqa: F401

            keras.config.set_floatx("float32")  # whatever a keras.json says
            keras.config.set_epsilon(1e-7)
            keras.config.set_image_data_format("channels_last")
            _choose(device)
    except (ImportError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"TensorFlow can't be loaded: {reason}; it needs 3 GB of memory (`ulimit -v`); "
            f"if there is more, remove .venv and run `make`"
        ) from None
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _objects_that_stay() -> Iterator[None]:
    """Spare the garbage collector what is made here: it stays for as long as the process does.

    The import makes half a million objects and no garbage. Looked through as they come, and once
    more at the process' end, they cost a second (docs/performance.md).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
