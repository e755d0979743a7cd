"""Check params.yaml and the machine before DVC removes the outputs of the stages that read it.

DVC deletes what a stage wrote and starts it then, so that a wrong value would cost the results of
the last run. Runs inside .venv.
"""

from __future__ import annotations

import os
import sys

from pipeline.guard import look_at_machine
from pipeline.params import (
    FILES,
    MOST_INPUTS,
    PARAMS_FILE,
    Optimizer,
    Params,
    Train,
    load_params,
)
from pipeline.records import read_values, recorded, take

LABELS_HEADER = 8  # bytes in front of the labels in an IDX file
CHECKED = Optimizer().config.model_dump().keys()  # options that the schema itself knows


def check_counts(params: Params) -> None:
    """Check what is counted in images and pixels.

    Raises:
        ValueError: more are held out, or shown, than there are; more pixels than export takes.
    """
    images = params.fetch.files[FILES[1]].bytes - LABELS_HEADER
    if images < 1:
        raise ValueError(
            f"params.yaml: fetch.files.{FILES[1]}.bytes: expected more than the header's "
            f"{LABELS_HEADER}, got {images + LABELS_HEADER}"
        )
    held_out = params.preprocess.validation_images
    if held_out >= images:
        raise ValueError(
            f"params.yaml: preprocess.validation_images: must be below {images:,}, the number of "
            f"training images; got {held_out:,}"
        )
    if too_large := [it for it in params.evaluate.examples if it >= images - held_out]:
        raise ValueError(
            f"params.yaml: evaluate.examples: {too_large} must be below {images - held_out:,}, "
            f"the number of training images"
        )
    if not params.train.hidden_units and params.dataset.pixels > MOST_INPUTS:
        raise ValueError(
            f"params.yaml: train.hidden_units: [] leaves {params.dataset.pixels:,} pixels to the "
            f"last layer, and the exact model has room for {MOST_INPUTS:,}; name a hidden layer"
        )


def check_machine(train: Train) -> None:
    """Check that stage train finds its GPU and its workers, if it will run for other parameters.

    Raises:
        ValueError: TF_CONFIG names another number of workers, or is malformed.
        RuntimeError: there is no GPU.
    """
    if train.device == "cpu" and train.workers == 1 and "TF_CONFIG" not in os.environ:
        return
    from fashion_mlp.network import engine
    from fashion_mlp.paths import MODEL

    _, before = recorded().get(str(MODEL), ("", {}))
    values = read_values(PARAMS_FILE)
    if before and before == {key: take(values, key) for key in before}:
        return
    engine.start(train.device)

    from fashion_mlp.training.workers import find_workers

    find_workers(chief=True, count=train.workers)


def check_optimizer(optimizer: Optimizer) -> None:
    """Check options that Keras alone knows; nothing where none is given.

    Raises:
        ValueError: Keras does not take them.
    """
    values = optimizer.model_dump()
    if optimizer.class_name == Optimizer().class_name and values["config"].keys() <= CHECKED:
        return
    from fashion_mlp.network import engine

    engine.start()  # three seconds

    from fashion_mlp.training.optimizer import try_optimizer

    try_optimizer(**values)


def main() -> int:
    """Check; the exit status is 1 and a line for each fault says why where a value is wrong."""
    try:
        look_at_machine()
        params = load_params()
        check_counts(params)
        check_machine(params.train)
        check_optimizer(params.train.optimizer)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"make: {error}; nothing was run", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
