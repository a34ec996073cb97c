"""Compiles the Triton kernels for a target that need not be there; a line of JSON for each.

Run with TRITON_INTERPRET=0. Each law is compiled with each kind of layout, for perturb and
accumulate_; and with the normal law each type, scale map and memory format with each layout.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fwdgrad_kernels import LAWS, NoiseSpec
from fwdgrad_kernels.layout import Geometry
from fwdgrad_kernels.triton.accumulate import accumulate_kernel
from fwdgrad_kernels.triton.draws import placements_kernel
from fwdgrad_kernels.triton.expand import expand_kernel
from fwdgrad_kernels.triton.launch import constants
from fwdgrad_kernels.triton.perturb import perturb_kernel

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
WIDE = ("first", "k0", "k1", "scale", "low", "high", "numel", "mask")
WIDE += ("floor", "factor", "confidence", "start_far", "start_near", "position")
SMOOTH = {"cell": 4, "field": "bilinear"}
# All combinations of the constants that `constants` makes of a layout.
LAYOUTS = {
    "elements": ((3, 64, 64), {}),
    "tiles of rows": ((3, 64, 64), {"block": 9}),
    "rows of any length": ((3, 61, 63), {"block": 9}),
    "shared": ((3, 64, 64), {"shared": True}),
    "shared, blocks": ((3, 64, 64), {"shared": True, "block": 9}),
    "cells": ((3, 64, 64), {"cell": 4}),
    "cells, blocks": ((3, 64, 64), {"cell": 4, "block": 9}),
    "smooth": ((3, 64, 64), {**SMOOTH}),
    "smooth, blocks": ((3, 64, 64), {**SMOOTH, "block": 9}),
    "cells along rows": ((64,), {"cell": 4}),
    "cells along rows, blocks": ((64,), {"cell": 4, "block": 9}),
    "smooth along rows": ((64,), {**SMOOTH}),
    "smooth along rows, blocks": ((64,), {**SMOOTH, "block": 9}),
    "cells along columns": ((64, 1), {"cell": 4}),
    "cells along columns, blocks": ((64, 1), {"cell": 4, "block": (9, 1)}),
    "smooth along columns": ((64, 1), {**SMOOTH}),
    "smooth along columns, blocks": ((64, 1), {**SMOOTH, "block": (9, 1)}),
}


def compiled(kernel, target, types, fixed, even):
    """Registers, spilled bytes and four-wide stores of a kernel for NVIDIA; None for others.

    even: for sizes that 16 divides, which Triton compiles for where they are so.
    """
    signature = {}
    for name in kernel.arg_names:
        kind = "constexpr" if name in fixed else "i64" if name in WIDE else "i32"
        if name in ("placements", "held"):
            kind = "*i64"
        signature[name] = types.get(name, kind)
    where = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    attributes = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*") or (even and name in ("numel", "width", "view_columns"))
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=where, attrs=attributes)
    made = triton.compile(source, target=target)
    if "cubin" not in made.asm:
        return None, None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    wide = len(re.findall(r"st\.global\.v[24]\.b(?:32|64)", made.asm["ptx"]))
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"], wide


def perturb_case(fixed, dtype, mapped, interleaved, rule=0, baseline=0):
    wide = "fp64" if dtype == "fp64" else "fp32"
    types = {
        "out": f"*{dtype}",
        "x": f"*{dtype}",
        "scale_map": f"*{wide}" if mapped else f"*{dtype}",
    }
    types["bounds"] = f"*{wide}"
    types["baseline"] = f"*{wide if baseline == 1 else dtype}"
    more = {
        "MAPPED": mapped,
        "RULE": rule,
        "BASELINE": baseline,
        "INTERLEAVED": interleaved,
        "WIDE": dtype == "fp64",
    }
    return perturb_kernel, types, {**fixed, **more}


def accumulate_case(fixed, dtype, squared):
    types = dict.fromkeys(("total", "square", "weights"), f"*{dtype}")
    return accumulate_kernel, types, {**fixed, "SQUARED": squared}


def cases():
    for layout, (shape, options) in LAYOUTS.items():
        for law in LAWS:
            fixed = constants(Geometry(*NoiseSpec(shape, law, **options).encoded))
            yield layout, perturb_case(fixed, "fp32", False, False)
            if law != "uniform":
                yield layout, accumulate_case(fixed, "fp32", True)
            if law != "normal":
                continue
            yield layout, perturb_case(fixed, "fp64", True, False)
            yield layout, perturb_case(fixed, "bf16", False, True)
            yield layout, perturb_case(fixed, "fp16", True, True)
            yield layout, accumulate_case(fixed, "fp64", False)
            if layout in ("elements", "shared", "smooth, blocks"):
                yield layout, perturb_case(fixed, "fp32", False, False, baseline=1)
                yield layout, perturb_case(fixed, "bf16", False, False, baseline=2)
    for law in LAWS:  # scales that follow from x
        rules = (1,) if law in ("rademacher", "hadamard") else (1, 2)
        for layout in ("elements", "tiles of rows", "smooth, blocks"):
            shape, options = LAYOUTS[layout]
            geometry = Geometry(*NoiseSpec(shape, law, **options).encoded)
            for rule in rules:
                fixed = constants(geometry, exact=rule == 2)
                yield layout, perturb_case(fixed, "fp32", False, False, rule)
    for layout in ("cells", "smooth", "smooth along rows"):
        shape, options = LAYOUTS[layout]
        known = constants(Geometry(*NoiseSpec(shape, **options, shift=False).encoded))
        kept = {name: known[name] for name in ("CELLS_Y", "CELLS_X", "BILINEAR")}
        for squared in (False, True):
            types = dict.fromkeys(("out", "values"), "*fp32")
            yield layout, (expand_kernel, types, {**kept, "SQUARED": squared, "TILE": 256})
    for law in ("normal", "hadamard"):
        fixed = {"IS_HADAMARD": law == "hadamard", "COLUMNS": 8, "SIZE": 128}
        yield law, (placements_kernel, {"out": "*i64"}, fixed)
    yield "blocks", (placements_kernel, {"out": "*i64"}, {**fixed, "COLUMNS": 4})


def main():
    kind, arch = sys.argv[1].split(":")
    target = GPUTarget(kind, int(arch) if arch.isdigit() else arch, 32 if kind == "cuda" else 64)
    for layout, (kernel, types, fixed) in cases():
        for even in (False, True) if layout in ("elements", "tiles of rows") else (False,):
            registers, spills, wide = compiled(kernel, target, types, fixed, even)
            about = {"kernel": kernel.__name__, "layout": layout, "even": even}
            about |= {"registers": registers, "spills": spills, "wide": wide}
            print(json.dumps({**about, **types, **fixed}), flush=True)


if __name__ == "__main__":
    main()
