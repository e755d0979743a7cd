"""What holds while a stage runs."""

import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.environment import other_versions
from pipeline.files import md5
from pipeline.guard import alone, guarded
from tests.processes import start


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder: a project of one stage, whose input another made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    stage = {"params": ["train", "fetch.files"], "deps": ["code.py", "data"], "outs": ["model"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    Path("params.yaml").write_text("{train: {seed: 1}, fetch: {files: a, timeout: 1}}")
    Path("code.py").write_text("old")
    Path("data").write_bytes(b"whole")
    lock = {"stages": {"before": {"outs": [{"path": "data", "md5": md5(Path("data"))}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))


def refused(says: str) -> None:
    """Begin stage train, which must be refused."""
    with pytest.raises(ValueError, match=says):
        guarded("train").__enter__()


@pytest.mark.parametrize("content", [b"whol", b"wholf", b""])
def test_guarded_refuses_an_input_that_is_not_what_dvc_lock_records(content: bytes) -> None:
    Path("data").write_bytes(content)
    refused(r"data: damaged: expected MD5 \w+ .*`make heal`")


def test_guarded_refuses_a_dvc_lock_that_a_merge_left_in_conflict() -> None:
    Path("dvc.lock").write_text("<<<<<<< HEAD\nstages: {}\n=======\nstages: []\n>>>>>>> other\n")
    refused(r"dvc\.lock: not YAML: .*`git checkout HEAD -- dvc\.lock`")


@pytest.mark.parametrize(
    ("path", "content", "named"),
    [
        ("code.py", "new", r"code\.py changed while the stage ran"),
        ("params.yaml", "{train: {seed: 2}, fetch: {files: a}}", "params.yaml: train changed"),
        ("data", "whole", "data changed while the stage ran"),  # and changed back, perhaps
        ("params.yaml", "{fetch: 1}", "params.yaml: train, params.yaml: fetch.files changed"),
    ],
)
def test_guarded_refuses_what_was_edited_meanwhile(path: str, content: str, named: str) -> None:
    with pytest.raises(ValueError, match=named), guarded("train"):
        Path(path).write_text(content)


@pytest.mark.parametrize("year", [1975, 2108])
def test_guarded_refuses_a_clock_that_no_zip_file_knows(
    year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "localtime", lambda: time.struct_time([year, *[1] * 8]))
    refused(r"this machine's clock says .*; set it")


def test_guarded_refuses_a_limit_that_tensorflow_would_abort_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_600_000_000, -1))
    refused(r"allows 1\.6 GB of addresses; TensorFlow takes 3 GB")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
    with guarded("train"):
        pass


@pytest.mark.parametrize(
    ("recorded", "now", "named"),
    [
        ({"train": {"a": {"b": 1}, "c": 2}}, {"train": {"a": {"b": 3}, "c": 2}}, "train.a.b 1, "),
        ({"fetch.files": ["a"]}, {"fetch": {"files": ["b"]}}, r"fetch.files \['a'\], "),
        ({"fetch.files": "a", "gone": 1}, {"fetch": {"files": "a"}}, "gone 1, "),
    ],
)
def test_guarded_refuses_an_input_that_other_parameters_made(
    recorded: Any, now: Any, named: str
) -> None:
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    lock["stages"]["before"]["params"] = {"params.yaml": recorded}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    Path("params.yaml").write_text(yaml.safe_dump({"train": {}} | now))
    refused(f"^data: made with {named}and params.yaml has")
    for section, value in recorded.items():  # and takes it where they are the same
        *outer, last = section.split(".")
        now |= {outer[0]: {last: value}} if outer else {last: value}
    Path("params.yaml").write_text(yaml.safe_dump(now))
    guarded("train").__enter__()


def test_a_number_as_dvc_writes_it_is_the_number_of_params_yaml() -> None:
    params = "{train: {rate: %s}, fetch: {files: a}}"
    Path("params.yaml").write_text(params % "0.00001")
    lock = Path("dvc.lock").read_text().replace("before:", "before:\n    params: %s")
    Path("dvc.lock").write_text(lock % "{params.yaml: {train: {rate: 1e-05}}}")
    guarded("train").__enter__()


def test_packages_of_another_version_than_the_lock_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.0 \\\nruamel-yaml==1.0\nruamel-yaml==2.0 ; sys_platform\nabsent==1\n")
    for name in ("first/numpy-2.1", "second/numpy-2.0", "second/ruamel.yaml-2.0", "second/more-1"):
        (tmp_path / f"{name}.dist-info").mkdir(parents=True)
    folders = [str(tmp_path / name) for name in ("nowhere", "second")]
    assert other_versions(lock, folders) == []
    folders.insert(0, str(tmp_path / "first"))
    assert other_versions(lock, folders) == ["numpy 2.1 (requirements.lock: 2.0)"]


def test_guarded_lets_other_sections_change() -> None:
    with guarded("train"):
        Path("params.yaml").write_text("{train: {seed: 1}, fetch: {files: a, timeout: 2}}")


def test_guarded_sweeps_what_a_kill_left() -> None:
    Path(".model.tmp.abc").write_bytes(b"half")
    with guarded("train"):
        assert not Path(".model.tmp.abc").exists()


def test_alone_waits_and_says_for_whom() -> None:
    program = "from pipeline.guard import alone\nwith alone('second'): print('in')"
    with alone("first"):
        second = start(Path(), sys.executable, "-c", program)
        assert second.stderr is not None
        assert second.stderr.readline().startswith("second: waiting: stage first (process ")
    assert second.communicate()[0] == "in\n"


def test_guarded_takes_what_a_stage_run_by_hand_wrote_but_not_its_damage() -> None:
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text())
    pipeline["stages"]["before"] = {"outs": ["data"]}
    Path("dvc.yaml").write_text(yaml.safe_dump(pipeline))
    with guarded("before"):
        Path("data").write_bytes(b"new, with other parameters")
    with guarded("train"):
        pass
    Path("data").write_bytes(b"new, with other parameterz")
    refused("data: damaged")
    Path("data").write_bytes(b"new, with other parameters")
    lock = Path("dvc.lock").read_text()
    (recorded,) = re.findall(r"[0-9a-f]{32}", lock)[:1]
    Path("dvc.lock").write_text(lock.replace(recorded, 32 * "a"))  # DVC has run the stage since
    refused("data: damaged")


def test_guarded_keeps_no_record_of_its_own_where_dvc_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    with guarded("train"):
        Path("model").write_bytes(b"model")
    assert not Path(".run/by_hand.json").exists()
