"""Healthy networks of the kinds that exporters and proofs stumble over; none may be refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fashion_mlp.export.graph import plain_graph, uint8_graph
from fashion_mlp.proof.evidence import gather
from fashion_mlp.proof.levels import UINT8, prove
from fashion_mlp.proof.runtime import Candidate
from stages.export import check_converter

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

FORM = (13, 8)
IMAGES = 40
DENORMAL = np.float32(1e-40)

# How a layer's bias is made of a random one.
BIASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "random": lambda bias: bias,
    "zero": np.zeros_like,
    "minus zero": lambda bias: -np.zeros_like(bias),
    "denormal": lambda bias: np.full_like(bias, DENORMAL),
    "equal": lambda bias: np.full_like(bias, 0.5),
    "never fires": lambda bias: bias - np.float32(100),
    "large": lambda bias: bias * np.float32(1e4),
}
# How a layer's kernel is made of a random one.
KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "random": lambda kernel: kernel,
    "large": lambda kernel: kernel * np.float32(1e4),
    "small": lambda kernel: kernel * np.float32(1e-4),
    "zero": np.zeros_like,
    "equal": lambda kernel: np.full_like(kernel, 0.1),
    "denormal": lambda kernel: kernel * DENORMAL,
    "half zero": lambda kernel: np.where(kernel > 0, kernel, np.float32(0)),
}


def draw_layers(rng: np.random.Generator) -> tuple[str, list[Layer]]:
    """Draw a network of up to three hidden layers: what is odd in it, and its layers."""
    from fashion_mlp.network.model import Layer

    sizes = [rng.integers(1, 20), *rng.choice([1, 2, 5, 16], rng.integers(0, 4))]
    sizes.append(rng.integers(2, 11))
    activation = rng.choice(["relu", "relu", "sigmoid", "tanh"])
    layers, kinds = [], [str(activation)]
    for number, (inputs, units) in enumerate(pairwise(sizes), start=2):
        kernel = rng.normal(0, 1, (inputs, units)).astype(np.float32)
        bias = rng.normal(0, 1, units).astype(np.float32)
        of_kernel, of_bias = rng.choice([*KERNELS]), rng.choice([*BIASES])
        kinds.append(f"{inputs}-{units}: kernel {of_kernel}, bias {of_bias}")
        last = number == len(sizes)
        layers.append(
            Layer(
                KERNELS[of_kernel](kernel),
                BIASES[of_bias](bias),
                "softmax" if last else str(activation),
            )
        )
    return "; ".join(kinds), layers


def refusals(count: int, seed: int) -> Iterator[str | None]:
    """Draw networks and prove their files: for each, why it was refused, or None."""
    import keras

    from fashion_mlp.network.model import build_network, set_layers

    rng = np.random.default_rng(seed)
    for _ in range(count):
        kinds, layers = draw_layers(rng)
        units = [len(layer.bias) for layer in layers]
        pixels = len(layers[0].kernel)
        network = build_network(pixels, units[:-1], layers[0].activation, units[-1])
        set_layers(network, layers)
        values = rng.integers(0, 256, (IMAGES, pixels)) * rng.integers(0, 2, (IMAGES, pixels))
        images = {"test": (values / np.float32(255)).astype(np.float32)}
        try:
            evidence, _ = gather(network, images, [7])
            plain = plain_graph(layers, *FORM)
            uint8, proven = uint8_graph(plain), Candidate(plain, plain)
            prove(proven, evidence)
            check_converter(network, plain, images["test"])
            prove(Candidate(uint8, uint8, proven), evidence, levels=UINT8)
        except ValueError as error:
            yield f"{kinds}: {error}"
        else:
            yield None
        keras.backend.clear_session()
