"""Several workers, as real processes on loopback; `make check-workers` has more of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks.workers import Team, time_to_errors
from fashion_mlp import cluster
from fashion_mlp.dataset import Split, load_split
from fashion_mlp.params import check_params
from stages.train import learn
from tests.conftest import CLASSES, HEIGHT, WIDTH, Data, edited, small_values

WORKERS = ["localhost:1", "localhost:2"]
# 249 images in batches of 60: the last one has 9, five for one worker and four for the other.
IMAGES = 249
SETTINGS = {"train.batch_size": 60, "train.optimizer.momentum": 0.9, "train.epochs": 10}


@pytest.fixture
def team(data: Data, finished_folder: Path, tmp_path: Path) -> Iterator[Team]:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    for name, part in (("train", slice(IMAGES)), ("validation", slice(IMAGES, None))):
        for kind in ("images", "labels"):
            array = np.load(finished_folder / f"data/prepared/train_{kind}.npy")
            np.save(prepared / f"{name}_{kind}.npy", array[part])
    started = Team(tmp_path / "team", prepared, small_values(data, **SETTINGS))
    yield started
    started.stop()


def splits(folder: Path) -> tuple[Split, Split]:
    train, validation = (
        load_split(name, HEIGHT * WIDTH, CLASSES, folder) for name in ("train", "validation")
    )
    return train, validation


@pytest.mark.usefixtures("engine")
def test_learn_of_two_workers_is_that_of_one_also_after_a_kill(team: Team) -> None:
    team.start(2)
    (name,) = team.hashes()  # equal, and the second wrote nothing
    history = np.loadtxt(team.folder / "0/plots/history.csv", delimiter=",", skiprows=1)
    alone = learn(check_params(dict(team.params[0])).train, *splits(team.data), [])[1]
    for column, key in enumerate(["loss", "accuracy", "val_loss", "val_accuracy"], start=1):
        np.testing.assert_allclose(history[:, column], alone[key], rtol=0, atol=1e-5)

    team.start(2)
    assert time_to_errors(team, [0], team.processes[1].kill)  # and checks the error's form
    assert (team.folder / "0/.run/train.npz").exists()
    team.start(2, anew=False)
    assert team.hashes() == {name}
    assert "train: going on after epoch " in team.printed(0)


def refusals(team: Team) -> list[str]:
    """Wait for all to fail; return what each says at last."""
    numbers = range(len(team.processes))
    assert set(team.wait(numbers)) == {1}
    printed = [team.printed(number) for number in numbers]
    assert not [text for text in printed if "Traceback" in text]
    return [text.splitlines()[-1] for text in printed]


def test_learn_refuses_workers_that_train_something_else(team: Team) -> None:
    team.params = (*team.params, edited(team.params[0], {"train.seed": 1}))
    team.start(2)
    for line, stage in zip(refusals(team), ("train", "worker"), strict=True):
        assert line.startswith(
            f"{stage}: error: TF_CONFIG: expected the same parameters on all workers, "
            f"got others on [1] than on 0; "
        )


def test_learn_refuses_a_batch_that_does_not_divide(team: Team) -> None:
    team.start(0, devices="cpu:7")
    assert refusals(team) == [
        "train: error: params.yaml: train.batch_size: expected a multiple of 7, the number of "
        "workers (or devices), got 60"
    ]


def test_join_refuses_devices_that_are_not_there(team: Team) -> None:
    team.start(0, devices="cpu:0")
    (line,) = refusals(team)
    assert line.startswith("train: error: FASHION_MLP_DEVICES: expected `gpu`, where there is one")


def config(index: Any, **jobs: Any) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": "worker", "index": index}})


def test_read_config_takes_what_tensorflow_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config(1, worker=WORKERS))
    assert cluster.read_config() == (WORKERS, 1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", config(2, worker=WORKERS), config(-1, worker=WORKERS), config("0", worker=[]),
     config(0, chief=["localhost:3"], worker=WORKERS)],
)  # fmt: skip
def test_read_config_refuses_what_is_not_meant(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG: expected .*, got {re.escape(text)}$"):
        cluster.read_config()


@pytest.mark.parametrize(("index", "right"), [(0, "`make`"), (1, "`python -m worker`")])
def test_join_sends_a_worker_to_its_command(
    index: int, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config(index, worker=WORKERS))
    with pytest.raises(ValueError, match=f"this is worker {index} of 2: run {right}"):
        cluster.join(chief=index == 1)
