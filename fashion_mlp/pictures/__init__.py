"""Pictures of a run: style, text, image grids, charts."""
