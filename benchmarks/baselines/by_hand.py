"""The paper's training written by hand in NumPy, into buffers that are allocated once."""

from __future__ import annotations

import numpy as np

from benchmarks.baselines.turns import BATCH, HIDDEN, RATE, Turns, load


def main() -> None:
    """Take turns."""
    images, labels = load()
    random = np.random.default_rng(42)
    pixels, classes = images.shape[1], labels.shape[1]
    sizes = ((pixels, HIDDEN), (HIDDEN, classes))
    limits = [(6 / sum(shape)) ** 0.5 for shape in sizes]  # Glorot's, the default of Keras
    kernel_1, kernel_2 = (
        random.uniform(-limit, limit, shape).astype(np.float32)
        for limit, shape in zip(limits, sizes, strict=True)
    )
    bias_1, bias_2 = np.zeros(HIDDEN, np.float32), np.zeros(classes, np.float32)
    batch = np.empty((BATCH, pixels), np.float32)
    hidden, upstream = np.empty((2, BATCH, HIDDEN), np.float32)
    gradient = np.empty_like(kernel_1)
    rate = np.float32(RATE / BATCH)

    def epoch() -> tuple[float, float]:
        nonlocal kernel_1, kernel_2, bias_1, bias_2
        loss, correct = 0.0, 0
        order = random.permutation(len(images))
        steps = len(images) // BATCH
        for rows in order[: steps * BATCH].reshape(steps, BATCH):
            np.take(images, rows, axis=0, out=batch, mode="clip")
            targets = labels[rows]
            np.matmul(batch, kernel_1, out=hidden)
            np.add(hidden, bias_1, out=hidden)
            np.maximum(hidden, 0, out=hidden)
            logits = hidden @ kernel_2 + bias_2
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            answers = powers / powers.sum(axis=1, keepdims=True)
            loss -= float(np.log((answers * targets).sum(axis=1)).sum())
            correct += int((answers.argmax(axis=1) == targets.argmax(axis=1)).sum())
            error = (answers - targets) * rate
            np.matmul(error, kernel_2.T, out=upstream)
            np.multiply(upstream, hidden > 0, out=upstream)
            np.matmul(batch.T, upstream, out=gradient)
            kernel_2 -= hidden.T @ error
            bias_2 -= error.sum(axis=0)
            np.subtract(kernel_1, gradient, out=kernel_1)
            bias_1 -= upstream.sum(axis=0)
        return loss / (steps * BATCH), correct / (steps * BATCH)

    Turns(f"NumPy {np.__version__}").take(epoch)


if __name__ == "__main__":
    main()
