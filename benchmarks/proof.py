"""Export's proof, run once and timed: prints the seconds of its two halves.

The evidence (float64 reference, rounding bound, Keras' predictions), then the checks of the ONNX
model and of its uint8 variant, as stage `export` runs them.
"""

from __future__ import annotations

import time

from fashion_mlp.data.arrays import load_split
from fashion_mlp.export.graph import plain_graph, uint8_graph
from fashion_mlp.network import engine
from fashion_mlp.paths import MODEL
from fashion_mlp.proof.evidence import gather
from fashion_mlp.proof.levels import Candidate, prove
from pipeline.params import load_params
from stages.export import prove_uint8


def main() -> None:
    """Prove and print."""
    params = load_params()
    sizes = (params.dataset.pixels, params.dataset.classes)
    images = {split: load_split(split, *sizes).images for split in ("train", "test")}
    engine.start()

    from fashion_mlp.network.model import load_network

    network = load_network(MODEL, sizes)
    start = time.perf_counter()
    evidence, _ = gather(network, images, params.export.tolerance, params.export.batch_sizes)
    gathered = time.perf_counter()
    plain = plain_graph(evidence.layers, params.export.opset, params.export.ir_version)
    uint8 = uint8_graph(plain)
    candidates = Candidate(plain, plain), Candidate(uint8, uint8)
    prove(candidates[0], evidence, lambda line: None)
    prove_uint8(candidates[1], candidates[0], evidence)
    print(gathered - start, time.perf_counter() - gathered)


if __name__ == "__main__":
    main()
