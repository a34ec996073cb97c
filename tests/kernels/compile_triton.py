"""Compiles the Triton kernels for a target that need not be there; a line of JSON for each.

Run with TRITON_INTERPRET=0 and a target. What is compiled is what calls of the ops ask for. Where
every element has its own draws, each layout meets each distribution and each kind of input; the
kernels that read a table of draws do not know its distribution. For HIP, which says nothing of
registers, each layout, distribution and kind is compiled once.
"""

import functools
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from asked import listen, target_of
from triton.compiler import ASTSource

from fwdgrad_kernels import AdaptiveScale, Grid, Labels, accumulate_, blocks, expand, perturb
from fwdgrad_kernels.testing import KINDS as DRAWS
from fwdgrad_kernels.testing import SCORED, make_spec
from fwdgrad_kernels.triton import launch

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ELEMENTS = {
    "elements": ((3, 64, 64), {}),
    "tiles of rows": ((3, 64, 64), {"block": 9}),
    "elements, odd": ((3, 61, 63), {}),
    "rows of any length": ((3, 61, 63), {"block": 9}),
}
FEATURES = {
    "channels alike": ((3, 64, 64), {"features": Grid((1, 1))}),
    "nearest": ((3, 64, 64), {"features": Grid(4, "nearest")}),
    "linear, odd": ((3, 61, 63), {"features": Grid(5)}),
    "jitter": ((3, 64, 64), {"features": Grid(4, jitter=True)}),
    "series": ((3, 64), {"features": Grid(4)}),
    "columns": ((3, 64, 64), {"features": Grid((4, 1))}),
    "volume": ((2, 16, 16, 16), {"features": Grid(4)}),
    "volume, jitter, blocks": ((2, 16, 16, 16), {"features": Grid(4, jitter=True), "block": 9}),
    "labels": ((3, 64, 64), {"features": Labels(torch.arange(64) // 4)}),
    "linear": ((3, 64, 64), {"features": Grid(4)}),
    "jitter, blocks": ((3, 64, 64), {"features": Grid(4, jitter=True), "block": 9}),
    "linear, blocks": ((3, 61, 63), {"features": Grid(4), "block": 9}),
}
MOST = ("linear", "jitter, blocks", "volume, jitter, blocks")  # what takes most registers
LAYOUTS = ELEMENTS | FEATURES | {"tiles of a row": ((4096,), {"block": 300})}
# Of x and what is computed from it: its type, whether channels come last, scale and baseline.
KINDS = {
    "plain": (torch.float32, {}),
    "wide, mapped": (torch.float64, {"scale": "map"}),
    "channels last": (torch.bfloat16, {"last": True}),
    "channels last, mapped": (torch.float16, {"last": True, "scale": "map"}),
    "between": (torch.float32, {"baseline": 0.5}),
    "between, mapped": (torch.bfloat16, {"baseline": "map"}),
    "near": (torch.float32, {"scale": AdaptiveScale(-1, 2)}),
    "exact": (torch.float32, {"scale": AdaptiveScale(-1, 2, form="exact")}),
}
SUMS = ("sums", "sums and squares", "wide sums")


def covering(*factors, few):
    """Rows of (layout, distribution, kind): each layout with each of both; few: each value once."""

    def met(row):
        return set(
            row if few else [(row[0], row[1]), (row[0], row[2]), (row[1], row[2] == "exact")]
        )

    rows = list(itertools.product(*factors))
    left = set().union(*map(met, rows))
    while left:
        row = max(rows, key=lambda row: len(met(row) & left))
        left -= met(row)
        yield row


def perturbed(layout, distribution, kind):
    """Two samples, of both signs."""
    (shape, options), (dtype, more) = LAYOUTS[layout], KINDS[kind]
    last, between, scale = (more.get(name) for name in ("last", "baseline", "scale"))
    x = torch.zeros(shape, dtype=dtype)
    if last:
        x = x.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale = torch.ones(shape, dtype=wide) if scale == "map" else scale or 0.5
    baseline = torch.zeros_like(x) if between == "map" else between
    if kind == "exact" and distribution in ("rademacher", "hadamard"):
        scale = AdaptiveScale(-1, 2)  # they have no density
    spec = make_spec(shape, distribution, scale, **options)
    perturb(x, spec, 0, 2, pairs=True, baseline=baseline, backend="triton")


def summed(layout, distribution, kind):
    """Two weights' sums."""
    shape, options = LAYOUTS[layout]
    dtype = torch.float64 if kind == "wide sums" else torch.float32
    total, square = torch.zeros(2, *shape, dtype=dtype)
    square = square if kind == "sums and squares" else None
    weights = torch.ones(2, dtype=dtype)
    accumulate_(
        total, weights, make_spec(shape, distribution, **options), 0, square, backend="triton"
    )


def large(layout):
    """As if elements' numbers took 64 bits."""
    usual, launch._LARGE = launch._LARGE, 1
    perturbed(layout, "cauchy", "plain")
    summed(layout, "cauchy", "sums")
    launch._LARGE = usual


def cases(few):
    """(what it is, a call)."""
    for case in covering(ELEMENTS, DRAWS, KINDS, few=few):
        yield case, functools.partial(perturbed, *case)
    for case in covering(ELEMENTS, SCORED, SUMS, few=few):
        yield case, functools.partial(summed, *case)
    for distribution in DRAWS:
        case = "nearest", distribution, "plain"
        yield case, functools.partial(perturbed, *case)
    for distribution in SCORED:
        case = "nearest", distribution, "sums"
        yield case, functools.partial(summed, *case)
    kinds = itertools.cycle(KINDS)
    for layout, (shape, _) in FEATURES.items():
        most = layout in MOST and not few
        for kind in KINDS if most else itertools.islice(kinds, 1 if few else 3):
            if "last" not in kind or shape == (3, 64, 64):
                yield (layout, kind), functools.partial(perturbed, layout, "cauchy", kind)
        for kind in SUMS if most else SUMS[1:2] if layout != "labels" else ():
            yield (layout, kind), functools.partial(summed, layout, "cauchy", kind)
    row = "tiles of a row", "hadamard"
    yield (*row, "plain"), functools.partial(perturbed, *row, "plain")
    yield (*row, "sums"), functools.partial(summed, *row, "sums")
    for layout in ("elements", "linear", "jitter, blocks"):
        yield (layout, "large"), functools.partial(large, layout)
    for layout in ("nearest", "linear", "series", "volume"):
        shape, options = LAYOUTS[layout]
        spec = make_spec(shape, **options)
        for squared in (False, True):
            values = torch.ones(spec.draws)
            call = functools.partial(expand, values, spec, squared=squared, backend="triton")
            yield (layout, "expanded"), call
    yield ("blocks",), lambda: blocks(make_spec((8, 8), block=3), 0, 2, backend="triton")


def resources(made):
    """Registers, spilled bytes and wide stores of a kernel for NVIDIA."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    wide = len(re.findall(r"st\.global\.v[24]\.b(?:32|64)", made.asm["ptx"]))
    philox = made.asm["ptx"].count("-766435501")  # one of its two multipliers
    spills = numbers["STACK"] + numbers["LOCAL"]  # where spilled registers go
    return {"registers": numbers["REG"], "spills": spills, "wide": wide, "philox": philox}


def main():
    target = target_of(sys.argv[1])
    asked, done = listen(target), set()
    for case, call in cases(few=target.backend == "hip"):
        call()
        for name, key in asked.keys() - done:
            kernel, signature, constants, attributes = asked[name, key]
            made = triton.compile(ASTSource(kernel, signature, constants, attributes), target)
            about = resources(made) if "cubin" in made.asm else {}
            print(json.dumps({"kernel": name, "case": case, **about}), flush=True)
        done.update(asked)


if __name__ == "__main__":
    main()
