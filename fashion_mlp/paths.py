"""Where files lie that more than one stage knows."""

from __future__ import annotations

from pathlib import Path

RAW = Path("data/raw")
PREPARED = Path("data/prepared")
MODEL = Path("models/fashion_mlp.keras")
HISTORY = Path("plots/history.csv")
