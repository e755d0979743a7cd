"""ARM processors, emulated by qemu: Debian's Python for arm64, and requirements.lock's packages.

No root, and nothing outside of FOLDER: apt and uv download and unpack, qemu starts that Python
itself. What a library can ask the kernel of a processor comes from qemu; what it reads in
/proc/cpuinfo (LLVM: its name and features; YNNPACK: whether it is an ARM) from a file that qemu
finds under its folder (`-L`) first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from stages.fetch import APT_CONFIG
from tasks.processes import answer

QEMU = "qemu-aarch64"
FOLDER = Path(".run/arm64")
LOCK = Path("requirements.lock")
TOOLS = {QEMU: "qemu-user", "apt-get": "apt", "dpkg-deb": "dpkg"}  # what runs, Debian's package
PLATFORM = "aarch64-manylinux_2_28"  # the oldest glibc that all wheels of the lock run with
CORES = 2


class Processor(NamedTuple):
    """A processor: what qemu takes for it, and what its /proc/cpuinfo says."""

    qemu: str
    implementer: str
    part: str
    features: str


V8 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
V84 = f"{V8} jscvt fcma sha3 sha512 asimdfhm dit uscat ilrcpc flagm ssbs"
PROCESSORS = {
    "Neoverse N1": Processor("neoverse-n1", "0x41", "0xd0c", V8),
    "Neoverse V1 (SVE)": Processor(
        "max,sme=off,sve256=on", "0x41", "0xd40", f"{V84} sve svei8mm svebf16 i8mm bf16 rng"
    ),
    "ARM with SME": Processor(
        "max,sme=on", "0x61", "0x022", f"{V84} i8mm bf16 sme smef32f32 smeb16f32"
    ),
}


def prepare() -> None:
    """Fill FOLDER, unless it has what requirements.lock says.

    Raises:
        RuntimeError: a download failed; the text is one line.
    """
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    stamp = FOLDER / "lock"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(
        f"check-portable: filling {FOLDER} (2.4 GB): Python and packages for arm64", file=sys.stderr
    )
    install_python(FOLDER.resolve())
    version = answer([*start(PROCESSORS["Neoverse N1"]), "-c", VERSION]).strip()
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--no-deps"]
    options = ["--require-hashes", "--python-platform", PLATFORM, "--python-version", version]
    target = ["--target", str(FOLDER / "packages"), "-r", str(LOCK)]
    answer([*uv, *options, *target])
    stamp.write_text(wanted, encoding="utf-8")


VERSION = "import sys; print('{}.{}'.format(*sys.version_info))"


def install_python(folder: Path) -> None:
    """Download Debian's Python for arm64 with all that it needs, and unpack it into folder/root.

    apt is told of a system of that architecture on which nothing is installed yet.

    Raises:
        RuntimeError: apt can't; the text is one line.
    """
    for name in ("lists/partial", "cache/archives/partial", "log"):
        (folder / name).mkdir(parents=True)
    ours = 'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\nDebug::NoLocking "true";'
    config = (
        APT_CONFIG.format(scratch=folder, timeout=30) + ours + '\nDir::State::Status "/dev/null";'
    )
    (folder / "apt.conf").write_text(config, encoding="utf-8")
    apt = ["apt-get", "--config-file", str(folder / "apt.conf"), "--quiet"]
    answer([*apt, "update"])
    options = ["--yes", "--no-install-recommends", "--download-only"]
    try:
        answer([*apt, *options, "install", "python3", "libstdc++6"])
    except RuntimeError as error:
        raise RuntimeError(f"{error} (Ubuntu's usual servers have no arm64; Debian's do)") from None
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        answer(["dpkg-deb", "--extract", str(package), str(folder / "root")])
    shutil.rmtree(folder / "cache")


def start(processor: Processor) -> list[str]:
    """Return the command that starts Python on a processor, as arguments of env(1)."""
    root = FOLDER.resolve() / "root"
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.parent.mkdir(exist_ok=True)
    cpuinfo.write_text("".join(describe(processor, core) for core in range(CORES)))
    paths = f"PYTHONPATH={Path.cwd()}{os.pathsep}{FOLDER.resolve() / 'packages'}"
    python = str(root / "usr/bin/python3")
    return ["env", paths, QEMU, "-L", str(root), "-cpu", processor.qemu, python]


def describe(processor: Processor, core: int) -> str:
    """Write a core's section of /proc/cpuinfo as Linux on arm64 does."""
    lines: Mapping[str, object] = {
        "processor\t": core,
        "BogoMIPS\t": "50.00",
        "Features\t": processor.features,
        "CPU implementer\t": processor.implementer,
        "CPU architecture": 8,
        "CPU variant\t": "0x1",
        "CPU part\t": processor.part,
        "CPU revision\t": 1,
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"
