"""Which part of a volume a model of volumes looks at, and three slices through it.

    python examples/explain_volume.py [--samples 512] [--plot volume.png]

The volume, 1 x 48 x 48 x 48, is made here: a soft ball, a rod, and noise. The model, a filter of
three dimensions, scores how much of a ball there is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional

import fwdgrad

SIDE, BALL = 48, (14, 30, 33)  # and where the ball's centre is


def volume() -> torch.Tensor:
    """(1, 48, 48, 48), in 0 .. 1."""
    at = torch.stack(torch.meshgrid(*[torch.arange(float(SIDE))] * 3, indexing="ij"))
    centre = torch.tensor(BALL)[:, None, None, None]
    ball = torch.sigmoid(6 - (at - centre).square().sum(0).sqrt())
    rod = torch.sigmoid(3 - ((at[1] - 12).square() + (at[2] - 12).square()).sqrt())
    noise = 0.05 * torch.rand(SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return (0.9 * torch.maximum(ball, 0.8 * rod) + noise).clamp(0, 1)[None]


def roundness(batch: torch.Tensor) -> torch.Tensor:
    """(batch,): the strongest answer of a filter that is a ball of radius 6 within nothing."""
    at = torch.stack(torch.meshgrid(*[torch.arange(-9.0, 10)] * 3, indexing="ij"))
    inside = (at.square().sum(0).sqrt() < 6).float()
    around = 1 - inside
    kernel = inside / inside.sum() - around / around.sum()
    answers = functional.conv3d(batch, kernel[None, None], stride=3)
    return answers.flatten(1).amax(1)


def main(arguments: list[str] | None = None) -> None:
    """Explains the volume and says where the map's peak is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--plot", type=Path, help="where to draw the slices, a PNG")
    given = parser.parse_args(arguments)
    found = fwdgrad.explain(
        roundness, volume(), method=fwdgrad.Regions("black", axes=3), n_samples=given.samples
    )
    peak = torch.unravel_index(found.attribution[0].argmax(), (SIDE,) * 3)
    size, sure = found.method.cell, found.reliability
    print(f"score {found.score:.2f}, cells of {size}, reliability {sure:.2f}")
    print(f"peak at {tuple(int(i) for i in peak)}, the ball's centre is {BALL}")
    if given.plot is not None:
        found.plot().figure.savefig(given.plot)


if __name__ == "__main__":
    main()
