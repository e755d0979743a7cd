"""Small Keras networks of all kinds, for checks/anybody.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def architectures() -> Iterator[tuple[str, Any]]:
    """Build the networks, with the weights that Keras draws: name and model."""
    import keras
    from keras import layers

    def classes() -> Any:
        return layers.Dense(4, activation="softmax")

    def dense(activation: str | None, units: int = 8) -> Any:
        return layers.Dense(units, activation=activation)

    def conv(filters: int = 4, **options: Any) -> Any:
        return layers.Conv2D(filters, 3, **options)

    chains = {**_dense(layers, dense), **_image(layers, dense, conv), **_sequence(layers)}
    for name, (shape, *of) in chains.items():
        dtype = "int32" if name == "embedding" else None
        last = [] if name.endswith("regression") else [classes()]
        yield name, keras.Sequential([keras.Input(shape, dtype=dtype), *of, *last])
    yield from _graphs(keras, classes, dense, conv)


def _dense(layers: Any, dense: Any) -> dict[str, list[Any]]:
    """List chains of dense layers: by name, the input's shape and the layers before the classes."""
    normalized = (dense(None), layers.BatchNormalization(), layers.ReLU())
    return {
        "dense, no hidden layer": [(16,)],
        "dense, relu": [(16,), dense("relu")],
        "dense, tanh, sigmoid": [(16,), dense("tanh"), dense("sigmoid")],
        "dense, three hidden": [(16,), *(dense("relu") for _ in range(3))],
        "dense, silu, regression": [(16,), dense("silu"), dense(None, 3)],
        "dense, leaky relu, elu": [
            *((16,), dense(None), layers.LeakyReLU(negative_slope=0.2), dense("elu"))
        ],
        "dense, batch normalization": [(16,), *normalized],
        "dense, layer normalization": [(16,), dense(None), layers.LayerNormalization()],
    }


def _image(layers: Any, dense: Any, conv: Any) -> dict[str, list[Any]]:
    """List chains that take images, as `_dense` does."""
    flatten, relu = layers.Flatten, {"activation": "relu"}
    strided, pool = conv(strides=2, padding="same", **relu), layers.AveragePooling2D(2)
    normalized = (conv(), layers.BatchNormalization(), layers.ReLU())
    depthwise = (layers.DepthwiseConv2D(3, **relu), conv(**relu), layers.GlobalMaxPooling2D())
    transposed = layers.Conv2DTranspose(3, 3, strides=2, **relu)
    rescaled = (layers.Rescaling(1 / 255), flatten(), layers.Dropout(0.3), dense("relu"))
    return {
        "rescaling, dropout": [(8, 8, 1), *rescaled],
        "convolution, max pooling": [(8, 8, 1), conv(**relu), layers.MaxPooling2D(), flatten()],
        "convolution, stride, average pooling": [(8, 8, 2), strided, pool, flatten()],
        "convolution, batch normalization": [
            *((8, 8, 1), *normalized, layers.GlobalAveragePooling2D())
        ],
        "depthwise convolution": [(8, 8, 2), *depthwise],
        "separable convolution": [(8, 8, 2), layers.SeparableConv2D(4, 3, **relu), flatten()],
        "transposed convolution": [(4, 4, 2), transposed, flatten()],
    }


def _sequence(layers: Any) -> dict[str, list[Any]]:
    """List chains that take sequences, as `_dense` does."""
    in_time = (layers.Conv1D(5, 3, activation="relu"), layers.GlobalMaxPooling1D())
    return {
        "convolution in time": [(12, 3), *in_time],
        "embedding": [(6,), layers.Embedding(20, 5), layers.Flatten()],
        "LSTM": [(5, 3), layers.LSTM(6)],
        "GRU": [(5, 3), layers.GRU(6)],
        "simple recurrent": [(5, 3), layers.SimpleRNN(6)],
    }


def _graphs(keras: Any, classes: Any, dense: Any, conv: Any) -> Iterator[tuple[str, Any]]:
    """Build the networks that are no chain."""
    layers = keras.layers
    image = keras.Input((16,))
    hidden = dense("relu")(image)
    added = layers.ReLU()(layers.Add()([hidden, dense(None)(hidden)]))
    yield "residual", keras.Model(image, classes()(added))
    image = keras.Input((8, 8, 4))
    kept = image
    for _ in range(2):
        kept = conv(padding="same", use_bias=False)(layers.ReLU()(kept))
        kept = layers.BatchNormalization()(kept)
    kept = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([image, kept])))
    yield "residual convolution, batch normalization", keras.Model(image, classes()(kept))
    left, right = keras.Input((8,), name="left"), keras.Input((5,), name="right")
    joined = layers.Concatenate()([dense("relu")(left), dense("tanh")(right)])
    yield "two inputs", keras.Model([left, right], classes()(joined))
    image = keras.Input((16,))
    hidden = dense("relu")(image)
    yield "two outputs", keras.Model(image, [classes()(hidden), layers.Dense(1)(hidden)])
    words = keras.Input((6, 8))
    attended = layers.Add()([words, layers.MultiHeadAttention(2, 4)(words, words)])
    attended = layers.Flatten()(layers.LayerNormalization()(attended))
    yield "attention", keras.Model(words, classes()(attended))
