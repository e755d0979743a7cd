"""The network in Keras: built, run, saved and read; and its layers as they are trained."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.oracle import DEPTHS, forward, make_images, make_layers

pytestmark = pytest.mark.usefixtures("engine")

PIXELS, CLASSES = 12, 10
SAVE = """
import sys
from pathlib import Path
from fashion_mlp.network import engine
engine.start()
import keras
from tests.test_network import make_network, save_network
[keras.layers.Dense(3) for _ in range(5)]
save_network(make_network(), Path(sys.argv[1]))
"""


def save_network(network: Any, path: Path) -> None:
    from fashion_mlp.network.model import save_network

    save_network(network, path)


def make_network(hidden_units: list[int] = DEPTHS[2]) -> Any:
    import keras

    from fashion_mlp.network.model import build_network, set_layers

    network = build_network(PIXELS, hidden_units, "relu", CLASSES)
    set_layers(network, make_layers(PIXELS, hidden_units, CLASSES, scale=0.3))
    # Named, as Keras numbers the optimizers of a process, and the name is saved.
    network.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.SGD(name="SGD"))
    return network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_network(make_network(), tmp_path / "network.keras")
    return tmp_path / "network.keras"


def test_build_network_of_the_papers_sizes_has_the_papers_parameters() -> None:
    from fashion_mlp.network.model import build_network

    network = build_network(784, [800], "relu", 10)
    assert network.count_params() == 636_010
    assert [layer.name for layer in network.layers] == ["dense_1", "dense_2"]


@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_predict_gives_what_numpy_computes(hidden_units: list[int]) -> None:
    from fashion_mlp.network.model import layers_of, predict

    network, images = make_network(hidden_units), make_images(57, PIXELS)
    expected = forward(layers_of(network), images)
    for batch_size in (10, 1000):
        got = predict(network, images, batch_size)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert predict(network, images[:0]).shape == (0, CLASSES)


def test_layers_of_gives_back_what_set_layers_put_in() -> None:
    from fashion_mlp.network.model import layers_of

    expected = make_layers(PIXELS, [16, 8], CLASSES, scale=0.3)
    for got, layer in zip(layers_of(make_network([16, 8])), expected, strict=True):
        assert got.activation == layer.activation
        assert [array.tobytes() for array in got[:2]] == [array.tobytes() for array in layer[:2]]


@pytest.mark.parametrize("fault", ["no bias", "another layer", "no softmax", "nested"])
def test_layers_of_refuses_what_is_no_chain_of_dense_layers(fault: str) -> None:
    import keras

    from fashion_mlp.network.model import layers_of

    dense, inputs = keras.layers.Dense, keras.Input((PIXELS,))
    chain = {
        "no bias": [dense(3, use_bias=False), dense(3, "softmax")],
        "another layer": [keras.layers.Dropout(0.5), dense(3, "softmax")],
        "no softmax": [dense(3)],
        "nested": [keras.Sequential([inputs, dense(3, "softmax")])],
    }[fault]
    with pytest.raises(ValueError, match=r"^expected .*; run `dvc repro --force train`$"):
        layers_of(keras.Sequential([inputs, *chain]))


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

    predicted = np.array([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3]], np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    assert mean_loss(loss, predicted, labels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("units", [4, 40])  # many fewer than inputs, and not
def test_portable_matmul_has_the_gradients_of_matmul(
    units: int, precision: str, close: float
) -> None:
    import tensorflow as tf

    from fashion_mlp.training.layers import portable_matmul

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
@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_trained_layers_compute_what_the_training_model_computes(
    hidden_units: list[int], standardized: bool
) -> None:
    from fashion_mlp.network.model import predict
    from fashion_mlp.training.layers import build_training_model, pixel_moments, trained_layers

    images = make_images(57, PIXELS)
    moments = pixel_moments(images) if standardized else None
    model = build_training_model(PIXELS, hidden_units, "relu", CLASSES, moments=moments)
    layers = trained_layers(model)
    assert [len(layer.bias) for layer in layers] == [*hidden_units, CLASSES]
    expected = predict(model, images)
    np.testing.assert_allclose(forward(layers, images), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 0.01  # answers that differ from image to image


def test_pixel_moments_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    from fashion_mlp.training import layers

    monkeypatch.setattr(layers, "CHUNK", 70)
    images = make_images(300, PIXELS)
    mean, variance = layers.pixel_moments(images)
    np.testing.assert_allclose(mean, images.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, images.var(axis=0) + layers.PIXEL_NOISE**2, rtol=1e-4)


def test_save_network_writes_the_same_bytes_in_every_process(saved: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again.keras", tmp_path / "other.keras"
    save_network(make_network(), again)
    environment = os.environ | {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", SAVE, str(other)], cwd=ROOT, env=environment, check=True)
    assert again.read_bytes() == saved.read_bytes()
    assert other.read_bytes() == saved.read_bytes()


def test_save_network_that_fails_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(AttributeError):
        save_network(object(), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_keras_itself_opens_what_save_network_wrote_and_load_network_every_bit(saved: Path) -> None:
    import keras

    from fashion_mlp.network.model import layers_of, load_network

    expected = [array for layer in layers_of(make_network()) for array in layer[:2]]
    for opened in (keras.models.load_model(saved), load_network(saved, (PIXELS, CLASSES))):
        assert (opened.loss, opened.optimizer.name) == ("categorical_crossentropy", "SGD")
        assert {type(layer) for layer in opened.layers} == {keras.layers.Dense}
        for got, array in zip(opened.get_weights(), expected, strict=True):
            assert got.tobytes() == array.tobytes()


def refusal(path: Path) -> str:
    from fashion_mlp.network.model import load_network

    with pytest.raises(ValueError) as error:
        load_network(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: not a whole .keras file (")
    assert text.endswith("run `dvc repro --force train`")
    return text


@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.7, 0.99])
def test_load_network_refuses_a_truncated_file(saved: Path, part: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(part * len(content))])
    refusal(saved)


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
