"""Checkpoints: a killed training run goes on after its last finished epoch.

A checkpoint holds what an epoch changes, as bytes, and the log so far, and says what it is of:
parameters, data, code and library versions. It is used only where all of that is the same as now
and its content is whole; then the run ends with the same bytes as one that was not interrupted.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.environment import ROOT
from pipeline.files import replacing, sha256
from pipeline.guard import PIPELINE, read_stage
from pipeline.records import take

DIGEST_BYTES = 32  # of SHA-256, in front of the rest
MAX_HEADER = 1 << 26  # bytes: the log of a million epochs

History = dict[str, list[float]]


def identity(params: Mapping[str, Any]) -> dict[str, str]:
    """Describe all that the result of a training run depends on.

    Parameters, data, in the current folder, and code are what dvc.yaml lists for stage train.

    Raises:
        OSError: dvc.yaml or a file that it lists can't be read.
    """
    stage = read_stage("train", ROOT / PIPELINE)
    code, data, sections = (stage.code, stage.data, stage.sections) if stage else ([], [], [])
    libraries = [f"{name} {version(name)}" for name in ("keras", "numpy", "tensorflow")]
    return {
        "parameters": json.dumps({it: take(params, it) for it in sections}, sort_keys=True),
        "data": " ".join(sha256(path) for path in data),
        "code": " ".join(sha256(ROOT / path) for path in code),
        "library versions": ", ".join([*libraries, f"Python {platform.python_version()}"]),
    }


def read_whole(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a checkpoint's header and its content, no more than the header says that there is.

    Raises:
        ValueError: it is damaged.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        digest = file.read(DIGEST_BYTES)
        header = file.readline(MAX_HEADER)
        try:
            about: dict[str, Any] = json.loads(header)
            size = DIGEST_BYTES + len(header) + about["bytes"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("it is damaged") from None
        content = file.read() if path.stat().st_size == size else b""
    if hashlib.sha256(header + content).digest() != digest:
        raise ValueError("it is damaged")
    return about, content


class Checkpoint:
    """The checkpoint of one training run: read at its start, written after each epoch."""

    def __init__(self, path: Path | None, of: Mapping[str, str]) -> None:
        """Read the checkpoint at `path` if it is `of` this run; if it is not, say so.

        Args:
            path: of the file; None for a worker that keeps none of its own.
            of: from `identity`.
        """
        self.path = path
        self.of = dict(of)
        self.history: History = {}
        self.content = b""
        if path is None:
            return
        try:
            self._read(path)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as reason:
            self._print(f"checkpoint {path} is not used: {reason}; training starts from epoch 1")
        else:
            self._print(
                f"resuming after epoch {self.epochs} ({path.absolute()}; delete it to start anew)"
            )

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(next(iter(self.history.values()), []))

    def _read(self, path: Path) -> None:
        about, content = read_whole(path)
        if differing := [key for key in self.of if about["of"].get(key) != self.of[key]]:
            raise ValueError(f"it was made with other {' and '.join(differing)}")
        self.history, self.content = about["history"], content

    def save(self, history: History, content: bytes) -> None:
        """Write it anew: a list of values, one per epoch, by metric; what the next epoch needs."""
        self.history, self.content = history, content
        about = {"of": self.of, "bytes": len(content), "history": history}
        rest = json.dumps(about).encode() + b"\n" + content
        if self.path is None:
            return
        with replacing(self.path) as temporary:
            temporary.write_bytes(hashlib.sha256(rest).digest() + rest)

    def remove(self) -> None:
        """Remove it: the run that it is of has ended well."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _print(self, text: str) -> None:
        print(f"train: {text}", file=sys.stderr)
