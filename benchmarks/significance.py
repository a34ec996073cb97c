"""How often is a feature that is told to count one that does not?

    python benchmarks/significance.py    # a minute

Models of which five features matter, drawn by a seed: a sum of them with noise of half a weight in
each answer, and the sigmoid of twice their sum, where they act together. Of the features that
``significant`` tells, at a level of .05, the share that is false; of the five, the share that is
told. Of noisy sums, whose values are known, also how far off values are in standard errors.
The table goes to benchmarks/results/significance.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from peers import RESULTS
from torch import Tensor

import fwdgrad
from fwdgrad import ForwardGradient, Regions
from fwdgrad.files import write_atomically
from fwdgrad.methods import Method

MATTER, MODELS = 5, 60
SAMPLES, FEATURES = (128, 512, 1024), (12, 40, 100)
METHODS: dict[str, Method] = {
    "Regions": Regions(0.0),
    "ForwardGradient, independent": ForwardGradient(
        distribution="rademacher", scale=0.5, baseline=0.0
    ),
}
HEAD = """# Features that are told, and are none

Made by `python benchmarks/significance.py`: {} models each, of which {} features matter; level .05.
Off by: the mean of |value - truth| in standard errors over all features, and the share beyond 1.96
(of a normal error .80 and .05; of Student's t with 3 degrees of freedom 1.10 and .14).

| method | samples | features | sum: false | told | off by | beyond 1.96 | together: false | told |
|---|---|---|---|---|---|---|---|---|
"""


def model_of(features: int, seed: int, together: bool) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A model, and the weights (features,) of its sum."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.zeros(features, dtype=torch.double)
    own = torch.randperm(features, generator=g)[:MATTER]
    weights[own] = torch.where(torch.rand(MATTER, generator=g) < 0.5, -1.0, 1.0).double()

    def model(batch: Tensor) -> Tensor:
        total = batch.double() @ weights
        if together:
            return torch.sigmoid(2 * total)
        return total + 0.5 * torch.randn(len(batch), generator=g).double()

    return model, weights


def row(method: Method, n_samples: int, features: int, models: int) -> list[float]:
    """What a line of the table has."""
    found: list[float] = []
    for together in (False, True):
        false, told, off = [], [], []
        for seed in range(models):
            model, weights = model_of(features, seed, together)
            x = torch.ones(features, dtype=torch.double)
            e = fwdgrad.explain(
                model, x, method=method, objective="output", n_samples=n_samples, seed=seed
            )
            is_told, matters = e.significant(), weights != 0
            right, count = int(is_told[matters].sum()), int(is_told.sum())
            false.append((count - right) / max(1, count))
            told.append(right / MATTER)
            off.append(((e.attribution - weights) / e.standard_error).abs())
        found += [sum(false) / models, sum(told) / models]
        if not together:
            apart = torch.cat(off)
            found += [float(apart.mean()), float((apart > 1.96).double().mean())]
    return found


def main() -> None:
    """Prints and keeps the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", type=int, default=MODELS, help="of each line")
    options = parser.parse_args()
    warnings.simplefilter("ignore", fwdgrad.ReliabilityWarning)
    lines = []
    for name, method in METHODS.items():
        for n_samples in SAMPLES:
            for features in FEATURES:
                numbers = " | ".join(
                    f"{one:.2f}" for one in row(method, n_samples, features, options.models)
                )
                lines.append(f"| {name} | {n_samples:,} | {features} | {numbers} |\n")
                print(lines[-1], end="", flush=True)
    text = HEAD.format(options.models, MATTER) + "".join(lines)
    write_atomically(RESULTS / "significance.md", text.encode())


if __name__ == "__main__":
    main()
