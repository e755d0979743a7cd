"""JAX, a whole epoch compiled: `lax.scan` over the batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.baselines.turns import BATCH, HIDDEN, RATE, Turns, load


def main() -> None:
    """Take turns."""
    images, labels = map(jnp.asarray, load())
    steps = len(images) // BATCH
    pixels, classes = images.shape[1], labels.shape[1]
    key = jax.random.key(42)
    glorot = jax.nn.initializers.glorot_uniform()
    weights = (
        glorot(key, (pixels, HIDDEN)),
        jnp.zeros(HIDDEN),
        glorot(key, (HIDDEN, classes)),
        jnp.zeros(classes),
    )

    def loss(weights, batch, targets):  # type: ignore[no-untyped-def]
        kernel_1, bias_1, kernel_2, bias_2 = weights
        logits = jax.nn.relu(batch @ kernel_1 + bias_1) @ kernel_2 + bias_2
        mean = -(targets * jax.nn.log_softmax(logits)).sum(axis=1).mean()
        return mean, (logits.argmax(axis=1) == targets.argmax(axis=1)).mean()

    def step(weights, rows):  # type: ignore[no-untyped-def]
        metrics, gradients = jax.value_and_grad(loss, has_aux=True)(
            weights, images[rows], labels[rows]
        )
        return jax.tree.map(lambda weight, by: weight - RATE * by, weights, gradients), metrics

    @jax.jit
    def train(weights, key):  # type: ignore[no-untyped-def]
        order = jax.random.permutation(key, len(images))[: steps * BATCH].reshape(steps, BATCH)
        weights, metrics = jax.lax.scan(step, weights, order)
        return weights, jax.tree.map(jnp.mean, metrics)

    def epoch() -> tuple[float, float]:
        nonlocal weights, key
        key, ours = jax.random.split(key)
        weights, (mean, accuracy) = train(weights, ours)
        return float(mean), float(accuracy)

    Turns(f"JAX {jax.__version__}").take(epoch)


if __name__ == "__main__":
    main()
