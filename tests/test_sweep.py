import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from PIL import Image

from pipeline.environment import ROOT
from pipeline.params import check_params
from report.sweep import draw, positions, read_sweep
from tests.conftest import paper_values

CSV = """Experiment,typ,validation_accuracy,validation_loss,train.epochs,train.activation,seed,x.py
,baseline,0.9,0.3,100,SGD,42,a
one,branch_commit,0.5,1.5,2,SGD,42,b
two,branch_commit,0.75,0.5,10,Adam,42,c
failed,branch_base,,,20,Adam,7,c
"""


def test_read_sweep_takes_what_differs_between_experiments_that_have_the_metric() -> None:
    names, rows = read_sweep(CSV)
    assert names == ["train.epochs", "train.activation"]
    assert [row["Experiment"] for row in rows] == ["one", "two"]
    with pytest.raises(ValueError, match=r"with validation_accuracy .* got 1; see docs/"):
        read_sweep("\n".join(CSV.splitlines()[:3]))


def test_positions_orders_numbers_and_lists_by_value_and_names_by_letter() -> None:
    places, labels = positions(["10", "2", "1e2", "2"])
    assert np.array_equal(places, [0.5, 0.0, 1.0, 0.0])
    assert labels == {0.0: "2", 0.5: "10", 1.0: "1e2"}
    assert positions(["[1000, 5]", "[]", "[200]"])[1] == {0.0: "[]", 0.5: "[200]", 1.0: "[1000, 5]"}
    places, labels = positions(["SGD", "Adam"])
    assert np.array_equal(places, [1.0, 0.0])
    assert labels == {0.0: "Adam", 1.0: "SGD"}


def test_draw_writes_a_picture_that_depends_on_the_experiments_alone(tmp_path: Path) -> None:
    names, rows = read_sweep(CSV)
    worse = [rows[0], rows[1] | {"validation_accuracy": "0.4"}]  # the other is darkest now
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, of in zip(paths, (rows, rows[::-1], worse), strict=True):
        draw(path, names, of)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert Image.open(paths[0]).size == (1056, 504)


@pytest.mark.parametrize("page", ["docs/experiments.md", "report/page.html"])
def test_parameters_that_a_page_sets_are_those_of_the_schema(page: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (ROOT / page).read_text(encoding="utf-8")
    overrides = re.findall(r"-S ('[^']+'|[^\s`]+=[^\s`]+)", text)
    assert overrides
    for override in overrides:
        for sweep in get_hydra_sweeps({"params.yaml": [override.strip("'")]}):
            params.write_text(yaml.safe_dump(paper_values()))
            apply_overrides(params, sweep["params.yaml"])
            check_params(yaml.safe_load(params.read_text()))
