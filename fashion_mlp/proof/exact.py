"""The proof of the exact ONNX file: the same logits everywhere, and how near the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from fashion_mlp.data.arrays import BATCH_SIZE
from fashion_mlp.proof.evidence import Evidence
from fashion_mlp.proof.integers import prove_exact_sums
from fashion_mlp.proof.levels import Candidate, check_structure


def prove_exact(
    candidate: Candidate,
    evidence: Evidence,
    pixels: Mapping[str, np.ndarray],
    largest_error: float,
    say: Callable[[str], object],
) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """Prove that no sum in the model can round, and compare it with the original.

    Args:
        candidate: takes uint8 (n, pixels); its first output are the logits.
        evidence: from `gather`.
        pixels: `evidence.images` as bytes, uint8 (n, pixels).
        largest_error: by which a logit may be off on any image, for the screen.
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
    answers = {split: candidate.answers(pixels, split) for split in pixels}
    check_bits(candidate, evidence, pixels)
    other: dict[tuple[str, int], int] = {}
    furthest = 0.0
    for split, logits in answers.items():
        expected = evidence.bounds[split].probabilities
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        found = powers / powers.sum(axis=1, keepdims=True)
        furthest = max(furthest, float(np.abs(found - expected).max(initial=0.0)))
        classes = logits.argmax(axis=1)
        rows = np.flatnonzero(classes != evidence.keras[split].argmax(axis=1))
        other |= {(split, int(row)): int(classes[row]) for row in rows}
    total = sum(map(len, pixels.values()))
    say(
        f"exact: the class of the original on {total - len(other):,} of {total:,} images; "
        f"probabilities within {furthest:.1e}; logits, on any image, within {largest_error:.2g}"
    )
    metrics = {
        "exact_argmax_agreement": total - len(other),
        "exact_largest_difference": float(f"{furthest:.1e}"),
        "exact_sums_proven": theorem.sums,
    }
    return metrics, other


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
    """Check the bits at other batch sizes and in ONNX's reference, and that `class` fits them."""
    split = evidence.batch_split
    expected = candidate.answers(pixels, split)
    images = np.asarray(pixels[split])
    logits, classes, _ = ReferenceEvaluator(candidate.model).run(None, {"image": images})
    found = {"ONNX's reference": logits} | {
        f"batch size {size}": candidate.answers(pixels, split, size)
        for size in evidence.batch_sizes
    }
    for what, answers in found.items():
        if len(rows := np.flatnonzero((answers != expected).any(axis=1))):
            raise ValueError(
                f"exact model, {what}, {split} image {rows[0]}: expected {expected[rows[0]]}, as "
                f"at batch size {BATCH_SIZE:,}, got {answers[rows[0]]}"
            )
    if not np.array_equal(classes, expected.argmax(axis=1)):
        raise ValueError("exact model: expected `class` to be the first of the largest logits")
