"""The proof that an ONNX file computes what the Keras model computes."""
