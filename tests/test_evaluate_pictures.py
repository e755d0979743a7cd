"""What stage evaluate computes for the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fashion_mlp.data.arrays import Split
from stages.evaluate import calibration, class_averages, read_history
from stages.train import history_csv


def test_read_history_reads_what_train_writes(tmp_path: Path) -> None:
    history = {"loss": [1.5, 0.5], "accuracy": [0.25, 0.75], "val_loss": [2.0, 1.0]}
    (tmp_path / "history.csv").write_text(history_csv(history))
    assert read_history(tmp_path / "history.csv") == history


@pytest.mark.parametrize("text", ["", "epoch,loss,accuracy\n", "epoch,loss\n1,2\n", "a,b\n1\n"])
def test_read_history_says_what_it_expected(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv: expected a table .* --force train"):
        read_history(tmp_path / "history.csv")


def test_class_averages_match_float64_and_are_0_where_a_class_has_no_image() -> None:
    images = np.random.default_rng(1).integers(0, 256, (50, 6)).astype(np.float32) / np.float32(255)
    labels = np.arange(50) % 2
    means = class_averages(Split(images, np.eye(3, dtype=np.float32)[labels]), (2, 3))
    assert means.shape == (3, 2, 3)
    expected = images[labels == 1].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(means[1].ravel(), expected, atol=1e-7)
    assert not means[2].any()


def test_calibration_bins_hold_each_image_once() -> None:
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.25, 0.75], [1, 0]], np.float32)
    bins = calibration(probabilities, np.array([0, 1, 1, 0]), bins=5)
    assert bins.images.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(bins.confidence[[2, 4]], [0.5, 0.95])
