"""Check the export check: `make mutations`.

Proves healthy models, of 20 other seeds and of 500 odd kinds, which no level may refuse. Then
breaks each of the ONNX files that ship in hundreds of ways, one at a time, and counts which levels
of the proof notice. Prints both (docs/proof.md shows it), and fails if a healthy model is refused
or a mutant is not noticed.

For comparison, the last column is the check that exporters' tutorials show: a few rows of random
pixels, compared with rtol 1e-3 and atol 1e-5.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from checks.common import machine, table
from checks.healthy import refusals
from checks.mutants import FEW, STALE, Mutation, division, exact_kinds, mutations
from fashion_mlp.data.arrays import MAX_PIXEL, Split, load_split
from fashion_mlp.export.graph import plain_graph
from fashion_mlp.network import engine
from fashion_mlp.paths import MODEL
from fashion_mlp.proof.evidence import Evidence, gather
from fashion_mlp.proof.exact import EXACT
from fashion_mlp.proof.findings import HELD, hold
from fashion_mlp.proof.levels import PLAIN, UINT8, Levels, prove
from fashion_mlp.proof.reference import bounds
from fashion_mlp.proof.runtime import Candidate, onnxruntime_predict
from pipeline.console import progress
from pipeline.params import Params, load_params
from stages.export import described, make_graphs

SEED = 20261124
HEALTHY_EPOCHS = 3
USUAL_ROWS = 2
ODD_NETWORKS = 500
TEST_IMAGES = 2000  # of the test set: each mutant answers them


class Form(NamedTuple):
    """A file that ships, what stage export holds it to, and how it is broken."""

    name: str
    model: onnx.ModelProto
    levels: Levels
    kinds: Sequence[Mutation]
    proven: Candidate | None = None  # whose bits it must give
    usual: bool = True  # whether the usual check makes sense: the exact file is another function


def usual_check(
    model: onnx.ModelProto, form: Form, evidence: Evidence, rng: np.random.Generator
) -> bool:
    """Tell whether the check that tutorials show notices: random rows, rtol 1e-3, atol 1e-5."""
    images = rng.random((USUAL_ROWS, len(evidence.layers[0].kernel)), dtype=np.float32)
    pixels = (images * MAX_PIXEL).astype(np.uint8)
    given = pixels if form.proven else images
    known = pixels / MAX_PIXEL if form.proven else images
    expected = bounds(evidence.layers, known).probabilities
    try:
        np.testing.assert_allclose(
            onnxruntime_predict(model)(given, USUAL_ROWS), expected, rtol=1e-3, atol=1e-5
        )
    except (AssertionError, ValueError):
        return True
    return False


def noticed(model: onnx.ModelProto, form: Form, evidence: Evidence) -> list[str]:
    """Name the levels that refuse a model which should be the form's."""
    candidate = Candidate(model, form.model, form.proven)
    found = hold(form.levels, candidate, evidence)
    return [name for name, finding in found if finding.result != HELD]


def run_mutations(form: Form, evidence: Evidence) -> tuple[str, list[str]]:
    """Break a file in every way.

    Returns:
        The Markdown table, and the mutants that no level noticed.
    """
    rng = np.random.default_rng(SEED)
    columns = [*form.levels, "any level", *(["usual check"] if form.usual else [])]
    rows: list[list[object]] = []
    total: Counter[str] = Counter()
    missed = []
    with progress(form.name, sum(kind.models for kind in form.kinds), "models") as bar:
        for kind in form.kinds:
            caught: Counter[str] = Counter()
            for number in range(kind.models):
                mutant = onnx.ModelProto()
                mutant.CopyFrom(form.model)
                kind.mutate(mutant, rng)
                names = noticed(mutant, form, evidence)
                caught.update(names)
                caught["any level"] += bool(names)
                caught["usual check"] += form.usual and usual_check(mutant, form, evidence, rng)
                if not names:
                    missed.append(f"{form.name} file, {kind.name}, number {number}")
                bar.update()
            total += caught
            rows.append([kind.name, kind.models, *(caught[column] for column in columns)])
    counts = [sum(kind.models for kind in form.kinds), *(total[column] for column in columns)]
    rows.append(["**all**", *(f"**{count:,}**" for count in counts)])
    return table([f"mutation of the {form.name} file", "models", *columns], rows), missed


def train_others(
    params: Params, train: Split, images: Mapping[str, np.ndarray]
) -> tuple[list[list[np.ndarray]], list[str]]:
    """Train models of other seeds and prove them.

    Returns:
        Their weights, and why any was refused.
    """
    import keras

    from fashion_mlp.network.model import build_network, set_layers
    from fashion_mlp.training.loop import fit

    short = params.train.model_copy(update={"epochs": HEALTHY_EPOCHS})
    pixels, classes = params.dataset.pixels, params.dataset.classes
    nothing = Split(train.images[:0], train.labels[:0])
    others, alarms = [], []
    with progress("healthy models", STALE, "models") as bar:
        for seed in range(short.seed + 1, short.seed + 1 + STALE):
            settings = short.model_copy(update={"seed": seed})
            layers, _ = fit(settings, train, nothing, params.dataset.image_shape)
            network = build_network(pixels, short.hidden_units, short.activation, classes)
            set_layers(network, layers)
            others.append([array for layer in layers for array in layer[:2]])
            try:
                evidence, _ = gather(network, images, [7, 1000])
                model = plain_graph(layers, params.export.opset, params.export.ir_version)
                prove(Candidate(model, model), evidence)
            except ValueError as error:
                alarms.append(f"seed {seed}: {error}")
            keras.backend.clear_session()
            bar.update()
    return others, alarms


def odd_networks() -> list[str]:
    """Prove networks with zero, equal, denormal and large weights; say why any was refused."""
    alarms = []
    with progress("odd networks", ODD_NETWORKS, "networks") as bar:
        for reason in refusals(ODD_NETWORKS, SEED):
            alarms += [reason] if reason else []
            bar.update()
    return alarms


def forms(
    files: Sequence[onnx.ModelProto],
    image_shape: tuple[int, int],
    others: Sequence[Sequence[np.ndarray]],
) -> list[Form]:
    """List the ways to break each of the files that ship: float32, uint8 and exact, as written."""
    plain, uint8, exact = files
    few = [
        kind._replace(models=min(kind.models, FEW))
        for kind in mutations(uint8, image_shape, iter(others))
    ]
    few.append(Mutation("/255 as a product with 1/255", 1, division))
    return [
        Form("float32", plain, PLAIN, mutations(plain, image_shape, iter(others))),
        Form("uint8", uint8, UINT8, few, proven=Candidate(plain, plain)),
        Form("exact", exact, EXACT, exact_kinds(exact), usual=False),
    ]


def main() -> int:
    """Prove healthy models, break the files that ship, print the tables."""
    began = time.monotonic()
    params = load_params()
    sizes = (params.dataset.pixels, params.dataset.classes)
    train, test = (load_split(name, *sizes) for name in ("train", "test"))
    engine.start()

    from fashion_mlp.network.model import load_network

    others, alarms = train_others(params, train, {"test": np.asarray(test.images)})
    print(
        f"{STALE} models of other seeds, {HEALTHY_EPOCHS} epochs each, on {len(test.images):,} "
        f"test images: {len(alarms)} refused.",
        flush=True,
    )
    odd = odd_networks()
    print(f"{ODD_NETWORKS} networks of odd weights: {len(odd)} refused.", flush=True)
    images = {"test": np.asarray(test.images[:TEST_IMAGES])}
    evidence, _ = gather(load_network(MODEL), images, [100])
    unnoticed = []
    graphs = make_graphs(evidence, params)
    own: dict[Path, dict[str, str]] = {path: {} for path in graphs}
    files = [*map(onnx.load_from_string, described(graphs, params, own).values())]
    for form in forms(files, params.dataset.image_shape, others):
        text, missed = run_mutations(form, evidence)
        unnoticed += missed
        print(f"\n{text}", flush=True)
    print(
        f"\n{machine()}; mutations on {TEST_IMAGES:,} test images; seed {SEED}; "
        f"{time.monotonic() - began:.0f} s."
    )
    for line in [
        *(f"missed: {it}" for it in unnoticed),
        *(f"refused: {it}" for it in alarms + odd),
    ]:
        print(f"mutations: {line}", file=sys.stderr)
    return 1 if unnoticed or alarms or odd else 0


if __name__ == "__main__":
    sys.exit(main())
