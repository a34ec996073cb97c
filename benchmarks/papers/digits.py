"""The perceptron on MNIST of AG and AX: 200 and 10 units, by gradient descent in 20 epochs."""

from __future__ import annotations

import functools
from pathlib import Path

import common
import torch
from common import data
from safetensors.torch import load, save

UNITS, CLASSES, RATE, EPOCHS = 200, 10, 0.01, 20
BATCH = 4  # of 4,000 digits: 20,000 steps, about as many as 60,000 digits give in batches of 64
SETTINGS = {"units": UNITS, "rate": RATE, "epochs": EPOCHS, "batch": BATCH}  # for a result's key


def perceptron() -> torch.nn.Sequential:
    """Not trained yet; drawn from torch's generator."""
    first, last = torch.nn.Linear(28 * 28, UNITS), torch.nn.Linear(UNITS, CLASSES)
    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last)


@functools.cache
def trained(seed: int = 0, shift: float = 0.0, epochs: int = EPOCHS) -> torch.nn.Sequential:
    """A perceptron that learnt from digits + shift; kept in the cache.

    Args:
        seed: of the first weights and of the order of the digits.
        shift: added to each pixel, which is in [0, 1].
        epochs: fewer for a quick look.
    """
    name = f"perceptron-{UNITS}-{RATE}-{BATCH}-{epochs}-{seed}-{shift}.safetensors"
    path: Path = data.cache_folder() / "papers" / name
    model = perceptron()
    if path.exists():
        model.load_state_dict(load(path.read_bytes()))
        return model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = perceptron()
        x, y, *_ = data.mnist()
        x = x + shift
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    if common.keeps():
        common.write_whole(path, save(model.state_dict()))
    return model.eval()


@torch.no_grad()
def accuracy(model: torch.nn.Module, shift: float = 0.0) -> float:
    """On the 1,000 digits that it has not seen."""
    *_, x, y = data.mnist()
    return float((model(x + shift).argmax(1) == y).float().mean())
