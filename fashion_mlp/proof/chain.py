"""The dense layers of any Keras model, where it is nothing but a chain of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fashion_mlp.proof.reference import ACTIVATIONS

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer

# Layers that change no value when a model predicts; Flatten comes before all dense ones.
WITHOUT_EFFECT = ("InputLayer", "Dropout", "Flatten")


def dense_chain(model: keras.Model) -> list[Layer] | str:
    """Take the dense layers of a model, or say why the rounding bound does not cover it."""
    from fashion_mlp.network.model import Layer

    layers = []
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return "several inputs or outputs"
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in WITHOUT_EFFECT:
            continue
        if kind != "Dense" or len(layer.weights) != 2 or layer.compute_dtype != "float32":
            return f"it covers float32 dense layers with biases alone, not {layer.name} ({kind})"
        function = layer.activation  # or a layer, such as ReLU()
        name = getattr(function, "__name__", type(function).__name__)
        kernel, bias = layer.get_weights()
        layers.append(Layer(kernel, bias, name))
    if not layers or layers[-1].activation != "softmax":
        return "it covers a last layer with softmax alone"
    unknown = [layer.activation for layer in layers[:-1] if layer.activation not in ACTIVATIONS]
    return f"it does not cover the activation {unknown[0]}" if unknown else layers
