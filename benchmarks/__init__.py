"""Speed and memory, side by side with peers; the pipeline does not need it."""
