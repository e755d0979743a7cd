from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.sweep import draw, positions, read_sweep

CSV = """Experiment,typ,validation_accuracy,train.epochs,train.optimizer.name,train.seed,stages/x.py
,baseline,0.9,100,SGD,42,a
one,branch_commit,0.5,2,SGD,42,b
two,branch_commit,0.75,10,Adam,42,c
failed,branch_base,,20,Adam,7,c
"""


def test_read_sweep_takes_what_differs_between_experiments_that_have_the_metric() -> None:
    names, rows = read_sweep(CSV, "validation_accuracy")
    assert names == ["train.epochs", "train.optimizer.name"]
    assert [row["Experiment"] for row in rows] == ["one", "two"]


def test_read_sweep_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"or more with validation_los .* got 0; docs/"):
        read_sweep(CSV, "validation_los")
    with pytest.raises(ValueError, match=r"or more with validation_accuracy .* got 1; docs/"):
        read_sweep("\n".join(CSV.splitlines()[:3]), "validation_accuracy")


def test_positions_orders_numbers_by_value_and_names_by_letter() -> None:
    places, labels = positions(["10", "2", "1e2", "2"])
    assert np.array_equal(places, [0.5, 0.0, 1.0, 0.0])
    assert labels == {0.0: "2", 0.5: "10", 1.0: "1e2"}
    places, labels = positions(["SGD", "Adam"])
    assert np.array_equal(places, [1.0, 0.0])
    assert labels == {0.0: "Adam", 1.0: "SGD"}


def test_draw_writes_a_picture_that_depends_on_the_experiments_alone(tmp_path: Path) -> None:
    names, rows = read_sweep(CSV, "validation_accuracy")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    draw(paths[0], names, rows, "validation_accuracy")
    draw(paths[1], names, rows, "validation_accuracy")
    draw(paths[2], names, rows[::-1], "validation_accuracy")
    assert paths[0].read_bytes() == paths[1].read_bytes() == paths[2].read_bytes()
    draw(paths[2], names, [rows[0], rows[1] | {"validation_accuracy": "0.6"}], "train.epochs")
    assert paths[0].read_bytes() != paths[2].read_bytes()
    assert Image.open(paths[0]).size == (1056, 504)
