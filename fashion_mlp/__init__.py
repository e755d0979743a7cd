"""What decides results: data, network, training, proof, ONNX forms, pictures."""
