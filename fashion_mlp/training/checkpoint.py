"""Restart points: a training run that was killed goes on after its last finished epoch.

A point holds the network's weights, the optimizer's state and the log so far, and says what it
is of: parameters, data, code and library versions. It is used only where all of that is the same
as now and the content is whole, and then the run ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files import replacing, sha256

if TYPE_CHECKING:
    import keras

DIGEST_BYTES = 32  # of SHA-256, in front of the content

History = dict[str, list[float]]


def identity(
    params: Mapping[str, Any], data: Iterable[Path], code: Iterable[Path]
) -> dict[str, str]:
    """Say what a training run's result depends on.

    Args:
        params: the section of params.yaml.
        data: the files that are trained on.
        code: the stage's own file; all of this package is added.
    """
    package = sorted(Path(__file__).parent.glob("*.py"))
    libraries = [f"{name} {version(name)}" for name in ("keras", "numpy", "tensorflow")]
    libraries += [f"Python {platform.python_version()}", os.environ.get("XLA_FLAGS", "")]
    return {
        "parameters": json.dumps(params, sort_keys=True),
        "data": " ".join(sha256(path) for path in data),
        "code": " ".join(sha256(path) for path in (*code, *package)),
        "library versions": ", ".join(libraries),
    }


class Restart:
    """The restart point of one training run: read at its start, written after each epoch."""

    def __init__(self, path: Path, of: Mapping[str, str]) -> None:
        """Read the point at `path` if it is `of` this run; say so if it is there but not used."""
        self.path = path
        self.of = dict(of)
        self.history: History = {}
        self.variables: list[np.ndarray] = []
        if not path.exists():
            return
        try:
            self._read(path.read_bytes())
        except ValueError as reason:
            self._say(f"restart point {path} is not used: {reason}; training starts from nothing")
        else:
            self._say(f"going on after epoch {self.epochs} ({path}; delete it to start anew)")

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(next(iter(self.history.values()), []))

    def _read(self, content: bytes) -> None:
        digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError("it is damaged")
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            if differing := [key for key in self.of if about["of"].get(key) != self.of[key]]:
                raise ValueError(f"it is of other {' and '.join(differing)}")
            self.variables = [arrays[f"variable_{i}"] for i in range(len(arrays.files) - 1)]
            self.history = about["history"]

    def restore(self, trainer: keras.Model) -> None:
        """Put what was read into a model whose weights and optimizer are built."""
        for variable, value in zip(_variables(trainer), self.variables, strict=bool(self.epochs)):
            variable.assign(value)

    def callback(self, trainer: keras.Model) -> keras.callbacks.Callback:
        """Make the callback that writes a point after each epoch of `trainer`."""
        import keras

        def write(epoch: int, logs: Mapping[str, float]) -> None:
            for key, value in logs.items():
                self.history.setdefault(key, []).append(float(value))
            self._write([variable.numpy() for variable in _variables(trainer)])

        return keras.callbacks.LambdaCallback(on_epoch_end=write)

    def _write(self, variables: list[np.ndarray]) -> None:
        arrays = {f"variable_{i}": value for i, value in enumerate(variables)}
        about = json.dumps({"of": self.of, "history": self.history})
        payload = io.BytesIO()
        np.savez(payload, allow_pickle=False, about=np.array(about), **arrays)
        content = payload.getbuffer()
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)

    def remove(self) -> None:
        """Remove the point: the run that it is of has ended well."""
        self.path.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        print(f"{self.path.stem}: {text}", file=sys.stderr)


def _variables(trainer: keras.Model) -> list[Any]:
    """List what an epoch changes, in an order that does not change."""
    weights = [*trainer.trainable_variables, *trainer.non_trainable_variables]
    return [*weights, *trainer.optimizer.variables]
