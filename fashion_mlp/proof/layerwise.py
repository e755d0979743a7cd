"""Any Keras model in float64, layer by layer, and how far its own rounding moves it.

The model is rebuilt from its .keras file with every float32 in its configuration made a float64:
Keras then computes in float64 with the very weights of the file. Nothing of the file is executed
(Keras' safe mode), and it is only read.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fashion_mlp.proof.double import as_double, one_line
from fashion_mlp.proof.findings import CannotRunError, distance

if TYPE_CHECKING:
    import keras

POLICIES = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
RUNS = 3  # of perturbed weights
SEED = 1


class Steps(NamedTuple):
    """All that a Keras model computes on the way: of each operation of TensorFlow, the result."""

    names: Sequence[str]  # such as `sequential/dense_1/MatMul`; the inputs come first
    sources: Sequence[set[int]]  # for each, the numbers of those that it is computed from
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]  # inputs -> the results


def load_model(path: Path) -> keras.Model:
    """Read a .keras file; refuse what could run code.

    Raises:
        ValueError: not a .keras file that Keras loads in safe mode.
        OSError: the file can't be read.
    """
    import keras

    with path.open("rb") as file:  # Keras says of a file that is missing that it is not a zip
        if not zipfile.is_zipfile(file):  # and reads HDF5, which it does not load safely
            raise ValueError(f"{path}: not a .keras file")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of any kind: the file says what is built
        reason = one_line(error, 300)
        raise ValueError(f"{path}: Keras does not load it in safe mode: {reason}") from None


def load_in_double(path: Path) -> keras.Model:
    """Read a .keras file as a model that computes in float64.

    Numbers in its configuration, such as an epsilon, are rounded to float32 first, as Keras rounds
    them where it computes in float32.

    Raises:
        ValueError: not a .keras file that Keras loads in safe mode.
        OSError: the file can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        wide = Path(folder) / "float64.keras"
        try:
            with zipfile.ZipFile(path) as archive, zipfile.ZipFile(wide, "w") as copy:
                for name in archive.namelist():
                    content = archive.read(name)
                    if name == "config.json":
                        content = json.dumps(_widened(json.loads(content))).encode()
                    copy.writestr(name, content)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not a whole .keras file ({error})") from None
        with floats_of("float64"):
            return load_model(wide)


def _widened(config: Any) -> Any:
    if isinstance(config, dict):
        key = "name" if config.keys() == {"name"} else "dtype"  # of a DTypePolicy; a layer's
        wide = {key: _widened(value) for key, value in config.items()}
        return wide | ({key: "float64"} if config.get(key) in POLICIES else {})
    if isinstance(config, list):
        return [_widened(value) for value in config]
    return float(np.float32(config)) if isinstance(config, float) else config


@contextmanager
def floats_of(dtype: str) -> Iterator[None]:
    """Have Keras make its own constants of a dtype."""
    import keras

    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)


def call(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run a model as its layers come: one array for each input, (n, …); the same of outputs."""
    import keras

    results = _apply(model, [keras.ops.convert_to_tensor(array) for array in inputs])
    return [np.asarray(result) for result in keras.tree.flatten(results)]


def _apply(model: keras.Model, given: Sequence[Any]) -> Any:
    """Call a model with a tensor for each input, in the structure that it takes them in."""
    import keras

    structure = getattr(model, "input", None)  # a Sequential has none before it is called
    packed = given[0] if structure is None else keras.tree.pack_sequence_as(structure, given)
    return model(packed, training=False)


def call_in_double(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run a model of `load_in_double`; inputs float32, or integers, which stay what they are.

    Raises:
        CannotRunError: it has an operation that TensorFlow has not in float64.
    """
    try:
        with floats_of("float64"):
            return call(model, [as_double(array) for array in inputs])
    except Exception as error:  # of TensorFlow or of Keras
        raise CannotRunError(f"Keras can't compute it in float64: {one_line(error, 300)}") from None


def steps_of(model: keras.Model) -> Steps:
    """Take a model of `load_in_double` apart, into the operations that lead to its outputs."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *it.shape[1:]), it.dtype) for it in model.inputs]
    with floats_of("float64"):
        function = tf.compat.v1.wrap_function(lambda *given: _apply(model, given), signature)
    inputs = [tensor for tensor in function.inputs if tensor.dtype != tf.resource]
    number: dict[str, set[int]] = {}  # of the nearest steps, by a tensor's name
    kept = list(inputs)
    sources: list[set[int]] = [set() for _ in inputs]
    number |= {tensor.name: {place} for place, tensor in enumerate(inputs)}
    needed = _ancestors(function.outputs)
    for operation in function.graph.get_operations():
        before = set().union(*(number.get(it.name, set()) for it in operation.inputs))
        # What depends on an input's shape alone is a constant.
        if not before or operation.type == "Shape" or operation.name not in needed:
            continue
        for tensor in operation.outputs:
            number[tensor.name] = before
            if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool:
                number[tensor.name] = {len(kept)}
                kept.append(tensor)
                sources.append(before)
    run = function.prune(inputs, kept)
    names = [re.sub(r"_1(?=/)", "", tensor.op.name) for tensor in kept]  # of the second call
    return Steps(
        names,
        sources,
        lambda given: [it.numpy() for it in run(*(tf.constant(as_double(one)) for one in given))],
    )


def _ancestors(tensors: Sequence[Any]) -> set[str]:
    """Name the operations that tensors are computed by."""
    names: set[str] = set()
    left = [tensor.op for tensor in tensors]
    while left:
        operation = left.pop()
        if operation.name not in names:
            names.add(operation.name)
            left += [tensor.op for tensor in operation.inputs]
    return names


def spread(model: keras.Model, run: Callable[[], Sequence[np.ndarray]], size: float) -> list[float]:
    """Measure how far results move if each weight moves by a share of itself, up or down.

    `size` is the share, such as 2**-53; `run` gives results of the model, from `load_in_double`.

    Returns:
        For each result, the largest movement of any of its values in `RUNS` runs.
    """
    usual, weights = run(), model.get_weights()
    furthest = [0.0] * len(usual)
    rng = np.random.default_rng(SEED)
    try:
        for _ in range(RUNS):
            moved = [
                array * (1.0 + size * rng.choice([-1.0, 1.0], array.shape))
                if array.dtype.kind == "f"
                else array
                for array in weights
            ]
            model.set_weights(moved)
            # What overflows in one run alone says nothing.
            distances = [distance(*pair, unsettled=0.0) for pair in zip(usual, run(), strict=True)]
            furthest = [max(pair) for pair in zip(furthest, distances, strict=True)]
    finally:
        model.set_weights(weights)
    return furthest
