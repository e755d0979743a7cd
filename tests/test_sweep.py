import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from PIL import Image

from pipeline.environment import ROOT
from pipeline.params import check_params
from report.sweep import draw, picture, positions, quality, read_sweep
from tests.conftest import paper_values

CSV = """Experiment,typ,validation_accuracy,validation_loss,train.epochs,train.activation,seed,x.py
,baseline,0.9,0.3,100,SGD,42,a
one,branch_commit,0.5,1.5,2,SGD,42,b
two,branch_commit,0.75,0.5,10,Adam,42,c
failed,branch_base,,,20,Adam,7,c
"""


def test_read_sweep_takes_what_differs_between_experiments_that_have_the_metric() -> None:
    names, rows = read_sweep(CSV, "validation_accuracy")
    assert names == ["train.epochs", "train.activation"]
    assert [row["Experiment"] for row in rows] == ["one", "two"]


def test_read_sweep_names_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"experiments with validation_los .* got 0; see docs/"):
        read_sweep(CSV, "validation_los")
    with pytest.raises(ValueError, match=r"with validation_accuracy .* got 1; see docs/"):
        read_sweep("\n".join(CSV.splitlines()[:3]), "validation_accuracy")


def test_positions_orders_numbers_and_lists_by_value_and_names_by_letter() -> None:
    places, labels = positions(["10", "2", "1e2", "2"])
    assert np.array_equal(places, [0.5, 0.0, 1.0, 0.0])
    assert labels == {0.0: "2", 0.5: "10", 1.0: "1e2"}
    assert positions(["[1000, 5]", "[]", "[200]"])[1] == {0.0: "[]", 0.5: "[200]", 1.0: "[1000, 5]"}
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


def test_draw_gives_the_best_experiment_the_darkest_line_for_either_kind_of_metric(
    tmp_path: Path,
) -> None:
    # Experiment two is the better one by both metrics, so all lines are where they were.
    names, rows = read_sweep(CSV, "validation_accuracy")
    images = []
    for metric in ("validation_accuracy", "validation_loss"):
        draw(tmp_path / "sweep.png", names, rows, metric)
        images.append(np.asarray(Image.open(tmp_path / "sweep.png").convert("RGB")))
    accuracy, loss = (image[:400, :600] for image in images)  # left of the metric's own labels
    assert (accuracy == loss).all()
    assert list(quality(np.array([0.1, 0.2, 0.5]), "validation_accuracy"))[::2] == [0, 1]


def test_only_the_default_metric_writes_the_committed_picture() -> None:
    assert picture("validation_accuracy") == Path("docs/sweep.png")
    assert picture("validation_loss") == Path("sweep-validation_loss.png")
    assert picture("metrics/train.json:x") == Path("sweep-metrics-train.json-x.png")


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
