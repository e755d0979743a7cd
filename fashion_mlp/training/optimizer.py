"""The optimizer, from Keras' own configuration: any class, any option."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf

WHERE = "params.yaml: train.optimizer"
# Optimizers and options that sum up all of a gradient: other bits on ARM than on x86
# (docs/reproducibility.md).
UNPORTABLE = ("Adafactor", "Lamb", "Muon", "clipnorm", "global_clipnorm")
# Options whose default, None, does not tell their kind: whole numbers, lists of patterns.
COUNTS = ("gradient_accumulation_steps", "ema_overwrite_frequency")
LISTS = ("exclude_layers",)
LARGEST = float(np.finfo(np.float32).max)
# What Keras raises where an option is wrong, some in the first step.
REFUSALS = (TypeError, ValueError, AttributeError, ArithmeticError, re.error, tf.errors.OpError)


def make_optimizer(
    class_name: str, config: Mapping[str, Any], schedule: str = "constant", steps: int = 0
) -> keras.optimizers.Optimizer:
    """Make a Keras optimizer.

    Args:
        class_name: of keras.optimizers.
        config: what its constructor takes; `learning_rate` is a number.
        schedule: constant, or cosine: the learning rate decays towards 0 over the whole training.
        steps: of the whole training, for a schedule.

    Raises:
        ValueError: no such optimizer, or one that does not take this configuration; names the key.
    """
    found = optimizers().get(class_name)
    if found is None:
        raise ValueError(
            f"{WHERE}.class_name: expected one of {', '.join(optimizers())}; got {class_name!r}"
        )
    known = inspect.signature(found).parameters
    for key, value in config.items():
        if key not in known.keys() - {"kwargs", "name"}:
            raise ValueError(
                f"{WHERE}.config.{key} is unknown (value {value!r}); "
                f"{class_name} knows {', '.join(sorted(known.keys() - {'kwargs', 'name'}))}"
            )
        if not _fits(key, value, known[key].default):
            kind = f"a value of the kind of Keras' default, {known[key].default!r}"
            kind = "a whole number above 0" if key in COUNTS else kind
            raise ValueError(f"{WHERE}.config.{key}: expected {kind}; got {value!r}")
    options = {key: int(it) if key in COUNTS and it else it for key, it in config.items()}
    if schedule == "cosine":
        options["learning_rate"] = keras.optimizers.schedules.CosineDecay(
            config["learning_rate"], steps
        )
    try:
        # Named, as Keras would count the optimizers of the process, and the file would say so.
        return found(**options, name=class_name)
    except REFUSALS as error:
        raise _refused(class_name, error) from None


def _refused(class_name: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"{WHERE}.config: {class_name} does not take it: {reason}")


def try_optimizer(class_name: str, config: Mapping[str, Any]) -> None:
    """Make an optimizer and have it take a step.

    Raises:
        ValueError: as `make_optimizer`'s and `apply_portably`'s.
    """
    weight = keras.Variable(np.ones((2, 2), np.float32))
    apply_portably(make_optimizer(class_name, config), [tf.ones((2, 2))], [weight])


def apply_portably(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
) -> None:
    """Apply gradients as Keras does, with the same bits on every processor; call it while tracing.

    XLA rewrites a / sqrt(b) as a * rsqrt(b) and computes rsqrt from the processor's own estimate,
    which differs by maker. It does not see the root in max(sqrt(b), the smallest normal number),
    which has the same value for every b but 0; there 0 / 0 becomes 0.

    Raises:
        ValueError: the optimizer does not take its configuration after all.
    """
    root = tf.math.sqrt  # which keras.ops.sqrt looks up at each call

    def hidden(x: tf.Tensor, name: str | None = None) -> tf.Tensor:
        found = root(x, name)
        return tf.maximum(found, np.finfo(found.dtype.as_numpy_dtype).tiny)

    with patch.object(tf.math, "sqrt", hidden):
        try:
            optimizer.apply(gradients, variables)
        except REFUSALS as error:
            raise _refused(optimizer.name, error) from None


def _fits(key: str, value: Any, default: Any) -> bool:
    """Say whether an option is of its default's kind: Keras itself would fail in the first step.

    Where the default is None, a number is meant, but for `LISTS`.
    """
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(value, list):
        return key in LISTS and all(isinstance(name, str) for name in value)
    if isinstance(value, int | float):
        return abs(value) <= LARGEST and (key not in COUNTS or 2**31 > value == int(value) > 0)
    return default is None and value is None


def optimizers() -> dict[str, type[keras.optimizers.Optimizer]]:
    """List Keras' optimizers by class name, but for those that wrap others."""
    base = keras.optimizers.Optimizer
    return {
        name: found
        for name, found in sorted(vars(keras.optimizers).items())
        if isinstance(found, type)
        and issubclass(found, base)
        and found is not base
        and name not in ("LossScaleOptimizer", "MultiOptimizer")
    }
