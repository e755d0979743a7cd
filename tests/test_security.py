"""Files that try to run code when they are read are refused, and nothing of theirs runs."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fashion_mlp.data.arrays import load_split
from fashion_mlp.proof.known import study


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("bare", [False, True])
def test_load_split_runs_nothing_of_a_pickle(bare: bool, tmp_path: Path) -> None:
    victim, path = tmp_path / "ran", tmp_path / "train_images.npy"
    if bare:
        path.write_bytes(pickle.dumps(Touch(victim)))
    else:
        np.save(path, np.array([Touch(victim)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train_images\.npy: not a whole \.npy file"):
        load_split("train", 784, 10, tmp_path)
    assert not victim.exists()
    np.load(path, allow_pickle=True)
    assert victim.exists()  # it was armed


@pytest.mark.parametrize("load", ["load_network", "study"])
def test_no_lambda_of_a_keras_file_is_run(load: str, engine: None, tmp_path: Path) -> None:
    import keras

    from fashion_mlp.network.model import load_network

    victim, path = tmp_path / "ran", tmp_path / "model.keras"
    name = str(victim)
    layer = keras.layers.Lambda(lambda x: [x, open(name, "w")][0])  # noqa: PTH123, SIM115
    keras.Sequential([keras.Input((4,)), layer]).save(path)
    victim.unlink()  # building the model has run it
    with pytest.raises(ValueError, match=r"model\.keras: (not a whole|Keras does not load it in)"):
        load_network(path) if load == "load_network" else study(path, [np.ones((3, 4))])
    assert not victim.exists()
