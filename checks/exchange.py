"""Time the exchange of gradients alone; `make check-workers` runs this on two workers.

Each step of training on several workers sums the gradients of all of them. Here they are summed
without any being computed. Prints the milliseconds of a step.
"""

from __future__ import annotations

import time

from fashion_mlp.training import workers as cluster
from pipeline.console import run
from pipeline.params import load_params

WARM_UP, STEPS = 10, 200


def main() -> None:
    """Join the other workers, exchange, print."""
    params = load_params()
    pixels, classes = params.dataset.pixels, len(params.dataset.classes.en)
    _, number = cluster.read_config()
    strategy = cluster.join(params.train, chief=number == 0)
    import tensorflow as tf

    units = params.train.hidden_units
    gradients = [tf.ones(shape) for shape in ((pixels, units), units, (units, classes), classes)]

    @tf.function
    def exchange(steps: tf.Tensor) -> None:
        for _ in tf.range(steps):
            strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("sum", gradients))

    exchange(tf.constant(WARM_UP))
    start = time.perf_counter()
    exchange(tf.constant(STEPS))
    print(f"{1000 * (time.perf_counter() - start) / STEPS:.2f} ms a step")


if __name__ == "__main__":
    run(main)
