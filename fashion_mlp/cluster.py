"""Training on several workers, synchronously: each takes its part of every batch.

TF_CONFIG names the workers, as TensorFlow's multi-worker guide has it. FASHION_MLP_DEVICES says
what of each machine computes: `gpu`, all its GPUs; `cpu:2`, its processor as two devices, to try
it without any. What is computed is what one worker computes, but for the order of adding: the
batches are the same, gradients are summed over all, and each takes the same step.

Worker 0, the chief, runs stage train and alone writes; the others run `python -m worker`.
Keras' `fit` does not run under `MultiWorkerMirroredStrategy`, so the loop is here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_mlp import engine
from fashion_mlp.dataset import Split
from fashion_mlp.params import Train
from fashion_mlp.restart import History, Restart

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

TF_CONFIG, DEVICES = "TF_CONFIG", "FASHION_MLP_DEVICES"
# So long one waits for another that hangs, or for the chief's validation. Of a worker that is
# killed, the broken connection tells, or TensorFlow's heartbeats do, within 10 s.
HUNG_SECONDS = 45.0


def asked() -> bool:
    """Say whether the environment asks for other than one worker on one processor."""
    return TF_CONFIG in os.environ or DEVICES in os.environ


def read_config() -> tuple[list[str], int]:
    """Read TF_CONFIG: each worker's host:port, and which of them this is; without it, the only one.

    Raises:
        ValueError: it is not of the form that is meant.
    """
    text = os.environ.get(TF_CONFIG, '{"cluster": {"worker": [""]}, "task": {"index": 0}}')
    with suppress(ValueError, KeyError, TypeError):
        config = json.loads(text)
        workers, number = config["cluster"]["worker"], config["task"]["index"]
        if [*config["cluster"]] == ["worker"] and 0 <= number < len(workers):
            return workers, number
    raise ValueError(
        'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
        f'"worker", "index": 0}}}}, the index one into the list, got {text}'
    )


@cache
def join(chief: bool) -> tf.distribute.Strategy:
    """Start the engine and meet the other workers, before anything is computed.

    Args:
        chief: whether the caller is the one that writes.

    Raises:
        ValueError: the environment variables are wrong, or the caller is not whom they name.
        RuntimeError: the workers did not come together.
    """
    workers, number = read_config()
    if chief != (number == 0):
        right = "`python -m worker`" if chief else "`make`, or stage train,"
        raise ValueError(f"TF_CONFIG: this is worker {number} of {len(workers)}: run {right} here")
    # Of a worker that is gone, TensorFlow tells in dozens of lines; we do in one.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    engine.start()
    import tensorflow as tf

    devices = _choose_devices(os.environ.get(DEVICES, "cpu:1"))
    if TF_CONFIG not in os.environ:
        return tf.distribute.MirroredStrategy(devices)
    print(f"worker {number} of {len(workers)}: waiting for all {len(workers)}", file=sys.stderr)
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=HUNG_SECONDS)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (tf.errors.OpError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"TF_CONFIG: worker {number} ({workers[number]}) could not join ({reason}); is its "
            f"port free, and are all started?"
        ) from None


def _choose_devices(text: str) -> list[str]:
    import tensorflow as tf

    if text == "gpu":
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(gpus, "GPU")  # which the engine has hidden
        devices = [f"GPU:{number}" for number in range(len(gpus))]
    else:  # TensorFlow's workers have one processor each
        limit = 1 if TF_CONFIG in os.environ else 9
        count = int(text[4:]) if re.fullmatch(rf"cpu:[1-{limit}]", text) else 0
        devices = [f"CPU:{number}" for number in range(count)]
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, parts)
    if not devices:
        raise ValueError(
            f"{DEVICES}: expected `gpu`, where there is one, or, without TF_CONFIG, `cpu:2` "
            f"(to 9), got {text}"
        )
    return devices


def learn(
    params: Train,
    split: Split,
    validation: Split,
    callbacks: Sequence[keras.callbacks.Callback],
    restart: Restart | None,
    build: Callable[[], keras.Sequential],
    optimizer: Callable[[], keras.optimizers.Optimizer],
) -> tuple[keras.Sequential, History]:
    """Train as `stages.train.learn` does; every worker calls this with the same arguments.

    Args:
        params: the section `train` of params.yaml.
        split: images float32 (n, pixels) and one-hot labels float32 (n, classes).
        validation: the same; the chief alone measures on it.
        callbacks: as Keras' `fit` takes them.
        restart: the chief's says where all go on; the others' says what they train, no more.
        build: makes the network.
        optimizer: makes its optimizer.

    Returns:
        The trained network, the same on all workers, and its history.

    Raises:
        ValueError: a batch does not divide, or workers have other parameters, data or code.
        RuntimeError: a worker is gone, or the weights differ at the end.
    """
    import tensorflow as tf
    from keras.callbacks import CallbackList

    workers, number = read_config()
    strategy = join(chief=number == 0)
    if params.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"params.yaml: train.batch_size: expected a multiple of "
            f"{strategy.num_replicas_in_sync}, the number of workers (or devices), "
            f"got {params.batch_size}"
        )
    done = 0
    try:
        _check_agreement(strategy, restart.of if restart else {})
        with strategy.scope():
            network = build()
            network.compile(loss=params.loss, optimizer=optimizer())
            network.optimizer.build(network.trainable_variables)
        if restart and number == 0:
            restart.restore(network)
            callbacks = [*callbacks, restart.callback(network)]
            done = restart.epochs
        state = [*network.variables, *network.optimizer.variables]
        gathered = _gather(strategy, [np.array(done), *(one.numpy() for one in state)])
        done, *values = (of_all[0] for of_all in gathered)  # the chief's
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        listeners = CallbackList([*callbacks], add_history=True, model=network)
        listeners.on_train_begin()
        for logs in _epochs(strategy, network, params, split, done):
            if number == 0 and len(validation.images):
                logs |= _measure(network, validation)
            listeners.on_epoch_end(done, logs)
            done += 1
        listeners.on_train_end()
        _check_weights(strategy, network)
    except tf.errors.OpError as error:
        named = {int(found) for found in re.findall(r"task:(\d+)", str(error))} - {number}
        lost = ", ".join(f"worker {one} ({workers[one]})" for one in sorted(named))
        raise RuntimeError(
            f"TF_CONFIG: {lost or 'a worker'} is gone or hangs ({type(error).__name__}); start "
            f"all {len(workers)} again: training goes on with epoch {done + 1}"
        ) from None
    return network, restart.history if restart and number == 0 else network.history.history


def _epochs(
    strategy: tf.distribute.Strategy,
    network: keras.Sequential,
    params: Train,
    split: Split,
    done: int,
) -> Iterator[dict[str, float]]:
    """Train epoch after epoch; yield each one's loss and accuracy."""
    import keras
    import tensorflow as tf

    from fashion_mlp.network import shuffled_batches, tables_per_epoch

    weights = network.trainable_variables
    loss_of_each = keras.losses.get(params.loss)
    with strategy.scope():  # each device adds up its own; reading adds theirs
        sums = tf.Variable(
            tf.zeros(2),
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    @tf.function(jit_compile=True)
    def differentiate(images: tf.Tensor, labels: tf.Tensor, size: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            probabilities = network(images, training=True)
            total = tf.reduce_sum(loss_of_each(labels, probabilities))
            loss = total / size  # of the whole batch: the gradients' sum is its mean's gradient
        right = keras.metrics.categorical_accuracy(labels, probabilities)
        return tape.gradient(loss, weights), tf.stack([total, tf.reduce_sum(right)])

    def step(images: tf.Tensor, labels: tf.Tensor, row: tf.Tensor, size: tf.Tensor) -> None:
        gradients, found = differentiate(images[row], labels[row], size)
        network.optimizer.apply(gradients, weights)  # which sums them over all devices
        sums.assign_add(found)

    @tf.function
    def take(images: Any, labels: Any, rows: tf.Tensor, size: tf.Tensor) -> None:
        for row in tf.range(rows):
            strategy.run(step, (images, labels, row, size))

    batching = (len(split.images), params.batch_size, params.steps_per_execution)
    tables = shuffled_batches(*batching, params.seed, done)
    for _ in range(done, params.epochs):
        sums.assign(tf.zeros(2))
        for _ in range(tables_per_epoch(*batching)):
            table = next(tables)
            parts = np.array_split(table, strategy.num_replicas_in_sync, axis=1)
            images, labels = (_spread(strategy, [of[part] for part in parts]) for of in split)
            take(images, labels, tf.constant(len(table)), tf.constant(table.shape[1], tf.float32))
        loss, accuracy = sums.numpy() / len(split.images)
        yield {"loss": float(loss), "accuracy": float(accuracy)}


def _measure(network: keras.Sequential, validation: Split) -> dict[str, float]:
    from fashion_mlp.network import mean_loss, probabilities

    predicted = probabilities(network, validation.images, 1000)
    right = predicted.argmax(axis=1) == validation.labels.argmax(axis=1)
    loss = mean_loss(network, predicted, validation.labels)
    return {"val_loss": loss, "val_accuracy": float(right.mean())}


def _spread(strategy: tf.distribute.Strategy, values: Sequence[np.ndarray]) -> Any:
    """Give each device its value, by its number in the whole cluster."""
    import tensorflow as tf

    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )


def _gather(strategy: tf.distribute.Strategy, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Stack, for each value, what all devices of the cluster have of it, in their order."""
    import tensorflow as tf

    @tf.function
    def collect(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        return [context.all_gather(tensor[tf.newaxis], axis=0) for tensor in tensors]

    stacks = strategy.run(collect, (list(map(tf.constant, values)),))
    return [strategy.experimental_local_results(stack)[0].numpy() for stack in stacks]


def _digest(content: bytes) -> np.ndarray:
    """SHA-256 as int32 (8,), which TensorFlow can send."""
    return np.frombuffer(hashlib.sha256(content).digest(), np.int32)


def _check_agreement(strategy: tf.distribute.Strategy, of: dict[str, str]) -> None:
    hashes = _gather(strategy, [_digest(value.encode()) for value in of.values()])
    for key, found in zip(of, hashes, strict=True):
        if others := np.flatnonzero((found != found[0]).any(axis=1)).tolist():
            raise ValueError(
                f"TF_CONFIG: expected the same {key} on all workers, got others on {others} than "
                f"on 0; make them equal (same commit, same params.yaml, `dvc repro preprocess`)"
            )


def _check_weights(strategy: tf.distribute.Strategy, network: keras.Sequential) -> None:
    """Compare all workers' weights, bit for bit, and say their hash."""
    workers, number = read_config()
    content = b"".join(weight.tobytes() for weight in network.get_weights())
    (found,) = _gather(strategy, [_digest(content)])
    names = [one.tobytes().hex()[:16] for one in found]
    if len(set(names)) > 1:
        raise RuntimeError(f"the workers' weights differ: SHA-256 {', '.join(names)}")
    print(f"worker {number} of {len(workers)}: weights {names[0]}, alike on all", file=sys.stderr)
