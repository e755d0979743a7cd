"""Two places for a DVC remote, each behind a real server on loopback: SSH, and S3's protocol."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import requests

ENVIRONMENT = Path(__file__).resolve().parent / ".venv/bin"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
START_SECONDS = 60  # moto takes 3 on an idle machine
SECRETS = {"AWS_ACCESS_KEY_ID": "check", "AWS_SECRET_ACCESS_KEY": "check"}


class Server(Protocol):
    """A server that holds remotes; files by their path, `REMOTE/files/md5/5f/a0c3…`."""

    name: str
    version: str
    # What a user says of it to DVC but never commits: `dvc remote modify --local`.
    private: dict[str, str]
    shared: dict[str, str]

    def url(self, remote: str) -> str:
        """Say where DVC finds a remote."""

    def names(self, remote: str) -> list[str]:
        """List the files of a remote."""

    def read(self, name: str) -> bytes:
        """Return a file's content."""

    def write(self, name: str, content: bytes) -> None:
        """Replace a file's content."""

    def remove(self, name: str) -> None:
        """Remove a file."""


class Ssh:
    """OpenSSH's server; its remotes are folders."""

    name = "SSH"

    def __init__(self, folder: Path, port: int, key: Path) -> None:
        self.folder = folder
        self.port = port
        self.private = {"user": getpass.getuser(), "keyfile": str(key)}
        self.shared: dict[str, str] = {}
        told = subprocess.run([str(SSHD), "-V"], capture_output=True, text=True, check=False)
        self.version = told.stderr.split(",")[0].replace("_", " ").strip()

    def url(self, remote: str) -> str:
        """Name a folder of this server."""
        return f"ssh://127.0.0.1:{self.port}{self.folder}/{remote}"

    def names(self, remote: str) -> list[str]:
        """List the files in a folder."""
        paths = sorted((self.folder / remote).rglob("*"))
        return [str(path.relative_to(self.folder)) for path in paths if path.is_file()]

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which DVC made read-only."""
        (self.folder / name).chmod(0o644)
        (self.folder / name).write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.folder / name).unlink()


class S3:
    """A bucket of moto's server, by S3's own protocol."""

    name = "S3"

    def __init__(self, port: int) -> None:
        self.bucket = f"http://127.0.0.1:{port}/team"
        self.private: dict[str, str] = {}
        self.shared = {"endpointurl": f"http://127.0.0.1:{port}"}
        program = [str(ENVIRONMENT / "python"), "-c"]
        code = "import importlib.metadata as m; print('moto', m.version('moto'))"
        told = subprocess.run([*program, code], capture_output=True, text=True, check=True)
        self.version = told.stdout.strip()
        self.session = requests.Session()
        # moto wants to know who asks, and believes it.
        who = f"Credential={SECRETS['AWS_ACCESS_KEY_ID']}/20000101/us-east-1/s3/aws4_request"
        self.session.headers["Authorization"] = f"AWS4-HMAC-SHA256 {who}"
        self.ask("PUT", "")

    def ask(self, method: str, name: str, content: bytes | None = None) -> requests.Response:
        """Send a request; raise where it is refused."""
        response = self.session.request(
            method, f"{self.bucket}/{name}", data=content, timeout=START_SECONDS
        )
        response.raise_for_status()
        return response

    def url(self, remote: str) -> str:
        """Name a part of the bucket."""
        return f"s3://team/{remote}"

    def names(self, remote: str) -> list[str]:
        """List the keys of a part, of at most 1,000."""
        listing = self.ask("GET", f"?list-type=2&prefix={remote}/").text
        return re.findall(r"<Key>(.*?)</Key>", listing)

    def read(self, name: str) -> bytes:
        """Get an object."""
        return self.ask("GET", name).content

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        self.ask("PUT", name, content)

    def remove(self, name: str) -> None:
        """Delete an object."""
        self.ask("DELETE", name)


@contextmanager
def ssh(folder: Path) -> Iterator[Ssh]:
    """Start sshd on loopback, for this user and one key, with keys made for the occasion."""
    folder.mkdir(parents=True)
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in; the service makes it
    port = free_port()
    settings = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",  # which asks who may write to the folders above: /tmp, everyone
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "Subsystem": "sftp internal-sftp",
    }
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    (folder / "sshd_config").write_text(lines, encoding="utf-8")
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with serving(command, port, folder / "log"):
        yield Ssh(folder / "remotes", port, folder / "user")


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """Start moto's server on loopback with an empty bucket, which it keeps in its memory."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [str(ENVIRONMENT / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, port, folder / "log"):
        yield S3(port)


@contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the end of the `with` block.

    Raises:
        RuntimeError: it does not answer; the text is the end of its log.
    """
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not answer: {log.read_text()[-500:]}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Ask the system for a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
