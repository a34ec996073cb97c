"""Compiles the Triton kernels for a target that need not be there; a line of JSON for each.

Run with TRITON_INTERPRET=0. What is compiled is each law plain and blockwise, and each kind of
field once, for perturb and accumulate_.
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

from fwdgrad_kernels import LAWS
from fwdgrad_kernels.triton.accumulate import accumulate_kernel
from fwdgrad_kernels.triton.draws import placements_kernel
from fwdgrad_kernels.triton.perturb import perturb_kernel

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
POINTERS = ("out", "x", "scale_map", "total", "square", "weights")
PLAIN = {
    "BLOCKED": False,
    "ELEMENTWISE": True,
    "CELLS_Y": False,
    "CELLS_X": False,
    "BILINEAR": False,
    "SHARED": False,
    "PLACED": False,
}
BLOCKS = {**PLAIN, "BLOCKED": True, "PLACED": True}
CELLS = {**BLOCKS, "ELEMENTWISE": False, "CELLS_Y": True, "CELLS_X": True}
FIELDS = [PLAIN, BLOCKS]
MORE_FIELDS = [CELLS, {**CELLS, "BILINEAR": True, "SHARED": True}]


def compiled(kernel, target, dtype, constants):
    """Registers and spilled bytes of a kernel for NVIDIA; None for others."""
    signature = {}
    for name in kernel.arg_names:
        kind = "i32"
        if name in constants:
            kind = "constexpr"
        elif name in POINTERS:
            kind = "*i64" if kernel is placements_kernel else f"*{dtype}"
        elif name == "placements":
            kind = "*i64"
        elif name in ("first", "k0", "k1", "scale", "low", "high", "numel", "mask"):
            kind = "i64"
        signature[name] = kind
    where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=where)
    made = triton.compile(source, target=target)
    if "cubin" not in made.asm:
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def cases():
    for index, law in enumerate(LAWS):
        groups = 8 if law in ("rademacher", "hadamard") else 256
        sizes = {"LAW": index, "GROUPS": groups, "TILE": groups * (128 if groups == 8 else 4)}
        for field in FIELDS + (MORE_FIELDS if law in ("normal", "hadamard") else []):
            if not field["ELEMENTWISE"]:
                sizes = {**sizes, "TILE": 256}
            placed = {**field, "PLACED": field["PLACED"] or law == "hadamard"}
            for dtype in ("fp32", "bf16") if law == "normal" else ("fp32",):
                more = {"MAPPED": dtype == "bf16", "PAIRS": True, "CLIPS": True, "WIDE": False}
                yield "perturb", perturb_kernel, dtype, {**sizes, **placed, **more}
            if law != "uniform":
                yield "accumulate", accumulate_kernel, "fp32", {**sizes, **placed, "SQUARED": True}
    yield "placements", placements_kernel, "", {"IS_HADAMARD": True, "COLUMNS": 8, "SIZE": 128}


def main():
    kind, arch = sys.argv[1].split(":")
    target = GPUTarget(kind, int(arch) if arch.isdigit() else arch, 32 if kind == "cuda" else 64)
    for name, kernel, dtype, constants in cases():
        registers, spills = compiled(kernel, target, dtype, constants)
        about = {"kernel": name, "dtype": dtype, "registers": registers, "spills": spills}
        print(json.dumps({**about, **constants}), flush=True)


if __name__ == "__main__":
    main()
