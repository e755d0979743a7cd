import os
import pty
import py_compile
import shutil
import signal
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from checks.sandbox import edited
from pipeline.environment import ROOT
from tests import processes
from tests.conftest import paper_values


def program(folder: Path, body: str) -> list[str]:
    """Write a stage named `probe` whose main() is `body`; return the command that runs it."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (folder / "probe.py").write_text(
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from pipeline import console\n"
        f"def main():\n{lines}"
        "if __name__ == '__main__':\n    console.run(main)\n"
    )
    return [sys.executable, "-m", "probe"]


def run(folder: Path, body: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return processes.run(folder, *program(folder, body), **variables)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('file: expected 3, got 4')", "file: expected 3, got 4"),
        (
            "Path('missing').read_text()",
            "missing: No such file or directory; `make` makes what is missing",
        ),
        ("raise MemoryError", "out of memory: free some, or lower the batch size"),
        ("raise MemoryError('1 TiB')", "out of memory: 1 TiB"),
    ],
)
def test_run_says_an_expected_error_in_one_line(tmp_path: Path, body: str, line: str) -> None:
    result = run(tmp_path, body)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"probe: error: {line}\n"


def test_run_shows_the_traceback_on_request(tmp_path: Path) -> None:
    result = run(tmp_path, "raise ValueError('bad')", FASHION_MLP_TRACEBACK="1")
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.endswith("\nprobe: error: bad\n")


def test_run_shows_the_traceback_of_a_fault_of_ours(tmp_path: Path) -> None:
    result = run(tmp_path, "{}['key']")
    assert result.returncode == 1
    assert result.stderr.endswith("KeyError: 'key'\n")
    assert "Traceback" in result.stderr


def test_run_names_the_command_that_goes_on_and_how_results_come_back(tmp_path: Path) -> None:
    body, recipe = "raise ValueError('bad')", "make recipe NAME=quick"
    assert "brings the committed ones back" in run(tmp_path, body, DVC_STAGE="train").stderr
    of_a_clone = run(tmp_path, body, DVC_STAGE="train", FASHION_MLP_AGAIN=recipe).stderr
    assert of_a_clone.endswith("error: bad\n")
    body = "Path('missing').read_text()"
    missing = run(tmp_path, body, FASHION_MLP_AGAIN=recipe).stderr
    assert missing.endswith(
        f"missing: No such file or directory; `{recipe}` makes what is missing\n"
    )
    interrupted = run(tmp_path, "raise KeyboardInterrupt", FASHION_MLP_AGAIN=recipe).stderr
    assert f"`{recipe}` starts this stage again" in interrupted


def test_run_hands_a_stage_no_variable_that_it_does_not_know(tmp_path: Path) -> None:
    given = {"XLA_FLAGS": "x", "OMP_NUM_THREADS": "1", "FASHION_MLP_X": "kept", "TF_CONFIG": "{}"}
    result = run(
        tmp_path, f"print(*(name for name in {list(given)} if name in os.environ))", **given
    )
    assert (result.returncode, result.stdout) == (0, "FASHION_MLP_X TF_CONFIG\n")


@pytest.mark.parametrize(("device", "shown"), [("cpu", "None"), ("gpu", "/opt/cuda")])
def test_a_stage_sees_other_libraries_of_the_system_for_a_gpu_alone(
    device: str, shown: str, tmp_path: Path
) -> None:
    values = edited(paper_values(), {"train.device": device})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    body = "print(os.environ.get('LD_LIBRARY_PATH'))"
    assert run(tmp_path, body, LD_LIBRARY_PATH="/opt/cuda").stdout == f"{shown}\n"


def test_no_file_of_the_folder_hides_a_librarys_from_a_stage(tmp_path: Path) -> None:
    for name in ("sitecustomize", "tabulate"):
        (tmp_path / f"{name}.py").write_text("print('a foreign module was imported')")
    result = run(tmp_path, "import tabulate; print(tabulate.__version__)")
    assert (result.returncode, result.stdout) == (0, f"{version('tabulate')}\n")


def test_run_refuses_what_a_module_computed_that_dvc_yaml_does_not_list(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {probe: {deps: [probe.py, other.py]}}")
    (tmp_path / "params.yaml").write_text("{}")
    for name in ("other.py", "extra.py"):
        (tmp_path / name).touch()
    assert run(tmp_path, "import other").returncode == 0
    result = run(tmp_path, "import extra as other")  # of another length: probe.py is compiled anew
    assert result.returncode == 1
    assert result.stderr.startswith(f"probe: error: {tmp_path}/extra.py: imported, and dvc.yaml ")


def test_a_compiled_module_that_is_not_its_sources_is_not_used(tmp_path: Path) -> None:
    for folder in ("pipeline", "stages", "fashion_mlp"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    source = tmp_path / "fashion_mlp/formats.py"
    right = source.read_text()
    source.write_text(right.replace("DIGITS = 6", "DIGITS = 1"))
    py_compile.compile(str(source))
    time = source.stat().st_mtime
    source.write_text(right)
    os.utime(source, (time, time))
    body = "from fashion_mlp.formats import DIGITS; print(DIGITS)"
    assert run(tmp_path, body, PYTHONPATH=str(tmp_path)).stdout == "6\n"


def test_run_ends_at_ctrl_c_with_one_line(tmp_path: Path) -> None:
    command = program(tmp_path, "print('ready', flush=True)\ntime.sleep(30)")
    process = processes.start(tmp_path, *command)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("\nprobe: interrupted")
    assert errors.count("\n") == 2


def test_progress_in_a_pipe_is_whole_lines(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        "console.QUIET_SECONDS = 0.01\n"
        "with console.progress('count', 3, 'images') as bar:\n"
        "    for _ in range(3):\n"
        "        time.sleep(0.05)\n"
        "        bar.update()\n",
    )
    lines = result.stderr.splitlines()
    assert "\r" not in result.stderr
    assert lines
    assert lines[-1].startswith("count: 2 of 3 images, 00:00 left")


def test_progress_in_a_terminal_moves_in_place(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    command = program(tmp_path, "with console.progress('count', 3, 'images') as bar: bar.update(3)")
    env = processes.surroundings()
    subprocess.run(command, cwd=tmp_path, env=env, stderr=slave, check=True)
    shown = os.read(master, 10_000).decode()
    os.close(slave)
    os.close(master)
    assert "\rcount: " in shown
    assert "\n" not in shown.rstrip("\r\n")
