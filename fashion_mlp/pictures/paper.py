"""The paper's own numbers, in one place: what is drawn and written beside ours.

Source: the article "Распознавание изображений на примере предметов одежды с помощью нейронной
сети". Figures are named by its numbers.
"""

from __future__ import annotations

from typing import NamedTuple

TITLE = "Распознавание изображений на примере предметов одежды с помощью нейронной сети"
DATASET = "Fashion-MNIST"  # `dataset.name`; beside other data its numbers mean nothing


class Epoch(NamedTuple):
    """A line of the paper's training log."""

    epoch: int
    loss: float
    accuracy: float


# Figure 8: the end of the log, measured on the training images while the weights still move.
LAST_EPOCHS = (
    Epoch(93, 0.3110, 0.8916),
    Epoch(94, 0.3101, 0.8924),
    Epoch(95, 0.3091, 0.8924),
    Epoch(96, 0.3085, 0.8927),
    Epoch(97, 0.3073, 0.8927),
    Epoch(98, 0.3066, 0.8939),
    Epoch(99, 0.3058, 0.8932),
    Epoch(100, 0.3051, 0.8936),
)
LOSS = "categorical_crossentropy"  # what its losses are

# Figure 9: what its network makes of training image 0, by class number; other classes: not given.
IMAGE_0 = {9: 0.99906272, 7: 7.9e-4}

# Figure 11: the class that its network names, by number of the training image.
EXAMPLES = {0: 9, 156: 8, 988: 0}

# Its text: "over 98 %" of the answers are correct. Its own log, above, ends at 89.36 %.
CLAIMED_ACCURACY = 0.98
