"""The training loop, the optimizer, and stage train."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from checks.sandbox import edited
from checks.small_data import Data
from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.paths import HISTORY
from pipeline.checkpoint import Checkpoint
from pipeline.params import Train
from stages import preprocess
from stages import train as stage
from tests.conftest import CLASSES, HEIGHT, WIDTH, other_values, small_values, snapshot
from tests.oracle import forward

pytestmark = pytest.mark.usefixtures("engine")

PIXELS, SHAPE = HEIGHT * WIDTH, (HEIGHT, WIDTH)
OF = {"parameters": "these"}
# They change the speed alone (but for a GPU's own rounding, and several workers', which
# test_workers.py starts): all other parameters change weights.
SPEED = {"steps_per_execution", "device", "workers"}


def settings(
    class_name: str = "SGD", config: dict[str, Any] | None = None, **changes: Any
) -> Train:
    """Small trainings: six batches of 50 an epoch."""
    optimizer = {"class_name": class_name, "config": {"learning_rate": 0.1} | (config or {})}
    small: dict[str, Any] = {
        "hidden_units": [16],
        "batch_size": 50,
        "epochs": 2,
        "steps_per_execution": 3,
    }
    return Train(**(small | {"optimizer": optimizer} | changes))


def fit(params: Train, split: Split, **options: Any) -> tuple[Any, Any]:
    from fashion_mlp.training.loop import fit

    nothing = Split(split.images[:0], split.labels[:0])
    return fit(params, split, options.pop("validation", nothing), SHAPE, **options)


def bits(layers: Any) -> list[bytes]:
    return [array.tobytes() for layer in layers for array in layer[:2]]


@pytest.fixture(scope="module")
def split(finished_folder: Path) -> Split:
    return load_split("train", PIXELS, CLASSES, finished_folder / "data/prepared")


@pytest.fixture(scope="module")
def paper(split: Split) -> Any:
    """Layers after the paper's kind of training, small."""
    return fit(settings(), split)[0]


def initial(params: Train) -> Any:
    import keras

    from fashion_mlp.network.model import build_network

    keras.utils.set_random_seed(params.seed)
    return build_network(PIXELS, params.hidden_units, params.activation, CLASSES)


def batches(params: Train, split: Split) -> Iterator[np.ndarray]:
    """Yield the image numbers of each batch of the training, in order."""
    from fashion_mlp.training.batches import shuffled_batches

    once = np.ones(len(split.images))
    for epoch in range(params.epochs):
        for block in shuffled_batches(once, params.batch_size, 1, params.seed, epoch):
            yield block[0]


def interrupted(path: Path) -> dict[str, Any]:
    """Have `fit` leave at `path` what a run has that was killed in its second epoch."""
    checkpoint = Checkpoint(path.with_suffix(".whole"), OF)

    def copy(logs: Any) -> None:
        if checkpoint.epochs == 1:
            shutil.copy(path.with_suffix(".whole"), path)

    return {"checkpoint": checkpoint, "on_epoch": copy}


# By dotted key, another value of each parameter than the one in `settings`.
OTHERS = {
    key: yaml.safe_load(value)
    for key, value in other_values(settings().model_dump(), Train).items()
    if key not in SPEED
} | {"batch_size": 100}  # of which an epoch has three, one call: one compilation


# The tests below compare other values of these with what they should give.
COMPARED = {"hidden_units", "activation", "loss", "batch_size", "standardize", "label_smoothing",
            "optimizer.class_name", "optimizer.config.learning_rate"}  # fmt: skip


@pytest.mark.parametrize("key", sorted(OTHERS.keys() - COMPARED))
def test_fit_heeds_each_parameter(key: str, paper: Any, split: Split) -> None:
    changed = Train(**edited(settings().model_dump(), {key: OTHERS[key]}))
    layers, _ = fit(changed, split)
    assert bits(layers) != bits(paper)
    assert all(array.dtype == np.float32 for layer in layers for array in layer[:2])


def test_fit_resumes_with_the_same_bits(split: Split, tmp_path: Path) -> None:
    params = Train(**edited(settings().model_dump(), OTHERS | {"epochs": 3}))
    layers, history = fit(params, split, **interrupted(tmp_path / "checkpoint"))
    checkpoint = Checkpoint(tmp_path / "checkpoint", OF)
    assert checkpoint.epochs == 1
    resumed, same = fit(params, split, checkpoint=checkpoint)
    assert (bits(resumed), same) == (bits(layers), history)


MOMENTUM = {
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.01,
    "loss_scale_factor": 8.0,
    "global_clipnorm": 0.5,
}
AVERAGED = {"learning_rate": 0.01, "beta_1": 0.0, "use_ema": True, "ema_momentum": 0.9}
KERAS = {
    # The last batch has 20 images, in a call of its own.
    "SGD": settings("SGD", MOMENTUM, batch_size=70, steps_per_execution=4),
    "linear": settings("Ftrl", hidden_units=[], loss="mean_squared_error"),
    "averaged": settings(
        "Adam", AVERAGED, hidden_units=[16, 8], activation="tanh", standardize=True
    ),
}


@pytest.mark.parametrize("params", KERAS.values(), ids=KERAS)
def test_fit_gives_what_keras_fit_gives(params: Train, split: Split, training: Any) -> None:
    """Averaged weights are what SwapEMAWeights validates with, too."""
    import keras

    layers, history = fit(params, split, validation=split)
    peer = initial(params)
    if params.standardize:
        mean, variance = training.layers.pixel_moments(split.images)
        normalize = keras.layers.Normalization(mean=mean, variance=variance)
        peer = keras.Sequential([keras.Input((PIXELS,)), normalize, *peer.layers])
    config = params.optimizer.config.model_dump()
    optimizer = training.optimizer.make_optimizer(params.optimizer.class_name, config)
    peer.compile(optimizer, params.loss, metrics=["accuracy"], jit_compile=False)
    logs = peer.fit(
        ((split.images[rows], split.labels[rows]) for rows in batches(params, split)),
        epochs=params.epochs,
        steps_per_epoch=-(-len(split.images) // params.batch_size),
        validation_data=(np.array(split.images), np.array(split.labels)),
        callbacks=[keras.callbacks.SwapEMAWeights()] if "use_ema" in config else [],
        verbose=0,
    ).history
    expected = peer.predict(np.array(split.images), verbose=0)
    np.testing.assert_allclose(forward(layers, split.images), expected, rtol=0, atol=1e-5)
    assert list(history) == ["loss", "accuracy", "validation_loss", "validation_accuracy"]
    for key, values in history.items():
        assert values == pytest.approx(logs[key.replace("validation", "val")], abs=1e-5)


def test_fit_gives_the_same_bits_whatever_concerns_the_speed_alone(
    paper: Any, split: Split, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, loop = [], training.loop
    real = loop.TrainingStep._run

    def counting(self: Any, *tensors: Any) -> Any:
        traced.append(tensors)
        return real(self, *tensors)

    monkeypatch.setattr(loop.TrainingStep, "_run", counting)
    for steps in (1, 100):
        assert bits(fit(settings(steps_per_execution=steps), split)[0]) == bits(paper)
    assert len(traced) == 2  # once a training
    monkeypatch.setattr(loop, "memory_limit", lambda: split.images.nbytes)  # read from the file
    assert bits(fit(settings(), split)[0]) == bits(paper)


def standing_still(
    training: Any, split: Split, params: Train, epochs: int, more: int
) -> tuple[Any, list[Any], np.ndarray]:
    """Train some epochs, then more at a learning rate of 0: the step, their logs, its answers."""
    step = training.loop.prepare(params, split, SHAPE, None)
    for epoch in range(epochs):
        step.run_epoch(split, epoch)
    step.optimizer.learning_rate = 0.0
    logs = [step.run_epoch(split, epochs + epoch) for epoch in range(more)]
    return step, logs, forward(step.layers(), split.images)


def test_importance_sampling_logs_what_all_images_give(split: Split, training: Any) -> None:
    """Thirty epochs with weights that stand still: wrong images come more often, and weigh less."""
    params = settings(importance_sampling=0.9)
    _, logs, predicted = standing_still(training, split, params, 10, 30)
    right = predicted.argmax(axis=1) == split.labels.argmax(axis=1)
    losses = -np.log((predicted * split.labels).sum(axis=1))
    for key, values in {"accuracy": right, "loss": losses}.items():
        drawn = [log[key] for log in logs]
        assert len(set(drawn)) > 1
        assert np.mean(drawn) == pytest.approx(values.mean(), abs=0.01)


def test_importance_sampling_logs_an_accuracy_of_1_where_all_are_right(
    split: Split, training: Any
) -> None:
    """Divided by a sum of weights that is rounded otherwise, some epochs' was 1.000001."""
    step, _, predicted = standing_still(training, split, settings(importance_sampling=0.5), 5, 1)
    named = np.eye(split.labels.shape[1], dtype=np.float32)[predicted.argmax(axis=1)]
    del step.resident  # the images with their own labels
    logs = [step.run_epoch(Split(split.images, named), 6 + epoch) for epoch in range(20)]
    assert {log["accuracy"] for log in logs} == {1.0}


def test_importance_sampling_goes_by_the_right_class_whatever_the_smoothing(
    split: Split, training: Any
) -> None:
    params = settings(importance_sampling=0.1, label_smoothing=0.3)
    step, _, predicted = standing_still(training, split, params, 1, 8)  # each image is seen
    expected = 1 - (predicted * split.labels).sum(axis=1)
    np.testing.assert_allclose(step.errors.numpy(), expected, rtol=0, atol=1e-5)


def test_inference_blur_answers_as_the_same_network_does_for_blurred_images(split: Split) -> None:
    rng = np.random.default_rng(4)
    images = rng.random((50, PIXELS), np.float32)
    rows, columns = (
        0.7 * np.eye(size) + 0.15 * (np.eye(size, k=1) + np.eye(size, k=-1)) for size in SHAPE
    )
    blurred = (rows @ images.reshape(-1, *SHAPE) @ columns).reshape(images.shape)
    for standardize in (False, True):
        plain, _ = fit(settings(standardize=standardize), split)
        layers, _ = fit(settings(standardize=standardize, inference_blur=0.15), split)
        np.testing.assert_allclose(
            forward(layers, images), forward(plain, blurred), rtol=0, atol=1e-6
        )


def test_fit_in_bfloat16_ends_near_float32(paper: Any, split: Split) -> None:
    layers, _ = fit(settings(precision="bfloat16"), split)
    for ours, theirs in zip(layers, paper, strict=True):
        np.testing.assert_allclose(ours.kernel, theirs.kernel, rtol=0, atol=1e-2)


def test_dropout_drops_a_share_keeps_the_mean_and_is_drawn_in_parts_as_in_the_whole(
    training: Any,
) -> None:
    """Hidden units that all give 1, each of which shows in an output of its own."""
    import tensorflow as tf

    units = 40
    model = training.layers.build_training_model(1, [units, units], "relu", units)
    one, eye = np.ones(units), np.eye(units)
    model.set_weights([np.zeros((1, units)), one, eye * 0, one, eye, one * 0])
    step = training.loop.TrainingStep(model, None, Train(seed=1, dropout=0.3), (1, 1), None, 41)

    def drawn(number: int, workers: int = 1) -> np.ndarray:
        parts = [training.batches.Part.of(41, worker, workers) for worker in range(workers)]
        run = tf.function(
            lambda: [
                step.forward(tf.ones((len(p.places()), 1)), tf.constant(number, tf.int64), p)
                for p in parts
            ],
            jit_compile=True,
        )
        logits = np.log(np.concatenate(run()))
        return logits - logits.min(axis=1, keepdims=True)

    first = drawn(1)
    assert np.unique(first.round(4)) == pytest.approx([0, 1 / 0.7], abs=1e-4)
    assert (first < 0.5).mean() == pytest.approx(0.3, abs=0.05)
    for workers in (2, 4):
        np.testing.assert_allclose(drawn(1, workers), first, atol=1e-5)
    assert np.abs(drawn(2) - first).max() > 1


def test_label_smoothing_trains_on_smoothed_labels(split: Split) -> None:
    smoothed = Split(split.images, np.float32(0.8) * split.labels + np.float32(0.2 / CLASSES))
    layers, history = fit(settings(label_smoothing=0.2), split)
    expected, same = fit(settings(), smoothed)
    np.testing.assert_allclose(
        forward(layers, split.images), forward(expected, split.images), atol=1e-6
    )
    assert history["loss"] == pytest.approx(same["loss"], abs=1e-6)


def test_memory_limit_is_the_lowest_that_is_set(
    tmp_path: Path, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = training.loop
    limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
    limit.write_text("123456\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(loop, "CGROUP_LIMITS", (unlimited, tmp_path / "missing"))
    assert loop.memory_limit() > 1e9
    monkeypatch.setattr(loop, "CGROUP_LIMITS", (unlimited, tmp_path / "missing", limit))
    assert loop.memory_limit() == 123456


def test_make_optimizer_makes_any_of_keras_and_follows_the_schedule(training: Any) -> None:
    import keras

    make_optimizer = training.optimizer.make_optimizer
    for name in training.optimizer.optimizers():
        assert type(make_optimizer(name, {})) is getattr(keras.optimizers, name)
    for schedule, last in (("constant", 0.1), ("cosine", 0.0)):
        optimizer = make_optimizer("SGD", {"learning_rate": 0.1}, schedule, 100)
        assert float(optimizer.learning_rate) == pytest.approx(0.1)
        optimizer.iterations.assign(100)
        assert float(optimizer.learning_rate) == pytest.approx(last, abs=1e-6)
    paper = Train().optimizer
    ours = make_optimizer(paper.class_name, paper.config.model_dump())
    assert ours.get_config() | {"name": ""} == keras.optimizers.SGD().get_config() | {"name": ""}


def test_no_optimizer_computes_with_the_processor_s_estimate_of_rsqrt(training: Any) -> None:
    """In what XLA compiles; RMSprop without `apply_portably` has it."""
    import keras
    import tensorflow as tf

    ours = training.optimizer

    def compiled(name: str, apply: Any) -> str:
        weights = [keras.Variable(np.ones(shape, np.float32)) for shape in ((4, 4), (4,))]
        optimizer = ours.make_optimizer(name, {"learning_rate": 0.1})
        optimizer.build(weights)
        gradients = [tf.ones(weight.shape) for weight in weights]
        run = tf.function(lambda *given: apply(optimizer, given, weights), jit_compile=True)
        return run.experimental_get_compiler_ir(*gradients)(stage="optimized_hlo")

    assert "rsqrt" in compiled("RMSprop", keras.optimizers.Optimizer.apply)
    found = {name: compiled(name, ours.apply_portably) for name in ours.optimizers()}
    assert [name for name, text in found.items() if "rsqrt" in text] == []


ACCUMULATE = "gradient_accumulation_steps"


@pytest.mark.parametrize(
    ("class_name", "config", "says"),
    [
        ("Adamm", {}, r"class_name: expected one of Adadelta, .*; got 'Adamm'"),
        ("Adam", {"momentum": 0.9}, r"config.momentum is unknown \(value 0.9\); Adam knows amsg"),
        ("Adam", {"name": "x"}, r"config.name is unknown \(value 'x'\); Adam knows amsgrad, .*"),
        ("SGD", {"momentum": 2.0}, r"config: SGD does not take it: `momentum` must be a float"),
        ("Adam", {"beta_1": "high"}, r"config.beta_1: expected .*, 0.9; got 'high'"),
        ("Adam", {"epsilon": None}, r"config.epsilon: expected .*, 1e-07; got None"),
        ("SGD", {"nesterov": "yes"}, r"config.nesterov: expected .*, False; got 'yes'"),
        ("SGD", {"weight_decay": "x"}, r"config.weight_decay: expected .*, None; got 'x'"),
        ("Muon", {"exclude_layers": [1]}, r"config.exclude_layers: expected .*; got \[1\]"),
        ("SGD", {"clipnorm": ["a"]}, r"config.clipnorm: expected .*, None; got \['a'\]"),
        ("SGD", {"weight_decay": []}, r"config.weight_decay: expected .*, None; got \[\]"),
        ("SGD", {"momentum": 10**400}, r"config.momentum: expected .*; got 10+"),
        ("Muon", {"ns_steps": 5.5}, r"config: Muon does not take it: 'float' object cannot be in"),
        ("Muon", {"exclude_layers": ["("]}, r"config: Muon does not take it: missing \), unterm"),
        ("SGD", {ACCUMULATE: 1e30}, rf"config.{ACCUMULATE}: expected .*; got 1e\+30"),
        ("SGD", {ACCUMULATE: 2.5}, rf"config.{ACCUMULATE}: expected .*; got 2.5"),
        ("SGD", {ACCUMULATE: -2}, rf"config.{ACCUMULATE}: expected a whole number .*; got -2"),
    ],
)
def test_make_optimizer_refuses_what_keras_does_not_take(
    class_name: str, config: dict[str, Any], says: str, training: Any
) -> None:
    with pytest.raises(ValueError, match=rf"^params.yaml: train.optimizer.{says}.*$") as error:
        training.optimizer.try_optimizer(class_name, {"learning_rate": 0.1} | config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "shape", "expected"),
    [
        ({}, (60_000, 10), []),
        ({}, (60_000, 26), []),
        ({}, (60_000, 27), ["27 classes"]),
        ({"precision": "bfloat16"}, (60_000, 10), ["precision bfloat16"]),
        ({"device": "gpu"}, (60, 10), ["device gpu", "batch_size 200"]),
        ({"optimizer": {"class_name": "Muon"}}, (60_000, 10), ["optimizer Muon"]),
        ({"optimizer": {"config": {"clipnorm": 0.5}}}, (60_000, 10), ["clipnorm 0.5"]),
        ({"optimizer": {"class_name": "RMSprop"}}, (60_000, 10), []),
        ({"batch_size": 63}, (126, 10), ["batch_size 63"]),
        ({"batch_size": 64}, (128, 10), []),
        ({"batch_size": 64}, (66, 10), ["batch_size 64"]),
    ],
)
def test_stage_names_what_makes_the_bits_the_machine_s_own(
    changes: dict[str, Any], shape: tuple[int, int], expected: list[str]
) -> None:
    assert stage.own_bits(Train(**changes), *shape) == expected


def test_main_writes_model_metrics_and_history(work: Path, data: Data, capsys: Any) -> None:
    import keras

    changes = {"preprocess.validation_images": 60, "train.hidden_units": [16, 8],
               "train.precision": "bfloat16"}  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(small_values(data, **changes)))
    preprocess.main()
    stage.main()
    assert (
        "train: with precision bfloat16, batch_size 50 the weights' last bits"
        in capsys.readouterr().err
    )
    header, *lines = Path("plots/history.csv").read_text().splitlines()
    assert header == "epoch,loss,accuracy,validation_loss,validation_accuracy"
    last = [float(value) for value in lines[1].split(",")]
    metrics = json.loads(Path("metrics/train.json").read_text())
    assert metrics == {"train_loss": last[1], "train_accuracy": last[2]}
    network = keras.models.load_model("models/fashion_mlp.keras")
    assert [layer.units for layer in network.layers] == [16, 8, CLASSES]
    held_out = load_split("validation", PIXELS, CLASSES)
    measured = network.evaluate(np.array(held_out.images), np.array(held_out.labels), verbose=0)
    assert measured == pytest.approx(last[3:], abs=2e-6)
    assert not Path(".run/checkpoint").exists()


def test_the_log_grows_with_each_epoch_and_is_the_old_one_after_a_failure(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen, write = snapshot(work), [], stage.write_history

    def stop(history: Any) -> None:
        write(history)
        seen.append(HISTORY.read_text().splitlines()[-1])
        if len(seen) == 2:
            raise OSError("no space left")

    monkeypatch.setattr(stage, "write_history", stop)
    with pytest.raises(OSError, match="no space left"):
        stage.main()
    assert [line.split(",")[0] for line in seen] == ["1", "2"]
    assert seen[1].endswith(",,")  # nothing is held out
    Path(".run/checkpoint").unlink()
    assert snapshot(work) == before


def test_main_that_ends_in_no_number_keeps_the_old_model(work: Path, data: Data) -> None:
    values = small_values(data, **{"train.optimizer.config.learning_rate": 1e30})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    before = snapshot(work)
    says = r"^epoch 1: training diverged \(loss (nan|inf), .*lower train.optimizer.config"
    with pytest.raises(ValueError, match=says):
        stage.main()
    assert snapshot(work) == before
