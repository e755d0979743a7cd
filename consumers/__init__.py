"""The model in other runtimes: an example each, and the check that all agree with Keras."""
