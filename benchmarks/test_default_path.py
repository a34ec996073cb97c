"""What people get by default, ``Regions``, against the same in a few lines of plain PyTorch.

Both sides use the same orthogonal signs and give the same samples and maps.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fwdgrad import Regions
from fwdgrad.estimate.scores import attributions
from fwdgrad.methods import plan_of
from fwdgrad.plan import Plan
from fwdgrad_kernels import NoiseSpec, Perturber, noise

SHAPE, BATCH = (3, 224, 224), 64
X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
PERTURB = "Default path: `regions` of 3x224x224, 64 samples"
MAP = "Default path: the map from the scores, with standard error and reliability"


class Plain:
    """Regions as a good engineer writes them: signs on a small grid, scaled up by torch."""

    def __init__(self, plan: Plan) -> None:
        self.spec = plan.spec
        assert self.spec is not None
        assert isinstance(plan.baseline, Tensor)
        self.x, self.baseline = plan.x, plan.baseline
        self.way = plan.x - plan.baseline
        *_, self.rows, self.columns = self.spec.grid
        seed = self.spec.seed
        directions = NoiseSpec((self.spec.group,), "rademacher", design="hadamard", seed=seed)
        self.signs = noise(directions, 0, plan.samples)  # all of a group: (n, M)
        self.buffer = torch.empty(BATCH, *SHAPE)

    def spread(self, values: Tensor) -> Tensor:
        """(n, K) to (n, 1, H, W): line 0 is the centre of the cell before the first."""
        cell = self.spec.view.cells[-1]
        grid = values.reshape(-1, 1, self.rows, self.columns)
        field = functional.interpolate(grid, scale_factor=cell, mode="bilinear")
        return field[..., cell : cell + SHAPE[1], cell : cell + SHAPE[2]]

    def perturb(self, first: int) -> Tensor:
        signs = self.signs[first : first + BATCH, : self.spec.draws]
        share = self.spread(signs.mul(0.5).add_(0.5))
        return torch.addcmul(self.baseline, self.way, share, out=self.buffer)

    def map(self, scores: Tensor) -> tuple[Tensor, Tensor, float]:
        """Attribution, standard error and reliability: each draw's error is that of unused ones."""
        weights = scores - scores.mean()
        found = weights.float() @ self.signs / (len(scores) * 0.5)
        used, spare = found[: self.spec.draws], found[self.spec.draws :]
        attribution = self.spread(used[None])[0].expand(SHAPE).contiguous()
        error = spare.square().mean().sqrt() * torch.ones(SHAPE)
        share = 1 - error.square().mean() / attribution.var()
        return attribution, error, float(share.clamp(min=0))


def planned(samples: int) -> Plan:
    return plan_of(X, method=Regions(), n_samples=samples, features=None, seed=0)


@pytest.fixture(params=[1, None], ids=["one thread", "all"])
def threads(request):
    """How many threads: what torch takes, or one."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param or before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


def test_perturb(compare, table, threads):
    plan = planned(1024)
    plain, buffer = Plain(plan), torch.empty(BATCH, *SHAPE)

    run = Perturber(X, plan.spec, baseline=plan.baseline, position=plan.position)

    def ours() -> Tensor:
        return run(buffer, 0)

    assert torch.allclose(ours(), plain.perturb(0), atol=1e-5)
    floors = []
    for _ in range(15):
        plain.perturb(0)  # as before each round of ours: the caches hold other memory
        started = time.perf_counter()
        buffer.copy_(X)
        floors.append(time.perf_counter() - started)
    fused, other = compare(ours, lambda: plain.perturb(0))
    floor = statistics.median(floors)
    table.add(
        PERTURB,
        "what|threads|`F.interpolate` + `torch.addcmul`, ms|fused, ms|ratio|goal",
        "perturb, cells of 8 pixels, a blur as the baseline",
        threads,
        f"{other * 1e3:.2f}",
        f"{fused * 1e3:.2f}",
        f"{other / fused:.1f}x",
        "4x",
    )
    table.add(
        PERTURB, "", "floor: copying x into the batch", threads, f"{floor * 1e3:.2f}",
        f"{fused * 1e3:.2f}", f"{fused / floor:.2f} of it", "1.5",
    )  # fmt: skip


@pytest.mark.parametrize("samples", [128, 500, 1024])
def test_map(samples, compare, table, threads):
    plan = planned(samples)
    plain = Plain(plan)
    scores = torch.rand(samples, 1, generator=torch.Generator().manual_seed(1)).double()

    def fused() -> tuple[Tensor, Tensor, float]:
        return attributions(plan, scores[..., None], [0.5], "cpu")[0]

    attribution, error, _ = fused()
    other, _, _ = plain.map(scores[:, 0])
    moved = attribution != 0  # a uniform background that the blur leaves alone has nothing
    assert torch.allclose(attribution[moved], other[moved], atol=1e-4)
    assert bool((error >= 0).all())
    ours, theirs = compare(fused, lambda: plain.map(scores[:, 0]), rounds=30)
    table.add(
        MAP,
        "scores|threads|`w @ S` and one interpolation, ms|ours, ms|goal, ms",
        samples,
        threads,
        f"{theirs * 1e3:.2f}",
        f"{ours * 1e3:.2f}",
        "5" if samples == 1024 else "",
    )
