"""A copy of the project that has run, to be broken: what does `make` do then?"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from checks.sandbox import Sandbox, files

# Everything that a checkpoint has to keep: optimizer state, averaged weights, random draws.
TRAINING = {
    "train__hidden_units": [16],
    "train__epochs": 150,
    "train__optimizer": {
        "class_name": "AdamW",
        "config": {"learning_rate": 0.001, "weight_decay": 0.01, "use_ema": True},
    },
    "train__learning_rate_schedule": "cosine",
    "train__dropout": 0.2,
    "train__mixup": 0.2,
}
SAME, LINE = "same bytes", "one clear line, then same bytes"
CLEAR = re.compile(
    r"^(ERROR: (?!failed to reproduce)|[\w.]+: error: "
    r"|make: (?!\*\*\*|dvc repro|note:|another make|installing))",
    re.MULTILINE,
)


class Lab:
    """A copy of the project that has run once, and what that run left."""

    def __init__(self, folder: Path, seed: str) -> None:
        """Make the copy in `folder` and run it; `seed` is that of the random moments."""
        self.folder = folder / "lab"
        self.random = random.Random(seed)  # noqa: S311
        self.box = Sandbox(self.folder, 400, 100, **TRAINING)
        before = {path: path.read_bytes() for path in self._files()}
        began = time.monotonic()
        self.box.good("make")
        self.seconds = time.monotonic() - began
        self.expected = self.box.results()
        left = [path for path in self._files() if before.get(path) != path.read_bytes()]
        self.left = [path.relative_to(self.box.folder) for path in left]
        self.outputs = {md5: path for path, md5 in self.box.outputs().items()}
        self.saved = folder / "saved"
        shutil.copytree(self.folder, self.saved, symlinks=True)

    def _files(self) -> list[Path]:
        skipped = {".git", ".venv", "__pycache__"}
        return [path for path in files(self.box.folder) if not skipped & {*path.parts}]

    def differing(self) -> list[str]:
        """List the results that are not as the first run left them."""
        found = self.box.results()
        names = sorted(self.expected.keys() | found.keys())
        return [name for name in names if self.expected.get(name) != found.get(name)]

    def outcome(self, prefix: str = "", cure: Callable[[], object] = lambda: None) -> str:
        """Run `make` behind `prefix`; judge what it does, and what it does after the cure."""
        try:
            status, output = self.box.run(f"{prefix} make".strip())
            other = self.differing()
        finally:
            cure()
        if status == 0:
            return SAME if not other else f"OTHER BYTES: {', '.join(other)}"
        if "Traceback" in output or not CLEAR.search(output):
            return f"NO CLEAR LINE: status {status}: {output[-600:]}"
        status, more = self.box.run("make")
        if status or (other := self.differing()):
            return f"NOT REPAIRED: {', '.join(other)}: {output[-300:]}, then {more[-600:]}"
        return LINE
