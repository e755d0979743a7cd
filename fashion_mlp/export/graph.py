"""The ONNX graphs: plain, and with the preprocessing inside.

The form that most runtimes read: MatMul, Add, activation, …, Softmax; one symbolic batch dimension
`N`; names that say what things are; no imports that are not used. It is written from the layers
themselves: a converter's output (`converted`) drops an Add whose bias is zero, merges equal
biases, and numbers its names by a counter of the process. It has to give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fashion_mlp.data.arrays import MAX_PIXEL

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer

OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}


def plain_graph(layers: Sequence[Layer], opset: int, ir_version: int) -> onnx.ModelProto:
    """Write the faithful model: image float32 [N, pixels] -> probabilities float32 [N, classes].

    The last of the layers has softmax; `opset` is the version of the operators, `ir_version` that
    of the file format.
    """
    nodes, initializers, value = [], [], "image"
    for number, layer in enumerate(layers, start=1):
        name = f"dense_{number}"
        initializers += [
            numpy_helper.from_array(layer.kernel, f"{name}_kernel"),
            numpy_helper.from_array(layer.bias, f"{name}_bias"),
        ]
        result = "probabilities" if layer is layers[-1] else f"{name}_{layer.activation}"
        for operator, inputs, output in (
            ("MatMul", [value, f"{name}_kernel"], f"{name}_matmul"),
            ("Add", [f"{name}_matmul", f"{name}_bias"], f"{name}_add"),
            (OPERATORS[layer.activation], [f"{name}_add"], result),
        ):
            nodes.append(helper.make_node(operator, inputs, [output], name=output))
        value = result
    info = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes,
            "fashion_mlp",
            [info("image", TensorProto.FLOAT, ["N", len(layers[0].kernel)])],
            [info("probabilities", TensorProto.FLOAT, ["N", len(layers[-1].bias)])],
            initializers,
        ),
        producer_name="fashion-mlp",
        ir_version=ir_version,
        opset_imports=[helper.make_opsetid("", opset)],
    )


def uint8_graph(plain: onnx.ModelProto) -> onnx.ModelProto:
    """Put the preprocessing in front of `plain_graph`: image uint8 [N, pixels], bytes.

    Cast, then a true division by 255: as a multiplication by 1/255 it would round otherwise.
    """
    result = onnx.ModelProto()
    result.CopyFrom(plain)
    graph = result.graph
    graph.name = "fashion_mlp_uint8"
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph.initializer.append(numpy_helper.from_array(np.array(MAX_PIXEL), "max_pixel"))
    graph.node[0].input[0] = "scaled"
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "pixels", to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "max_pixel"], ["scaled"], "scaled"),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def converted(network: keras.Model, opset: int) -> onnx.ModelProto:
    """Convert a Keras model by tf2onnx.

    Args:
        network: maps float32 (n, pixels) to float32 (n, classes).
        opset: version of the operator set.
    """
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, network.input_shape[1]), tf.float32, name="image")]
    forward = tf.function(
        lambda image: {"probabilities": network(image, training=False)}, input_signature=signature
    )
    # from_function, as from_keras fails on a Keras 3 Sequential.
    model, _ = tf2onnx.convert.from_function(forward, input_signature=signature, opset=opset)
    return model
