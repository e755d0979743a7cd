"""What the Makefile's targets do. Runs before anything is installed: the standard library alone.

Four modules run inside .venv, where packages are: `check`, `dataset`, `presets` and `repair`.
"""
