"""Ways to train the paper's network, each in a process of its own: see `turns`."""
