"""FG equation 9: is the variance of the blockwise estimate below that of the plain one?

The variance of a single sample's estimate is measured with blocks of several sizes. The paper
compares at as many noisy values of every number, n q: a blockwise run then has 1 / q times the
calls.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import torch
from blockwise import TOGETHER, network_of, picture, predicted, vanilla
from common import cached, data, estimate, parse_arguments, write_table
from torch import Tensor
from torch.nn.functional import cross_entropy

from fwdgrad_kernels import NoiseSpec, accumulate_, perturb

BLOCKS = (224, 180, 103, 64)  # pixels; 224 is no block
SIGMAS = (0.02, 0.5)
SAMPLES = 600


def spec_of(block: int, sigma: float, seed: int = 0) -> NoiseSpec:
    shape = (3, data.SIZE, data.SIZE)
    return NoiseSpec(shape, scale=sigma, block=None if block == data.SIZE else block, seed=seed)


def losses(network: str, photo: str, spec: NoiseSpec, samples: int) -> Tensor:
    """The cross-entropy of samples, (samples,)."""
    model, target = network_of(network).scores, predicted(network, photo)
    found = []
    for first in range(0, samples, TOGETHER):
        outputs = model(perturb(picture(photo), spec, first, min(TOGETHER, samples - first)))
        targets = torch.full((len(outputs),), target)
        found.append(cross_entropy(outputs, targets, reduction="none"))
    return torch.cat(found)


def variance(weights: Tensor, spec: NoiseSpec) -> float:
    """Of a single sample's estimate, the mean over its numbers."""
    total, squares = torch.zeros(spec.shape), torch.zeros(spec.shape)
    accumulate_(total, weights.float(), spec, 0, square=squares)
    n = len(weights)
    spread = squares.double() / n - (total.double() / n).square()
    assert isinstance(spec.scale, float)
    return float(spread.mean()) * n / (n - 1) / (spec.coverage * spec.scale) ** 2


def measured(network: str, photo: str, block: int, sigma: float, samples: int) -> dict[str, float]:
    """Variances of a photo's plain estimate and of the one without the score's constant part."""
    spec = spec_of(block, sigma)
    found = losses(network, photo, spec, samples)
    clean = float(losses(network, photo, spec_of(block, 0.0), 1))
    return {
        "plain": variance(found, spec),
        "control": variance(found - clean, spec),
        "score": clean**2 / sigma**2,
        "gradient": float(vanilla(network, photo).square().sum()),
    }


def middle(values: Sequence[float]) -> str:
    """The median, and from where to where."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f} – {max(values):.2f})"


def main() -> None:
    options = parse_arguments(__doc__)
    estimate("3 minutes on one idle thread; goes on where it was")
    network, photos = next(iter(data.NETWORKS)), tuple(data.PHOTOS)
    blocks, sigmas, samples = BLOCKS, SIGMAS, SAMPLES
    if options.quick:
        network, photos = "SqueezeNet 1.1", ("coffee",)
        blocks, sigmas, samples = (224, 103), (0.02,), 20
    rows = []
    for sigma in sigmas:
        whole: list[dict[str, float]] = []
        for block in blocks:
            cells = []
            for photo in photos:
                key = {"experiment": "fg_equation9", "network": network, "photo": photo}
                key |= {"block": block, "sigma": sigma, "samples": samples}
                call = functools.partial(measured, network, photo, block, sigma, samples)
                cells.append(cached(key, call))
            whole = whole or cells
            q = spec_of(block, sigma).coverage
            told = [(c["score"] + q * c["gradient"]) / (c["score"] + c["gradient"]) for c in cells]
            pairs = list(zip(cells, whole, strict=True))
            plain, control = ([c[n] / w[n] for c, w in pairs] for n in ("plain", "control"))
            rows.append(
                (
                    sigma,
                    "all" if block == data.SIZE else f"{block} x {block}",
                    f"{q:.3f}",
                    middle([q * ratio for ratio in plain]),
                    middle(told),
                    middle([q * ratio for ratio in control]),
                    f"{q:.2f}",
                    middle(plain),
                    middle(control),
                )
            )
    write_table(
        "fg_equation9",
        "FG equation 9: variance with blocks, over the variance without",
        "python benchmarks/papers/fg_equation9.py",
        (
            "sigma",
            "block",
            "q",
            "plain, equal n q",
            "– equation 25",
            "less the clean score, equal n q",
            "– equation 25",
            "plain, equal calls",
            "less the clean score, equal calls",
        ),
        rows,
        [
            f"{network}, {len(photos)} photos, cross-entropy of the predicted class, {samples} "
            "samples, seed 0. The mean variance of the 150,528 numbers, as a ratio to the run "
            "without blocks: the median photo (the least – the largest). Equal n q: as many noisy "
            "values of every number, so 1 / q times the calls; equal calls: the same n. Equation "
            "25 as a ratio: (f^2 / sigma^2 + q |g|^2) / (f^2 / sigma^2 + |g|^2), with f the score "
            "at the photo and g its gradient; q where f is taken off. It takes f for linear within "
            "the noise.",
            COMMENT,
        ],
    )


COMMENT = (
    "Where the noise is small and the score's constant part is taken off, the variance falls "
    "to about q, as equation 25 says. The plain estimate's does not follow it: it is two "
    "thirds in the median, but larger with blocks for three photos of seven, against equation "
    "9, which takes f for linear. These are the photos whose loss falls under small noise all "
    "over; where that raises the loss, blocks gain by it. What falls at equal n q costs 1 / q "
    "times the calls: at equal calls blocks make the plain variance several times larger, and "
    "leave it at 0.7 to 1.2 without the constant part. Where the noise is as large as in FG "
    "table 2 blocks win at equal calls too (in the median), but then the two estimate "
    "different things: noise all over the picture leaves little of it, a noisy block leaves "
    "the rest."
)

if __name__ == "__main__":
    main()
