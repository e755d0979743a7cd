"""The lower bound: an epoch's two large matrix products and nothing else, by the library named.

In each step a forward product (200, 784) @ (784, 800) and the gradient of its weights
(784, 200) @ (200, 800): the least that training must compute. `numpy` is NumPy's OpenBLAS. `xla`
is YNNPACK, which stage `train` uses, and `onednn` what TensorFlow uses without XLA, both with the
images transposed in advance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from benchmarks.baselines.turns import BATCH, HIDDEN, Turns, load

Epoch = Callable[[], tuple[None, None]]


def by_numpy(images: np.ndarray, kernel: np.ndarray, upstream: np.ndarray) -> tuple[str, Epoch]:
    """Return the library's name and version, and a function that computes an epoch."""
    hidden, gradient = np.empty((BATCH, HIDDEN), np.float32), np.empty_like(kernel)

    def epoch() -> tuple[None, None]:
        for batch in images:
            np.matmul(batch, kernel, out=hidden)
            np.matmul(batch.T, upstream, out=gradient)
        return None, None

    return f"NumPy {np.__version__}", epoch


def by_tensorflow(
    images: np.ndarray, kernel: np.ndarray, upstream: np.ndarray, xla: bool
) -> tuple[str, Epoch]:
    """Return the library's name and version, and a function that computes an epoch."""
    from fashion_mlp.network import engine

    engine.start()
    import tensorflow as tf

    in_memory, transposed = tf.constant(images), tf.constant(images.transpose(0, 2, 1))
    factors = tf.constant(kernel), tf.constant(upstream)

    @tf.function(jit_compile=xla)
    def compiled(kernel: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def step(
            row: tf.Tensor, hidden: tf.Tensor, gradient: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return row + 1, in_memory[row] @ kernel, transposed[row] @ upstream

        start = (tf.constant(0), tf.zeros_like(upstream), tf.zeros_like(kernel))
        _, *products = tf.while_loop(lambda row, *_: row < len(images), step, start)
        return tuple(products)

    def epoch() -> tuple[None, None]:
        compiled(*factors)[0].numpy()  # waits until it is computed
        return None, None

    return f"TensorFlow {tf.__version__}", epoch


def main() -> None:
    """Take turns."""
    images = load().images
    pixels = images.shape[1]
    batches = images[: len(images) // BATCH * BATCH].reshape(-1, BATCH, pixels)
    random = np.random.default_rng(0)
    kernel = random.standard_normal((pixels, HIDDEN), np.float32)
    upstream = random.standard_normal((BATCH, HIDDEN), np.float32)
    factors = (batches, kernel, upstream)
    if (named := sys.argv[1]) == "numpy":
        library, epoch = by_numpy(*factors)
    else:
        library, epoch = by_tensorflow(*factors, xla=named == "xla")
    Turns(library).take(epoch)


if __name__ == "__main__":
    main()
