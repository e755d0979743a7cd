"""Check the export check: `make mutations`.

Breaks the ONNX model in more than a thousand ways, one at a time, and counts which levels of the
proof notice; then proves healthy models of 20 other seeds, where no level may cry out. Prints a
Markdown table and the count of false alarms (docs/proof.md shows both), and fails on a mutant that
got through or on a false alarm.

Beside the levels stands the check that exporters' tutorials show: a few rows of random pixels,
compared with rtol 1e-3 and atol 1e-5.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from checks.repro import processor
from fashion_mlp.network import engine
from pipeline.console import progress
from fashion_mlp.data.arrays import Split, load_split
from pipeline.params import load_params
from fashion_mlp.proof.levels import LEVELS, Candidate, Evidence, gather, onnxruntime_predict, prove
from stages.export import MODEL, convert
from stages.train import learn, network_shape

SEED = 20261124
HEALTHY_SEEDS = 20
HEALTHY_EPOCHS = 3
USUAL_ROWS = 2

Mutate = Callable[[onnx.ModelProto, np.random.Generator], None]


class Mutation(NamedTuple):
    """A way to break a model in place, and how many models to break so."""

    name: str
    models: int
    mutate: Mutate


def edit(
    name: str, change: Callable[[np.ndarray, np.random.Generator], np.ndarray | None]
) -> Mutate:
    """Make a mutation that changes an initializer's array; `change` may return another one."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor).copy()
                replaced = change(array, rng)
                changed = array if replaced is None else replaced
                tensor.CopyFrom(numpy_helper.from_array(changed, name))

    return mutate


def one_value(change: Callable[[np.ndarray, np.random.Generator], None]) -> Mutate:
    """Make a mutation of one weight: any of the model's, all equally likely, none that is 0.

    `change` gets a view of one float32.
    """

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        sizes = [int(np.prod(tensor.dims)) for tensor in model.graph.initializer]
        tensor = model.graph.initializer[rng.choice(len(sizes), p=np.divide(sizes, sum(sizes)))]
        array = numpy_helper.to_array(tensor).copy()
        index = rng.choice(np.flatnonzero(array))
        change(array.reshape(-1)[index : index + 1], rng)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return mutate


def flip_sign(value: np.ndarray, rng: np.random.Generator) -> None:
    """Give a weight the other sign."""
    value *= -1


def zero(value: np.ndarray, rng: np.random.Generator) -> None:
    """Set a weight to 0."""
    value[:] = 0


def one_ulp(value: np.ndarray, rng: np.random.Generator) -> None:
    """Move a weight to the next float32, up or down."""
    value[:] = np.nextafter(value, np.float32(rng.choice([-np.inf, np.inf])))


def one_bit(value: np.ndarray, rng: np.random.Generator) -> None:
    """Flip any one bit of a weight."""
    value.view(np.uint32)[:] ^= np.uint32(1) << np.uint32(rng.integers(32))


def swap_rows(array: np.ndarray, rng: np.random.Generator) -> None:
    """Swap two rows of a kernel."""
    a, b = rng.choice(len(array), 2, replace=False)
    array[[a, b]] = array[[b, a]]


def swap_units(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Swap two hidden units with all that hangs on them: the same function, other bits."""
    arrays = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    a, b = rng.choice(len(arrays["hidden_bias"]), 2, replace=False)
    for view in (arrays["hidden_kernel"].T, arrays["hidden_bias"], arrays["probabilities_kernel"]):
        view[[a, b]] = view[[b, a]]
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))


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


def transpose_image(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order the kernel's rows as if images came column by column."""
    side = round(len(array) ** 0.5)
    return np.ascontiguousarray(
        array.reshape(side, side, -1).transpose(1, 0, 2).reshape(array.shape)
    )


def fixed_batch(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Take one image a call only."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def second_batch_name(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Name the output's batch dimension differently, as tf2onnx does."""
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"


def unused_import(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Import an operator set that nothing needs, as tf2onnx does."""
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


def other_opset(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Ask for a newer operator set than was agreed."""
    model.opset_import[0].version += 1


def gemm(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Fuse the first MatMul and Add into a Gemm: the same function, which fewer runtimes read."""
    nodes = list(model.graph.node)
    fused = helper.make_node("Gemm", ["image", "hidden_kernel", "hidden_bias"], nodes[1].output)
    del model.graph.node[:]
    model.graph.node.extend([fused, *nodes[2:]])


def stale(others: Iterator[list[np.ndarray]]) -> Mutate:
    """Make a mutation that puts in the weights of a network trained from another seed."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        for tensor, weight in zip(model.graph.initializer, next(others), strict=True):
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))

    return mutate


def rounded(dtype: type[np.floating]) -> Mutate:
    """Make a mutation that rounds all weights to a shorter type and back."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor).astype(dtype).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return mutate


def mutations(others: Iterator[list[np.ndarray]]) -> list[Mutation]:
    """List all ways to break a model; `others` gives weights of other seeds."""
    kernel, bias = "hidden_kernel", "hidden_bias"
    kernel_2, bias_2 = "probabilities_kernel", "probabilities_bias"
    return [
        Mutation("one weight's sign", 250, one_value(flip_sign)),
        Mutation("one weight zeroed", 150, one_value(zero)),
        Mutation("one weight moved by one ulp", 250, one_value(one_ulp)),
        Mutation("one bit of one weight", 150, one_value(one_bit)),
        Mutation("two rows of the hidden kernel swapped", 60, edit(kernel, swap_rows)),
        Mutation("two rows of the output kernel swapped", 60, edit(kernel_2, swap_rows)),
        Mutation("two hidden units swapped, same function", 40, swap_units),
        Mutation("a stale model, from another seed", HEALTHY_SEEDS, stale(others)),
        Mutation("hidden bias left out", 1, drop_node(1)),
        Mutation("output bias left out", 1, drop_node(4)),
        Mutation("hidden bias zeroed", 1, edit(bias, lambda array, rng: array * 0)),
        Mutation("output bias zeroed", 1, edit(bias_2, lambda array, rng: array * 0)),
        Mutation("/256 as an operator", 1, multiply_input(255 / 256)),
        Mutation(
            "/256 folded into the kernel",
            1,
            edit(kernel, lambda array, rng: array * np.float32(255 / 256)),
        ),
        Mutation("/255 twice", 1, multiply_input(1 / 255)),
        Mutation("image transposed", 1, edit(kernel, transpose_image)),
        Mutation("image upside down", 1, edit(kernel, lambda array, rng: array[::-1].copy())),
        Mutation("relu -> leaky relu", 1, replace_operator(2, "LeakyRelu", alpha=0.01)),
        Mutation("relu -> elu", 1, replace_operator(2, "Elu", alpha=1.0)),
        Mutation("relu left out", 1, drop_node(2)),
        Mutation("softmax over the batch", 1, replace_operator(5, "Softmax", axis=0)),
        Mutation("softmax -> log softmax", 1, replace_operator(5, "LogSoftmax", axis=-1)),
        Mutation("softmax -> sigmoid", 1, replace_operator(5, "Sigmoid")),
        Mutation("weights rounded to float16", 1, rounded(np.float16)),
        Mutation("MatMul + Add -> Gemm, same function", 1, gemm),
        Mutation("batch size fixed at 1", 1, fixed_batch),
        Mutation("batch dimension named twice", 1, second_batch_name),
        Mutation("an import that nothing needs", 1, unused_import),
        Mutation("a newer opset", 1, other_opset),
    ]


def usual_check(model: onnx.ModelProto, evidence: Evidence, rng: np.random.Generator) -> bool:
    """Tell whether the check that tutorials show notices: random rows, rtol 1e-3, atol 1e-5."""
    from fashion_mlp.proof.reference import bounds

    images = rng.random((USUAL_ROWS, len(evidence.weights.hidden_kernel)), dtype=np.float32)
    expected = bounds(evidence.weights, evidence.activation, images).probabilities
    try:
        np.testing.assert_allclose(
            onnxruntime_predict(model)(images, USUAL_ROWS), expected, rtol=1e-3, atol=1e-5
        )
    except (AssertionError, ValueError):
        return True
    return False


def noticed(model: onnx.ModelProto, evidence: Evidence) -> list[str]:
    """Name the levels that refuse a model."""
    names, candidate = [], Candidate(model)
    for name, level in LEVELS.items():
        try:
            level(candidate, evidence)
        except ValueError:
            names.append(name)
    return names


def run_mutations(
    model: onnx.ModelProto, evidence: Evidence, kinds: list[Mutation]
) -> tuple[list[str], list[str]]:
    """Break the model in every way.

    Returns:
        The lines of the Markdown table, and the mutants that no level noticed.
    """
    rng = np.random.default_rng(SEED)
    columns = [*LEVELS, "any level", "usual check"]
    lines = [
        "| mutation | models | " + " | ".join(columns) + " |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    total: Counter[str] = Counter()
    missed = []
    with progress("mutations", sum(kind.models for kind in kinds), "models") as bar:
        for kind in kinds:
            caught: Counter[str] = Counter()
            for number in range(kind.models):
                mutant = onnx.ModelProto()
                mutant.CopyFrom(model)
                kind.mutate(mutant, rng)
                names = noticed(mutant, evidence)
                caught.update(names)
                caught["any level"] += bool(names)
                caught["usual check"] += usual_check(mutant, evidence, rng)
                if not names:
                    missed.append(f"{kind.name}, number {number}")
                bar.update()
            total += caught
            counts = " | ".join(str(caught[column]) for column in columns)
            lines.append(f"| {kind.name} | {kind.models} | {counts} |")
    counts = " | ".join(f"**{total[column]:,}**" for column in columns)
    lines.append(f"| **all** | **{sum(kind.models for kind in kinds):,}** | {counts} |")
    return lines, missed


def main() -> int:
    """Train the healthy models, prove them, break the model, print the table."""
    began = time.perf_counter()
    params = load_params()
    sizes = (params.dataset.pixels, len(params.dataset.classes.en))
    splits = {name: load_split(name, *sizes) for name in ("train", "test")}
    engine.start()

    import keras
    import onnxruntime

    from fashion_mlp.network.model import build_network, load_network

    form = (params.export.opset, params.export.ir_version)
    everything = {name: split.images for name, split in splits.items()}
    train = params.train.model_copy(update={"epochs": HEALTHY_EPOCHS})
    nothing = Split(splits["train"].images[:0], splits["train"].labels[:0])
    healthy: list[list[np.ndarray]] = []
    alarms = []
    with progress("healthy models", HEALTHY_SEEDS, "models") as bar:
        for seed in range(1, HEALTHY_SEEDS + 1):
            settings = train.model_copy(update={"seed": train.seed + seed})
            learner, _ = learn(settings, splits["train"], nothing, [])
            network = build_network(*network_shape(settings, splits["train"]))
            network.set_weights(learner.get_weights())
            healthy.append(network.get_weights())
            try:
                evidence, _ = gather(network, everything, *form, params.export.tolerance, [7, 1000])
                prove(Candidate(convert(network, *form)), evidence, lambda line: None)
            except ValueError as error:
                alarms.append(f"seed {settings.seed}: {error}")
            keras.backend.clear_session()
            bar.update()
    network = load_network(MODEL)
    test = {"test": np.asarray(splits["test"].images)}
    evidence, _ = gather(network, test, *form, params.export.tolerance, [100])
    lines, missed = run_mutations(convert(network, *form), evidence, mutations(iter(healthy)))
    print("\n".join(lines))
    first, last = train.seed + 1, train.seed + HEALTHY_SEEDS
    print(
        f"\n{HEALTHY_SEEDS} healthy models, seeds {first} to {last}, "
        f"{HEALTHY_EPOCHS} epochs each, all {sum(map(len, everything.values())):,} images: "
        f"{len(alarms)} false alarms."
    )
    print(
        f"{processor()}; onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"Keras {keras.__version__}; mutations on {len(test['test']):,} test images; "
        f"seed {SEED}; {time.perf_counter() - began:.0f} s."
    )
    for line in [*(f"missed: {name}" for name in missed), *(f"false alarm: {a}" for a in alarms)]:
        print(f"mutations: {line}", file=sys.stderr)
    return 1 if missed or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
