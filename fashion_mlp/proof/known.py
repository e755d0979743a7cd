"""What a Keras model computes, and how far its own rounding moves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fashion_mlp.proof.findings import distance
from fashion_mlp.proof.layerwise import (
    Steps,
    call,
    call_in_double,
    load_in_double,
    load_model,
    spread,
    steps_of,
)
from fashion_mlp.proof.pairing import fits
from fashion_mlp.proof.reference import ACTIVATIONS, Bounds, bounds

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer

IMAGES = 1000  # that are compared, the first ones
DRAWN = 64  # inputs drawn at random between the smallest and the largest value of the images
LOCATED = 32  # inputs, the last ones, on which layers are compared
SEED = 1
EDGES = (np.nan, np.inf, -np.inf)  # inputs full of these: shown, not judged
# How far a result may be, in movements by one rounding of each weight (`spread`): in float64, where
# two runtimes add in other orders; in the model's own precision, to which a converter that computes
# with weights rounds them a few times.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
MARGIN = (16.0, 4.0)
# Layers that change no value when a model predicts; Flatten comes before all dense ones.
WITHOUT_EFFECT = ("InputLayer", "Dropout", "Flatten")


class Known(NamedTuple):
    """What a Keras model is and computes.

    Arrays by input or output, in the model's order: the images, then those drawn at random, then
    the smallest and the largest value everywhere.
    """

    images: int  # how many of the rows are the user's
    precision: str  # the coarsest that a layer computes in: float32, float16 or bfloat16
    weights: Mapping[str, np.ndarray]  # float64
    names: Sequence[str]  # of the inputs
    output_names: Sequence[str]
    inputs: Sequence[np.ndarray]
    double: Sequence[np.ndarray]  # outputs in float64
    single: Sequence[np.ndarray]  # outputs as Keras computes them, in its own precision
    limits: Sequence[float]  # of each output: what float64's rounding may do
    wide_limits: Sequence[float]  # what rounding each weight to `precision` once may do
    steps: Steps
    step_values: Sequence[np.ndarray]  # on the last LOCATED rows
    step_limits: tuple[Sequence[float], Sequence[float]]  # narrow, wide
    edges: Sequence[np.ndarray]  # inputs full of each of EDGES
    edges_single: Sequence[np.ndarray] | None  # Keras' outputs for them, if it can compute any
    certain: Bounds | str  # the rounding bound of the images, or why there is none


def study(path: Path, images: Sequence[np.ndarray]) -> Known:
    """Run a Keras model in float64 and in float32.

    Args:
        path: the .keras file.
        images: one array for each of its inputs, (n, …); the first IMAGES are used.

    Raises:
        ValueError: not a model that Keras loads in safe mode, or can compute in float64, or not its
            inputs.
        OSError: the file can't be read.
    """
    model, wide = load_model(path), load_in_double(path)
    inputs = [extended(array) for array in fitting(model, [array[:IMAGES] for array in images])]
    located = [array[-LOCATED:] for array in inputs]

    def results() -> list[np.ndarray]:
        return call_in_double(wide, inputs)

    double, steps, precision = results(), steps_of(wide), precision_of(model)
    narrow, wider = limits_of(wide, precision, results)
    count = min(len(images[0]), IMAGES)
    edges = [edge_inputs(array) for array in inputs]
    return Known(
        count,
        precision,
        weights_of(model),
        [tensor.name for tensor in model.inputs],
        output_names(model),
        inputs,
        double,
        call(model, inputs),
        narrow,
        wider,
        steps,
        steps.run(located),
        limits_of(wide, precision, lambda: steps.run(located)),
        edges,
        edge_answers(model, edges),
        certain_of(model, inputs, double, narrow, count),
    )


def output_names(model: keras.Model) -> list[str]:
    """Name a model's outputs, in the order in which `call` gives them; a chain's has no name."""
    outputs = getattr(model, "output", None)  # a Sequential has none before it is called
    return sorted(outputs) if isinstance(outputs, dict) else getattr(model, "output_names", [])


def precision_of(model: keras.Model) -> str:
    """Name the coarsest precision that a layer of a model computes in."""
    found = {layer.compute_dtype for layer in model._flatten_layers()}  # those in layers, too
    return next((it for it in ("bfloat16", "float16") if it in found), "float32")


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """List a model's weights in float64, which changes none; layers may have the same names."""
    found: dict[str, np.ndarray] = {}
    for weight in model.weights:
        if "float" in weight.dtype:
            name = weight.path
            while name in found:
                name += "'"
            found[name] = np.asarray(weight).astype(np.float64)
    return found


def limits_of(
    wide: keras.Model, precision: str, run: Callable[[], Sequence[np.ndarray]]
) -> tuple[list[float], list[float]]:
    """Measure by how much equal results may differ: in float64, and with weights rounded anew."""
    least = [2.0**-48 * float(np.abs(one).max(initial=0.0)) for one in run()]
    narrow, wider = (
        [
            max(margin * one, floor)
            for one, floor in zip(spread(wide, run, ROUNDING[name]), least, strict=True)
        ]
        for name, margin in zip(("float64", precision), MARGIN, strict=True)
    )
    return narrow, wider


def fitting(model: keras.Model, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Give images the dtypes of a model's inputs.

    Raises:
        ValueError: another number of arrays, another shape, or numbers that the dtype has not.
    """
    if len(images) != len(model.inputs):
        raise ValueError(f"inputs: the model has {len(model.inputs)}, got {len(images)} arrays")
    if not len(images[0]):
        raise ValueError("images: expected at least one, got 0")
    found = []
    for tensor, array in zip(model.inputs, images, strict=True):
        wanted = tuple(tensor.shape[1:])
        if not fits(array, wanted) or len(array) != len(images[0]):
            raise ValueError(
                f"input {tensor.name}: expected shape ({len(images[0])}, "
                f"{', '.join(map(str, wanted))}), got {array.shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            cast = np.asarray(array).astype(tensor.dtype)
        kept = np.isfinite(cast) if "float" in tensor.dtype else cast == array
        if not kept.all():
            other = np.asarray(array)[~kept][0]
            raise ValueError(f"input {tensor.name}: expected finite {tensor.dtype}, got {other}")
        found.append(cast)
    return found


def extended(images: np.ndarray) -> np.ndarray:
    """Add inputs drawn at random, and of the smallest and the largest value alone."""
    low, high = images.min().item(), images.max().item()
    rng, shape = np.random.default_rng(SEED), images.shape[1:]
    whole = images.dtype.kind != "f"
    drawn = rng.uniform(low, high + whole, (DRAWN, *shape))  # whole numbers are cut off below
    ends = [np.full((1, *shape), end) for end in (low, high)]
    return np.concatenate([images, *(it.astype(images.dtype) for it in (drawn, *ends))])


def edge_inputs(images: np.ndarray) -> np.ndarray:
    """Fill an input with each of EDGES; whole numbers, which can't be these, stay the first's."""
    whole = images.dtype.kind != "f"
    rows = [images[0] if whole else np.full_like(images[0], edge) for edge in EDGES]
    return np.stack(rows)


def edge_answers(model: keras.Model, edges: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Run a model on inputs that it may refuse, such as NaN for the number of a word."""
    try:
        return call(model, edges)
    except Exception:  # of TensorFlow or of Keras
        return None


def certain_of(
    model: keras.Model,
    inputs: Sequence[np.ndarray],
    double: Sequence[np.ndarray],
    limits: Sequence[float],
    count: int,
) -> Bounds | str:
    """Bound what float32 may answer on the images, or say why that can't be done."""
    layers = dense_chain(model)
    if isinstance(layers, str):
        return layers
    flat = inputs[0][:count].reshape(count, -1).astype(np.float32)
    sizes = [flat.shape[1], *(len(layer.bias) for layer in layers)]
    if double[0].ndim == 2 and [len(layer.kernel) for layer in layers] == sizes[:-1]:
        known = bounds(layers, flat)
        if distance(known.probabilities, double[0][:count]) <= limits[0]:
            return known
    return "the layers are not one chain"


def dense_chain(model: keras.Model) -> list[Layer] | str:
    """Take the dense layers of a model, or say why the rounding bound does not cover it."""
    from fashion_mlp.network.model import Layer

    layers = []
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return "several inputs or outputs"
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in WITHOUT_EFFECT:
            continue
        if kind != "Dense" or len(layer.weights) != 2 or layer.compute_dtype != "float32":
            return f"it covers float32 dense layers with biases alone, not {layer.name} ({kind})"
        function = layer.activation  # or a layer, such as ReLU()
        name = getattr(function, "__name__", type(function).__name__)
        kernel, bias = layer.get_weights()
        layers.append(Layer(kernel, bias, name))
    if not layers or layers[-1].activation != "softmax":
        return "it covers a last layer with softmax alone"
    unknown = [layer.activation for layer in layers[:-1] if layer.activation not in ACTIVATIONS]
    return f"it does not cover the activation {unknown[0]}" if unknown else layers
