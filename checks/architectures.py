"""Small Keras networks of all kinds, for checks/anybody.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def architectures() -> Iterator[tuple[str, Any]]:
    """Build the networks, with the weights that Keras draws: name and model."""
    import keras
    from keras import layers

    def chain(*shape: int, of: list[Any], dtype: str | None = None) -> Any:
        return keras.Sequential([keras.Input(shape, dtype=dtype), *of])

    def classes() -> Any:
        return layers.Dense(4, activation="softmax")

    def dense(activation: str | None, units: int = 8) -> Any:
        return layers.Dense(units, activation=activation)

    flatten, average = layers.Flatten, layers.GlobalAveragePooling2D
    yield "dense, no hidden layer", chain(16, of=[classes()])
    yield "dense, relu", chain(16, of=[dense("relu"), classes()])
    yield "dense, tanh, sigmoid", chain(16, of=[dense("tanh"), dense("sigmoid"), classes()])
    yield "dense, three hidden", chain(16, of=[*(dense("relu") for _ in range(3)), classes()])
    yield "dense, silu, regression", chain(16, of=[dense("silu"), layers.Dense(3)])
    leaky = [dense(None), layers.LeakyReLU(negative_slope=0.2), dense("elu"), classes()]
    yield "dense, leaky relu, elu", chain(16, of=leaky)
    yield (
        "dense, batch normalization",
        chain(16, of=[dense(None), layers.BatchNormalization(), layers.ReLU(), classes()]),
    )
    yield (
        "dense, layer normalization",
        chain(16, of=[dense(None), layers.LayerNormalization(), classes()]),
    )
    rescaled = [layers.Rescaling(1 / 255), flatten(), layers.Dropout(0.3), dense("relu"), classes()]
    yield "rescaling, dropout", chain(8, 8, 1, of=rescaled)

    def conv(filters: int = 4, **options: Any) -> Any:
        return layers.Conv2D(filters, 3, **options)

    pooled = [conv(activation="relu"), layers.MaxPooling2D(), flatten(), classes()]
    yield "convolution, max pooling", chain(8, 8, 1, of=pooled)
    strided = conv(strides=2, padding="same", activation="relu")
    yield (
        "convolution, stride, average pooling",
        chain(8, 8, 2, of=[strided, layers.AveragePooling2D(2), flatten(), classes()]),
    )
    normalized = [conv(), layers.BatchNormalization(), layers.ReLU(), average(), classes()]
    yield "convolution, batch normalization", chain(8, 8, 1, of=normalized)
    depthwise = [layers.DepthwiseConv2D(3, activation="relu"), conv(activation="relu")]
    yield (
        "depthwise convolution",
        chain(8, 8, 2, of=[*depthwise, layers.GlobalMaxPooling2D(), classes()]),
    )
    separable = layers.SeparableConv2D(4, 3, activation="relu")
    yield "separable convolution", chain(8, 8, 2, of=[separable, flatten(), classes()])
    transposed = layers.Conv2DTranspose(3, 3, strides=2, activation="relu")
    yield "transposed convolution", chain(4, 4, 2, of=[transposed, flatten(), classes()])
    in_time = layers.Conv1D(5, 3, activation="relu")
    yield "convolution in time", chain(12, 3, of=[in_time, layers.GlobalMaxPooling1D(), classes()])
    yield "embedding", chain(6, of=[layers.Embedding(20, 5), flatten(), classes()], dtype="int32")
    yield "LSTM", chain(5, 3, of=[layers.LSTM(6), classes()])
    yield "GRU", chain(5, 3, of=[layers.GRU(6), classes()])
    yield "simple recurrent", chain(5, 3, of=[layers.SimpleRNN(6), classes()])
    yield from _graphs(keras, classes, dense, conv)


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
