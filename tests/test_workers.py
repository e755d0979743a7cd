"""Several workers, as real processes on loopback; `make check-workers` has more of them."""

import json
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks.sandbox import edited
from checks.small_data import Data
from checks.workers import Team, first_images, free_port, time_to_error
from tests.conftest import TRAIN, small_values

WORKERS = ["localhost:1", "localhost:2"]
# 249 images in batches of 60: the last one has 9, four for one worker and five for the other.
IMAGES = 249
EPOCHS = 20  # a kill after the first comes long before the last
AVERAGED = {"learning_rate": 0.1, "momentum": 0.5, "use_ema": True, "ema_momentum": 0.9}
CHANGES = {
    "train.hidden_units": [16, 8],
    "train.batch_size": 60,
    "train.epochs": EPOCHS,
    "train.optimizer.config": AVERAGED,
    "train.learning_rate_schedule": "cosine",
    "train.standardize": True,
    "train.dropout": 0.1,
    "train.random_flip": True,
    "train.random_affine": 0.5,
    "train.mixup": 0.5,
}
COMPARED = 10  # epochs whose losses are compared: rounding grows


@pytest.fixture
def workers(engine: None) -> Any:
    from fashion_mlp.training import workers

    return workers


@pytest.fixture
def team(data: Data, finished_folder: Path, tmp_path: Path) -> Iterator[Team]:
    prepared = finished_folder / "data/prepared"
    data_folder = first_images(prepared, tmp_path / "prepared", IMAGES, TRAIN - IMAGES)
    started = Team(tmp_path / "team", data_folder, small_values(data, **CHANGES))
    yield started
    started.stop()


@pytest.mark.workers
def test_two_workers_train_what_one_trains_and_neither_uses_the_others_checkpoint(
    team: Team,
) -> None:
    import keras

    folder = team.folder / "0"

    def result() -> tuple[np.ndarray, list[np.ndarray]]:
        history = np.loadtxt(
            folder / "plots/history.csv", delimiter=",", skiprows=1, usecols=(0, 1, 2)
        )
        assert len(history) == EPOCHS
        network = keras.models.load_model(folder / "models/fashion_mlp.keras")
        return history[:COMPARED], network.get_weights()

    not_used = "is not used: it was made with other number of workers; training starts from epoch 1"
    team.start(0)
    team.next_checkpoint()
    team.start(2, anew=False)
    time_to_error(team, 0, team.processes[1].kill)  # and checks the error's form
    assert not_used in team.printed(0)

    shutil.copy(folder / ".run/checkpoint", team.folder / "of_two")
    team.start(2, anew=False)
    assert len(team.hashes()) == 1  # both have these weights, and the second wrote nothing
    assert "train: resuming after epoch " in team.printed(0)
    history, weights = result()

    shutil.copy(team.folder / "of_two", folder / ".run/checkpoint")
    team.start(0, anew=False)
    assert team.wait([0]) == [0]
    assert not_used in team.printed(0)
    alone, expected = result()
    np.testing.assert_allclose(history, alone, rtol=0, atol=1e-5)
    for got, weight in zip(weights, expected, strict=True):
        np.testing.assert_allclose(got, weight, rtol=0, atol=1e-3)


@pytest.mark.workers
def test_workers_refuse_one_that_trains_something_else(team: Team) -> None:
    team.params = (*team.params, edited(team.params[0], {"train.seed": 1}))
    team.start(2)
    assert team.wait([0, 1]) == [1, 1]
    for number in (0, 1):
        printed = team.printed(number)
        assert "Traceback" not in printed
        assert re.search(
            r"error: TF_CONFIG: expected the same parameters on all workers, "
            r"got others on \[1\] than on 0; [^\n]*\n$",
            printed,
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
    expected = "interrupted; start it again together with the others"
    assert team.printed(1).splitlines()[-1].endswith(expected)


def config(index: Any, **jobs: Any) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": "worker", "index": index}})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", config(2, worker=WORKERS), config(-1, worker=WORKERS), config("0", worker=[]),
     config(0, chief=["localhost:3"], worker=WORKERS), config(0, worker=["localhost"]),
     config(0, worker=["localhost:65536"]), config(0, worker=[5001])],
)  # fmt: skip
def test_read_config_takes_what_tensorflow_takes_and_nothing_else(
    workers: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config(1, worker=WORKERS))
    assert workers.read_config() == (WORKERS, 1)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG: expected .*, got {re.escape(text)}$"):
        workers.read_config()


def test_join_refuses_what_can_not_meet(
    workers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(chief: bool = True, **variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises((ValueError, RuntimeError)) as error:
            workers.join(chief=chief)
        return str(error.value)

    here, absent = (f"127.0.0.1:{free_port()}" for _ in range(2))
    first = config(0, worker=[here, absent])
    says = "TF_CONFIG: this is worker 0 of 2: run `make`, or stage train, here"
    assert refusal(chief=False, TF_CONFIG=first) == says
    says = "this is worker 1 of 2: run `python -m fashion_mlp.training.worker` here"
    assert says in refusal(TF_CONFIG=config(1, worker=[here, absent]))
    says = "FASHION_MLP_WAIT: expected seconds, as 300, got long"
    assert refusal(TF_CONFIG=first, FASHION_MLP_WAIT="long") == says
    says = f"TF_CONFIG: worker 1 ({absent}) did not come within 1 s; "
    assert refusal(FASHION_MLP_WAIT="1").startswith(says)
    assert capsys.readouterr().err == f"worker 0: waiting for worker 1 ({absent}), 1 s\n"
    with socket.create_server(("127.0.0.1", int(here.split(":")[1]))):
        says = f"worker 0 ({here}) can't listen at its port: Address already in use; "
        assert says in refusal()
