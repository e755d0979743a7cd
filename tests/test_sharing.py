"""Results shared through real servers on loopback, S3's protocol and SSH: `make check-sharing`.

Plays three machines: the first pushes, the second has a clone and pulls everything; then objects
on the remote are damaged and removed, and the third is told which, and makes them again.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.sandbox import Project, Sandbox

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class Remote(NamedTuple):
    """A server that holds objects by name, such as `files/md5/5f/a0c3…`."""

    url: str
    settings: dict[str, str]  # of `dvc remote modify`
    change: Callable[[str, Callable[[bytes], bytes] | None], object]  # None: remove it


@contextmanager
def ssh(folder: Path) -> Iterator[Remote]:
    """Serve a folder over SSH (asyncssh, which DVC's SSH plugin brings), for one key."""
    import asyncssh

    host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user.write_private_key(folder / "key")
    user.write_public_key(folder / "key.pub")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> Any:
        keys = {"server_host_keys": [host], "authorized_client_keys": str(folder / "key.pub")}
        return await asyncssh.listen("127.0.0.1", 0, sftp_factory=True, **keys)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()

    def change(name: str, how: Callable[[bytes], bytes] | None) -> None:
        path = folder / name
        content = path.read_bytes()
        path.unlink()  # DVC makes it read-only
        if how:
            path.write_bytes(how(content))

    settings = {"user": "test", "keyfile": str(folder / "key")}
    try:
        yield Remote(f"ssh://127.0.0.1:{server.get_port()}{folder}", settings, change)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextmanager
def s3(folder: Path) -> Iterator[Remote]:
    """Serve a bucket by S3's protocol (moto, which keeps it in memory)."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {key.lower(): value for key, value in KEYS.items()}
    bucket = boto3.resource("s3", "us-east-1", endpoint_url=address, **keys).Bucket("team")
    bucket.create()

    def change(name: str, how: Callable[[bytes], bytes] | None) -> None:
        stored = bucket.Object(f"results/{name}")
        stored.put(Body=how(stored.get()["Body"].read())) if how else stored.delete()

    try:
        yield Remote("s3://team/results", {"endpointurl": address}, change)
    finally:
        server.stop()


def flipped(content: bytes) -> bytes:
    """Flip a bit; the size stays."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The machine that has results."""
    quick = {"train__hidden_units": [8], "train__epochs": 2}
    box = Sandbox(tmp_path_factory.mktemp("first"), 400, 100, **quick)
    box.good("make")
    box.commit()
    return box


def machine(folder: Path, first: Sandbox) -> Project:
    """Make a machine that has a clone and the right to use the remote."""
    box = first.clone(folder)
    shutil.copy(first.folder / ".dvc/config.local", box.folder / ".dvc/config.local")
    box.environment |= KEYS
    return box


@pytest.mark.sharing
@pytest.mark.parametrize("serve", [s3, ssh])
def test_results_come_whole_or_are_named_and_made_again(
    serve: Callable[[Path], Any], first: Sandbox, tmp_path: Path
) -> None:
    results, team = first.results(), serve.__name__
    first.environment |= KEYS
    (tmp_path / "remote").mkdir()
    with serve(tmp_path / "remote") as remote:
        first.good(f"dvc remote add --default {team} {remote.url}")
        first.good(f"dvc remote modify {team} verify true")
        for key, value in remote.settings.items():
            first.good(f"dvc remote modify --local {team} {key} {value}")
        first.commit()
        first.good("dvc push --run-cache")

        second = machine(tmp_path / "second", first)
        second.good("dvc pull --run-cache")
        output = second.good("dvc repro")
        assert output.count("didn't change, skipping") == 5
        assert second.results() == results

        damaged = ["models/fashion_mlp.keras", "data/prepared/train_images.npy"]
        removed = "models/fashion_mlp.onnx"
        for name in damaged:
            remote.change(first.object(name), flipped)
        remote.change(first.object(removed), None)

        third = machine(tmp_path / "third", first)
        status, output = third.run("dvc pull --run-cache")
        assert status != 0
        named = {*damaged, removed}
        assert named <= set(output.split())
        assert not named & third.results().keys()
        third.good("make")
        assert third.results() == results
