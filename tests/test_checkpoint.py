"""Checkpoints: none is used that is damaged or of another run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import checkpoint as module
from pipeline.checkpoint import Checkpoint, identity
from pipeline.params import Train

OF = dict.fromkeys(("parameters", "data", "code", "library versions"), "1")
HISTORY = {"loss": [1.5, 0.1], "accuracy": [0.25, 0.75]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Checkpoint(tmp_path / "checkpoint", OF).save(HISTORY, b"weights\n\x00\xff")
    return tmp_path / "checkpoint"


def test_checkpoint_gives_back_what_was_saved_until_it_is_removed(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Checkpoint(path, OF)
    assert (read.epochs, read.history, read.content) == (2, HISTORY, b"weights\n\x00\xff")
    assert (
        capsys.readouterr().err
        == f"train: resuming after epoch 2 ({path}; delete it to start anew)\n"
    )
    read.remove()
    assert not path.exists()
    read.remove()
    assert Checkpoint(path, OF).epochs == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("keys", [["parameters"], ["data", "code"]])
def test_checkpoint_of_another_run_is_not_used(
    keys: list[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Checkpoint(path, OF | dict.fromkeys(keys, "other"))
    assert (other.epochs, other.history, other.content) == (0, {}, b"")
    says = f"is not used: it was made with other {' and '.join(keys)}; training starts from epoch 1"
    assert says in capsys.readouterr().err


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def hole(path: Path, size: int) -> None:
    path.write_bytes(b"")
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("damage", "value"),
    [*((flip, place) for place in (0, 40, -1)),
     *((how, size) for how in (os.truncate, hole) for size in (0, 10, 1 << 40))],
)  # fmt: skip
def test_damaged_checkpoint_is_not_used(
    damage: Callable[[Path, int], None], value: int, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No more is read than is there: a terabyte of holes costs nothing."""
    damage(path, value)
    assert Checkpoint(path, OF).epochs == 0
    assert "is not used: it is damaged; training starts" in capsys.readouterr().err


def test_identity_is_of_parameters_data_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    stage = {"cmd": "x", "deps": ["code.py", "data.npy"], "outs": ["model"]}
    stage["params"] = ["train", "dataset.image_shape"]
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    for name in ("code.py", "data.npy", "other.py"):
        Path(name).write_text("1")

    def now(seed: int = 1, height: int = 28) -> dict[str, str]:
        dataset = {"name": "any", "image_shape": [height, 28]}
        return identity({"train": Train(seed=seed).model_dump(), "dataset": dataset})

    def differing(other: dict[str, str]) -> list[str]:
        return [key for key in before if before[key] != other[key]]

    before = now()
    assert differing(now(seed=2)) == ["parameters"]
    assert differing(now(height=14)) == ["parameters"]
    Path("other.py").write_text("2")
    assert differing(now()) == []
    Path("data.npy").write_text("2")
    assert differing(now()) == ["data"]
    Path("code.py").write_text("2")
    assert differing(now()) == ["data", "code"]
