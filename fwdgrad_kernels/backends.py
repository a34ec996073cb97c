"""The ops as torch knows them, and the choice of a backend.

They are registered with torch as ``fwdgrad_kernels::perturb_``, ``accumulate_``, ``expand_`` and
``blocks_``, with fakes, so ``torch.compile`` sees them. They check nothing: the public functions
do, before anything is written. They are defined through ``torch.library.Library``:
``torch.library.custom_op`` costs over 10 us a call.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import torch

from fwdgrad_kernels import cuda, native, triton

COMPILED = {"cpu": native, "cuda": cuda, "triton": triton}
BACKENDS = ("auto", *COMPILED, "reference")

_library = torch.library.Library("fwdgrad_kernels", "DEF")
_library.define(
    "perturb_(str backend, Tensor(a!) out, Tensor x, Tensor? scale_map, Tensor? bounds, "
    "float[] rule, Tensor? baseline, bool by_plane, float position, float scale, int[] spec, "
    "Tensor? labels, int first, int? held, bool pairs, float low, float high) -> ()"
)
_library.define(
    "expand_(str backend, Tensor(a!) out, Tensor values, int[] spec, int first, bool squared) -> ()"
)
_library.define(
    "accumulate_(str backend, Tensor(a!) total, Tensor(b!)? square, Tensor weights, int[] spec, "
    "int first) -> ()"
)
_library.define("blocks_(str backend, Tensor(a!) out, int[] spec, int first) -> ()")


def _implementation(name: str) -> Callable[..., None]:
    def run(backend: str, *arguments: Any) -> None:
        getattr(COMPILED[backend], name)(*arguments)

    return run


def _fake(*_: object) -> None:
    """What an op does to tensors without values: nothing, for it only writes into its arguments."""


for _name in ("perturb_", "accumulate_", "expand_", "blocks_"):
    _library.impl(_name, _implementation(_name), "CPU")
    _library.impl(_name, _implementation(_name), "CUDA")  # HIP devices, too, have this key
    torch.library.register_fake(f"fwdgrad_kernels::{_name}", _fake)
OPS: Any = torch.ops.fwdgrad_kernels


def op_of(name: str, backend: str, plain: bool) -> Callable[..., None]:
    """Through torch's registry where something may have to see it; past it, 10 us are saved."""
    if plain:
        op: Callable[..., None] = getattr(COMPILED[backend], name)
        return op
    return functools.partial(getattr(OPS, name), backend)


def backend_for(device: torch.device, backend: str = "auto") -> str:
    """The backend that an op on ``device`` uses.

    Args:
        device: where the tensors are.
        backend: ``"cpu"``, ``"cuda"`` (CUDA C++), ``"triton"``, ``"reference"`` (plain PyTorch), or
            ``"auto"``: what the environment's ``FWDGRAD_BACKEND`` names, else the first of these
            that the device has.

    Raises:
        ValueError: no such backend, or not for this device.
        RuntimeError: the backend is not built or cannot be used, saying why.

    Example:
        >>> import torch
        >>> backend_for(torch.device("cpu"), "reference")
        'reference'
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "auto" and device.type == "meta":  # shapes alone: the op's fake serves
        return "cpu"
    if backend == "auto":
        backend = os.environ.get("FWDGRAD_BACKEND", "auto")
        if backend not in BACKENDS:
            raise ValueError(
                f"FWDGRAD_BACKEND must be one of {', '.join(BACKENDS)}, got {backend!r}"
            )
    if backend == "auto":
        if device.type == "cpu":
            return "reference" if native.missing() else "cpu"
        if device.type != "cuda":
            return "reference"
        for name in ("cuda", "triton"):
            if not COMPILED[name].missing(device):
                return name
        raise RuntimeError(
            f"no backend is available for {device}: cuda: {cuda.missing(device)}; triton: "
            f"{triton.missing()}. backend='reference' works anywhere, slowly and with the noise in "
            "memory"
        )
    if backend != "reference":
        module = COMPILED[backend]
        why = module.missing(device if device.type == "cuda" else None)
        if why and not (device.type == "cuda" and backend == "cpu"):
            raise RuntimeError(f"backend {backend!r} is not available: {why}")
        if not module.serves(device):
            wanted = "on the CPU" if backend == "cpu" else "on a GPU"
            raise ValueError(f"backend {backend!r} needs tensors {wanted}, got device {device}")
    return backend


# As torch.compiler.assume_constant_result does, which would import torch's compiler: over a second.
backend_for._dynamo_marked_constant = True  # type: ignore[attr-defined]


def backend_states() -> dict[str, str]:
    """What each backend is built for, or why it cannot be used, in a line.

    Example:
        >>> backend_states()["reference"]
        'ready: plain PyTorch, any device, slow'
    """
    found = {name: f"missing: {module.missing()}" for name, module in COMPILED.items()}
    on_gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if not native.missing():
        assert native.module is not None
        threads = "OpenMP" if native.module.openmp else "built without OpenMP: one thread"
        found["cpu"] = f"ready: {native.module.simd_level()}, {threads}"
    if cuda.module is not None:
        built = f"built for {cuda.module.architectures}"
        why = cuda.missing()
        found["cuda"] = f"{built}, missing: {why}" if why else f"ready: {built}; {on_gpu}"
    if not triton.missing():
        version = importlib.metadata.version("triton")
        found["triton"] = f"ready: Triton {version}, {on_gpu or 'interpreter'}"
    return {**found, "reference": "ready: plain PyTorch, any device, slow"}
