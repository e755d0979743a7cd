"""The network in Keras: built, run, saved and read; and its layers as they are trained."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.environment import ROOT
from tests.oracle import DEPTHS, forward, make_images, make_layers, network_of

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

    network = network_of(make_layers(PIXELS, hidden_units, CLASSES, scale=0.3))
    # Named, as Keras numbers the optimizers of a process, and the name is saved.
    network.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.SGD(name="SGD"))
    return network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_network(make_network(), tmp_path / "network.keras")
    return tmp_path / "network.keras"


@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_predict_gives_what_numpy_computes(hidden_units: list[int]) -> None:
    from fashion_mlp.network.model import predict

    network, images = make_network(hidden_units), make_images(57, PIXELS)
    expected = forward(make_layers(PIXELS, hidden_units, CLASSES, scale=0.3), images)
    got = predict(network, images)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert predict(network, images[:0]).shape == (0, CLASSES)


def test_predict_is_compiled_once_and_follows_the_weights() -> None:
    from fashion_mlp.network import model

    network, images = make_network([8]), make_images(57, PIXELS)
    model.predict(network, images)
    compiled = model._compiled(network)
    layers = make_layers(PIXELS, [8], CLASSES, scale=0.6)
    model.set_layers(network, layers)
    got = model.predict(network, images)
    np.testing.assert_allclose(got, forward(layers, images), rtol=0, atol=1e-6)
    assert compiled is model._compiled(network)
    assert compiled.experimental_get_tracing_count() == 1


def test_an_image_is_given_the_same_bits_among_any_number_of_images() -> None:
    """So it was not: of 2 to 32 rows, nor of 4,000 and more (docs/reproducibility.md)."""
    from fashion_mlp.network.model import predict

    network = network_of(make_layers(784, [800], CLASSES, scale=0.05))
    images = make_images(10_000, 784)
    expected = predict(network, images)
    for count in (1, 2, 13, 32, 33, 65, 1001, 5000):
        assert predict(network, images[:count]).tobytes() == expected[:count].tobytes(), count


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


def test_keras_itself_opens_what_save_network_wrote_and_load_network_every_bit(saved: Path) -> None:
    import keras

    from fashion_mlp.network.model import layers_of, load_network

    expected = make_layers(PIXELS, DEPTHS[2], CLASSES, scale=0.3)
    for opened in (keras.models.load_model(saved), load_network(saved, (PIXELS, CLASSES))):
        assert (opened.loss, opened.optimizer.name) == ("categorical_crossentropy", "SGD")
        assert [layer.name for layer in opened.layers] == ["dense_1", "dense_2", "dense_3"]
        for got, layer in zip(layers_of(opened), expected, strict=True):
            assert got.activation == layer.activation
            assert [part.tobytes() for part in got[:2]] == [part.tobytes() for part in layer[:2]]


def replaced(content: bytes, entry: str, value: bytes | None) -> bytes:
    """Give a ZIP file another entry of a name, or none."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            if name != entry or value is not None:
                new.writestr(name, old.read(name) if name != entry else value or b"")
    return made.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no bytes": lambda _: b"",
    "cut off": lambda whole: whole[: len(whole) // 3],
    "no config": lambda whole: replaced(whole, "config.json", None),
    "another config": lambda whole: replaced(whole, "config.json", b"[1]"),
    "no weights": lambda whole: replaced(whole, "model.weights.h5", None),
    "other weights": lambda whole: replaced(whole, "model.weights.h5", b"\x00\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_network_refuses_a_damaged_file_in_one_line(saved: Path, damage: str) -> None:
    from fashion_mlp.network.model import load_network

    saved.write_bytes(DAMAGES[damage](saved.read_bytes()))
    pattern = rf"^{saved}: not a whole \.keras file \(.*\); run `dvc repro --force train`$"
    with pytest.raises(ValueError, match=pattern):
        load_network(saved)


def test_load_network_names_a_file_that_is_missing(tmp_path: Path) -> None:
    from fashion_mlp.network.model import load_network

    with pytest.raises(FileNotFoundError) as error:
        load_network(tmp_path / "none.keras")
    assert error.value.filename == str(tmp_path / "none.keras")
