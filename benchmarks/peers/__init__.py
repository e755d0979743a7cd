"""Ways to train the paper's network, a process each: see `turns`."""
