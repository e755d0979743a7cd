"""The data set: its raw format, and the prepared arrays."""
