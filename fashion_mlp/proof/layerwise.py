"""Any Keras model in float64, layer by layer, and how far its own rounding moves it.

The model is rebuilt from its .keras file with every float32 in its configuration made a float64:
Keras then computes in float64 with the very weights of the file. Nothing of the file is executed
(Keras' safe mode), and it is only read.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import keras

POLICIES = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
RUNS = 3  # of perturbed weights
SEED = 1


class Step(NamedTuple):
    """A layer's result, or what it has before its bias or its activation."""

    name: str
    values: np.ndarray
    sources: tuple[int, ...]  # numbers of the steps that it is computed from


def load_model(path: Path) -> keras.Model:
    """Read a .keras file; refuse what could run code.

    Raises:
        ValueError: not a .keras file that Keras loads in safe mode.
        OSError: the file can't be read.
    """
    import keras

    with path.open("rb"):
        pass  # Keras says of a file that is missing that it is not a zip
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of any kind: the file says what is built
        reason = " ".join(str(error).split())[:300]
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
        wide = {key: _widened(value) for key, value in config.items()}
        return wide | {key: "float64" for key in ("name", "dtype") if config.get(key) in POLICIES}
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

    given = [keras.ops.convert_to_tensor(array) for array in inputs]
    results = model(given if len(given) > 1 else given[0], training=False)
    return [np.asarray(result) for result in keras.tree.flatten(results)]


def call_in_double(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run a model of `load_in_double`; inputs float32, or integers, which stay what they are."""
    with floats_of("float64"):
        return call(model, [as_double(array) for array in inputs])


def as_double(array: np.ndarray) -> np.ndarray:
    """Widen floats to float64; leave integers."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def steps_of(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[Step]:
    """Run a model of `load_in_double` and keep what each layer computes, the inputs first."""
    recorder = _Recorder()
    with recorder.watching():
        call_in_double(model, inputs)
    return recorder.steps


class _Recorder:
    """Keeps the results of layers as they are called; of a recurrent one, the last alone."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._held: list[Any] = []  # the tensors, so that no identity is used twice
        self._number: dict[int, int] = {}  # of a step, by its tensor's identity
        self._depth = 0  # of recurrent layers, whose cells are called for each time step

    def add(self, name: str, tensor: Any, sources: Sequence[Any]) -> None:
        """Keep a tensor, unless it is known already, as that of a layer in a layer."""
        if id(tensor) in self._number:
            return
        known = {self._number[id(source)] for source in sources if id(source) in self._number}
        if len(known) < len({id(source) for source in sources}):
            # Computed from what no layer gave: from any that nothing else was computed from.
            used = {number for step in self.steps for number in step.sources}
            known |= set(range(len(self.steps))) - used
        self._number[id(tensor)] = len(self.steps)
        self._held.append(tensor)
        self.steps.append(Step(name, np.asarray(tensor), tuple(sorted(known))))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record every call of a layer or an operation of Keras."""
        import keras

        original = keras.Operation.__call__

        def watched(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return original(operation, *args, **kwargs)
            given = [it for it in keras.tree.flatten((args, kwargs)) if hasattr(it, "numpy")]
            if not self.steps:
                for tensor in given:
                    self.add("input", tensor, [])
            recurrent = hasattr(operation, "cell")
            self._depth += recurrent
            try:
                with self._before_activation(operation, given):
                    results = original(operation, *args, **kwargs)
            finally:
                self._depth -= recurrent
            name = getattr(operation, "path", None) or operation.name
            for tensor in keras.tree.flatten(results):
                if hasattr(tensor, "numpy"):
                    self.add(name, tensor, given)
            return results

        keras.Operation.__call__ = watched
        try:
            yield
        finally:
            keras.Operation.__call__ = original

    @contextmanager
    def _before_activation(self, layer: Any, given: Sequence[Any]) -> Iterator[None]:
        """Keep what a layer with a kernel has before its bias and before its activation."""
        activation: Callable[[Any], Any] | None = getattr(layer, "activation", None)
        if activation is None or not hasattr(layer, "kernel") or hasattr(layer, "recurrent_kernel"):
            yield
            return

        def watched(tensor: Any) -> Any:
            sources, bias = list(given), getattr(layer, "bias", None)
            if bias is not None:
                product = tensor - bias
                self.add(f"{layer.path}, before its bias", product, sources)
                sources = [product]
            self.add(f"{layer.path}, before its activation", tensor, sources)
            result = activation(tensor)
            if result is not tensor:
                self.add(layer.path, result, [tensor])
            return result

        layer.activation = watched
        try:
            yield
        finally:
            layer.activation = activation


def spread(model: keras.Model, run: Callable[[], Sequence[np.ndarray]], size: float) -> list[float]:
    """Measure how far results move if each weight moves by a share of itself, up or down.

    Args:
        model: of `load_in_double`; its weights are what they were at the end.
        run: gives results of the model.
        size: the share, such as 2**-53.

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
            distances = [_furthest(*pair) for pair in zip(usual, run(), strict=True)]
            furthest = [max(pair) for pair in zip(furthest, distances, strict=True)]
    finally:
        model.set_weights(weights)
    return furthest


def _furthest(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        distance = np.abs(as_double(a) - as_double(b))
    return float(np.max(distance, initial=0.0, where=np.isfinite(distance)))
