"""Matrix products with the same bits on every processor."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import tensorflow as tf

# Smaller products are filled up with zeros. Of fewer rows, the order of adding depends on the
# number of threads (measured: 2 to 32); of fewer columns, or fewer products to add, on the
# processor (33 to 49 columns, and 1; 41, 45 and 49 products), but for up to NARROW of them.
SMALL, NARROW = 64, 16
# Products in a chain. YNNPACK cuts here itself, but not with its kernels for ARM's SME.
CHAIN = 512


def product(left: tf.Tensor, right: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """Multiply matrices, as XLA compiles it, in one order of adding.

    Args:
        left: float32 or bfloat16 (m, k); shapes are known when it is compiled.
        right: the same (k, n), or (n, k) where it is to be transposed.
        transpose_b: whether it is.

    Returns:
        float32 (m, n); a row's bits depend neither on m nor on the other rows.
    """
    rows, length = left.shape
    columns = right.shape[0 if transpose_b else 1]
    narrow = 1 < columns <= NARROW
    # None: Keras asks for the shape alone
    more_rows = SMALL - rows if rows is not None and rows < SMALL else 0
    more_columns = SMALL - columns if columns < SMALL and not narrow else 0
    more = SMALL - length if NARROW < length < SMALL else 0
    left = tf.pad(left, ((0, more_rows), (0, more)))
    shape = ((0, more), (0, more_columns))
    right = tf.pad(right, shape[::-1] if transpose_b else shape)
    chain = length + more if narrow else CHAIN
    parts = (slice(first, first + chain) for first in range(0, length + more, chain))
    sums = (
        tf.raw_ops.BatchMatMulV3(
            x=left[:, part],
            y=right[:, part] if transpose_b else right[part],
            Tout=tf.float32,
            adj_y=transpose_b,
        )
        for part in parts
    )
    return reduce(operator.add, sums)[:rows, :columns]


def portable_matmul(inputs: tf.Tensor, kernel: tf.Tensor, precision: str = "float32") -> tf.Tensor:
    """Multiply as `tf.matmul` does, with gradients that are plain products too.

    TensorFlow's own gradient asks for a product with its left side transposed, which XLA gives
    to another library, whose order of adding depends on the processor and on the threads. Here
    the transposition is an operation of its own.

    Args:
        inputs: float32 (batch, n).
        kernel: float32 (n, units).
        precision: float32, or bfloat16: the factors are rounded to it, the sums are float32.

    Returns:
        float32 (batch, units).
    """

    @tf.custom_gradient
    def multiply(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        rounded = tf.cast(inputs, precision), tf.cast(kernel, precision)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.cast(upstream, precision)
            by_inputs = product(upstream, rounded[1], transpose_b=True)
            return by_inputs, product(tf.transpose(rounded[0]), upstream)

        return product(*rounded), gradients

    return multiply(inputs, kernel)
