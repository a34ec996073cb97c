"""fwdgrad info and fwdgrad methods."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

import torch

import fwdgrad
import fwdgrad_kernels
from fwdgrad.methods import FAMILIES
from fwdgrad.terminal import say
from fwdgrad_kernels import cuda, native, triton


def info(_: argparse.Namespace) -> None:
    """Prints versions, backends, SIMD level and threads."""
    say(f"fwdgrad     {fwdgrad.__version__}")
    say(f"torch       {torch.__version__}, Python {platform.python_version()}")
    on_gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if native.missing():
        say(f"cpu         missing: {native.missing()}")
    else:
        assert native.module is not None
        threads = "OpenMP" if native.module.openmp else "built without OpenMP: one thread"
        say(f"cpu         ready: {native.module.simd_level()}, {threads}")
    if cuda.module is not None:
        built = f"built for {cuda.module.architectures}"
        why = cuda.missing()
        say(f"cuda        {f'{built}, missing: {why}' if why else f'ready: {built}; {on_gpu}'}")
    else:
        say(f"cuda        missing: {cuda.missing()}")
    if triton.missing():
        say(f"triton      missing: {triton.missing()}")
    else:
        version = importlib.metadata.version("triton")
        say(f"triton      ready: Triton {version}, {on_gpu or 'interpreter'}")
    say("reference   ready: plain PyTorch, any device, slow")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    for device in devices:
        try:
            used = fwdgrad_kernels.backend_for(torch.device(device))
        except RuntimeError as error:
            used = f"none: {error}"
        say(f"in use      {used} on {device}")
    say(f"threads     {torch.get_num_threads()}")


def methods(_: argparse.Namespace) -> None:
    """Every method, and the families that they are put together from."""
    width = max(map(len, fwdgrad.METHODS))
    say("methods (--method; fwdgrad.explain(method=...))")
    for name, method in fwdgrad.METHODS.items():
        say(f"  {name:{width}}  {method.line} [{method.equation}]")
    for title, rows in FAMILIES.items():
        say("")
        say(title)
        for name, line in rows.items():
            say(f"  {name:{width}}  {line}")
