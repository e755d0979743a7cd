"""Preset `fastest` by three libraries: `python -m benchmarks.baselines.one_epoch Keras 1`.

Trains once, with that seed, and prints the seconds and the test accuracy.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

BATCH, RATE, MOMENTUM, HIDDEN = 200, 0.2, 0.8, 800  # presets/fastest.yaml; a test holds them to it


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read float32 images (n, pixels), standardized as the stage does, and class numbers (n,)."""
    images, train = (
        np.load(f"data/prepared/{name}_images.npy", allow_pickle=False) for name in (split, "train")
    )
    scaled = (images - train.mean(axis=0)) / np.sqrt(train.var(axis=0) + 0.1**2)
    labels = np.load(f"data/prepared/{split}_labels.npy", allow_pickle=False)
    return scaled, labels.argmax(axis=1)


def stage_train(seed: int) -> tuple[float, float]:
    """Train with the stage's loop; return seconds, compilation included, and the test accuracy."""
    from fashion_mlp.data.arrays import load_split
    from fashion_mlp.network import engine

    engine.start()
    from fashion_mlp.network.model import build_network, predict, set_layers
    from fashion_mlp.training.loop import fit
    from pipeline.params import Train

    config = {"learning_rate": RATE, "momentum": MOMENTUM}
    params = Train.model_validate(
        {"epochs": 1, "seed": seed, "standardize": True, "learning_rate_schedule": "cosine"}
        | {"optimizer": {"class_name": "SGD", "config": config}}
    )
    train, test, none = (load_split(name, 784, 10) for name in ("train", "test", "validation"))
    start = time.perf_counter()
    layers, _ = fit(params, train, none, (28, 28))
    seconds = time.perf_counter() - start
    network = build_network(784, [HIDDEN], "relu", 10)
    set_layers(network, layers)
    right = predict(network, test.images).argmax(axis=1) == test.labels.argmax(axis=1)
    return seconds, float(right.mean())


def keras_fit(seed: int) -> tuple[float, float]:
    """Train with Keras' `fit`, many batches a call; return as `stage_train` does."""
    os.environ.update({"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"})
    import keras

    keras.utils.set_random_seed(seed)
    (images, labels), (test, wanted) = load("train"), load("test")
    dense = keras.layers.Dense
    network = keras.Sequential([dense(HIDDEN, activation="relu"), dense(10, activation="softmax")])
    rate = keras.optimizers.schedules.CosineDecay(RATE, len(images) // BATCH)
    optimizer = keras.optimizers.SGD(rate, momentum=MOMENTUM)
    network.compile(optimizer, "sparse_categorical_crossentropy", steps_per_execution=100)
    start = time.perf_counter()
    network.fit(images, labels, BATCH, verbose=0)
    seconds = time.perf_counter() - start
    return seconds, float((network.predict(test, verbose=0).argmax(axis=1) == wanted).mean())


def pytorch_loop(seed: int) -> tuple[float, float]:
    """Train with a plain loop; return as `stage_train` does."""
    import torch

    torch.manual_seed(seed)
    (images, labels), (test, wanted) = (map(torch.from_numpy, load(s)) for s in ("train", "test"))
    network = torch.nn.Sequential(
        torch.nn.Linear(784, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10)
    )
    optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(images) // BATCH)
    start = time.perf_counter()
    for rows in torch.randperm(len(images)).split(BATCH):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    return seconds, float((network(test).argmax(dim=1) == wanted).float().mean())


LIBRARIES = {"stage train": stage_train, "Keras": keras_fit, "PyTorch": pytorch_loop}

if __name__ == "__main__":
    train = LIBRARIES[sys.argv[1]]
    took, accuracy = train(int(sys.argv[2]))
    print(json.dumps({"seconds": took, "accuracy": accuracy}))
