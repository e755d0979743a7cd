"""What the ONNX files say of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, helper

if TYPE_CHECKING:
    from pipeline.params import Dataset, File, Train


def metadata(
    dataset: Dataset,
    files: Mapping[str, File],
    validation_images: int,
    train: Train,
) -> dict[str, Any]:
    """Gather what a consumer must know, whichever of the files it is.

    `model_author` and `model_license` (onnx, docs/IR.md) are ONNX's own keys; for the rest there
    is no standard.
    """
    return {
        "class_names": dataset.class_names.given,
        "data_license": dataset.license,
        "data_sha256": {name: file.sha256 for name, file in files.items()},
        "dataset": dataset.name,
        "image_shape": dataset.image_shape,
        "model_author": "fashion-mlp",
        "model_license": "MIT",
        "photos": dataset.photos,
        "train_params": train.model_dump(),
        "validation_images": validation_images,
    }


def describe(model: ModelProto, known: Mapping[str, Any], scaled: bool) -> None:
    """Write metadata into a model, with what its input must be.

    `known` is from `metadata`, with what was measured on this file; a model takes values in 0…1 if
    it is `scaled`, and bytes otherwise.
    """
    height, width = known["image_shape"]
    look = "grey, light on dark" if known["photos"] == "trimmed" else "grey"
    steps = f"{height}x{width} image, {look}, flattened row by row"
    model.doc_string = f"{known['dataset']} classifier, {height * width} pixels to probabilities"
    entries = {
        # onnx, docs/MetadataProps.md
        "Image.BitmapPixelFormat": "Gray8",
        "Image.NominalPixelRange": "Normalized_0_1" if scaled else "NominalRange_0_255",
        **known,
        "preprocessing": f"{steps}, divided by 255" if scaled else f"{steps}, bytes as they are",
    }
    helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in sorted(entries.items())
        },
    )


def labels(dataset: Dataset) -> dict[str, Any]:
    """Gather what a consumer needs whose runtime can't read metadata: models/labels.json."""
    return {
        "dataset": dataset.name,
        "image_shape": list(dataset.image_shape),
        "photos": dataset.photos,
        "class_names": dataset.class_names.given,
    }
