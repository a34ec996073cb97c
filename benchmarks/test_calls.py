"""What a call of an op costs in Python, on an input so small that its work is next to nothing."""

from __future__ import annotations

import pytest
import torch

from fwdgrad_kernels import Grid, NoiseSpec, Perturber, accumulate_, expand, native

CALLS, GOAL = 500, 15
SHAPE = (3, 8, 8)
GRID = NoiseSpec(SHAPE, "rademacher", 0.5, features=Grid(4), design="hadamard")
NOISE = NoiseSpec(SHAPE)
X, OUT = torch.rand(SHAPE), torch.empty(4, *SHAPE)
TOTAL, WEIGHTS = torch.zeros(SHAPE), torch.rand(4)
VALUES, MAP = torch.rand(GRID.draws), torch.empty(1, 1, 8, 8)
RUN = Perturber(X, GRID, baseline=0.5, position=0.5)
BOUNDS = RUN.low, RUN.high

OPS = {
    "a micro-batch (`Perturber`)": (
        lambda: RUN(OUT, 0),
        lambda: native.perturb_(
            OUT, RUN.x, None, None, RUN.rule, RUN.baseline, True, 0.5, 0.5, RUN.encoded, None, 0,
            None, False, *BOUNDS,
        ),
    ),
    "`accumulate_`": (
        lambda: accumulate_(TOTAL, WEIGHTS, NOISE, 0),
        lambda: native.accumulate_(TOTAL, None, WEIGHTS, list(NOISE.encoded), 0),
    ),
    "`expand`": (
        lambda: expand(VALUES, GRID),
        lambda: native.expand_(MAP, VALUES, list(GRID.encoded), 0, False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OPS)
def test_python_of_a_call(what, compare, table):
    op, module = OPS[what]

    def many(call) -> None:  # type: ignore[no-untyped-def]
        for _ in range(CALLS):
            call()

    whole, alone = (t / CALLS * 1e6 for t in compare(lambda: many(op), lambda: many(module)))
    table.add(
        "Python's share of a call, 3x8x8",
        "op|us|of that the module's own call|Python|goal, at most",
        what,
        f"{whole:.1f}",
        f"{alone:.1f}",
        f"{whole - alone:.1f}",
        GOAL,
    )
