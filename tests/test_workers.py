"""Several workers, as real processes on loopback: `make check-workers`."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from checks.sandbox import edited, environment, files
from checks.small_data import Data
from pipeline.environment import ROOT
from pipeline.params import Train
from tests.conftest import TRAIN, paper_values, small_values
from tests.processes import run

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
    "train.inference_blur": 0.2,
    "train.mixup": 0.5,
}
COMPARED = 10  # epochs whose losses are compared: rounding grows
LONGEST_SECONDS = 300.0
NOTICED_SECONDS = 60.0
LOST = r"error: TF_CONFIG: (a worker|worker \d .*) is gone or hangs .* epoch \d+\n$"
NOT_USED = "is not used: it was made with other parameters; training starts from epoch 1"


class Team:
    """Workers, each a process in a folder of its own; the chief is number 0."""

    def __init__(self, folder: Path, data: Path, *params: Mapping[str, Any]) -> None:
        self.folder, self.data, self.params = folder, data, params
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Start `count` workers with the parameters in turn; 0 is one without TF_CONFIG."""
        self.stop()
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        for number in range(count or 1):
            own = self.folder / str(number)
            (own / "data").mkdir(parents=True, exist_ok=True)
            (own / "data/prepared").unlink(missing_ok=True)
            (own / "data/prepared").symlink_to(self.data)
            values = edited(self.params[number % len(self.params)], {"train.workers": count or 1})
            (own / "params.yaml").write_text(yaml.safe_dump(values))
            extra = {"TF_CONFIG": config(number, worker=addresses)} if count else {}
            with (self.folder / f"{number}.log").open("wb") as log:
                module = "fashion_mlp.training.worker" if number else "stages.train"
                process = subprocess.Popen(
                    [sys.executable, "-m", module],
                    cwd=own,
                    env=environment() | {"PYTHONPATH": str(ROOT)} | extra,
                    stdout=log,
                    stderr=log,
                )
            self.processes.append(process)

    def printed(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []

    def wait(self, *numbers: int, seconds: float = LONGEST_SECONDS) -> list[int]:
        """Wait for workers to end; return their exit statuses."""
        end = time.monotonic() + seconds
        return [self.processes[it].wait(max(end - time.monotonic(), 0)) for it in numbers]

    def finish(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Wait for all to succeed, with the same weights, the chief alone having written files.

        Returns the log, float64 (epochs, 3), and the chief's weights.
        """
        import keras

        numbers = range(len(self.processes))
        for number, status in zip(numbers, self.wait(*numbers), strict=True):
            assert status == 0, self.printed(number)
            written = {path.name for path in files(self.folder / str(number))} - {"params.yaml"}
            assert number == 0 or written == set()
        hashes = re.findall(r"weights (\w+), the same on all", "".join(map(self.printed, numbers)))
        assert len(set(hashes)) == (len(numbers) > 1)
        log = self.folder / "0/plots/history.csv"
        network = keras.models.load_model(self.folder / "0/models/fashion_mlp.keras")
        history = np.loadtxt(log, delimiter=",", skiprows=1, usecols=(0, 1, 2))
        return history, network.get_weights()

    def next_checkpoint(self) -> None:
        """Wait for the chief's next checkpoint, as long as all are there."""
        began, saved = time.time(), self.folder / "0/.run"
        while not any(it.stat().st_mtime > began for it in saved.glob("checkpoint")):
            ended = [it for it, process in enumerate(self.processes) if process.poll() is not None]
            assert not ended, "\n".join(f"worker {it}: {self.printed(it)}" for it in ended)
            time.sleep(0.01)

    def lose(self, lost: int, how: signal.Signals) -> None:
        """Send a signal to one of two in the second epoch: the other ends with one line."""
        self.next_checkpoint()
        self.processes[lost].send_signal(how)
        status, printed = self.wait(1 - lost, seconds=NOTICED_SECONDS), self.printed(1 - lost)
        assert (status, printed.count("rror: ")) == ([1], 1), printed
        assert re.search(LOST, printed)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def team(data: Data, finished_folder: Path, tmp_path: Path) -> Iterator[Team]:
    """Nobody yet, with the first images to train on and the others to validate with."""
    (tmp_path / "prepared").mkdir()
    for name, part in (("train", slice(IMAGES)), ("validation", slice(IMAGES, TRAIN))):
        for kind in ("images", "labels"):
            array = np.load(finished_folder / f"data/prepared/train_{kind}.npy")
            np.save(tmp_path / f"prepared/{name}_{kind}.npy", array[part])
    started = Team(tmp_path / "team", tmp_path / "prepared", small_values(data, **CHANGES))
    yield started
    started.stop()


@pytest.mark.workers
def test_two_workers_train_what_one_trains_and_neither_uses_the_others_checkpoint(
    team: Team,
) -> None:
    checkpoint, of_two = team.folder / "0/.run/checkpoint", team.folder / "of_two"
    team.start(0)
    team.next_checkpoint()
    team.start(2)
    team.lose(1, signal.SIGKILL)
    assert NOT_USED in team.printed(0)

    shutil.copy(checkpoint, of_two)
    team.start(2)
    history, weights = team.finish()
    assert "train: resuming after epoch " in team.printed(0)

    shutil.copy(of_two, checkpoint)
    team.start(0)
    alone, expected = team.finish()
    assert NOT_USED in team.printed(0)
    np.testing.assert_allclose(history[:COMPARED], alone[:COMPARED], rtol=0, atol=1e-5)
    for got, weight in zip(weights, expected, strict=True):
        np.testing.assert_allclose(got, weight, rtol=0, atol=1e-3)


@pytest.mark.workers
def test_four_workers_train_preset_accurate_as_one_does(team: Team) -> None:
    preset = yaml.safe_load((ROOT / "presets/accurate.yaml").read_text(encoding="utf-8"))["train"]
    small = {"epochs": 2, "hidden_units": [16], "batch_size": 60}
    team.params = (edited(team.params[0], {"train": Train(**preset | small).model_dump()}),)
    team.start(4)
    history, _ = team.finish()
    team.start(0)
    np.testing.assert_allclose(history, team.finish()[0], rtol=0, atol=1e-5)


@pytest.mark.workers
@pytest.mark.parametrize(("lost", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_worker_that_is_lost_or_hangs_ends_the_other(
    lost: int, how: signal.Signals, team: Team
) -> None:
    team.start(2)
    team.lose(lost, how)


@pytest.mark.workers
def test_workers_refuse_one_that_trains_something_else(team: Team) -> None:
    team.params = (*team.params, edited(team.params[0], {"train.seed": 1}))
    team.start(2)
    assert team.wait(0, 1) == [1, 1]
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
    assert team.wait(0, 1, 2) == [128 + signal.SIGINT, 128 + signal.SIGINT, -signal.SIGTERM]
    assert team.printed(0).splitlines()[-1].startswith("train: interrupted; ")
    expected = "interrupted; start it again together with the others"
    assert team.printed(1).splitlines()[-1].endswith(expected)


def config(index: Any, **jobs: Any) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": "worker", "index": index}})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", config(2, worker=WORKERS), config(-1, worker=WORKERS), config("0", worker=[]),
     config(0, chief=["localhost:3"], worker=WORKERS), config(0, worker=["localhost"]),
     config(0, worker=["localhost:65536"]), config(0, worker=[5001]), config(0.0, worker=WORKERS),
     config(True, worker=WORKERS), config(0, worker={"localhost:1": 1}),
     config(0, worker=WORKERS[:1] * 2), config(0, worker=["x" * 100 + ":1"])],
)  # fmt: skip
def test_read_config_takes_what_tensorflow_takes_and_nothing_else(
    training: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config(1, worker=WORKERS))
    assert training.workers.read_config() == (WORKERS, 1)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG: expected .*, got {re.escape(text)}$"):
        training.workers.read_config()


def test_join_refuses_what_can_not_meet(
    training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(chief: bool = True, count: int = 2, **variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises((ValueError, RuntimeError)) as error:
            training.workers.join(chief, count)
        return str(error.value)

    assert training.workers.join(chief=True, count=1) is None
    says = "params.yaml: train.workers: 2, and TF_CONFIG is not set: set it, see docs/workers.md"
    assert refusal().startswith(says)
    here, absent = (f"127.0.0.1:{free_port()}" for _ in range(2))
    first = config(0, worker=[here, absent])
    says = "params.yaml: train.workers: expected 2, the number of workers that TF_CONFIG names; "
    assert refusal(count=1, TF_CONFIG=first).startswith(says + "got 1")
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


def test_make_looks_for_workers_and_a_gpu_before_anything_is_removed(tmp_path: Path) -> None:
    """If the result that is there has other parameters."""

    def check(lock: bool = False, **train: Any) -> tuple[int, str]:
        images = {"fetch.files.train-labels-idx1-ubyte.bytes": 60008}
        values = edited(paper_values(), {f"train.{key}": it for key, it in train.items()} | images)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
        out = {"path": "models/fashion_mlp.keras", "md5": "0" * 32}
        stage = {"outs": [out], "params": {"params.yaml": {"train": values["train"]}}}
        (tmp_path / "dvc.lock").write_text(
            yaml.safe_dump({"stages": {"train": stage}} if lock else {})
        )
        done = run(tmp_path, sys.executable, "-m", "tasks.check", CUDA_VISIBLE_DEVICES="")
        return done.returncode, done.stderr

    status, line = check(workers=2)
    assert (status, line.count("\n")) == (1, 1)
    assert "train.workers: 2, and TF_CONFIG is not set" in line
    status, lines = check(device="gpu")  # above the last, why TensorFlow finds none
    says = "make: params.yaml: train.device: expected a GPU that TensorFlow can use, found none; "
    assert (status, lines.splitlines()[-1][: len(says)]) == (1, says)
    assert check(lock=True, workers=2, device="gpu") == (0, "")
