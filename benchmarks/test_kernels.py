"""How much faster are the fused kernels than what a person writes in PyTorch?

One micro-batch of 64 samples of a 3x224x224 float32 input: perturb, then sum the weighted scores.
The model's own time is left out. Naive is the textbook way, streamed in the same micro-batches.
"""

from __future__ import annotations

import time
from statistics import median

import pytest
import torch
from torch import Tensor

from fwdgrad_kernels import AdaptiveScale, NoiseSpec, accumulate_, perturb
from fwdgrad_kernels.testing import make_spec

SHAPE, SAMPLES, SIGMA, SIDE = (3, 224, 224), 64, 0.1, 103  # q = (103 / 326)^2 = 0.0998
ELEMENTS = SAMPLES * 3 * 224 * 224

X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
A = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


class Naive:
    """What a person writes: all noise and masks of a micro-batch as tensors."""

    def __init__(self, distribution: str, block: int | None) -> None:
        self.distribution, self.block = distribution, block

    def perturb(self) -> Tensor:
        if self.distribution == "normal":
            z = torch.randn(SAMPLES, *SHAPE)
        else:
            # The fastest of six ways to write it: bernoulli_ takes 2.5 times as long.
            z = torch.randn(SAMPLES, *SHAPE).sign()
        if self.block is not None:
            mask = torch.zeros(SAMPLES, 1, *SHAPE[1:])
            corners = torch.randint(1 - self.block, SHAPE[1], (SAMPLES, 2)).tolist()
            for i, (y, x) in enumerate(corners):
                rows = slice(max(y, 0), y + self.block)
                mask[i, :, rows, max(x, 0) : x + self.block] = 1
            z = mask * z
        self.z = z
        return X + SIGMA * z

    def accumulate(self, total: Tensor, weights: Tensor) -> None:
        total += (weights[:, None, None, None] * self.z).sum(0)


class Fused:
    """The same by two ops and a seed."""

    def __init__(self, distribution: str, block: int | None) -> None:
        self.spec = NoiseSpec(SHAPE, distribution, SIGMA, block, seed=1)
        self.buffer = torch.empty(SAMPLES, *SHAPE)
        self.first = 0

    def perturb(self) -> Tensor:
        return perturb(X, self.spec, self.first, SAMPLES, out=self.buffer)

    def accumulate(self, total: Tensor, weights: Tensor) -> None:
        accumulate_(total, weights, self.spec, self.first)
        self.first += SAMPLES


def estimate(side: Naive | Fused, coverage: float, batches: int = 16) -> tuple[float, float]:
    """The gradient of a linear score: its part along the truth, and the size of the rest."""
    total = torch.zeros(SHAPE)
    for _ in range(batches):
        samples = side.perturb()
        side.accumulate(total, ((samples - X) * A).sum((1, 2, 3)))
    gradient = total / (batches * SAMPLES * coverage * SIGMA)
    along = float((gradient * A).sum() / A.square().sum())
    return along, float((gradient - along * A).std())


@pytest.mark.parametrize(
    ("distribution", "block", "goal"),
    [("normal", SIDE, 20), ("normal", None, 4), ("rademacher", None, 10)],
)
def test_fused_against_naive(distribution, block, goal, compare, table):
    coverage = NoiseSpec(SHAPE, block=block).coverage
    torch.manual_seed(0)
    sides = Fused(distribution, block), Naive(distribution, block)
    # Both estimate the same gradient (along = 1) with the same noise.
    (ours, noise), (theirs, other_noise) = (estimate(side, coverage) for side in sides)
    assert abs(ours - 1) < 0.1
    assert abs(theirs - 1) < 0.1
    assert abs(noise / other_noise - 1) < 0.1
    total, weights = torch.zeros(SHAPE), torch.randn(SAMPLES)

    def step(side: Naive | Fused) -> None:
        side.perturb()
        side.accumulate(total, weights)

    fused, naive = compare(*(lambda side=side: step(side) for side in sides))
    table.add(
        "Perturb and accumulate, 64 samples of 3x224x224, float32",
        "noise|naive PyTorch, ms|fused, ms|ratio|goal",
        f"{distribution}, {'no blocks' if block is None else f'blocks, q = {coverage:.3f}'}",
        f"{naive * 1e3:.1f}",
        f"{fused * 1e3:.2f}",
        f"{naive / fused:.1f}x",
        f"{goal}x",
    )


def test_floors(compare, table):
    """What no implementation can be below: writing the samples, and drawing."""
    buffer = torch.empty(SAMPLES, *SHAPE)
    total, weights = torch.zeros(SHAPE), torch.randn(SAMPLES)
    normal = NoiseSpec(SHAPE, "normal", SIGMA, seed=1)
    copying, perturbing = compare(
        lambda: buffer.copy_(X.expand_as(buffer)),
        lambda: perturb(X, normal, 0, SAMPLES, out=buffer),
    )
    heading, columns = "Floors and single ops, the same input", "what|ms|ns per element"

    def row(what: str, seconds: float, elements: int = ELEMENTS) -> None:
        cells = f"{seconds * 1e3:.2f}", f"{seconds * 1e9 / elements:.3f}"
        table.add(heading, columns, what, *cells)

    def timed(call) -> float:
        times = []
        for _ in range(15):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return median(times)

    row("floor: copy x into the batch (38.5 MB written)", copying)
    row("perturb, normal", perturbing)
    row("accumulate, normal", timed(lambda: accumulate_(total, weights, normal, 0)))
    for kind in ("cauchy", "hyperbolic", "logistic", "rademacher", "hadamard"):
        spec = make_spec(SHAPE, kind, SIGMA, seed=1)
        row(f"perturb, {kind}", timed(lambda spec=spec: perturb(X, spec, 0, SAMPLES, out=buffer)))
        row(
            f"accumulate, {kind}",
            timed(lambda spec=spec: accumulate_(total, weights, spec, 0)),
        )
    # The score of a logistic draw is its uniform number: nearly all of its time is Philox.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    words = timed(lambda: accumulate_(total, weights, NoiseSpec(SHAPE, "logistic", seed=1), 0))
    torch.set_num_threads(threads)
    row("bound on a Philox4x32-10 block (4 words), one thread", words, ELEMENTS // 4)


@pytest.mark.parametrize("block", [SIDE, 32])
def test_held_buffer(block, compare, table):
    """A buffer of which only the last blocks are restored."""
    spec = NoiseSpec(SHAPE, "normal", SIGMA, block, seed=1)
    buffers = [perturb(X, spec, 0, SAMPLES) for _ in range(2)]
    last = [0, 0]

    def step(i: int, held: int | None) -> None:
        last[i] += SAMPLES
        perturb(X, spec, last[i], SAMPLES, out=buffers[i], held=held)

    held, whole = compare(lambda: step(0, last[0]), lambda: step(1, None))
    assert last[0] == last[1] + SAMPLES  # one more to warm up
    assert torch.equal(buffers[0], perturb(X, spec, last[0], SAMPLES))
    table.add(
        "`perturb` into a buffer that holds the last samples, the same input",
        "blocks|all written, ms|`held`, ms|ratio",
        f"{block} x {block}, q = {spec.coverage:.3f}",
        f"{whole * 1e3:.2f}",
        f"{held * 1e3:.2f}",
        f"{whole / held:.2f}x",
    )


def test_channels_last(compare, table):
    """The memory format of fast convolutions."""
    spec = NoiseSpec(SHAPE, "normal", SIGMA, seed=1)
    x = X.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0]
    contiguous = torch.empty(SAMPLES, *SHAPE)
    last = contiguous.to(memory_format=torch.channels_last)
    ours, plain = compare(
        lambda: perturb(x, spec, 0, SAMPLES, out=last),
        lambda: perturb(X, spec, 0, SAMPLES, out=contiguous),
    )
    assert torch.equal(last, contiguous)
    table.add(
        "Memory formats, `perturb`, normal, the same input",
        "contiguous, ms|channels last, ms|ratio",
        f"{plain * 1e3:.2f}",
        f"{ours * 1e3:.2f}",
        f"{ours / plain:.2f}",
    )


@pytest.mark.parametrize("samples", [6, SAMPLES])
@pytest.mark.parametrize("form", ["nearest", "exact"])
def test_adaptive_scale(samples, form, compare, table):
    """AdaptGrad's scale from x as it goes, beside a constant one; 6 samples are explain's batch."""
    constant = NoiseSpec(SHAPE, "normal", SIGMA, seed=1)
    adaptive = NoiseSpec(SHAPE, "normal", AdaptiveScale(0.0, 1.0, form=form), seed=1)
    out = torch.empty(samples, *SHAPE)
    ours, plain = compare(
        lambda: perturb(X, adaptive, 0, samples, out=out),
        lambda: perturb(X, constant, 0, samples, out=out),
        rounds=41,
    )
    table.add(
        "AdaptGrad's scale, `perturb`, normal, the same input",
        "rule|samples|constant scale, ms|adaptive, ms|ratio|goal",
        "equation 13" if form == "nearest" else "equation 14, solved",
        samples,
        f"{plain * 1e3:.3f}",
        f"{ours * 1e3:.3f}",
        f"{ours / plain:.2f}",
        "1.10" if form == "nearest" else "",
    )
