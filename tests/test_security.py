"""Files that try to run code when they are read are refused, and nothing of theirs runs."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fashion_mlp.data.arrays import load_split
from fashion_mlp.network import engine


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_load_split_runs_nothing_of_a_pickled_array(tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    array = np.array([Touch(victim)], dtype=object)
    np.save(tmp_path / "train_images.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=r"train_images\.npy: not a whole \.npy file"):
        load_split("train", 784, 10, tmp_path)
    assert not victim.exists()


def test_load_split_runs_nothing_of_a_bare_pickle(tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    (tmp_path / "train_images.npy").write_bytes(pickle.dumps(Touch(victim)))
    with pytest.raises(ValueError, match=r"train_images\.npy: not a whole \.npy file"):
        load_split("train", 784, 10, tmp_path)
    assert not victim.exists()


def test_load_network_runs_nothing_of_a_lambda(tmp_path: Path) -> None:
    engine.start()
    import keras

    from fashion_mlp.network.model import load_network

    victim, path = tmp_path / "ran", tmp_path / "model.keras"
    name = str(victim)
    layer = keras.layers.Lambda(lambda x: [x, open(name, "w")][0])  # noqa: PTH123, SIM115
    keras.Sequential([keras.Input((4,)), layer]).save(path)
    victim.unlink()  # building the model has run it
    assert zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match=r"model\.keras: not a whole \.keras file"):
        load_network(path)
    assert not victim.exists()
