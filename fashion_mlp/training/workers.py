"""Several workers that train together: each takes its part of every batch.

TF_CONFIG names the workers, as TensorFlow's multi-worker guide has it. Every worker runs the same
loop (loop.py); what makes them several is here: they meet, add up their gradients, and check that
they agree. Worker 0, the chief, runs stage train and alone writes; the others run
`python -m fashion_mlp.training.worker`.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import tensorflow as tf

TF_CONFIG, WAIT = "TF_CONFIG", "FASHION_MLP_WAIT"
WAIT_SECONDS = "300"  # for workers that are not there yet, where FASHION_MLP_WAIT says nothing
POLL_SECONDS = 0.25
# How long a worker waits for one that is alive but silent, as the chief is while it writes a
# checkpoint. TensorFlow notices a killed or disconnected one sooner (docs/workers.md).
HUNG_SECONDS = 45.0


def read_config() -> tuple[list[str], int]:
    """Read TF_CONFIG: each worker's host:port, and which of them this is.

    Raises:
        ValueError: it is malformed.
    """
    text = os.environ.get(TF_CONFIG, "nothing")
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        config = json.loads(text)
        workers, number = config["cluster"]["worker"], config["task"]["index"]
        formed = all(host and 0 < port < 2**16 for host, port in map(_address, workers))
        formed &= isinstance(workers, list) and len({*workers}) == len(workers)
        formed &= type(number) is int and number in range(len(workers))
        if formed and [*config["cluster"]] == ["worker"]:
            return workers, number
    raise ValueError(
        'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
        f'"worker", "index": 0}}}}, each address once, the index one into the list, got {text}'
    )


def _address(worker: str) -> tuple[str, int]:
    host, _, port = worker.rpartition(":")
    host.encode("idna")  # which connecting to it does
    return host.strip("[]"), int(port)  # of IPv6: [::1]:5001


class Workers:
    """All workers of a training run, seen from one of them."""

    def __init__(self, addresses: list[str], number: int, strategy: tf.distribute.Strategy) -> None:
        """Take host:port of each, the number of this one, and TensorFlow's strategy."""
        self.addresses = addresses
        self.number = number
        self.strategy = strategy

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.addresses)

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Add up each tensor over all workers, in one order for all of them."""

        def reduce(*values: tf.Tensor) -> Any:
            context = tf.distribute.get_replica_context()
            here = [tf.identity(value) for value in values]  # which names a device
            return context.all_reduce(tf.distribute.ReduceOp.SUM, here)

        return list(self.strategy.run(reduce, tuple(tensors)))

    def gather(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Stack, for each value, what all workers have of it, in the order of their numbers."""

        @tf.function
        def collect(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            return [context.all_gather(tensor[tf.newaxis], axis=0) for tensor in tensors]

        stacks = self.strategy.run(collect, (list(map(tf.constant, values)),))
        return [self.strategy.experimental_local_results(stack)[0].numpy() for stack in stacks]

    def check_agreement(self, identity: Mapping[str, str]) -> None:
        """Check that all workers train the same.

        Raises:
            ValueError: workers have other parameters, data, code or libraries.
        """
        hashes = self.gather([_digest(value.encode()) for value in identity.values()])
        for key, found in zip(identity, hashes, strict=True):
            if others := np.flatnonzero((found != found[0]).any(axis=1)).tolist():
                raise ValueError(
                    f"TF_CONFIG: expected the same {key} on all workers, got others on {others} "
                    f"than on 0; make them equal (same commit, same params.yaml, "
                    f"`dvc repro preprocess`)"
                )

    def check_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Compare all workers' weights, bit for bit, and print their hash.

        Raises:
            RuntimeError: they differ.
        """
        (found,) = self.gather([_digest(b"".join(weight.tobytes() for weight in weights))])
        names = [one.tobytes().hex()[:16] for one in found]
        if len(set(names)) > 1:
            raise RuntimeError(f"the workers' weights differ: SHA-256 {', '.join(names)}")
        print(
            f"worker {self.number} of {self.count}: weights {names[0]}, the same on all",
            file=sys.stderr,
        )

    @contextmanager
    def report_lost(self, epoch: Callable[[], int]) -> Iterator[None]:
        """Report a lost worker in one line; `epoch` gives the one that training resumes with.

        Raises:
            RuntimeError: a worker is gone.
        """
        try:
            yield
        except tf.errors.OpError as error:
            named = {int(found) for found in re.findall(r"task:(\d+)", str(error))}
            lost = ", ".join(
                f"worker {one} ({self.addresses[one]})" for one in sorted(named - {self.number})
            )
            raise RuntimeError(
                f"TF_CONFIG: {lost or 'a worker'} is gone or hangs ({type(error).__name__}); "
                f"start all {self.count} again: training goes on with epoch {epoch()}"
            ) from None


def _digest(content: bytes) -> np.ndarray:
    """SHA-256 as int32 (8,), which TensorFlow can send."""
    return np.frombuffer(hashlib.sha256(content).digest(), np.int32)


def join(chief: bool, count: int) -> Workers | None:
    """Meet the other workers that TF_CONFIG names, before anything is computed.

    Takes and raises what `find_workers` does; None for a worker that is alone.

    Raises:
        RuntimeError: the workers did not come together.
    """
    found = find_workers(chief, count)
    if found is None:
        return None
    addresses, number = found
    _meet(addresses, number)
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=HUNG_SECONDS)
    # TensorFlow would wait for an hour for one that ended just now, and would hold up Python.
    faulthandler.dump_traceback_later(_read_wait(), exit=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (tf.errors.OpError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"TF_CONFIG: worker {number} ({addresses[number]}) could not join ({reason}); is its "
            f"port free, and are all started?"
        ) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow's handler only records it
    return Workers(addresses, number, strategy)


def find_workers(chief: bool, count: int) -> tuple[list[str], int] | None:
    """Read from TF_CONFIG all workers' addresses, and the caller's number.

    Args:
        chief: whether the caller is the one that writes.
        count: how many there must be, `train.workers`: the result's bits depend on it.

    Returns:
        None for a worker that is alone.

    Raises:
        ValueError: TF_CONFIG is malformed, names another one than the caller, or another number.
    """
    if chief and TF_CONFIG not in os.environ:
        if count == 1:
            return None
        raise ValueError(
            f"params.yaml: train.workers: {count}, and TF_CONFIG is not set: set it, see "
            f"docs/workers.md, or train.workers to 1"
        )
    addresses, number = read_config()
    if len(addresses) != count:
        raise ValueError(
            f"params.yaml: train.workers: expected {len(addresses)}, the number of workers that "
            f"TF_CONFIG names; got {count}; make them equal"
        )
    if chief != (number == 0):
        right = "`python -m fashion_mlp.training.worker`" if chief else "`make`, or stage train,"
        raise ValueError(
            f"TF_CONFIG: this is worker {number} of {len(addresses)}: run {right} here"
        )
    return addresses, number


def _read_wait() -> int:
    text = os.environ.get(WAIT, WAIT_SECONDS)
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ValueError(f"{WAIT}: expected seconds, as 300, got {text}")
    return int(text)


def _meet(addresses: Sequence[str], number: int) -> None:
    """Wait until all listen at their ports; here, as no signal ends TensorFlow's own waiting.

    Raises:
        RuntimeError: this one's port is taken, or others did not come in time.
    """
    seconds = _read_wait()
    deadline = time.monotonic() + seconds
    try:
        listener = _listen(_address(addresses[number])[1], len(addresses))
    except OSError as error:
        raise RuntimeError(
            f"TF_CONFIG: worker {number} ({addresses[number]}) can't listen at its port: "
            f"{os.strerror(error.errno or 0)}; choose another, or end what has it"
        ) from None
    with listener:
        absent = [other for other in range(len(addresses)) if other != number]
        printed = ""
        while absent := [other for other in absent if not _listens(addresses[other])]:
            names = ", ".join(f"worker {other} ({addresses[other]})" for other in absent)
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"TF_CONFIG: {names} did not come within {seconds} s; start all, each with its "
                    f"own index, or give them longer: {WAIT}=seconds"
                )
            if names != printed:
                print(f"worker {number}: waiting for {names}, {seconds} s", file=sys.stderr)
            printed = names
            time.sleep(POLL_SECONDS)


def _listen(port: int, others: int) -> socket.socket:
    """Listen at a port of all addresses, as TensorFlow does; the system answers, we need not."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=others, dualstack_ipv6=both)


def _listens(worker: str) -> bool:
    with suppress(OSError), socket.create_connection(_address(worker), timeout=5):
        return True
    return False
