"""Restart points: the same bits after a restart, and none used that is of another run."""

from pathlib import Path

import numpy as np
import pytest
from fashion_mlp.training.checkpoint import Restart, identity

from fashion_mlp.data.arrays import Split
from fashion_mlp.network import engine
from pipeline.params import Optimizer, Train
from stages.train import learn

OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"weight_decay": 0.01},
    "AdamW": {"weight_decay": 0.01},
    "RMSprop": {"momentum": 0.9},
}
OF = {"parameters": "p", "data": "d", "code": "c", "library versions": "v"}


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    engine.start()


def settings(name: str, epochs: int = 4) -> Train:
    options = {
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "ema_momentum": 0.0,
        "schedule": "constant",
    } | OPTIMIZERS[name]
    return Train(
        seed=1,
        hidden_units=8,
        activation="relu",
        loss="categorical_crossentropy",
        optimizer=Optimizer(name=name, learning_rate=0.01, **options),  # type: ignore[arg-type]
        batch_size=16,
        epochs=epochs,
        standardize=False,
        dropout=0.0,
        flip=False,
        mixup=0.0,
        warp=0.0,
        precision="float32",
        steps_per_execution=4,
    )


def made_up(count: int) -> Split:
    random = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[random.integers(0, 3, count)]
    return Split(random.random((count, 12), np.float32), labels)


def trained(name: str, restart: Restart | None, epochs: int = 4) -> tuple[list[bytes], object]:
    learner, history = learn(settings(name, epochs), made_up(64), made_up(20), [], restart)
    return [weights.tobytes() for weights in learner.get_weights()], history


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learn_ends_with_the_same_bits_after_a_restart(name: str, tmp_path: Path) -> None:
    undisturbed = trained(name, None)
    trained(name, Restart(tmp_path / "train.npz", OF), epochs=2)
    restart = Restart(tmp_path / "train.npz", OF)
    assert restart.epochs == 2
    assert trained(name, restart) == undisturbed


def test_learn_takes_no_further_epoch_where_all_are_done(tmp_path: Path) -> None:
    done = trained("Adam", Restart(tmp_path / "train.npz", OF))
    assert trained("Adam", Restart(tmp_path / "train.npz", OF)) == done


def test_restart_refuses_a_point_of_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("SGD", Restart(tmp_path / "train.npz", OF), epochs=1)
    restart = Restart(tmp_path / "train.npz", OF | {"data": "x", "code": "y"})
    assert restart.epochs == 0
    assert "not used: it is of other data and code; training starts" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 40, -1])
def test_restart_refuses_a_damaged_point(
    place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("SGD", Restart(tmp_path / "train.npz", OF), epochs=1)
    content = bytearray((tmp_path / "train.npz").read_bytes())
    content[place] ^= 1
    (tmp_path / "train.npz").write_bytes(content)
    assert Restart(tmp_path / "train.npz", OF).epochs == 0
    assert "not used: it is damaged" in capsys.readouterr().err


def test_identity_changes_with_parameters_data_and_code(tmp_path: Path) -> None:
    data, code = tmp_path / "data", tmp_path / "code"
    data.write_bytes(b"1")
    code.write_bytes(b"2")
    before = identity({"seed": 1}, [data], [code])
    data.write_bytes(b"3")
    code.write_bytes(b"4")
    after = identity({"seed": 2}, [data], [code])
    assert [key for key in before if before[key] != after[key]] == ["parameters", "data", "code"]
