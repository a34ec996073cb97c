"""Random calls of every op, right ones and wrong ones, in a process that a crash may end.

A right call must agree with the reference in plain PyTorch; a wrong one must be refused by a
TypeError, ValueError or RuntimeError of one line, with nothing written. What lies beside a
destination must be left alone by either.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fwdgrad_kernels as kernels
from fwdgrad_kernels import AdaptiveScale, Grid, Labels, NoiseSpec, testing

SHAPES = [(1,), (7,), (67,), (1030,), (5, 1), (1, 9), (6, 11), (3, 5, 8), (2, 17, 19), (2, 3, 4, 5)]
EMPTY = [(0,), (0, 4), (4, 0), (0, 3, 4), (2, 3, 0)]
DTYPES = [torch.float32] * 3 + [torch.float64, torch.float16, torch.bfloat16]
MARGIN, SENTINEL = 9, -7.0
HUGE = 2**62

Given = dict[str, Any]


def assert_samples(samples: Tensor, *arguments: Any) -> None:
    """Of the testing module, which wants something to compare."""
    if samples.numel():
        testing.assert_samples(samples, *arguments)


class Call:
    """One call: what is given, by name, and what was drawn to make it."""

    def __init__(self, seed: int, number: int, folder: str) -> None:
        self.pick = random.Random(seed << 32 | number)
        self.torch = torch.Generator().manual_seed(self.pick.getrandbits(60))
        self.folder = folder
        self.memory: list[tuple[Tensor, Tensor]] = []  # of each destination: all, and its margins

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.torch).to(dtype)

    def chance(self, probability: float) -> bool:
        return self.pick.random() < probability

    def destination(self, shape: tuple[int, ...], dtype: torch.dtype, last: bool = False) -> Tensor:
        """Memory between margins, where an op may write; in channels_last format where asked."""
        size = int(np.prod(shape))
        memory = torch.full((size + 2 * MARGIN,), SENTINEL, dtype=dtype)
        inside = memory[MARGIN : MARGIN + size]
        inside.zero_()
        self.memory.append((memory, inside))
        if last:
            count, planes, height, width = shape
            return inside.view(count, height, width, planes).permute(0, 3, 1, 2)
        return inside.view(shape)

    def beside_untouched(self) -> bool:
        return all(
            bool((m[:MARGIN] == SENTINEL).all() and (m[MARGIN + len(inside) :] == SENTINEL).all())
            for m, inside in self.memory
        )

    def nothing_written(self) -> bool:
        return not any(inside.any() for _, inside in self.memory)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The same values in another layout."""
        kind = self.pick.randrange(6)
        if kind == 0 and tensor.dim() > 1:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 1:
            return torch.stack((tensor, tensor), -1)[..., 1]
        if kind == 2:
            return torch.cat((tensor.new_zeros(3), tensor.flatten()))[3:].view(tensor.shape)
        if kind == 3 and tensor.dim() == 3:
            return tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        if kind == 4:
            return tensor.clone().requires_grad_()
        return tensor

    def spec(self, scored: bool = False, plain: bool = False) -> NoiseSpec:
        shape = self.pick.choice(SHAPES if self.chance(0.95) else EMPTY)
        kind = self.pick.choice(testing.SCORED if scored else testing.KINDS)
        options: Given = {}
        if not plain:
            if self.chance(0.2):
                options["features"] = self.labels(shape)
            elif self.chance(0.5):
                axes = shape[-self.pick.randint(1, min(3, len(shape))) :]
                cell = tuple(self.pick.randint(1, max(n, 1)) for n in axes)
                interpolation = self.pick.choice(["linear", "nearest"])
                options["features"] = Grid(cell, interpolation, self.chance(0.7), self.chance(0.3))
            if self.chance(0.4) and min(shape[-2:]) > 0:
                options["block"] = tuple(self.pick.randint(1, n) for n in shape[-2:])
                if not self.takes(shape, options):
                    del options["block"]
        options["seed"] = self.pick.choice([0, 1, 2**32 - 1, 2**63, 2**64 - 1])
        scale: Any = self.pick.choice([0.0, 0.5, 1.0, 30.0])
        if self.chance(0.2):
            scale = self.laid_out(self.randn(*shape))
        elif self.chance(0.15) and not plain:
            scale = AdaptiveScale(-4.0, 4.0, confidence=0.9)
        return testing.make_spec(shape, kind, scale, **options)

    def takes(self, shape: tuple[int, ...], options: Given) -> bool:
        """Whether a block goes with the features: it may not cut what shares a draw."""
        try:
            NoiseSpec(shape, **options)
        except ValueError:
            return False
        return True

    def labels(self, shape: tuple[int, ...]) -> Labels:
        """Of a mask that broadcasts to the shape."""
        own = tuple(n if self.chance(0.7) and n else 1 for n in shape)
        count = self.pick.randint(1, math.prod(own))
        mask = torch.arange(math.prod(own)) * count // math.prod(own)
        return Labels(mask.reshape(own).to(self.pick.choice([torch.int32, torch.int64])))

    def first(self) -> int:
        return self.pick.choice([0, 1, 1000, 2**32 - 2, 2**40, 2**63 - 40])


def spoil_tensor(call: Call, tensor: Tensor, alone: bool = False) -> Any:
    """Something that no op may take for a tensor of this shape and type; alone: the only one."""
    shape, dtype = tensor.shape, tensor.dtype

    def freed() -> Tensor:
        tensor = torch.ones(shape, dtype=dtype)
        size = call.pick.randrange(tensor.nbytes) if tensor.nbytes else 0
        tensor.untyped_storage().resize_(size)
        return tensor

    def fake() -> Tensor:
        with FakeTensorMode():
            return torch.zeros(shape, dtype=dtype)

    ways: list[Callable[[], Any]] = [
        lambda: None,
        lambda: [0.0] * 3,
        lambda: torch.zeros(shape, dtype=torch.int64),
        lambda: torch.zeros(shape, dtype=torch.complex64),
        lambda: torch.zeros((*shape, 2), dtype=dtype),
        lambda: torch.zeros(shape, dtype=dtype).to_sparse(),
        lambda: torch.nested.nested_tensor([torch.ones(2, dtype=dtype)], layout=torch.jagged),
    ]
    ways += [] if alone else [fake]
    ways += [freed] * 4 if tensor.numel() else []
    return call.pick.choice(ways)()


def spoil_destination(call: Call, tensor: Tensor, torchs: bool = False) -> Any:
    """Something that no op may write to; torchs: that torch may not, either."""
    shape, dtype = tuple(tensor.shape), tensor.dtype
    if not tensor.numel() or call.chance(0.4):
        spoiled = spoil_tensor(call, tensor)
        return 3 if spoiled is None else spoiled

    def read_only() -> Tensor:
        path = os.path.join(call.folder, "read-only")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # an earlier one may still be mapped
        with open(path, "wb") as file:
            file.write(bytes(tensor.nbytes))
        mapped = np.memmap(path, np.uint8, "r", shape=(tensor.nbytes,))
        return torch.from_numpy(mapped).view(dtype).view(shape)

    ways: list[Callable[[], Tensor]] = [
        read_only,
        read_only,
        lambda: torch.zeros(shape, dtype=dtype, device="meta"),
        lambda: torch.zeros(shape, dtype=dtype, requires_grad=True),
        lambda: torch._neg_view(torch.zeros(shape, dtype=dtype)),
        lambda: torch.zeros(*shape, 2, dtype=dtype)[..., 0] if tensor.numel() > 1 else read_only(),
        lambda: torch.zeros(1, dtype=dtype).expand(shape) if tensor.numel() > 1 else read_only(),
    ]
    return call.pick.choice(ways[:4] if torchs else ways)()


NOT_COUNTS = [-1, True, 1.5, None, "3", HUGE, 2**63, 2**64, -HUGE]
NOT_FIRSTS = [-1, False, 2.0, None, 2**63, 2**64, -(2**63)]


def perturb(call: Call) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    """Arguments, the op, the check of its result, and what would spoil each argument."""
    spec, dtype = call.spec(), call.pick.choice(DTYPES)
    count, pairs, first = call.pick.randrange(6), call.chance(0.3), call.first()
    x = call.laid_out(call.randn(*spec.shape, dtype=dtype))
    sign, clip = call.pick.choice([1, -1]), call.pick.choice([None, None, (-1.0, 1.5)])
    given: Given = {"x": x, "spec": spec, "first": first, "count": count, "sign": sign}
    given |= {"clip": clip, "pairs": pairs}
    rows = (2 * count if pairs else count, *spec.shape)
    spoiled: Given = {
        "x": lambda: spoil_tensor(call, x, alone="out" not in given),
        "spec": lambda: None,
        "first": lambda: call.pick.choice(NOT_FIRSTS),
        "count": lambda: call.pick.choice(NOT_COUNTS),
        "sign": lambda: call.pick.choice([0, 2, True, None, "1", torch.ones(2)]),
        "clip": lambda: call.pick.choice(
            [(1, 0), (0.0, float("nan")), (1,), 1, "ab", (0, 10**400)]
        ),
        "pairs": lambda: call.pick.choice([1, None, "no"]),
        "held": lambda: call.pick.choice([-1, 2**63, 1.5, "0"]),
        "backend": lambda: call.pick.choice(["gpu", None, "cuda", 3]),
    }
    if call.chance(0.5) or call.chance(0.3):
        last = len(spec.shape) == 3 and call.chance(0.5)
        out = given["out"] = call.destination(rows, dtype, last)
        spoiled["out"] = lambda: spoil_destination(call, out)

    def op(**keywords: Any) -> Any:
        return kernels.perturb(**keywords)

    def check(samples: Tensor) -> None:
        assert samples.shape == rows
        bounds = clip or (-torch.inf, torch.inf)
        plain = x.detach().contiguous()
        for i in range(2 if pairs else 1):
            half = samples[i * count : (i + 1) * count]
            assert_samples(half, plain, spec, first, sign * (-1) ** i, bounds)
        if "out" in given and not pairs and count and first < 2**62:
            again = kernels.perturb(**{**given, "first": first + count, "held": first})
            assert_samples(again, plain, spec, first + count, sign, bounds)

    return given, op, check, spoiled


def accumulate(call: Call) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    spec = call.spec(scored=True)
    dtype = call.pick.choice([torch.float32, torch.float64])
    weights = call.laid_out(call.randn(call.pick.randrange(6), dtype=call.pick.choice(DTYPES)))
    first, total = call.first(), call.destination(spec.shape, dtype)
    given: Given = {"total": total, "weights": weights, "spec": spec, "first": first}
    spoiled: Given = {
        "total": lambda: spoil_destination(call, total),
        "weights": lambda: spoil_tensor(call, weights),
        "spec": lambda: call.pick.choice([None, NoiseSpec(spec.shape, "uniform")]),
        "first": lambda: call.pick.choice(NOT_FIRSTS),
        "backend": lambda: call.pick.choice(["gpu", None, "cuda", 3]),
    }
    if call.chance(0.5):
        square = given["square"] = call.destination(spec.shape, dtype)
        spoiled["square"] = lambda: spoil_destination(call, square)
        if total.numel():
            spoiled["total "] = lambda: square  # one memory for both

    def check(result: Tensor) -> None:
        assert result is total
        plain = weights.detach().to(dtype)
        if total.numel() and len(plain):
            testing.assert_sums(total, given.get("square"), plain, spec, first)
        alone = kernels.accumulate_(torch.zeros_like(total), plain, spec, first)
        assert torch.equal(alone, total)

    return given, kernels.accumulate_, check, spoiled


def weights_not_finite(
    call: Call,
) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    """No sum to compare then, but which elements are not finite."""
    given, op, _, spoiled = accumulate(call)
    spec, total = given["spec"], given["total"]
    bad = [float("nan"), float("inf"), -float("inf"), 1.0]
    weights = given["weights"] = torch.tensor([call.pick.choice(bad) for _ in range(4)])

    def check(result: Tensor) -> None:
        sums = [torch.zeros_like(total) for _ in range(2)]
        kernels.accumulate_(sums[0], weights, spec, given["first"], sums[1], backend="reference")
        for made, wanted in ((result, sums[0]), (given.get("square"), sums[1])):
            if made is not None:
                torch.testing.assert_close(made, wanted, rtol=1e-3, atol=1e-3, equal_nan=True)

    return given, op, check, spoiled


def inspected(call: Call) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    """noise, blocks and path_positions."""
    spec = call.spec()
    while isinstance(spec.scale, AdaptiveScale):
        spec = call.spec()
    first, count = call.first(), call.pick.randrange(5)
    given: Given = {"first": first, "count": count}
    spoiled: Given = {
        "first": lambda: call.pick.choice(NOT_FIRSTS),
        "count": lambda: call.pick.choice(NOT_COUNTS),
    }
    kind = call.pick.randrange(3)
    if kind == 2:
        given["seed"] = spec.seed
        spoiled["seed"] = lambda: call.pick.choice([-1, 2**64, "7", None, 1.0])

        def between(result: Tensor) -> None:
            assert bool(((result > 0) & (result < 1)).all())

        return given, kernels.path_positions, between, spoiled
    given["spec"] = spec
    spoiled["spec"] = lambda: call.pick.choice([None, 3, spec.shape])
    spoiled["device"] = lambda: call.pick.choice(["cuda", "nowhere", 1.5, []])
    spoiled["backend"] = lambda: call.pick.choice(["gpu", None, "cuda", 3])
    if kind == 1:

        def same(result: Tensor) -> None:
            assert torch.equal(result, kernels.blocks(**given, backend="reference"))

        return given, kernels.blocks, same, spoiled
    spoiled["dtype"] = lambda: call.pick.choice([torch.int32, torch.complex64, None, "float32"])

    def added(result: Tensor) -> None:
        assert_samples(result, torch.zeros(spec.shape), spec, first)

    return given, kernels.noise, added, spoiled


def relative(call: Call) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    dtype, size = call.pick.choice(DTYPES), call.pick.choice([1, 3, 64, 1030])
    spec = NoiseSpec((size,), call.pick.choice(["normal", "rademacher"]), 0.5, stream=16, seed=3)
    x, out, first = call.randn(size, dtype=dtype), call.destination((1, size), dtype), call.first()
    run = kernels.Perturber(x, spec, relative=True)

    def check(result: Tensor) -> None:
        assert result is out
        wanted = kernels.perturb(x, spec, first, 1, relative=True, backend="reference")
        close = torch.finfo(dtype).eps * 2 + 1e-5
        torch.testing.assert_close(out, wanted, rtol=close, atol=close)

    spoiled = {
        "out": lambda: spoil_destination(call, out),
        "first": lambda: call.pick.choice(NOT_FIRSTS),
    }
    return {"out": out, "first": first}, run, check, spoiled


def gradient(call: Call) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    spec = call.spec(scored=True, plain=True)
    total, count = call.randn(*spec.shape), call.pick.choice([1, 7, 2**40])
    given: Given = {
        "total": total,
        "count": count,
        "out": call.destination(spec.shape, total.dtype),
    }

    def check(result: Tensor) -> None:
        scale = spec.scale if isinstance(spec.scale, Tensor) else torch.tensor(spec.scale)
        assert isinstance(scale, Tensor)
        wanted = torch.where(scale == 0, 0.0, total / (scale * count))
        torch.testing.assert_close(result, wanted.detach(), rtol=1e-5, atol=0)

    spoiled = {
        "total": lambda: spoil_tensor(call, total),
        "count": lambda: call.pick.choice([0, *NOT_COUNTS[:5], 2**63]),
        "out": lambda: spoil_destination(call, given["out"], torchs=True),
    }
    return given, spec.gradient, check, spoiled


def specified(call: Call) -> tuple[Given, Callable[..., Any], Callable[[Any], None], Given]:
    spec = call.spec()
    names = ("shape", "distribution", "scale", "block", "features", "design", "seed")
    given = {name: getattr(spec, name) for name in names}
    scale = torch.ones(spec.shape)

    def check(made: NoiseSpec) -> None:
        assert made == spec

    spoiled = {
        "shape": lambda: call.pick.choice(
            [(), (-1,), (2.5,), None, (2**62, 2**62), (0, HUGE, HUGE)]
        ),
        "distribution": lambda: call.pick.choice(["gauss", None, 3]),
        "scale": lambda: (
            call.pick.choice([-1.0, float("nan"), 10**400, True, "1", None])
            if call.chance(0.5) or not scale.numel()
            else spoil_tensor(call, scale)
        ),
        "block": lambda: call.pick.choice([0, -1, (1,) * 9, HUGE, 1.5, "1", True]),
        "features": lambda: call.pick.choice(
            [None, 3, Grid, Grid(HUGE), Labels(torch.zeros((2,) * 9, dtype=torch.int32))]
        ),
        "design": lambda: call.pick.choice(["orthogonal", None]),
        "seed": lambda: call.pick.choice([-1, 2**64, None, 1.0]),
    }
    return given, NoiseSpec, check, spoiled


OPS = [
    *[perturb] * 5,
    *[accumulate] * 3,
    weights_not_finite,
    inspected,
    relative,
    gradient,
    specified,
]


def followed(op: Callable[..., Any], given: Given, name: str) -> None:
    """Calls an op while torch.func or forward-mode differentiation follows one of its tensors."""

    def of(tensor: Tensor) -> Any:
        return op(**{**given, name: tensor})

    tensor = given[name].detach()
    torch.func.vmap(of)(tensor[None])


def one(seed: int, number: int, folder: str) -> str:
    """What became of a call: agreed, refused, or wrong and why."""
    call = Call(seed, number, folder)
    made = call.pick.choice(OPS)
    given, op, check, spoiled = made(call)
    spoil = call.chance(0.55)
    name = call.pick.choice(sorted(spoiled)) if spoil else ""
    about = f"call {number}, {made.__name__}, {name or 'as it should be'}"
    try:
        if spoil and isinstance(given.get(name), Tensor) and call.chance(0.1):
            followed(op, given, name)
        elif spoil:
            op(**{**given, name.strip(): spoiled[name]()})
        else:
            check(op(**given))
    except (TypeError, ValueError, RuntimeError) as error:
        if not spoil:
            return f"{about}: refused: {error!r}"
        if "\n" in str(error) or not str(error):
            return f"{about}: not one line: {error!r}"
        if not call.nothing_written():
            return f"{about}: written though refused: {error!r}"
        return "refused" if call.beside_untouched() else f"{about}: written beside"
    except Exception as error:
        return f"{about}: {error!r}"
    if spoil:
        return f"{about}: accepted"
    return "agreed" if call.beside_untouched() else f"{about}: written beside"


def serve(seed: int, first: int, count: int) -> None:
    """Makes calls, in a process of their own, and prints a line before each and one after."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            print("begun", number, flush=True)
            print(" ".join(one(seed, number, folder).split()), flush=True)


def run(count: int, seed: int) -> dict[str, object]:
    """Makes ``count`` random calls; a process that a call ends is followed by another."""
    start, next_call = time.perf_counter(), 0
    figures = {"tried": 0, "agreed": 0, "refused": 0, "wrong": 0, "crashed": 0}
    failures: list[str] = []
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['serve'](*map(int, sys.argv[2:]))"
    while next_call < count:
        numbers = map(str, (seed, next_call, count - next_call))
        child = subprocess.Popen(
            [sys.executable, "-c", code, __file__, *numbers],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        begun = False
        for line in child.stdout:
            if line.startswith("begun "):
                next_call, begun = int(line.split()[1]) + 1, True
                continue
            begun = False
            figures["tried"] += 1
            outcome = line.strip()
            figures[outcome if outcome in figures else "wrong"] += 1
            failures += [outcome] * (outcome not in figures)
        if child.wait() and not begun:
            raise RuntimeError(f"a process that makes calls ended with {child.returncode}")
        if begun:
            figures["tried"] += 1
            figures["crashed"] += 1
            failures.append(f"call {next_call - 1}: ended its process with {child.returncode}")
    result: dict[str, object] = {**figures, "seconds": round(time.perf_counter() - start, 1)}
    return {**result, "failures": "; ".join(failures[:5])} if failures else result
