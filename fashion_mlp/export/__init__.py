"""The ONNX files: the forms of the graph, and what is written into them."""
