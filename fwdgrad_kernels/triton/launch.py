"""Launches: from a decoded spec to grids and compile-time constants."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fwdgrad_kernels.spec import grid_lines
from fwdgrad_kernels.triton.accumulate import accumulate_kernel
from fwdgrad_kernels.triton.draws import PLACEMENT_COLUMNS, placements_kernel
from fwdgrad_kernels.triton.perturb import perturb_kernel

_RADEMACHER, _HADAMARD = 5, 6
_COPIES = 65536  # placements held at once: 4 MiB


class Geometry(NamedTuple):
    """``NoiseSpec.encoded``, field for field."""

    leading: int
    height: int
    width: int
    law: int
    block_height: int
    block_width: int
    cell_height: int
    cell_width: int
    bilinear: int
    shared: int
    seed: int

    @property
    def numel(self) -> int:
        """How many elements the input has."""
        return self.leading * self.height * self.width

    @property
    def key(self) -> tuple[int, int]:
        """The seed's low and high words."""
        return self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF

    @property
    def blocked(self) -> bool:
        """Whether a copy's block can leave elements out."""
        return (self.block_height, self.block_width) != (self.height, self.width)

    @property
    def elementwise(self) -> bool:
        """Whether draw k belongs to element k."""
        return max(self.cell_height, self.cell_width) == 1 and not (
            self.shared and self.leading > 1
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid of draws."""
        return (
            grid_lines(self.height, self.cell_height, bool(self.bilinear)),
            grid_lines(self.width, self.cell_width, bool(self.bilinear)),
        )

    @property
    def mask(self) -> int:
        """Hadamard's M - 1."""
        draws = (1 if self.shared else self.leading) * math.prod(self.grid)
        return (1 << max(draws - 1, 0).bit_length()) - 1 if self.law == _HADAMARD else 0

    @property
    def placed(self) -> bool:
        """Whether the kernels need the copies' placements."""
        return self.blocked or not self.elementwise or self.law == _HADAMARD

    def constants(self) -> dict[str, Any]:
        """What the kernels are specialised for."""
        signs = self.law in (_RADEMACHER, _HADAMARD)
        groups = 8 if signs else 256
        return {
            "LAW": self.law,
            "BLOCKED": self.blocked,
            "ELEMENTWISE": self.elementwise,
            "CELLS_Y": self.cell_height > 1,
            "CELLS_X": self.cell_width > 1,
            "BILINEAR": bool(self.bilinear),
            "SHARED": bool(self.shared),
            "PLACED": self.placed,
            "GROUPS": groups,
            # A field's elements take a Philox call each, and registers with it.
            "TILE": groups * (128 if signs else 4) if self.elementwise else 256,
        }


def _bits(value: float) -> int:
    """A float64 as the integer of its bits."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _placements(g: Geometry, first: int, count: int, columns: int, out: Tensor) -> Tensor:
    size = 128
    if not count:
        return out
    placements_kernel[(triton.cdiv(count, size),)](
        out, count, first, *g.key, g.height, g.width, g.block_height, g.block_width,
        g.cell_height, g.cell_width, g.mask, IS_HADAMARD=g.law == _HADAMARD, COLUMNS=columns,
        SIZE=size,
    )  # fmt: skip
    return out


def blocks_(out: Tensor, spec: list[int], first: int) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    _placements(Geometry(*spec), first, len(out), 4, out)


def _placed(g: Geometry, first: int, count: int, like: Tensor) -> Tensor:
    if not g.placed:
        return like  # never read
    out = torch.empty((count, PLACEMENT_COLUMNS), dtype=torch.int64, device=like.device)
    return _placements(g, first, count, PLACEMENT_COLUMNS, out)


def perturb_(
    out: Tensor,
    x: Tensor,
    scale_map: Tensor | None,
    scale: float,
    spec: list[int],
    first: int,
    pairs: bool,
    low: float,
    high: float,
) -> None:
    """The op of that name."""
    g = Geometry(*spec)
    count = len(out) // (2 if pairs else 1)
    constants = g.constants()
    tiles = triton.cdiv(g.numel, constants["TILE"])
    perturb_kernel[(tiles * count,)](
        out, x, x if scale_map is None else scale_map, _placed(g, first, count, x),
        _bits(scale), _bits(low), _bits(high), first, *g.key, count, g.numel, tiles, g.height,
        g.width, g.cell_height, g.cell_width, *g.grid, MAPPED=scale_map is not None,
        PAIRS=pairs, CLIPS=low > -math.inf or high < math.inf,
        WIDE=x.dtype == torch.float64, **constants,
    )  # fmt: skip


def accumulate_(
    total: Tensor, square: Tensor | None, weights: Tensor, spec: list[int], first: int
) -> None:
    """The op of that name."""
    g = Geometry(*spec)
    constants = g.constants()
    for base in range(0, len(weights), _COPIES):
        some = weights[base : base + _COPIES]
        accumulate_kernel[(triton.cdiv(g.numel, constants["TILE"]),)](
            total, total if square is None else square, some,
            _placed(g, first + base, len(some), total), first + base, *g.key, len(some), g.numel,
            g.height, g.width, g.cell_height, g.cell_width, *g.grid,
            SQUARED=square is not None, **constants,
        )  # fmt: skip
