"""scikit-learn's MLPClassifier: `partial_fit`, which is one epoch; it reports no accuracy."""

from __future__ import annotations

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from benchmarks.baselines.turns import BATCH, HIDDEN, RATE, Turns, load


def main() -> None:
    """Take turns."""
    images, one_hot = load()
    labels = one_hot.argmax(axis=1)
    network = MLPClassifier(
        (HIDDEN,),
        solver="sgd",
        alpha=0,
        batch_size=BATCH,
        learning_rate_init=RATE,
        momentum=0,
        random_state=np.random.RandomState(42),  # a number would shuffle each epoch alike
    )

    def epoch() -> tuple[float, None]:
        network.partial_fit(images, labels, classes=np.arange(one_hot.shape[1]))
        return float(network.loss_), None

    Turns(f"scikit-learn {sklearn.__version__}").take(epoch)


if __name__ == "__main__":
    main()
