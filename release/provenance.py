"""Where a release comes from: an in-toto statement with SLSA's provenance, version 1.

in-toto.io/Statement/v1, slsa.dev/spec/v1.0/provenance. It holds no time and no name of a machine:
the same commit, built by the same builder, gives the same statement.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from checks.common import git
from report.__main__ import LOCK, PACKAGES, read, run_params

TYPE, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:fashion-mlp:make-release:1"
COMMANDS = ["make", "make check-lock", "make page", "make release"]  # in a clone of the commit


def statement(root: Path, subjects: Mapping[str, str]) -> dict[str, Any]:
    """State what the files were made from, and by which commands the same bytes come out again.

    Args:
        root: the project's folder.
        subjects: SHA-256 of each file, by its name in the release.
    """
    lock = read(root / LOCK, yaml.safe_load)["stages"]
    params = run_params(lock)
    data = params["fetch"]["files"]
    presets = sorted({name.split("/")[1] for name in subjects if name.startswith("recipes/")})
    commands = [*COMMANDS[:-1], *(f"make recipe NAME={name}" for name in presets), COMMANDS[-1]]
    return {
        "_type": TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"commands": commands, "params": params},
                "resolvedDependencies": [
                    {"uri": repository(), "digest": {"gitCommit": commit(root)}},
                    *(
                        {"name": name, "digest": {"sha256": file["sha256"]}}
                        for name, file in data.items()
                    ),
                    *({"uri": f"pkg:pypi/{name}@{version(name)}"} for name in PACKAGES),
                ],
            },
            "runDetails": {"builder": {"id": os.environ.get("BUILDER_ID") or "urn:by-hand"}},
        },
    }


def repository() -> str:
    """Name the repository as CI knows it; a commit's hash is enough to find it in any clone."""
    server, name = (os.environ.get(f"GITHUB_{key}", "") for key in ("SERVER_URL", "REPOSITORY"))
    return f"git+{server}/{name}" if server and name else "git+urn:fashion-mlp"


def commit(root: Path) -> str:
    """Return HEAD's hash."""
    return git("rev-parse", "HEAD", folder=root).decode().strip()


def commit_of(stated: Mapping[str, Any]) -> str:
    """Return the hash of the commit that a statement names.

    Raises:
        ValueError: it names none.
    """
    try:
        source = stated["predicate"]["buildDefinition"]["resolvedDependencies"][0]
        found = str(source["digest"]["gitCommit"])
    except (KeyError, IndexError, TypeError):
        found = ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found):
        raise ValueError("it names no commit")
    return found
