"""What Triton would compile anew where a call's numbers change alone; a line of JSON for each.

Run with TRITON_INTERPRET=0. The first line says how many kernels the first calls asked for.
"""

import itertools
import json

import torch
from asked import listen, target_of

from fwdgrad_kernels import (
    AdaptiveScale,
    Grid,
    Labels,
    NoiseSpec,
    accumulate_,
    blocks,
    expand,
    perturb,
)
from fwdgrad_kernels.testing import make_spec

SHAPE = (3, 32, 32)
LAYOUTS = (
    ("normal", {}),
    ("normal", {"block": 9}),
    ("rademacher", {"block": 9, "features": Grid(4, "nearest", jitter=True)}),
    ("hadamard", {"features": Grid(4)}),
    ("cauchy", {"features": Labels(torch.arange(32) // 4)}),
)


def calls(seed, first, count, level):
    """One of each kind; level is what scales, bounds and positions are made of."""
    x = torch.zeros(SHAPE)
    for distribution, options in LAYOUTS:
        spec = make_spec(SHAPE, distribution, level, seed=seed, **options)
        out = perturb(x, spec, first, count, pairs=True, backend="triton")
        settings = {"pairs": True, "out": out, "held": first, "backend": "triton"}
        perturb(x, spec, first + count, count, clip=(-level, level), **settings)
        perturb(x, spec, first, count, baseline=level, position=level, backend="triton")
        weights = torch.ones(count + 1)[1:]  # aligned as a part of a run's is
        accumulate_(x, weights, spec, first, backend="triton")
        blocks(spec, first, count, backend="triton")
        if not spec.view.labels and spec.block is None:
            expand(torch.zeros(spec.draws), spec, first, backend="triton")
    scale = AdaptiveScale(-level - 1, 1, 0.5 + level / 4, floor=level, form="exact")
    perturb(x, NoiseSpec(SHAPE, "normal", scale, seed=seed), first, count, backend="triton")
    for stream in (16, 17):
        parameters = NoiseSpec((64,), seed=seed, stream=stream)
        perturb(torch.zeros(64), parameters, first, count, relative=True, backend="triton")


def main():
    asked = listen(target_of("cuda:90"))
    calls(5, 3, 5, 0.3)
    known = set(asked)
    print(json.dumps(len(known)))
    seeds, firsts, counts = (0, 1, 2, 2**31, 2**64 - 1), (0, 1, 16, 2**31, 2**40), (1, 16, 17)
    for seed, first, count, level in itertools.product(seeds, firsts, counts, (0.0, 1.0)):
        calls(seed, first, count, level)
    for name, key in asked.keys() - known:
        print(json.dumps({"kernel": name, "key": key}))


if __name__ == "__main__":
    main()
