"""The proof of the exact ONNX file: the same logits everywhere, and how near the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from fashion_mlp.proof.evidence import FEW_IMAGES, Evidence
from fashion_mlp.proof.findings import HELD, Finding
from fashion_mlp.proof.integers import prove_exact_sums
from fashion_mlp.proof.levels import Levels, check_constants, check_same, check_structure
from fashion_mlp.proof.runtime import Candidate, onnxruntime_run

LEAST_AGREEMENT = 0.99  # of the images; below, the integers are too coarse for the network


def check_sums(candidate: Candidate, evidence: Evidence) -> Finding:
    """Check that no sum in the model can round, whatever the image."""
    theorem = prove_exact_sums(candidate.model)
    says = f"{theorem.sums:,} sums stay within 2^24 on every image "
    says += f"(the largest {theorem.largest:.5%} of it), so none rounds"
    return Finding(HELD, says, {"exact_sums_proven": theorem.sums})


def check_bits(candidate: Candidate, evidence: Evidence) -> Finding:
    """Check the bits at other batch sizes, in onnxruntime as it is and in ONNX's reference.

    Raises:
        ValueError: other bits, or a `class` that is not the first of the largest logits.
    """
    split = evidence.batch_split
    pixels = evidence.pixels[split][:FEW_IMAGES]
    expected = candidate.answers(evidence.pixels, split)[:FEW_IMAGES]
    for size in evidence.batch_sizes:
        answers = candidate.predict(pixels, size)
        check_same(f"batch size {size}, {split} images", expected, answers)
    feeds: dict[str, Any] = {"image": pixels}
    others: dict[str, Any] = {
        "onnxruntime with all optimizers": onnxruntime_run(candidate.model, disabled=())(feeds),
        "ONNX's reference": ReferenceEvaluator(candidate.model).run(None, feeds),
    }
    for runtime, (logits, classes, _) in others.items():
        check_same(f"{runtime}, {split} images", expected, logits)
        if not np.array_equal(classes, expected.argmax(axis=1)):
            raise ValueError(f"{runtime}: `class` is not the first largest logit")
    return Finding(HELD, "")


def measure(
    candidate: Candidate, evidence: Evidence, say: Callable[[str], object]
) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """Measure how near the original the model is.

    Returns:
        Metrics for metrics/proof.csv, and the images that get another class than from Keras:
        split and number, and that class.
    """
    furthest = 0.0
    other: dict[tuple[str, int], int] = {}
    for split in evidence.pixels:
        logits = candidate.answers(evidence.pixels, split)
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        found = powers / powers.sum(axis=1, keepdims=True)
        distance = np.abs(found - evidence.bounds[split].probabilities)
        furthest = max(furthest, float(distance.max(initial=0.0)))
        classes = logits.argmax(axis=1)
        rows = np.flatnonzero(classes != evidence.keras[split].argmax(axis=1))
        other |= {(split, int(row)): int(classes[row]) for row in rows}
    total = sum(map(len, evidence.pixels.values()))
    agreeing = total - len(other)
    says = f"exact: the class of the original on {agreeing:,} of {total:,} images; "
    say(says + f"probabilities within {furthest:.1e}")
    if agreeing < LEAST_AGREEMENT * total:
        say("exact: TOO COARSE for this network: use the float32 or the uint8 file")
    metrics = {"argmax_agreement": agreeing, "largest_difference": float(f"{furthest:.1e}")}
    return {f"exact_{name}": value for name, value in metrics.items()}, other


EXACT: Levels = {
    "structure": check_structure,
    "constants": check_constants,
    "no sum rounds": check_sums,
    "same bits": check_bits,
}
