"""The network: TensorFlow started, the model built, saved, read and run."""
