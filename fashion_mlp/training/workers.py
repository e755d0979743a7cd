"""Training on several workers, synchronously: each takes its part of every batch.

TF_CONFIG names the workers, as TensorFlow's multi-worker guide has it. FASHION_MLP_DEVICES says
what of each machine computes: `gpu`, all its GPUs; `cpu:2`, its processor as two devices, to try
it without any. What is computed is what one worker computes, but for the order of adding: the
batches are the same, gradients are summed over all, and each takes the same step.

Worker 0, the chief, runs stage train and alone writes; the others run `python -m worker`.
Keras' `fit` does not run under `MultiWorkerMirroredStrategy`, so the loop is here. What is drawn
anew for each batch it does not do, nor average weights: parameters that ask for it are refused
(`PLAIN`).
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_mlp.network import engine
from fashion_mlp.data.arrays import Split
from pipeline.params import Train
from fashion_mlp.training.checkpoint import History, Restart

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

TF_CONFIG, DEVICES, WAIT = "TF_CONFIG", "FASHION_MLP_DEVICES", "FASHION_MLP_WAIT"
ALONE = '{"cluster": {"worker": ["localhost:0"]}, "task": {"type": "worker", "index": 0}}'
WAIT_SECONDS = "300"  # for workers that are not there yet, where FASHION_MLP_WAIT says nothing
LOOK_SECONDS = 0.25  # between looks for them
# So long one waits, while training, for another that lives but sends nothing, or for the chief's
# validation. Of one that is killed or cut off, TensorFlow hears sooner (docs/workers.md).
HUNG_SECONDS = 45.0
CHUNK = 1000  # validation images at a time
# Keys of the section `train` that only `stages.train.learn` carries out, with the value of each
# that asks for nothing.
PLAIN = {"dropout": 0.0, "flip": False, "mixup": 0.0, "warp": 0.0, "optimizer.ema_momentum": 0.0}


def asked() -> bool:
    """Say whether the environment asks for other than one worker on one processor."""
    return TF_CONFIG in os.environ or DEVICES in os.environ


def read_config() -> tuple[list[str], int]:
    """Read TF_CONFIG: each worker's host:port, and which of them this is; without it, the only one.

    Raises:
        ValueError: it is not of the form that is meant.
    """
    text = os.environ.get(TF_CONFIG, ALONE)
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        config = json.loads(text)
        workers, number = config["cluster"]["worker"], config["task"]["index"]
        formed = all(host and 0 <= port < 2**16 for host, port in map(_address, workers))
        if formed and [*config["cluster"]] == ["worker"] and 0 <= number < len(workers):
            return workers, number
    raise ValueError(
        'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
        f'"worker", "index": 0}}}}, the index one into the list, got {text}'
    )


def _address(worker: str) -> tuple[str, int]:
    host, _, port = worker.rpartition(":")
    return host.strip("[]"), int(port)  # of IPv6: [::1]:5001


@cache
def join(params: Train, chief: bool) -> tf.distribute.Strategy:
    """Start the engine and meet the other workers, before anything is computed.

    Args:
        params: the section `train` of params.yaml.
        chief: whether the caller is the one that writes.

    Raises:
        ValueError: the parameters or the environment variables are not what can be done, or the
            caller is not whom these name.
        RuntimeError: the workers did not come together.
    """
    workers, number = read_config()
    if chief != (number == 0):
        right = "`python -m worker`" if chief else "`make`, or stage train,"
        raise ValueError(f"TF_CONFIG: this is worker {number} of {len(workers)}: run {right} here")
    _check_plain(params)
    # Of a worker that is gone, TensorFlow tells in dozens of lines; we do in one.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    engine.start()
    import tensorflow as tf

    kind, count = _read_devices(os.environ.get(DEVICES, "cpu:1"))
    if params.batch_size % (len(workers) * count):
        raise ValueError(
            f"params.yaml: train.batch_size: expected a multiple of {len(workers) * count}, the "
            f"number of workers (or devices), got {params.batch_size}"
        )
    if TF_CONFIG in os.environ:
        _meet(workers, number)
    if kind == "GPU":  # which the engine has hidden
        tf.config.set_visible_devices(tf.config.list_physical_devices("GPU"), "GPU")
    else:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, parts)
    if TF_CONFIG not in os.environ:
        return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(count)])
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=HUNG_SECONDS)
    # TensorFlow would wait for an hour for one that ended just now, and would hold up Python.
    faulthandler.dump_traceback_later(_read_wait(), exit=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (tf.errors.OpError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"TF_CONFIG: worker {number} ({workers[number]}) could not join ({reason}); is its "
            f"port free, and are all started?"
        ) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow notes it, and goes on
    return strategy


def _check_plain(params: Train) -> None:
    found = {key: attrgetter(key)(params) for key in PLAIN}
    if other := [key for key in PLAIN if found[key] != PLAIN[key]]:
        expected, got = (
            ", ".join(json.dumps(values[key]) for key in other) for values in (PLAIN, found)
        )
        raise ValueError(
            f"params.yaml: {', '.join(f'train.{key}' for key in other)}: with {TF_CONFIG} or "
            f"{DEVICES} set, expected {expected}, got {got}; change that, or unset the variable"
        )


def _read_devices(text: str) -> tuple[str, int]:
    """Read FASHION_MLP_DEVICES: CPU or GPU, and how many of them."""
    import tensorflow as tf

    if text == "gpu":
        count = len(tf.config.list_physical_devices("GPU"))
    else:  # TensorFlow's workers have one processor each
        limit = 1 if TF_CONFIG in os.environ else 9
        count = int(text[4:]) if re.fullmatch(rf"cpu:[1-{limit}]", text) else 0
    if not count:
        raise ValueError(
            f"{DEVICES}: expected `gpu`, where there is one, or, without TF_CONFIG, `cpu:2` "
            f"(to 9), got {text}"
        )
    return text[:3].upper(), count


def _read_wait() -> int:
    text = os.environ.get(WAIT, WAIT_SECONDS)
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ValueError(f"{WAIT}: expected seconds, as 300, got {text}")
    return int(text)


def _meet(workers: Sequence[str], number: int) -> None:
    """Wait until all listen at their ports; here, as no signal ends TensorFlow's own waiting.

    Raises:
        RuntimeError: this one's port is taken, or others did not come in time.
    """
    seconds = _read_wait()
    deadline = time.monotonic() + seconds
    try:
        listener = _listen(_address(workers[number])[1], len(workers))
    except OSError as error:
        raise RuntimeError(
            f"TF_CONFIG: worker {number} ({workers[number]}) can't listen at its port: "
            f"{os.strerror(error.errno or 0)}; choose another, or end what has it"
        ) from None
    with listener:
        absent = [other for other in range(len(workers)) if other != number]
        said = ""
        while absent := [other for other in absent if not _listens(workers[other])]:
            names = ", ".join(f"worker {other} ({workers[other]})" for other in absent)
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"TF_CONFIG: {names} did not come within {seconds} s; start all, each with its "
                    f"own index, or give them longer: {WAIT}=seconds"
                )
            if names != said:
                print(f"worker {number}: waiting for {names}, {seconds} s", file=sys.stderr)
            said = names
            time.sleep(LOOK_SECONDS)


def _listen(port: int, others: int) -> socket.socket:
    """Listen at a port of all addresses, as TensorFlow does; the system answers, we need not."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=others, dualstack_ipv6=both)


def _listens(worker: str) -> bool:
    with suppress(OSError), socket.create_connection(_address(worker), timeout=5):
        return True
    return False


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
        build: makes the network that learns.
        optimizer: makes its optimizer.

    Returns:
        The trained network, the same on all workers, and its history.

    Raises:
        ValueError: see `join`; or workers have other parameters, data, code or libraries.
        RuntimeError: a worker is gone, or the weights differ at the end.
    """
    import tensorflow as tf
    from keras.callbacks import CallbackList

    workers, number = read_config()
    strategy = join(params, chief=number == 0)
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
        measure = _validator(network, validation)
        listeners = CallbackList([*callbacks], add_history=True, model=network)
        listeners.on_train_begin()
        for logs in _epochs(strategy, network, params, split, done):
            if number == 0 and len(validation.images):
                logs |= measure()
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

    from fashion_mlp.network.model import shuffled_batches, tables_per_epoch

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


def _validator(network: keras.Sequential, validation: Split) -> Callable[[], dict[str, float]]:
    """Make what measures on validation images; compiled once, for all epochs."""
    import tensorflow as tf

    from fashion_mlp.network.model import mean_loss

    @tf.function(jit_compile=True)
    def forward(images: tf.Tensor) -> tf.Tensor:
        return network(images, training=False)

    def measure() -> dict[str, float]:
        starts = range(0, len(validation.images), CHUNK)
        chunks = [tf.constant(validation.images[first : first + CHUNK]) for first in starts]
        predicted = np.concatenate([forward(chunk).numpy() for chunk in chunks])
        right = predicted.argmax(axis=1) == validation.labels.argmax(axis=1)
        loss = mean_loss(network, predicted, validation.labels)
        return {"val_loss": loss, "val_accuracy": float(right.mean())}

    return measure


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
