"""The network in Keras: dense layers, however many; built, saved, read and run.

Import it after `engine.start()`, which settles how TensorFlow computes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fashion_mlp.network.products import portable_matmul
from pipeline.files import replacing

BLOCK = 1_000  # images per call; of 4,000 and more XLA adds up softmax's sum in another order
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that the zip format can state


class Layer(NamedTuple):
    """A dense layer: float32 kernel (inputs, units) and bias (units,), Keras' activation name."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str


def build_network(
    pixels: int,
    hidden_units: Sequence[int],
    activation: str,
    classes: int,
    dense: Callable[..., keras.layers.Dense] = keras.layers.Dense,
) -> keras.Sequential:
    """Build the network: pixels -> hidden layers -> classes.

    Args:
        pixels: values in one image, 784 in the paper.
        hidden_units: of each hidden layer, [800] in the paper; [] is a linear model.
        activation: of the hidden layers, relu in the paper.
        classes: outputs, through softmax, 10 in the paper.
        dense: the layers' class, where training needs its own.

    Returns:
        A model with the layers `dense_1`, `dense_2`, …, not compiled.
    """
    shape = [*((units, activation) for units in hidden_units), (classes, "softmax")]
    layers = [
        dense(units, activation=activation, name=f"dense_{number}")
        for number, (units, activation) in enumerate(shape, start=1)
    ]
    return keras.Sequential([keras.Input((pixels,), name="image"), *layers], name="fashion_mlp")


def layers_of(network: keras.Model) -> list[Layer]:
    """Take the layers out of a Keras model.

    Raises:
        ValueError: not a chain of dense layers with biases that ends in softmax.
    """
    found = []
    for layer in network.layers:
        if type(layer) is not keras.layers.Dense or not layer.use_bias:
            raise ValueError(
                f"expected dense layers with biases alone, got {layer.name} "
                f"({type(layer).__name__}); run `dvc repro --force train`"
            )
        kernel, bias = layer.get_weights()
        found.append(Layer(kernel, bias, layer.activation.__name__))
    if not found or found[-1].activation != "softmax":
        raise ValueError("expected a last layer with softmax; run `dvc repro --force train`")
    return found


def set_layers(network: keras.Model, layers: Sequence[Layer]) -> None:
    """Give a model that `build_network` built the weights of `layers`."""
    network.set_weights([array for layer in layers for array in (layer.kernel, layer.bias)])


def predict(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Predict, compiled by XLA: an image's bits depend on no processor, nor on other images.

    Args:
        network: dense layers.
        images: float32 (n, pixels).

    Returns:
        Probabilities, float32 (n, classes).
    """
    forward = _compiled(network)
    blocks = [np.empty((0, network.output_shape[1]), np.float32)]
    for first in range(0, len(images), BLOCK):
        blocks.append(forward(tf.constant(images[first : first + BLOCK])).numpy())
    return np.concatenate(blocks)


@lru_cache(maxsize=1)  # compiled once, though training measures after each epoch
def _compiled(network: keras.Model) -> Any:
    @partial(tf.function, jit_compile=True, autograph=False)
    def forward(values: tf.Tensor) -> tf.Tensor:
        for layer in network.layers:
            kernel = tf.convert_to_tensor(layer.kernel)
            values = layer.activation(portable_matmul(values, kernel) + layer.bias)
        return values

    return forward


def mean_loss(loss: str, probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean loss over all images, in float64.

    Args:
        loss: Keras' name of it.
        probabilities: float32 (n, classes).
        labels: one-hot, float32 (n, classes).
    """
    by_image = keras.losses.get(loss)(
        tf.constant(labels, tf.float64), tf.constant(probabilities, tf.float64)
    )
    return float(by_image.numpy().mean())


def save_network(network: keras.Model, path: Path) -> None:
    """Save as .keras, with the same bytes for the same network.

    Keras' own file has the time of saving in its metadata and in each entry of its zip, and
    memory addresses as the identities of shared objects. The entries stay uncompressed, as
    zlib's output differs between its versions.
    """
    with replacing(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            entries = {name: archive.read(name) for name in sorted(archive.namelist())}
        metadata = json.loads(entries["metadata.json"])
        del metadata["date_saved"]
        entries["metadata.json"] = json.dumps(metadata).encode()
        addresses: dict[bytes, int] = {}
        entries["config.json"] = re.sub(
            rb'(?<="shared_object_id": )\d+',
            lambda address: b"%d" % addresses.setdefault(address[0], len(addresses) + 1),
            entries["config.json"],
        )
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), content)


def load_network(path: Path, shape: tuple[int, int] | None = None) -> keras.Model:
    """Read a .keras file; refuse what could run code.

    Args:
        path: the file.
        shape: pixels and classes that the network must have, where the caller knows them.

    Raises:
        ValueError: not a whole .keras file, or a network of another shape.
        OSError: the file can't be read.
    """
    with path.open("rb"):
        pass  # Keras says of a file that is missing that it is not a zip
    try:
        network = keras.models.load_model(path, safe_mode=True)
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a whole .keras file ({reason}); run `dvc repro --force train`"
        ) from None
    found = (network.input_shape[-1], network.output_shape[-1])
    if shape is not None and shape != found:
        raise ValueError(
            f"{path}: expected {shape[0]} pixels -> {shape[1]} classes, got {found[0]} -> "
            f"{found[1]}; run `dvc repro --force train`"
        )
    return network
