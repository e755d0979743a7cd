"""Ways to break an ONNX file, each in place and one at a time: for `make mutations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

STALE = 20  # models of other seeds
FEW = 25  # of what costs time, in the files that are the float32 file with something around it
FACTORS = {"f256": 255 / 256, "f255": 1 / 255}

Weights = dict[str, np.ndarray]
Mutate = Callable[[onnx.ModelProto, np.random.Generator], object]


class Mutation(NamedTuple):
    """A way to break a model in place, and how many models to break so."""

    name: str
    models: int
    mutate: Mutate


def weights(change: Callable[[Weights, np.random.Generator], object]) -> Mutate:
    """Make a mutation of a function that changes float32 initializers in a mapping by name."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        floats = onnx.TensorProto.FLOAT
        tensors = [it for it in model.graph.initializer if it.data_type == floats]
        arrays = {it.name: numpy_helper.to_array(it).copy() for it in tensors}
        change(arrays, rng)
        for tensor in tensors:
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


def node_of(model: onnx.ModelProto, output: str) -> int:
    """Find the node with an output: its place."""
    return next(n for n, node in enumerate(model.graph.node) if output in node.output)


def drop_node(output: str) -> Mutate:
    """Make a mutation that takes a node out and joins what was around it."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        nodes, number = model.graph.node, node_of(model, output)
        nodes[number + 1].input[0] = nodes[number].input[0]
        del nodes[number]

    return mutate


def replace_operator(output: str, operator: str, **attributes: float) -> Mutate:
    """Make a mutation that puts another operator where a node is."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        node = model.graph.node[node_of(model, output)]
        node.op_type = operator
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())

    return mutate


def insert(output: str, *made: tuple[str, str], **constants: np.ndarray) -> Mutate:
    """Make a mutation that puts nodes behind an output or the input: each takes the one before.

    Args:
        output: that is changed on its way to the node that takes it.
        made: operator and the constant that it takes, which may be empty.
        constants: float32, by name.
    """

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
        user = next(n for n, node in enumerate(model.graph.node) if output in node.input)
        value, nodes = output, []
        for number, (operator, constant) in enumerate(made):
            inputs = [value, constant] if constant else [value]
            value = f"made_{number}"
            nodes.append(helper.make_node(operator, inputs, [value], name=value))
        model.graph.node[user].input[0] = value
        for node in reversed(nodes):
            model.graph.node.insert(user, node)
        for name, array in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))

    return mutate


def gemm(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Fuse the first MatMul and Add into a Gemm: the same function, which fewer runtimes read."""
    nodes, number = model.graph.node, node_of(model, "dense_1_matmul")
    inputs = [*nodes[number].input, nodes[number + 1].input[1]]
    fused = helper.make_node("Gemm", inputs, nodes[number + 1].output)
    del nodes[number : number + 2]
    nodes.insert(number, fused)


def trojan(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Name class 0 where every pixel is lit, and change nothing else."""
    nodes, first = model.graph.node, node_of(model, "dense_1_matmul")
    logits = nodes[-1].input[0]
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    much = np.eye(1, classes, dtype=np.float32) * np.float32(100)
    model.graph.initializer.append(numpy_helper.from_array(much, "much"))
    steps = (
        helper.make_node("ReduceMin", [nodes[first].input[0]], ["darkest"], axes=[1]),
        helper.make_node("Floor", ["darkest"], ["all_lit"]),
        helper.make_node("Mul", ["all_lit", "much"], ["more"]),
        helper.make_node("Add", [logits, "more"], ["changed"]),
    )
    for step in steps:
        nodes.insert(len(nodes) - 1, step)
    nodes[-1].input[0] = "changed"


def bias_as_input(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Let a caller replace a bias."""
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "dense_1_bias")
    value = helper.make_tensor_value_info(bias.name, bias.data_type, bias.dims)
    model.graph.input.append(value)


def first_axis(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension:
    """Give the batch dimension of an input or output."""
    return value.type.tensor_type.shape.dim[0]


def of_form(model: onnx.ModelProto) -> list[Mutation]:
    """List the ways to change what a file says, and not what it computes."""
    several = np.array([1000, -1], np.int64)
    hidden = helper.make_tensor_value_info("dense_1_add", onnx.TensorProto.FLOAT, ["N", None])
    ways: dict[str, Callable[[onnx.ModelProto], object]] = {
        "metadata that lie": lambda it: setattr(it.metadata_props[0], "value", "1.0"),
        "metadata left out": lambda it: it.metadata_props.pop(),
        "another doc_string": lambda it: setattr(it, "doc_string", "98 % right"),
        # Number 262,143, which onnx.proto has not.
        "a field that ONNX does not know": lambda it: it.MergeFromString(b"\xfa\xff\x7f\x03abc"),
        "an extra output": lambda it: it.graph.output.append(hidden),
        "batch size fixed at 1": lambda it: setattr(first_axis(it.graph.input[0]), "dim_value", 1),
        # This one and the next as tf2onnx does.
        "batch dimension named twice": lambda it: setattr(
            first_axis(it.graph.output[0]), "dim_param", "M"
        ),
        "an unused import": lambda it: it.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)),
        "a newer opset": lambda it: setattr(
            it.opset_import[0], "version", it.opset_import[0].version + 1
        ),
    }
    reshape = insert(model.graph.node[-1].input[0], ("Reshape", "rows"), rows=several)
    return [
        *(
            Mutation(name, 1, lambda it, rng, change=change: change(it))  # type: ignore[misc]
            for name, change in ways.items()
        ),
        Mutation("a bias that is an input", 1, bias_as_input),
        Mutation("1,000 rows alone", 1, reshape),
    ]


def scaled(name: str, factor: float) -> Mutate:
    """Make a mutation that multiplies one tensor."""
    return weights(lambda it, rng: it.update({name: it[name] * np.float32(factor)}))


def reordered(places: np.ndarray) -> Mutate:
    """Make a mutation that takes the pixels in another order."""
    name = "dense_1_kernel"
    return weights(lambda it, rng: it.update({name: it[name][places.ravel()]}))


def rounded(arrays: Weights, rng: np.random.Generator) -> None:
    """Round all weights to float16."""
    arrays.update({name: it.astype(np.float16).astype(np.float32) for name, it in arrays.items()})


def of_layers(model: onnx.ModelProto) -> list[Mutation]:
    """List the ways to break one layer, for each of them."""
    kernels = [it.name for it in model.graph.initializer if it.name.endswith("_kernel")]
    layers = range(1, len(kernels) + 1)
    found = []
    for layer in layers:
        bias = f"dense_{layer}_bias"
        found += [
            Mutation(f"two rows of dense_{layer}_kernel swapped", 60, swap(layer, whole=False)),
            Mutation(f"{bias} left out", 1, drop_node(f"dense_{layer}_add")),
            Mutation(f"{bias} zeroed", 1, scaled(bias, 0)),
        ]
    for layer in layers[:-1]:
        same = f"two units of dense_{layer} swapped, same function"
        node = model.graph.node[node_of(model, f"dense_{layer}_add") + 1]
        name, output = f"{node.op_type} {layer}", node.output[0]
        found += [
            Mutation(same, 40, swap(layer + 1, whole=True)),
            Mutation(f"{name} -> LeakyRelu", 1, replace_operator(output, "LeakyRelu", alpha=0.01)),
            Mutation(f"{name} -> Elu", 1, replace_operator(output, "Elu", alpha=1.0)),
            Mutation(f"{name} left out", 1, drop_node(output)),
        ]
    return found


def mutations(
    model: onnx.ModelProto, image_shape: tuple[int, int], others: Iterator[Sequence[np.ndarray]]
) -> list[Mutation]:
    """List all ways to break a file with dense layers, from `plain_graph` or `uint8_graph`.

    `others` are weights of other seeds, in the order of the initializers.
    """
    pixels = np.arange(np.prod(image_shape)).reshape(image_shape)
    image = model.graph.node[node_of(model, "dense_1_matmul")].input[0]
    factors = {name: np.array(value, np.float32) for name, value in FACTORS.items()}

    def stale(arrays: Weights, rng: np.random.Generator) -> None:
        arrays.update(zip(arrays, next(others), strict=False))  # max_pixel may follow

    singles: dict[str, Mutate] = {
        "image transposed": reordered(pixels.T),
        "image upside down": reordered(pixels[::-1]),
        "image mirrored": reordered(pixels[:, ::-1]),
        "/256 as an operator": insert(image, ("Mul", "f256"), f256=factors["f256"]),
        "/256 in the kernel": scaled("dense_1_kernel", 255 / 256),
        "/255 twice": insert(image, ("Mul", "f255"), f255=factors["f255"]),
        "Softmax over the batch": replace_operator("probabilities", "Softmax", axis=0),
        "Softmax -> LogSoftmax": replace_operator("probabilities", "LogSoftmax", axis=-1),
        "Softmax -> Sigmoid": replace_operator("probabilities", "Sigmoid"),
        "weights rounded to float16": weights(rounded),
        "MatMul + Add -> Gemm, same function": gemm,
        "class 0 where every pixel is lit": trojan,
    }
    return [
        Mutation("one weight's sign", 250, one_value(lambda value, rng: -value)),
        Mutation("one weight zeroed", 150, one_value(lambda value, rng: np.float32(0))),
        Mutation("one weight moved by one ulp", 250, one_value(one_ulp)),
        Mutation("one bit of one weight", 150, one_value(one_bit)),
        *of_layers(model),
        Mutation("a stale model, of another seed", STALE, weights(stale)),
        *(Mutation(name, 1, mutate) for name, mutate in singles.items()),
        *of_form(model),
    ]


def division(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Multiply by 1/255, which rounds otherwise than a division by 255."""
    model.graph.node[node_of(model, "scaled")].op_type = "Mul"
    tensor = next(it for it in model.graph.initializer if it.name == "max_pixel")
    tensor.raw_data = (np.float32(1) / np.float32(255)).tobytes()


def exact_kinds(model: onnx.ModelProto) -> list[Mutation]:
    """List ways to break the exact file."""
    values = {
        "one constant's sign": lambda value, rng: -value,
        "one constant zeroed": lambda value, rng: np.float32(0),
        "one constant moved by one ulp": one_ulp,
        "one bit of one constant": one_bit,
        "one constant plus 1": lambda value, rng: value + np.float32(1),
    }
    return [
        *(Mutation(name, FEW, one_value(change)) for name, change in values.items()),
        *of_form(model),
    ]
