"""What DVC runs: one recipe a file, `python -m stages.<name>`."""
