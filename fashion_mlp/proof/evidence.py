"""What an ONNX model is compared with: the Keras model's layers, answers and rounding bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_mlp.data.arrays import BATCH_SIZE, MAX_PIXEL
from fashion_mlp.proof.reference import ACTIVATIONS, FLOAT32, FLOAT64, Bounds, bounds

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer

KERAS_IMAGES = 10_000  # given to TensorFlow at a time
FEW_IMAGES = 2_000  # of the last split: for what is slow

Predict = Callable[[np.ndarray, int], np.ndarray]
Answer = Callable[[str, int], np.ndarray]  # to the images of a split, at a batch size


@dataclass(frozen=True)
class Evidence:
    """What the ONNX model is compared with.

    Arrays by split or by kind of input: images float32 (n, pixels), Keras' answers float32
    (n, classes).
    """

    layers: Sequence[Layer]
    batch_sizes: Sequence[int]
    images: Mapping[str, np.ndarray]
    bounds: Mapping[str, Bounds]
    float64_bounds: Bounds  # of the last split's first FEW_IMAGES
    keras: Mapping[str, np.ndarray]
    edge_images: np.ndarray
    edge_bounds: Bounds
    edge_keras: np.ndarray
    edge_names: Sequence[str]

    @property
    def batch_split(self) -> str:
        """The split on which batch sizes are compared: the last."""
        return list(self.images)[-1]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The layers' kernels and biases, by name."""
        return {
            f"dense_{number}/{name}": getattr(layer, name)
            for number, layer in enumerate(self.layers, start=1)
            for name in ("kernel", "bias")
        }

    @cached_property
    def pixels(self) -> dict[str, np.ndarray]:
        """The images as bytes: uint8 (n, pixels), by split."""
        return {split: as_bytes(array, split) for split, array in self.images.items()}


def gather(
    network: keras.Model,
    images: Mapping[str, np.ndarray],
    batch_sizes: Sequence[int],
    done: Callable[[int], object] = lambda count: None,
) -> tuple[Evidence, str]:
    """Compute the reference and Keras' answers, and check that they agree.

    Args:
        network: takes float32 (n, pixels), gives float32 (n, classes).
        images: by split, float32 (n, pixels).
        batch_sizes: at which the answers must agree.
        done: called with a number of images as they are done.

    Returns:
        The evidence, and a line for the screen that says how far Keras lies from the reference.

    Raises:
        ValueError: not the network that stage `train` makes, no images, or Keras' answers lie
            outside the rounding bound; says where and by how much.
    """
    from fashion_mlp.network.model import layers_of

    layers, predict = layers_of(network), keras_predict(network)
    check_comparable(layers, images)

    @cache
    def answer(split: str, batch_size: int) -> np.ndarray:
        answers = predict(images[split], batch_size)
        done(len(answers))
        return answers

    names, edge_cases = edge_case_images(len(layers[0].kernel))
    evidence = Evidence(
        layers,
        batch_sizes,
        images,
        {split: bounds(layers, array) for split, array in images.items()},
        bounds(layers, list(images.values())[-1][:FEW_IMAGES], FLOAT64),
        {split: answer(split, BATCH_SIZE) for split in images},
        edge_cases,
        bounds(layers, edge_cases),
        # Layer by layer: the fused layers of `predict` drop a NaN (docs/proof.md).
        np.asarray(network(edge_cases, training=False)),
        names,
    )
    says = check_all_inside("Keras", answer, evidence)
    check_sizes("Keras", answer, evidence)
    return evidence, f"Keras inside the bound on all images; {says}"


def check_all_inside(runtime: str, answer: Answer, evidence: Evidence) -> str:
    """Check a runtime's answers to all images, see `check_inside`; say how far off they are."""
    used = [
        check_inside(runtime, answer(split, BATCH_SIZE), allowed, f"{split} image")
        for split, allowed in evidence.bounds.items()
    ]
    distances, shares = zip(*used, strict=True)
    return f"largest distance {max(distances):.1e}, at most {max(shares):.0%} of the bound used"


def check_sizes(runtime: str, answer: Answer, evidence: Evidence) -> float:
    """Check that no batch size changes a class or leaves the bound; give the largest movement."""
    split, moved = evidence.batch_split, 0.0
    for size in evidence.batch_sizes:
        answers, what = answer(split, size), f"at batch size {size}, {split} image"
        check_inside(runtime, answers, evidence.bounds[split], what)
        check_same_class(runtime, answers, evidence.keras[split], what)
        moved = max(moved, float(np.abs(answers - answer(split, BATCH_SIZE)).max(initial=0.0)))
    return moved


def check_comparable(layers: Sequence[Layer], images: Mapping[str, np.ndarray]) -> None:
    """Check that there is a rounding bound for the layers, and something to compare.

    Raises:
        ValueError: another activation, or a split without images.
    """
    for number, layer in enumerate(layers[:-1], start=1):
        if layer.activation not in ACTIVATIONS:
            raise ValueError(
                f"dense layer {number}: expected one of the activations {', '.join(ACTIVATIONS)}, "
                f"got {layer.activation}; run `dvc repro --force train`"
            )
    for split, array in images.items():
        if not len(array):
            raise ValueError(
                f"{split} images: expected at least one, got 0; run `dvc repro --force preprocess`"
            )


def keras_predict(network: keras.Model) -> Predict:
    """Make a function that runs the Keras model as its users run it, as `predict` does.

    It goes from batch to batch inside TensorFlow: called from Python for each image, Keras takes
    0.6 ms a call.
    """
    import tensorflow as tf

    classes = network.output_shape[1]

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, network.input_shape[1]), tf.float32),
            tf.TensorSpec((), tf.int32),
        ]
    )
    def forward(images: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        batches = (tf.shape(images)[0] + batch_size - 1) // batch_size
        answers = tf.TensorArray(
            tf.float32, batches, element_shape=(None, classes), infer_shape=False
        )
        for number in tf.range(batches):
            batch = images[number * batch_size : (number + 1) * batch_size]
            answers = answers.write(number, network(batch, training=False))
        return answers.concat()

    def run(images: np.ndarray, batch_size: int) -> np.ndarray:
        at_once = batch_size * max(1, KERAS_IMAGES // batch_size)
        predict = batched(lambda part: forward(part, batch_size).numpy(), classes)
        return predict(images, at_once)

    return run


def batched(predict: Callable[[np.ndarray], np.ndarray], classes: int) -> Predict:
    """Make a function of images and a batch size out of one that takes a batch."""

    def run(images: np.ndarray, batch_size: int) -> np.ndarray:
        parts = [
            predict(np.ascontiguousarray(images[first : first + batch_size]))
            for first in range(0, len(images), batch_size)
        ]
        return np.concatenate([np.empty((0, classes), np.float32), *parts])

    return run


def as_bytes(array: np.ndarray, split: str) -> np.ndarray:
    """Undo the preprocessing: float32 (n, pixels) in 0…1 to uint8.

    Raises:
        ValueError: not bytes divided by 255.
    """
    images = np.empty(array.shape, np.uint8)
    for first in range(0, len(array), BATCH_SIZE):
        prepared = np.asarray(array[first : first + BATCH_SIZE])
        images[first : first + BATCH_SIZE] = np.rint(prepared * MAX_PIXEL)
        if (images[first : first + BATCH_SIZE] / MAX_PIXEL).tobytes() != prepared.tobytes():
            raise ValueError(
                f"{split} images {first}…: not bytes divided by 255; "
                f"run `dvc repro --force preprocess`"
            )
    return images


def edge_case_images(pixels: int) -> tuple[list[str], np.ndarray]:
    """Make edge-case inputs: their names and float32 (n, pixels)."""
    number = np.arange(pixels)
    float32 = np.finfo(np.float32)
    inputs: dict[str, Any] = {
        "zeros": 0.0,
        "negative zeros": -0.0,
        "ones": 1.0,
        "checkerboard": number % 2,
        "checkerboard, the other": 1 - number % 2,
        "stripes of 28": number // 28 % 2,
        "smallest denormal": float32.smallest_subnormal,
        "largest denormal": float32.smallest_normal - float32.smallest_subnormal,
        "minus one": -1.0,
        "bytes not divided": 255.0,
        "1e20": 1e20,
        "1e30": 1e30,
        "largest float32": float32.max,
        "smallest float32": float32.min,
        "NaN": np.nan,
        "one NaN": np.where(number == pixels // 2, np.nan, 0.0),
        "infinity": np.inf,
        "minus infinity": -np.inf,
        "one infinity": np.where(number == pixels // 2, np.inf, 0.0),
        "infinities of both signs": np.where(number % 2, np.inf, -np.inf),
    }
    images = [np.broadcast_to(np.float32(value), (pixels,)) for value in inputs.values()]
    return list(inputs), np.stack(images)


def check_inside(
    runtime: str, answers: np.ndarray, allowed: Bounds, what: str
) -> tuple[float, float]:
    """Check that answers lie inside the rounding bound.

    Args:
        runtime: its name in errors.
        answers: float32 or float64 (n, classes).
        allowed: for the same images.
        what: is counted, in errors: `test image`.

    Returns:
        The largest |answer - reference|, and the largest share of the bound that was used.

    Raises:
        ValueError: at the first answer outside.
    """
    # `not <=` and not `>`, so that a NaN is outside.
    distance = np.abs(answers - allowed.probabilities)
    inside = (allowed.low <= answers) & (answers <= allowed.high)
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        low, high = allowed.low[row, column], allowed.high[row, column]
        digits = 9 if answers.dtype == np.float32 else 17
        raise ValueError(
            f"{runtime}, {what} {row}, class {column}: expected a probability between "
            f"{low:.{digits}g} and {high:.{digits}g}, got {answers[row, column]:.{digits}g}; "
            f"{np.count_nonzero(~inside.all(axis=1)):,} such images"
        )
    room = np.where(
        answers > allowed.probabilities,
        allowed.high - allowed.probabilities,
        allowed.probabilities - allowed.low,
    )
    # Where all of it is below float32's normal numbers, there is nothing to be shared.
    share = np.divide(distance, room, out=np.zeros_like(distance), where=room > FLOAT32.tiny)
    return float(distance.max(initial=0.0)), float(share.max(initial=0.0))


def check_same_class(runtime: str, answers: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Check that a runtime's answers name Keras' classes; both float32 (n, classes)."""
    if answers.shape != expected.shape:
        raise ValueError(f"{what}s: expected shape {expected.shape}, got {answers.shape}")
    got, wanted = answers.argmax(axis=1), expected.argmax(axis=1)
    if len(different := np.flatnonzero(got != wanted)):
        row = different[0]
        raise ValueError(
            f"{what} {row}: Keras names class {wanted[row]} ({expected[row].max():.6f}), "
            f"{runtime} class {got[row]} ({answers[row].max():.6f}); {len(different):,} such"
        )
