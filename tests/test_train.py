import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fashion_mlp.training.checkpoint import Restart

from fashion_mlp.data.arrays import Split, load_split
from pipeline.params import Optimizer, Train, check_params
from stages import train as stage
from stages.train import history_csv, learn, make_optimizer, metrics, network_shape
from tests.conftest import CLASSES, HEIGHT, WIDTH, edited, real_values, snapshot

pytestmark = pytest.mark.usefixtures("engine")

PIXELS = HEIGHT * WIDTH
# 300 images in batches of 70: the last batch of an epoch has 20.
SETTINGS = {
    "train.hidden_units": 16,
    "train.batch_size": 70,
    "train.epochs": 2,
    "train.steps_per_execution": 3,
    "train.optimizer.learning_rate": 0.1,
}


def settings(**changes: Any) -> Train:
    return check_params(edited(real_values(), SETTINGS | changes)).train


def empty() -> Split:
    return Split(np.empty((0, PIXELS), np.float32), np.empty((0, CLASSES), np.float32))


def initial_weights(params: Train, split: Split) -> list[np.ndarray]:
    import keras

    from fashion_mlp.network.model import build_network

    keras.utils.set_random_seed(params.seed)
    return list(build_network(*network_shape(params, split)).get_weights())


def batches(params: Train, split: Split) -> Iterator[np.ndarray]:
    """Yield the image numbers of each batch of the training, in order."""
    from fashion_mlp.network.model import shuffled_batches

    images, left = len(split.images), params.epochs * len(split.images)
    for table in shuffled_batches(images, params.batch_size, 1, params.seed):
        yield table[0]
        left -= table.size
        if not left:
            return


def numpy_sgd(params: Train, split: Split) -> list[np.ndarray]:
    """Train by stochastic gradient descent in float64, the gradients derived by hand."""
    w1, b1, w2, b2 = (w.astype(np.float64) for w in initial_weights(params, split))
    for rows in batches(params, split):
        x, y = split.images[rows].astype(np.float64), split.labels[rows]
        hidden = np.maximum(x @ w1 + b1, 0)
        powers = np.exp(hidden @ w2 + b2)
        by_logits = (powers / powers.sum(axis=1, keepdims=True) - y) / len(rows)
        by_hidden = by_logits @ w2.T * (hidden > 0)
        steps = (x.T @ by_hidden, by_hidden.sum(0), hidden.T @ by_logits, by_logits.sum(0))
        for weight, step in zip((w1, b1, w2, b2), steps, strict=True):
            weight -= params.optimizer.learning_rate * step
    return [w1, b1, w2, b2]


@pytest.fixture(scope="module")
def paper(finished_folder: Path) -> list[np.ndarray]:
    """Weights after the paper's kind of training, small."""
    split = load_split("train", PIXELS, CLASSES, finished_folder / "data/prepared")
    return list(learn(settings(), split, empty(), [])[0].get_weights())


def test_learn_takes_the_steps_that_numpy_takes(
    paper: list[np.ndarray], train_split: Split
) -> None:
    params = settings()
    before = initial_weights(params, train_split)
    for got, expected, start in zip(paper, numpy_sgd(params, train_split), before, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        assert np.abs(got - start).max() > 1e-3  # it did learn


OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "SGD", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "AdamW", "learning_rate": 0.01, "weight_decay": 0.1},
    {"name": "Adam", "learning_rate": 0.01, "ema_momentum": 0.9},
    {"name": "RMSprop", "learning_rate": 0.01, "momentum": 0.5},
]


@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda options: options["name"])
def test_learn_takes_the_steps_that_keras_fit_takes(
    train_split: Split, options: dict[str, Any]
) -> None:
    import keras
    import tensorflow as tf

    from fashion_mlp.network.model import build_network

    params = settings(**{f"train.optimizer.{key}": value for key, value in options.items()})
    network, history = learn(params, train_split, train_split, [])
    keras.utils.set_random_seed(params.seed)
    peer = build_network(*network_shape(params, train_split))
    peer.compile(loss=params.loss, optimizer=make_optimizer(params.optimizer), metrics=["accuracy"])
    numbers = list(batches(params, train_split))
    images, labels = (np.array(array) for array in train_split)
    logs = peer.fit(
        tf.data.Dataset.from_generator(
            lambda: ((images[rows], labels[rows]) for rows in numbers),
            output_signature=(
                tf.TensorSpec((None, PIXELS), tf.float32),
                tf.TensorSpec((None, CLASSES), tf.float32),
            ),
        ),
        epochs=params.epochs,
        steps_per_epoch=len(numbers) // params.epochs,
        shuffle=False,
        validation_data=(images, labels),
        verbose=0,
    ).history
    for got, expected in zip(network.get_weights(), peer.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert set(history) == set(logs) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for key in logs:
        assert history[key] == pytest.approx(logs[key], abs=1e-5)


def bits(weights: list[np.ndarray]) -> list[bytes]:
    return [weight.tobytes() for weight in weights]


@pytest.mark.parametrize("steps", [1, 100])
def test_learn_gives_the_same_bits_for_any_steps_per_execution(
    paper: list[np.ndarray], train_split: Split, steps: int
) -> None:
    params = settings(**{"train.steps_per_execution": steps})
    network, _ = learn(params, train_split, empty(), [])
    assert bits(network.get_weights()) == bits(paper)


def test_learn_from_the_file_gives_the_same_bits_as_from_memory(
    paper: list[np.ndarray], train_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "memory_limit", lambda: train_split.images.nbytes)
    network, _ = learn(settings(), train_split, empty(), [])
    assert bits(network.get_weights()) == bits(paper)


def test_learn_has_its_step_traced_once(
    train_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fashion_mlp.network.model import Trainer

    traced, real = [], Trainer.train_step

    def counting(self: Trainer, table: Any) -> Any:
        traced.append(table.shape)
        return real(self, table)

    monkeypatch.setattr(Trainer, "train_step", counting)
    params = settings(**{"train.batch_size": 10, "train.steps_per_execution": 1, "train.epochs": 2})
    tens = Split(*(array[:100] for array in train_split))  # batches of one size
    learn(params, tens, empty(), [])
    assert len(traced) == 1


@pytest.mark.parametrize("resident", [True, False])
def test_tables_do_without_the_tuner_for_which_the_end_would_wait(
    train_split: Split, resident: bool
) -> None:
    made = stage.tables(train_split, resident, 10, 3, 1, 0)
    assert made.options().autotune.enabled is False


def test_memory_limit_is_the_lowest_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
    limit.write_text("123456\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(stage, "CGROUP_LIMITS", (unlimited, tmp_path / "missing"))
    assert stage.memory_limit() > 1e9
    monkeypatch.setattr(stage, "CGROUP_LIMITS", (unlimited, tmp_path / "missing", limit))
    assert stage.memory_limit() == 123456


def test_learn_in_bfloat16_ends_near_float32(paper: list[np.ndarray], train_split: Split) -> None:
    network, _ = learn(settings(**{"train.precision": "bfloat16"}), train_split, empty(), [])
    assert bits(network.get_weights()) != bits(paper)
    for got, expected in zip(network.get_weights(), paper, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dropout", 0.5),
        ("flip", True),
        ("mixup", 0.5),
        ("warp", 1.5),
        ("standardize", True),
        ("optimizer.schedule", "cosine"),
        ("optimizer.ema_momentum", 0.9),
    ],
)
def test_learn_heeds_each_knob_and_goes_on_after_a_kill_with_the_same_bits(
    paper: list[np.ndarray], train_split: Split, tmp_path: Path, key: str, value: object
) -> None:
    import keras

    from fashion_mlp.network.model import learnt_weights

    params = settings(**{f"train.{key}": value})
    shape = (HEIGHT, WIDTH)
    learner, _ = learn(params, train_split, empty(), [], None, shape)
    expected = bits(learnt_weights(learner))
    assert expected != bits(paper)

    def stop(epoch: int, logs: Any) -> None:
        if epoch == 1:
            raise RuntimeError("stopped")

    killer = keras.callbacks.LambdaCallback(on_epoch_begin=stop)
    restart = Restart(tmp_path / "train.npz", {"of": "this"})
    with pytest.raises(RuntimeError, match="stopped"):
        learn(params, train_split, empty(), [killer], restart, shape)
    restart = Restart(tmp_path / "train.npz", {"of": "this"})
    assert restart.epochs == 1
    learner, _ = learn(params, train_split, empty(), [], restart, shape)
    assert bits(learnt_weights(learner)) == expected


def test_pixel_moments_are_numpys(train_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHUNK", 70)
    mean, variance = stage.pixel_moments(train_split.images)
    np.testing.assert_allclose(mean, train_split.images.mean(axis=0), rtol=1e-5)
    expected = train_split.images.var(axis=0) + stage.PIXEL_NOISE**2
    np.testing.assert_allclose(variance, expected, rtol=1e-4)


@pytest.mark.parametrize(("schedule", "last"), [("constant", 0.1), ("cosine", 0.0)])
def test_make_optimizer_follows_the_schedule(schedule: str, last: float) -> None:
    params = settings(**{"train.optimizer.schedule": schedule})
    optimizer = make_optimizer(params.optimizer, 100)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    optimizer.iterations.assign(100)
    assert float(optimizer.learning_rate) == pytest.approx(last, abs=1e-6)


def test_learn_depends_on_the_seed(paper: list[np.ndarray], train_split: Split) -> None:
    network, _ = learn(settings(**{"train.seed": 1}), train_split, empty(), [])
    assert bits(network.get_weights()) != bits(paper)


def test_make_optimizer_of_the_paper_is_keras_default() -> None:
    import keras

    ours = make_optimizer(check_params(real_values()).train.optimizer).get_config()
    assert ours | {"name": ""} == keras.optimizers.SGD().get_config() | {"name": ""}


@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda options: options["name"])
def test_make_optimizer_passes_every_option_on(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "schedule": "constant",
        "learning_rate": 0.5,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "ema_momentum": 0.0,
    }
    made = make_optimizer(Optimizer(**(given | options))).get_config()
    assert type(make_optimizer(Optimizer(**(given | options)))).__name__ == options["name"]
    for key, value in options.items():
        if key != "name":
            assert made[key] == pytest.approx(value)


def test_history_csv_has_a_line_an_epoch() -> None:
    history = {"accuracy": [0.5, 0.75], "loss": [1.25, 0.1234567]}
    assert history_csv(history) == "epoch,loss,accuracy\n1,1.250000,0.500000\n2,0.123457,0.750000\n"


def test_history_csv_has_the_validation_columns_where_images_were_held_out() -> None:
    history = {"val_loss": [3.0], "loss": [1.0], "val_accuracy": [0.25], "accuracy": [0.5]}
    assert history_csv(history).splitlines() == [
        "epoch,loss,accuracy,val_loss,val_accuracy",
        "1,1.000000,0.500000,3.000000,0.250000",
    ]


def test_metrics_are_the_last_epochs() -> None:
    assert metrics({"loss": [2.0, 1.00000049], "accuracy": [0.1, 0.9]}) == {
        "train_loss": 1.0,
        "train_accuracy": 0.9,
    }
    validation = metrics({"val_loss": [1.5], "val_accuracy": [0.25]})
    assert validation == {"validation_loss": 1.5, "validation_accuracy": 0.25}


def test_main_writes_model_metrics_and_history(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    figures = json.loads(Path("metrics/train.json").read_text())
    lines = Path("plots/history.csv").read_text().splitlines()
    assert len(lines) == 3
    last = [float(value) for value in lines[-1].split(",")]
    assert [2, figures["train_loss"], figures["train_accuracy"]] == last
    network = keras.models.load_model("models/fashion_mlp.keras")
    images = np.load("data/prepared/train_images.npy")
    labels = np.load("data/prepared/train_labels.npy")
    loss, accuracy = network.evaluate(images, labels, verbose=0)
    assert loss < float(lines[1].split(",")[1])  # what is saved is trained
    assert accuracy > figures["train_accuracy"] - 0.1


@pytest.mark.parametrize("name", ["train_images", "validation_labels"])
def test_main_refuses_a_broken_array_and_keeps_the_old_model(work: Path, name: str) -> None:
    path = Path(f"data/prepared/{name}.npy")
    path.write_bytes(path.read_bytes()[:100])
    before = snapshot(work)
    with pytest.raises(ValueError, match=rf"{name}\.npy: not a whole \.npy file"):
        stage.main()
    assert snapshot(work) == before
