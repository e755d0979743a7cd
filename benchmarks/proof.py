"""Export's proof, run once and timed: prints the seconds of its two halves.

The evidence (float64 reference, rounding bound, Keras' answers) and the levels on the ONNX model
and its uint8 variant, as stage `export` runs them.
"""

from __future__ import annotations

import time

from fashion_mlp.network import engine
from fashion_mlp.data.arrays import load_split
from pipeline.params import load_params
from fashion_mlp.proof.levels import Candidate, gather, prove
from stages.export import MODEL, check_uint8, convert, uint8_variant


def main() -> None:
    """Prove and print."""
    params = load_params()
    sizes = (params.dataset.pixels, len(params.dataset.classes.en))
    images = {split: load_split(split, *sizes).images for split in ("train", "test")}
    engine.start()

    from fashion_mlp.network.model import load_network

    network = load_network(MODEL, sizes)
    form = (params.export.opset, params.export.ir_version)
    checks = (params.export.tolerance, params.export.batch_sizes)
    start = time.perf_counter()
    evidence, _ = gather(network, images, *form, *checks)
    evidence_seconds = time.perf_counter() - start
    model = convert(network, *form)
    start = time.perf_counter()
    candidate = Candidate(model)
    prove(candidate, evidence, lambda line: None)
    check_uint8(uint8_variant(model), candidate, images)
    print(evidence_seconds, time.perf_counter() - start)


if __name__ == "__main__":
    main()
