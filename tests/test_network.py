import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("engine")

SIZES = (12, 16, "relu", 10)
REMEDY = "run `dvc repro --force train`"
SAVE = """
import sys
from pathlib import Path
from fashion_mlp.network import engine
engine.start()
import keras
from fashion_mlp.network.model import build_network, save_network
[keras.layers.Dense(3) for _ in range(5)]
keras.utils.set_random_seed(7)
network = build_network(12, 16, "relu", 10)
network.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.SGD(name="SGD"))
save_network(network, Path(sys.argv[1]))
"""


def make_network(seed: int = 7) -> Any:
    import keras

    from fashion_mlp.network.model import build_network

    keras.utils.set_random_seed(seed)
    network = build_network(*SIZES)
    # Named, as Keras numbers the optimizers of a process, and the name is saved.
    network.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.SGD(name="SGD"))
    return network


def forward(network: Any, images: np.ndarray) -> np.ndarray:
    """Compute the network in float64: the oracle."""
    kernel_1, bias_1, kernel_2, bias_2 = (w.astype(np.float64) for w in network.get_weights())
    hidden = np.maximum(images.astype(np.float64) @ kernel_1 + bias_1, 0)
    logits = hidden @ kernel_2 + bias_2
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((57, 12), np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    from fashion_mlp.network.model import save_network

    save_network(make_network(), tmp_path / "network.keras")
    return tmp_path / "network.keras"


def test_build_network_of_the_papers_sizes_has_the_papers_parameters() -> None:
    from fashion_mlp.network.model import build_network

    network = build_network(784, 800, "relu", 10)
    assert network.count_params() == 636_010
    assert [layer.name for layer in network.layers] == ["hidden", "probabilities"]


@pytest.mark.parametrize("batch_size", [1, 10, 57, 1000])
def test_probabilities_are_what_numpy_computes(images: np.ndarray, batch_size: int) -> None:
    from fashion_mlp.network.model import probabilities

    network = make_network()
    got = probabilities(network, images, batch_size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, forward(network, images), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("categorical_crossentropy", -(np.log(0.7) + np.log(0.1)) / 2),
        ("mean_squared_error", ((0.3**2 + 0.2**2 + 0.1**2) + (0.9**2 + 0.6**2 + 0.3**2)) / 6),
        ("kl_divergence", -(np.log(0.7) + np.log(0.1)) / 2),
    ],
)
def test_mean_loss_is_the_mean_over_images(loss: str, expected: float) -> None:
    from fashion_mlp.network.model import mean_loss

    network = make_network()
    network.compile(loss=loss)
    predicted = np.array([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3]], np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    assert mean_loss(network, predicted, labels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("units", [4, 40])  # many fewer than inputs, and not
def test_portable_matmul_has_the_gradients_of_matmul(
    units: int, precision: str, close: float
) -> None:
    import tensorflow as tf

    from fashion_mlp.network.model import portable_matmul

    random = np.random.default_rng(2)
    shapes = ((5, 30), (30, units), (5, units))
    a, b, upstream = (tf.constant(random.random(shape, np.float32)) for shape in shapes)

    @tf.function(jit_compile=True)  # TensorFlow knows these bfloat16 products under XLA only
    def gradient(product: Any) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            value = tf.reduce_sum(product(a, b) * upstream)
        return tape.gradient(value, [a, b])

    gradients = [gradient(lambda a, b: portable_matmul(a, b, precision)), gradient(tf.matmul)]
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=close)
        if precision == "bfloat16":  # it does round
            assert np.abs(ours.numpy() / theirs.numpy() - 1).max() > 1e-4


@pytest.mark.parametrize("standardized", [False, True])
def test_learnt_weights_compute_what_the_learner_computes(
    images: np.ndarray, standardized: bool
) -> None:
    from fashion_mlp.network.model import (
        build_learner,
        build_network,
        learnt_weights,
        probabilities,
    )

    shape = (images.shape[1], 16, "relu", 10)
    moments = (images.mean(axis=0), images.var(axis=0) + 0.01) if standardized else None
    learner = build_learner(*shape, moments=moments, dropout=0.5)
    network = build_network(*shape)
    network.set_weights(learnt_weights(learner))
    expected = probabilities(learner, images, 100)
    np.testing.assert_allclose(probabilities(network, images, 100), expected, atol=1e-6)
    assert [type(layer).__name__ for layer in network.layers] == ["Dense", "Dense"]


def test_dropout_leaves_out_a_share_and_keeps_the_mean() -> None:
    import tensorflow as tf

    from fashion_mlp.network.model import Dropout

    inputs = tf.ones((400, 50))
    layer: Any = Dropout(0.3, seed=1)
    same: Any = Dropout(0.3, seed=1)
    assert np.array_equal(layer(inputs, training=False), inputs)
    draw, again = (
        tf.function(partial(of, training=True), jit_compile=True) for of in (layer, same)
    )
    first, second = (draw(inputs).numpy() for _ in range(2))
    for got in (first, second):
        assert np.unique(got) == pytest.approx([0, 1 / 0.7])
        assert (got == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert not np.array_equal(first, second)
    assert np.array_equal(again(inputs), first)


def augmented(images: np.ndarray, step: int, **knobs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Augment a batch whose labels are one-hot by row, compiled as in training."""
    import tensorflow as tf

    from fashion_mlp.network.model import Augmentation

    augment = tf.function(Augmentation(42, **knobs), jit_compile=True)
    labels = np.eye(len(images), dtype=np.float32)
    of = (tf.constant(images), tf.constant(labels), tf.constant(step, tf.int64))
    got, got_labels = (tensor.numpy() for tensor in augment(*of))
    return got, got_labels


def test_augmentation_mirrors_about_half_of_the_images_anew_at_each_step() -> None:
    images = np.random.default_rng(0).random((400, 6), np.float32)
    mirrored = images.reshape(400, 2, 3)[:, :, ::-1].reshape(400, 6)
    knobs = {"image_shape": (2, 3), "flip": True, "mixup": 0.0, "warp": 0.0}
    chosen = []
    for step in (0, 1):
        got, labels = augmented(images, step, **knobs)
        chosen.append((got == mirrored).all(axis=1))
        assert np.array_equal(got, np.where(chosen[-1][:, np.newaxis], mirrored, images))
        assert 150 < chosen[-1].sum() < 250
        assert np.array_equal(labels, np.eye(400))
        assert np.array_equal(augmented(images, step, **knobs)[0], got)
    assert not np.array_equal(*chosen)


def test_augmentation_blends_a_share_of_the_images_and_their_labels_alike() -> None:
    images = np.eye(400, dtype=np.float32)  # so that each says of what it is blended
    knobs = {"image_shape": (20, 20), "flip": False, "mixup": 0.25, "warp": 0.0}
    got, labels = augmented(images, 7, **knobs)
    assert np.array_equal(got, labels)
    shares = got.diagonal()
    expected = shares[:, np.newaxis] * images + (1 - shares[:, np.newaxis]) * np.roll(images, 1, 0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert 70 < (shares < 1).sum() < 130
    assert 0.4 < shares[shares < 1].mean() < 0.6
    assert not np.array_equal(augmented(images, 8, **knobs)[0], got)


def resampled(images: np.ndarray, matrix: Any, offset: Any) -> np.ndarray:
    """Resample images, float32 (n, height, width), all by one map."""
    import tensorflow as tf

    from fashion_mlp.network.model import resample

    count, height, width = images.shape
    maps = (np.tile(np.float32(part), (count, *[1] * np.ndim(part))) for part in (matrix, offset))
    flat = resample(images.reshape(count, -1), (height, width), *map(tf.constant, maps))
    return flat.numpy().reshape(images.shape)


def test_resample_turns_moves_and_interpolates() -> None:
    images = np.random.default_rng(0).random((3, 6, 6), np.float32)
    same, turn = np.eye(2), [[0, 1], [-1, 0]]
    assert np.array_equal(resampled(images, same, [0, 0]), images)
    assert np.array_equal(resampled(images, turn, [0, 0]), np.rot90(images, 1, (1, 2)))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    assert np.array_equal(resampled(images, same, [1, -1]), padded[:, 2:, :-2])
    between = (padded[:, 1:-1, 1:-1] + padded[:, 1:-1, 2:]) / 2
    np.testing.assert_allclose(resampled(images, same, [0, 0.5]), between, rtol=0, atol=1e-6)
    below = 0.75 * padded[:, 1:-1, 1:-1] + 0.25 * padded[:, 2:, 1:-1]
    np.testing.assert_allclose(resampled(images, same, [0.25, 0]), below, rtol=0, atol=1e-6)
    assert not resampled(images, same, [1e30, 0]).any()  # from outside


def test_resample_takes_images_that_are_not_square() -> None:
    images = np.random.default_rng(0).random((2, 4, 7), np.float32)
    assert np.array_equal(resampled(images, -np.eye(2), [0, 0]), images[:, ::-1, ::-1])


def test_augmentation_warps_by_up_to_what_is_asked_for() -> None:
    """A dot in the middle goes as far as images are moved; what bends them, it does not feel."""
    images = np.zeros((400, 15, 15), np.float32)
    images[:, 7, 7] = 1
    knobs = {"image_shape": (15, 15), "flip": False, "mixup": 0.0, "warp": 2.0}
    got, labels = augmented(images.reshape(400, -1), 3, **knobs)
    assert np.array_equal(labels, np.eye(400))
    spots = got.reshape(images.shape)
    places = np.indices((15, 15)) - 7
    moved = np.einsum("nhw,ahw->na", spots, places) / spots.sum(axis=(1, 2))[:, np.newaxis]
    assert 1 < np.abs(moved).max() < 3  # in a bent image a step is longer or shorter
    assert np.abs(moved.mean(axis=0)).max() < 0.1
    assert 0.3 < np.abs(moved).mean() < 0.7
    assert not np.array_equal(augmented(images.reshape(400, -1), 4, **knobs)[0], got)


@given(
    images=st.integers(1, 200),
    batch_size=st.integers(1, 60),
    steps=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_shuffled_batches_take_each_image_once_an_epoch(
    images: int, batch_size: int, steps: int, seed: int
) -> None:
    from fashion_mlp.network.model import shuffled_batches, tables_per_epoch

    tables = shuffled_batches(images, batch_size, steps, seed)
    count = tables_per_epoch(images, batch_size, steps)
    epochs = [[next(tables) for _ in range(count)] for _ in range(2)]
    for epoch in epochs:
        numbers = np.concatenate([table.ravel() for table in epoch])
        assert sorted(numbers) == list(range(images))
        assert all(table.dtype == np.int32 for table in epoch)
        assert all(table.shape[1] == batch_size for table in epoch[: images // batch_size // steps])
        assert all(len(table) <= steps for table in epoch)


def test_shuffled_batches_depend_on_seed_and_epoch_alone() -> None:
    from fashion_mlp.network.model import shuffled_batches

    def order(seed: int, steps: int, epoch: int) -> list[int]:
        tables = shuffled_batches(1000, 100, steps, seed, epoch)
        numbers: list[int] = []
        while len(numbers) < 1000:
            numbers += next(tables).ravel().tolist()
        return numbers

    assert order(1, 10, 0) == order(1, 3, 0)
    assert order(1, 10, 0) != order(2, 10, 0)
    assert order(1, 10, 0) != order(1, 10, 1)
    tables = shuffled_batches(1000, 100, 10, 1)
    next(tables)
    assert next(tables).ravel().tolist() == order(1, 10, 1)


def test_save_network_writes_the_same_bytes_in_every_process(saved: Path, tmp_path: Path) -> None:
    from fashion_mlp.network.model import save_network

    again, other = tmp_path / "again.keras", tmp_path / "other.keras"
    save_network(make_network(), again)
    environment = os.environ | {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", SAVE, str(other)], cwd=ROOT, env=environment, check=True)
    assert again.read_bytes() == saved.read_bytes()
    assert other.read_bytes() == saved.read_bytes()


def test_save_network_that_fails_leaves_the_old_file(saved: Path) -> None:
    from fashion_mlp.network.model import save_network

    before = saved.read_bytes()
    with pytest.raises(AttributeError):
        save_network(object(), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_keras_itself_opens_what_save_network_wrote(saved: Path, images: np.ndarray) -> None:
    import keras

    opened = keras.models.load_model(saved)
    np.testing.assert_array_equal(
        opened.predict(images, verbose=0), make_network().predict(images, verbose=0)
    )
    assert opened.loss == "categorical_crossentropy"
    assert opened.optimizer.name == "SGD"
    assert type(opened.layers[0]) is keras.layers.Dense


def test_load_network_gives_back_every_bit(saved: Path) -> None:
    from fashion_mlp.network.model import load_network

    for got, expected in zip(
        load_network(saved).get_weights(), make_network().get_weights(), strict=True
    ):
        assert got.tobytes() == expected.tobytes()


def refusal(path: Path) -> str:
    from fashion_mlp.network.model import load_network

    with pytest.raises(ValueError) as error:
        load_network(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.7, 0.99])
def test_load_network_refuses_a_truncated_file(saved: Path, part: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(part * len(content))])
    text = refusal(saved)
    assert text.startswith(f"{saved}: not a whole .keras file (")
    assert text.endswith(REMEDY)


@pytest.mark.parametrize("entry", ["config.json", "model.weights.h5"])
def test_load_network_refuses_a_flipped_bit_in_any_entry(saved: Path, entry: str) -> None:
    with zipfile.ZipFile(saved) as archive:
        info = archive.getinfo(entry)
    content = bytearray(saved.read_bytes())
    content[info.header_offset + 30 + len(entry) + info.file_size // 2] ^= 1
    saved.write_bytes(content)
    refusal(saved)


@pytest.mark.parametrize("entry", ["config.json", "model.weights.h5"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"null", b"[1]", b"\x00\xff"])
def test_load_network_refuses_an_entry_that_is_something_else(
    saved: Path, entry: str, content: bytes | None
) -> None:
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    del entries[entry]
    with zipfile.ZipFile(saved, "w") as archive:
        for name, value in entries.items():
            archive.writestr(name, value)
        if content is not None:
            archive.writestr(entry, content)
    refusal(saved)


def test_load_network_never_runs_a_lambda(tmp_path: Path) -> None:
    import keras

    path, mark = tmp_path / "evil.keras", tmp_path / "mark"
    touch = eval(f"lambda x: (__import__('pathlib').Path({str(mark)!r}).touch(), x)[1]")
    network = keras.Sequential([keras.Input((12,)), keras.layers.Lambda(touch, (12,))])
    network.save(path)
    assert "ambda" in refusal(path)
    assert not mark.exists()
    keras.models.load_model(path, safe_mode=False)(np.zeros((1, 12), np.float32))
    assert mark.exists()  # it was armed


def test_load_network_names_a_file_that_is_missing(tmp_path: Path) -> None:
    from fashion_mlp.network.model import load_network

    with pytest.raises(FileNotFoundError) as error:
        load_network(tmp_path / "none.keras")
    assert error.value.filename == str(tmp_path / "none.keras")
