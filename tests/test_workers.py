"""Several workers, as real processes on loopback; `make check-workers` has more of them."""

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks.workers import Team, free_port, time_to_errors
from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.training import workers as cluster
from pipeline.params import Optimizer, Train, check_params
from stages.train import learn
from tests.conftest import CLASSES, HEIGHT, WIDTH, Data, edited, small_values

WORKERS = ["localhost:1", "localhost:2"]
# 249 images in batches of 60: the last one has 9, five for one worker and four for the other.
IMAGES = 249
EPOCHS = 40  # a kill after the first comes long before the last
SETTINGS = {
    "train.batch_size": 60,
    "train.optimizer.momentum": 0.9,
    "train.optimizer.schedule": "cosine",
    "train.standardize": True,
    "train.epochs": EPOCHS,
}
COMPARED = 10  # epochs that are held against one worker's: rounding grows
# Every key that the loop there obeys; PLAIN has the others.
CARRIED_OUT = {
    "seed", "hidden_units", "activation", "loss", "batch_size", "epochs", "steps_per_execution",
    "standardize", "precision", "optimizer", "optimizer.name", "optimizer.learning_rate",
    "optimizer.momentum", "optimizer.nesterov", "optimizer.weight_decay", "optimizer.schedule",
}  # fmt: skip


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


@pytest.mark.workers
@pytest.mark.usefixtures("engine")
def test_learn_of_two_workers_is_that_of_one_also_after_a_kill(team: Team) -> None:
    team.start(2)
    assert time_to_errors(team, [0], team.processes[1].kill)  # and checks the error's form
    assert (team.folder / "0/.run/train.npz").exists()
    team.start(2, anew=False)
    assert len(team.hashes()) == 1  # both have these weights, and the second wrote nothing
    assert "train: going on after epoch " in team.printed(0)

    history = np.loadtxt(team.folder / "0/plots/history.csv", delimiter=",", skiprows=1)
    assert len(history) == EPOCHS
    alone = learn(check_params(team.params[0]).train, *splits(team.data), [])[1]
    for column, key in enumerate(["loss", "accuracy", "val_loss", "val_accuracy"], start=1):
        np.testing.assert_allclose(
            history[:COMPARED, column], alone[key][:COMPARED], rtol=0, atol=1e-5
        )


@pytest.mark.workers
def test_learn_refuses_workers_that_train_something_else(team: Team) -> None:
    team.params = (*team.params, edited(team.params[0], {"train.seed": 1}))
    team.start(2)
    assert team.wait([0, 1]) == [1, 1]
    for number, stage in enumerate(("train", "worker")):
        printed = team.printed(number)
        assert "Traceback" not in printed
        assert printed.splitlines()[-1].startswith(
            f"{stage}: error: TF_CONFIG: expected the same parameters on all workers, "
            f"got others on [1] than on 0; "
        )


@pytest.mark.workers
def test_join_is_ended_by_signals_while_it_waits(team: Team) -> None:
    team.start(4)
    team.processes[3].kill()
    for number in (0, 1, 2):
        while "waiting for worker " not in team.printed(number):
            assert team.processes[number].poll() is None, team.printed(number)
            time.sleep(0.05)
    team.processes[0].send_signal(signal.SIGINT)
    team.processes[1].send_signal(signal.SIGINT)
    team.processes[2].send_signal(signal.SIGTERM)
    assert team.wait([0, 1, 2]) == [128 + signal.SIGINT, 128 + signal.SIGINT, -signal.SIGTERM]
    assert team.printed(0).splitlines()[-1].startswith("train: interrupted; ")
    expected = "worker: interrupted; start it again together with the others"
    assert team.printed(1).splitlines()[-1] == expected


def config(index: Any, **jobs: Any) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": "worker", "index": index}})


def test_read_config_takes_what_tensorflow_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config(1, worker=WORKERS))
    assert cluster.read_config() == (WORKERS, 1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", config(2, worker=WORKERS), config(-1, worker=WORKERS), config("0", worker=[]),
     config(0, chief=["localhost:3"], worker=WORKERS), config(0, worker=["localhost"]),
     config(0, worker=["localhost:65536"]), config(0, worker=[5001])],
)  # fmt: skip
def test_read_config_refuses_what_is_not_meant(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG: expected .*, got {re.escape(text)}$"):
        cluster.read_config()


def settings(data: Data, **changes: Any) -> Train:
    return check_params(small_values(data, **{"train.batch_size": 60} | changes)).train


@pytest.mark.parametrize(("index", "right"), [(0, "`make`"), (1, "`python -m worker`")])
def test_join_sends_a_worker_to_its_command(
    index: int, right: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config(index, worker=WORKERS))
    with pytest.raises(ValueError, match=f"this is worker {index} of 2: run {right}"):
        cluster.join(settings(data), chief=index == 1)


@pytest.mark.parametrize("variable", ["TF_CONFIG", "FASHION_MLP_DEVICES"])
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("dropout", 0.5, "expected 0.0, got 0.5"),
     ("flip", True, "expected false, got true"),
     ("mixup", 0.5, "expected 0.0, got 0.5"),
     ("warp", 1.5, "expected 0.0, got 1.5"),
     ("optimizer.ema_momentum", 0.9, "expected 0.0, got 0.9")],
)  # fmt: skip
def test_join_refuses_what_its_loop_does_not_do(
    key: str, value: Any, says: str, variable: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"TF_CONFIG": config(0, worker=WORKERS), "FASHION_MLP_DEVICES": "cpu:2"}
    monkeypatch.setenv(variable, values[variable])
    with pytest.raises(ValueError, match=rf"^params.yaml: train\.{key}: with .* {says}; .*$"):
        cluster.join(settings(data, **{f"train.{key}": value}), chief=True)


def test_every_parameter_is_carried_out_or_refused() -> None:
    known = {*Train.model_fields, *(f"optimizer.{key}" for key in Optimizer.model_fields)}
    assert known == CARRIED_OUT | {*cluster.PLAIN}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("devices", "says"),
    [("cpu:0", "FASHION_MLP_DEVICES: expected `gpu`, where there is one, or, .* got cpu:0$"),
     ("cpu:7", "params.yaml: train.batch_size: expected a multiple of 7, .* got 60$")],
)  # fmt: skip
def test_join_refuses_devices_that_it_can_not_use(
    devices: str, says: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MLP_DEVICES", devices)
    with pytest.raises(ValueError, match=says):
        cluster.join(settings(data), chief=True)


@pytest.mark.usefixtures("engine")
def test_join_names_workers_that_do_not_come(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, absent = (f"127.0.0.1:{free_port()}" for _ in range(2))
    monkeypatch.setenv("TF_CONFIG", config(0, worker=[here, absent]))
    monkeypatch.setenv("FASHION_MLP_WAIT", "1")
    says = re.escape(f"TF_CONFIG: worker 1 ({absent}) did not come within 1 s; ")
    with pytest.raises(RuntimeError, match=says):
        cluster.join(settings(data), chief=True)
    assert capsys.readouterr().err == f"worker 0: waiting for worker 1 ({absent}), 1 s\n"


@pytest.mark.usefixtures("engine")
def test_join_refuses_a_port_that_is_taken(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("TF_CONFIG", config(0, worker=[here, *WORKERS[1:]]))
        says = re.escape(f"worker 0 ({here}) can't listen at its port: Address already in use; ")
        with pytest.raises(RuntimeError, match=says):
            cluster.join(settings(data), chief=True)


@pytest.mark.usefixtures("engine")
def test_join_refuses_a_wait_that_is_no_time(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config(0, worker=WORKERS))
    monkeypatch.setenv("FASHION_MLP_WAIT", "long")
    with pytest.raises(ValueError, match=r"^FASHION_MLP_WAIT: expected seconds, .* got long$"):
        cluster.join(settings(data), chief=True)
