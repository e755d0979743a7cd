"""The proof of the exact ONNX file: the same logits everywhere, and how near the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from fashion_mlp.proof.evidence import Evidence
from fashion_mlp.proof.integers import prove_exact_sums
from fashion_mlp.proof.levels import (
    Candidate,
    check_same_rows,
    check_structure,
    onnxruntime_run,
)

LEAST_AGREEMENT = 0.99  # of the images; below, the integers are too coarse for the network


def prove_exact(
    candidate: Candidate,
    evidence: Evidence,
    pixels: Mapping[str, np.ndarray],
    say: Callable[[str], object],
) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """Prove that no sum in the model can round, and compare it with the original.

    Args:
        candidate: takes uint8 (n, pixels); its first output are the logits.
        evidence: from `gather`.
        pixels: `evidence.images` as bytes, uint8 (n, pixels).
        say: called with a line for each thing proven.

    Returns:
        Metrics for metrics/export.json, and the images that get another class: split and number,
        and that class.

    Raises:
        ValueError: a sum that may round, a weight other than expected, or bits that differ between
            batch sizes or from ONNX's reference.
    """
    check_structure(candidate, evidence)
    check_constants(candidate)
    theorem = prove_exact_sums(candidate.model)
    say(
        f"exact: {theorem.sums:,} sums stay within 2^24 on every image "
        f"(the largest {theorem.largest:.5%} of it), so none rounds"
    )
    check_bits(candidate, evidence, pixels)
    furthest, other = compare(candidate, evidence, pixels)
    total = sum(map(len, pixels.values()))
    agreeing = total - len(other)
    say(
        f"exact: the class of the original on {agreeing:,} of {total:,} images; "
        f"probabilities within {furthest:.1e}"
    )
    if agreeing < LEAST_AGREEMENT * total:
        say("exact: TOO COARSE for this network: use the float32 or the uint8 file")
    metrics = {
        "exact_argmax_agreement": agreeing,
        "exact_largest_difference": float(f"{furthest:.1e}"),
        "exact_sums_proven": theorem.sums,
    }
    return metrics, other


def compare(
    candidate: Candidate, evidence: Evidence, pixels: Mapping[str, np.ndarray]
) -> tuple[float, dict[tuple[str, int], int]]:
    """Measure the largest difference of a probability, and list the images of another class."""
    furthest = 0.0
    other: dict[tuple[str, int], int] = {}
    for split in pixels:
        logits = candidate.answers(pixels, split)
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        found = powers / powers.sum(axis=1, keepdims=True)
        distance = np.abs(found - evidence.bounds[split].probabilities)
        furthest = max(furthest, float(distance.max(initial=0.0)))
        classes = logits.argmax(axis=1)
        rows = np.flatnonzero(classes != evidence.keras[split].argmax(axis=1))
        other |= {(split, int(row)): int(classes[row]) for row in rows}
    return furthest, other


def check_constants(candidate: Candidate) -> None:
    """Check that the constants are those expected, byte for byte."""
    expected, found = (
        {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
        for model in (candidate.expected, candidate.model)
    )
    if list(found) != list(expected):
        raise ValueError(f"initializers: expected {list(expected)}, got {list(found)}")
    for name, content in expected.items():
        if found[name] != content:
            raise ValueError(f"initializer {name}: not the integers that the weights round to")


def check_bits(candidate: Candidate, evidence: Evidence, pixels: Mapping[str, np.ndarray]) -> None:
    """Check the bits at other batch sizes, in onnxruntime as it is and in ONNX's reference.

    Raises:
        ValueError: other bits, or a `class` that is not the first of the largest logits.
    """
    split = evidence.batch_split
    expected, images = candidate.answers(pixels, split), np.asarray(pixels[split])
    for size in evidence.batch_sizes:
        answers = candidate.answers(pixels, split, size)
        check_same_rows(f"exact model, batch size {size}, {split} image", expected, answers)
    feeds: dict[str, Any] = {"image": images}
    others: dict[str, Any] = {
        "onnxruntime with all optimizers": onnxruntime_run(candidate.model, disabled=())(feeds),
        "ONNX's reference": ReferenceEvaluator(candidate.model).run(None, feeds),
    }
    for runtime, (logits, classes, _) in others.items():
        check_same_rows(f"exact model, {runtime}, {split} image", expected, logits)
        if not np.array_equal(classes, expected.argmax(axis=1)):
            raise ValueError(f"exact model, {runtime}: `class` is not the first largest logit")
