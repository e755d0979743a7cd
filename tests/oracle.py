"""What networks are compared with: dense layers of any depth, computed by NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

DEPTHS: list[list[int]] = [[], [16], [16, 8], [8, 8, 8]]


def make_layers(
    pixels: int,
    hidden_units: Sequence[int],
    classes: int,
    seed: int = 1,
    scale: float = 1.0,
    activation: str = "relu",
) -> list[Layer]:
    """Draw kernels and biases; no bias is zero."""
    from fashion_mlp.network.model import Layer

    random = np.random.default_rng(seed)
    sizes = [pixels, *hidden_units, classes]
    names = [activation] * len(hidden_units) + ["softmax"]
    return [
        Layer(
            random.normal(0, scale, (n, m)).astype(np.float32),
            random.normal(0, scale, m).astype(np.float32),
            name,
        )
        for n, m, name in zip(sizes, sizes[1:], names, strict=False)
    ]


def network_of(layers: Sequence[Layer]) -> Any:
    """Make a Keras model of layers, once the engine is started."""
    from fashion_mlp.network.model import build_network, set_layers

    units = [len(layer.bias) for layer in layers]
    network = build_network(len(layers[0].kernel), units[:-1], layers[0].activation, units[-1])
    set_layers(network, layers)
    return network


def make_images(count: int, pixels: int, seed: int = 3) -> np.ndarray:
    """Draw images as preprocessing leaves them, about half of the pixels dark."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (count, pixels)) * random.integers(0, 2, (count, pixels))
    return (values / np.float32(255)).astype(np.float32)


def forward(layers: Sequence[Layer], images: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    """Compute the probabilities."""
    values = images.astype(dtype)
    for layer in layers:
        values = values @ layer.kernel.astype(dtype) + layer.bias.astype(dtype)
        functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "relu": lambda x: np.maximum(x, 0),
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "tanh": np.tanh,
            "softmax": lambda x: np.exp(x - x.max(axis=1, keepdims=True)),
        }
        values = functions[layer.activation](values)
    result: np.ndarray = values / values.sum(axis=1, keepdims=True)
    return result
