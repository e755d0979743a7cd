"""What the Makefile's targets do. Runs before anything is installed: the standard library alone.

Two modules run inside .venv, where packages are: `repair` and `presets`.
"""
