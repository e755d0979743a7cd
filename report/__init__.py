"""A run to look at: one HTML file, curves as it goes, sweeps. The pipeline does not need it."""
