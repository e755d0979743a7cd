"""The floor: an epoch's two large matrix products and nothing else, by NumPy's OpenBLAS.

300 steps, each a forward product (200, 784) @ (784, 800) and the gradient of its weights
(784, 200) @ (200, 800): the least that training must compute.
"""

from __future__ import annotations

import numpy as np

from benchmarks.peers.turns import BATCH, HIDDEN, PIXELS, Turns, load


def main() -> None:
    """Take turns."""
    images = load().images
    random = np.random.default_rng(0)
    kernel = random.standard_normal((PIXELS, HIDDEN), np.float32)
    upstream = random.standard_normal((BATCH, HIDDEN), np.float32)
    hidden, gradient = np.empty((BATCH, HIDDEN), np.float32), np.empty_like(kernel)

    def epoch() -> tuple[None, None]:
        for first in range(0, len(images) - BATCH + 1, BATCH):
            batch = images[first : first + BATCH]
            np.matmul(batch, kernel, out=hidden)
            np.matmul(batch.T, upstream, out=gradient)
        return None, None

    Turns(f"NumPy {np.__version__}").take(epoch)


if __name__ == "__main__":
    main()
