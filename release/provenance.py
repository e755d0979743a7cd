"""Where a release comes from: an in-toto statement with SLSA's provenance, version 1.

in-toto.io/Statement/v1, slsa.dev/spec/v1.0/provenance. It holds no time and no name of a machine:
the same commit, built by the same builder, gives the same statement.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from checks.common import git
from pipeline.records import LOCK
from report.__main__ import PACKAGES, STAGES, run_params

TYPE, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:fashion-mlp:make-release:1"
COMMANDS = ["make", "make check-lock", "make page", "make release"]  # in a clone of the commit


def statement(
    root: Path, commit: str, subjects: Mapping[str, str], uri: str, builder: str
) -> dict[str, Any]:
    """State what the files were made from, and by which commands the same bytes come out again.

    `subjects` are the SHA-256 of each file, by its name in the release; `uri` is the repository's;
    `builder` says who builds.

    Raises:
        ValueError: the commit is not in this repository, or is none of this project.
    """
    params = run_params(stages(root, commit))
    pins = git("show", f"{commit}:./requirements.lock", folder=root).decode()
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
                    {"uri": uri, "digest": {"gitCommit": commit}},
                    *(
                        {"name": name, "digest": {"sha256": file["sha256"]}}
                        for name, file in data.items()
                    ),
                    *(
                        {"uri": f"pkg:pypi/{name}@{pin}"}
                        for name, pin in re.findall(r"^([\w-]+)==(\S+)", pins, re.M)
                        if name in PACKAGES
                    ),
                ],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }


def stages(root: Path, commit: str) -> dict[str, Any]:
    """Read the stages of a commit's dvc.lock.

    Raises:
        ValueError: the commit is not in this repository, or its dvc.lock can't be read.
    """
    try:
        lock = yaml.safe_load(git("show", f"{commit}:./{LOCK}", folder=root))
        return {name: lock["stages"][name] for name in STAGES}
    except (yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"dvc.lock of commit {commit[:12]} can't be read") from None


def builder() -> str:
    """Name who builds, as CI says it."""
    return os.environ.get("BUILDER_ID") or "urn:by-hand"


def repository() -> str:
    """Name the repository as CI knows it; a commit's hash is enough to find it in any clone."""
    server, name = (os.environ.get(f"GITHUB_{key}", "") for key in ("SERVER_URL", "REPOSITORY"))
    return f"git+{server}/{name}" if server and name else "git+urn:fashion-mlp"


def source_of(stated: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what a statement alone says: the commit's hash, the repository and the builder.

    Raises:
        ValueError: it names no commit, or lacks the others.
    """
    try:
        source = stated["predicate"]["buildDefinition"]["resolvedDependencies"][0]
        found = str(source["digest"]["gitCommit"])
        others = str(source["uri"]), str(stated["predicate"]["runDetails"]["builder"]["id"])
    except (KeyError, IndexError, TypeError):
        raise ValueError("it names no commit, repository or builder") from None
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found):
        raise ValueError("it names no commit")
    return found, *others
