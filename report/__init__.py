"""One HTML file that shows a run: `make report`. The pipeline does not need it."""
