"""PyTorch, a plain loop: batches are indexed out of tensors, without a DataLoader."""

from __future__ import annotations

import torch

from benchmarks.baselines.turns import BATCH, HIDDEN, RATE, Turns, load


def main() -> None:
    """Take turns."""
    torch.manual_seed(42)
    images, one_hot = map(torch.from_numpy, load())
    labels = one_hot.argmax(dim=1)
    network = torch.nn.Sequential(
        torch.nn.Linear(images.shape[1], HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, one_hot.shape[1]),
    )
    for layer in (network[0], network[2]):  # as in Keras
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    loss_of = torch.nn.CrossEntropyLoss()

    def epoch() -> tuple[float, float]:
        loss, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for rows in torch.randperm(len(images)).split(BATCH):
            logits, targets = network(images[rows]), labels[rows]
            mean = loss_of(logits, targets)
            optimizer.zero_grad()
            mean.backward()
            optimizer.step()
            loss += mean.detach() * len(rows)
            correct += (logits.argmax(dim=1) == targets).sum()
        return float(loss) / len(images), float(correct) / len(images)

    Turns(f"PyTorch {torch.__version__}").take(epoch)


if __name__ == "__main__":
    main()
