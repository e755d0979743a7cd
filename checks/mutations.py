"""Check the export check: `make mutations`.

Breaks the ONNX model in more than a thousand ways, one at a time, and counts which levels of the
proof notice; then proves healthy models of 20 other seeds, where no level may raise a false alarm.
Prints a Markdown table and the number of false alarms (docs/proof.md shows both), and fails if a
mutant is not noticed or on a false alarm.

For comparison, the last column is the check that exporters' tutorials show: a few rows of random
pixels, compared with rtol 1e-3 and atol 1e-5.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from checks.common import machine, table
from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.export.graph import plain_graph
from fashion_mlp.network import engine
from fashion_mlp.paths import MODEL
from fashion_mlp.proof.evidence import Evidence, gather
from fashion_mlp.proof.levels import LEVELS, Candidate, onnxruntime_predict, prove
from fashion_mlp.proof.reference import bounds
from pipeline.console import progress
from pipeline.params import load_params

SEED = 20261124
HEALTHY_SEEDS = 20
HEALTHY_EPOCHS = 3
USUAL_ROWS = 2

Weights = dict[str, np.ndarray]
Mutate = Callable[[onnx.ModelProto, np.random.Generator], object]


class Mutation(NamedTuple):
    """A way to break a model in place, and how many models to break so."""

    name: str
    models: int
    mutate: Mutate


def arrays_of(model: onnx.ModelProto) -> Weights:
    """Copy the float32 initializers, by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor).copy()
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def weights(change: Callable[[Weights, np.random.Generator], object]) -> Mutate:
    """Make a mutation of a function that changes the initializers in a mapping by name."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        arrays = arrays_of(model)
        change(arrays, rng)
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))

    return mutate


def one_value(change: Callable[[np.float32, np.random.Generator], np.float32]) -> Mutate:
    """Make a mutation of one weight: any of the model's, all equally likely, none that is 0."""

    def mutate(arrays: Weights, rng: np.random.Generator) -> None:
        sizes = [array.size for array in arrays.values()]
        array = list(arrays.values())[rng.choice(len(sizes), p=np.divide(sizes, sum(sizes)))]
        index = rng.choice(np.flatnonzero(array))
        array.flat[index] = change(array.flat[index], rng)

    return weights(mutate)


def one_ulp(value: np.float32, rng: np.random.Generator) -> np.float32:
    """Move a weight to the next float32, up or down."""
    return np.nextafter(value, np.float32(rng.choice([-np.inf, np.inf])))


def one_bit(value: np.float32, rng: np.random.Generator) -> np.float32:
    """Flip any one bit of a weight."""
    return (value.view(np.uint32) ^ np.uint32(1 << rng.integers(32))).view(np.float32)


def swap(layer: int, whole: bool) -> Mutate:
    """Make a mutation that swaps two units of the layer before, or their outgoing weights alone.

    Whole units swapped are the same function, with other bits.
    """

    def mutate(arrays: Weights, rng: np.random.Generator) -> None:
        kernel = arrays[f"dense_{layer}_kernel"]
        a, b = rng.choice(len(kernel), 2, replace=False)
        before = [arrays[f"dense_{layer - 1}_{it}"].T for it in ("kernel", "bias")] if whole else []
        for view in (kernel, *before):
            view[[a, b]] = view[[b, a]]

    return weights(mutate)


def drop_node(number: int) -> Mutate:
    """Make a mutation that takes a node out and joins what was around it."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        nodes = model.graph.node
        nodes[number + 1].input[0] = nodes[number].input[0]
        del nodes[number]

    return mutate


def replace_operator(number: int, operator: str, **attributes: float) -> Mutate:
    """Make a mutation that puts another operator where a node is."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        node = model.graph.node[number]
        node.op_type = operator
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())

    return mutate


def multiply_input(factor: float) -> Mutate:
    """Make a mutation that multiplies the image by a factor first."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
        graph.node[0].input[0] = "scaled"
        nodes = [helper.make_node("Mul", ["image", "factor"], ["scaled"]), *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)

    return mutate


def gemm(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Fuse the first MatMul and Add into a Gemm: the same function, which fewer runtimes read."""
    nodes = list(model.graph.node)
    inputs = [*nodes[0].input, nodes[1].input[1]]
    fused = helper.make_node("Gemm", inputs, nodes[1].output)
    del model.graph.node[:]
    model.graph.node.extend([fused, *nodes[2:]])


def mutations(
    model: onnx.ModelProto, image_shape: tuple[int, int], others: Iterator[Sequence[np.ndarray]]
) -> list[Mutation]:
    """List all ways to break a model.

    Args:
        model: from `plain_graph`, with any number of layers.
        image_shape: height and width.
        others: weights of other seeds, in the order of the initializers.
    """
    layers = range(1, len(model.graph.initializer) // 2 + 1)
    operators = [node.op_type for node in model.graph.node]  # MatMul, Add, activation of a layer
    last = len(operators) - 1
    pixels = np.arange(np.prod(image_shape)).reshape(image_shape)
    other_order = {"transposed": pixels.T, "upside down": pixels[::-1], "mirrored": pixels[:, ::-1]}
    zero = np.float32(0)

    def scaled(name: str, factor: float) -> Mutate:
        return weights(lambda arrays, rng: arrays.update({name: arrays[name] * np.float32(factor)}))

    def reordered(places: np.ndarray) -> Mutate:
        return weights(
            lambda arrays, rng: arrays.update(dense_1_kernel=arrays["dense_1_kernel"][places])
        )

    def rounded(arrays: Weights, rng: np.random.Generator) -> None:
        arrays.update(
            {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}
        )

    def first_axis(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension:
        return value.type.tensor_type.shape.dim[0]

    found = [
        Mutation("one weight's sign", 250, one_value(lambda value, rng: -value)),
        Mutation("one weight zeroed", 150, one_value(lambda value, rng: zero)),
        Mutation("one weight moved by one ulp", 250, one_value(one_ulp)),
        Mutation("one bit of one weight", 150, one_value(one_bit)),
    ]
    for layer in layers:
        bias, add = f"dense_{layer}_bias", 3 * layer - 2
        found += [
            Mutation(f"two rows of dense_{layer}_kernel swapped", 60, swap(layer, whole=False)),
            Mutation(f"{bias} left out", 1, drop_node(add)),
            Mutation(f"{bias} zeroed", 1, scaled(bias, 0)),
        ]
    for layer in layers[:-1]:
        same = f"two units of dense_{layer} swapped, same function"
        node, name = 3 * layer - 1, f"{operators[3 * layer - 1]} {layer}"
        found += [
            Mutation(same, 40, swap(layer + 1, whole=True)),
            Mutation(f"{name} -> LeakyRelu", 1, replace_operator(node, "LeakyRelu", alpha=0.01)),
            Mutation(f"{name} -> Elu", 1, replace_operator(node, "Elu", alpha=1.0)),
            Mutation(f"{name} left out", 1, drop_node(node)),
        ]
    for name, places in other_order.items():
        found.append(Mutation(f"image {name}", 1, reordered(places.ravel())))
    stale = weights(lambda arrays, rng: arrays.update(zip(arrays, next(others), strict=True)))
    singles: dict[str, Mutate] = {
        "/256 as an operator": multiply_input(255 / 256),
        "/256 in the kernel": scaled("dense_1_kernel", 255 / 256),
        "/255 twice": multiply_input(1 / 255),
        "Softmax over the batch": replace_operator(last, "Softmax", axis=0),
        "Softmax -> LogSoftmax": replace_operator(last, "LogSoftmax", axis=-1),
        "Softmax -> Sigmoid": replace_operator(last, "Sigmoid"),
        "weights rounded to float16": weights(rounded),
        "MatMul + Add -> Gemm, same function": gemm,
        "batch size fixed at 1": lambda model, rng: setattr(
            first_axis(model.graph.input[0]), "dim_value", 1
        ),
        # This one and the next as tf2onnx does.
        "batch dimension named twice": lambda model, rng: setattr(
            first_axis(model.graph.output[0]), "dim_param", "M"
        ),
        "an unused import": lambda model, rng: model.opset_import.append(
            helper.make_opsetid("ai.onnx.ml", 3)
        ),
        "a newer opset": lambda model, rng: setattr(
            model.opset_import[0], "version", model.opset_import[0].version + 1
        ),
    }
    found.append(Mutation("a stale model, of another seed", HEALTHY_SEEDS, stale))
    return [*found, *(Mutation(name, 1, mutate) for name, mutate in singles.items())]


def usual_check(model: onnx.ModelProto, evidence: Evidence, rng: np.random.Generator) -> bool:
    """Tell whether the check that tutorials show notices: random rows, rtol 1e-3, atol 1e-5."""
    images = rng.random((USUAL_ROWS, len(evidence.layers[0].kernel)), dtype=np.float32)
    expected = bounds(evidence.layers, images).probabilities
    try:
        np.testing.assert_allclose(
            onnxruntime_predict(model)(images, USUAL_ROWS), expected, rtol=1e-3, atol=1e-5
        )
    except (AssertionError, ValueError):
        return True
    return False


def noticed(model: onnx.ModelProto, expected: onnx.ModelProto, evidence: Evidence) -> list[str]:
    """Name the levels that refuse a model which should be `expected`."""
    names, candidate = [], Candidate(model, expected)
    for name, level in LEVELS.items():
        try:
            level(candidate, evidence)
        except ValueError:
            names.append(name)
    return names


def run_mutations(
    model: onnx.ModelProto, evidence: Evidence, kinds: list[Mutation]
) -> tuple[str, list[str]]:
    """Break the model in every way.

    Returns:
        The Markdown table, and the mutants that no level noticed.
    """
    rng = np.random.default_rng(SEED)
    columns = [*LEVELS, "any level", "usual check"]
    rows: list[list[object]] = []
    total: Counter[str] = Counter()
    missed = []
    with progress("mutations", sum(kind.models for kind in kinds), "models") as bar:
        for kind in kinds:
            caught: Counter[str] = Counter()
            for number in range(kind.models):
                mutant = onnx.ModelProto()
                mutant.CopyFrom(model)
                kind.mutate(mutant, rng)
                names = noticed(mutant, model, evidence)
                caught.update(names)
                caught["any level"] += bool(names)
                caught["usual check"] += usual_check(mutant, evidence, rng)
                if not names:
                    missed.append(f"{kind.name}, number {number}")
                bar.update()
            total += caught
            rows.append([kind.name, kind.models, *(caught[column] for column in columns)])
    counts = [sum(kind.models for kind in kinds), *(total[column] for column in columns)]
    rows.append(["**all**", *(f"**{count:,}**" for count in counts)])
    return table(["mutation", "models", *columns], rows), missed


def main() -> int:
    """Train the healthy models, prove them, break the model, print the table."""
    began = time.monotonic()
    params = load_params()
    dataset, export = params.dataset, params.export
    splits = {name: load_split(name, dataset.pixels, dataset.classes) for name in ("train", "test")}
    images = {name: split.images for name, split in splits.items()}
    engine.start()

    import keras

    from fashion_mlp.network.model import build_network, load_network, set_layers
    from fashion_mlp.training.loop import fit

    form = (export.opset, export.ir_version)
    train = params.train.model_copy(update={"epochs": HEALTHY_EPOCHS})
    nothing = Split(splits["train"].images[:0], splits["train"].labels[:0])
    others, alarms = [], []
    with progress("healthy models", HEALTHY_SEEDS, "models") as bar:
        for seed in range(train.seed + 1, train.seed + 1 + HEALTHY_SEEDS):
            settings = train.model_copy(update={"seed": seed})
            layers, _ = fit(settings, splits["train"], nothing, dataset.image_shape)
            network = build_network(
                dataset.pixels, train.hidden_units, train.activation, dataset.classes
            )
            set_layers(network, layers)
            others.append([array for layer in layers for array in layer[:2]])
            try:
                evidence, _ = gather(network, images, [7, 1000])
                model = plain_graph(evidence.layers, *form)
                prove(Candidate(model, model), evidence, lambda line: None)
            except ValueError as error:
                alarms.append(f"seed {seed}: {error}")
            keras.backend.clear_session()
            bar.update()
    test = {"test": np.asarray(images["test"])}
    evidence, _ = gather(load_network(MODEL), test, [100])
    model = plain_graph(evidence.layers, *form)
    kinds = mutations(model, dataset.image_shape, iter(others))
    text, missed = run_mutations(model, evidence, kinds)
    print(text)
    print(
        f"\n{HEALTHY_SEEDS} healthy models, seeds {train.seed + 1} to "
        f"{train.seed + HEALTHY_SEEDS}, {HEALTHY_EPOCHS} epochs each, "
        f"all {sum(map(len, images.values())):,} images: {len(alarms)} false alarms."
    )
    print(
        f"{machine()}; mutations on {len(test['test']):,} test images; seed {SEED}; "
        f"{time.monotonic() - began:.0f} s."
    )
    for line in [*(f"missed: {name}" for name in missed), *(f"false alarm: {a}" for a in alarms)]:
        print(f"mutations: {line}", file=sys.stderr)
    return 1 if missed or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
