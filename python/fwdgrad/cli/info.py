"""fwdgrad info and fwdgrad methods."""

from __future__ import annotations

import argparse
import dataclasses
import platform

import torch

import fwdgrad
import fwdgrad_kernels
from fwdgrad.methods import METHODS
from fwdgrad.terminal import say


def info(_: argparse.Namespace) -> None:
    """Prints versions, backends, SIMD level and threads."""
    say(f"fwdgrad     {fwdgrad.__version__}")
    say(f"torch       {torch.__version__}, Python {platform.python_version()}")
    for name, state in fwdgrad_kernels.backend_states().items():
        say(f"{name:11} {state}")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    for device in devices:
        try:
            used = fwdgrad_kernels.backend_for(torch.device(device))
        except RuntimeError as error:
            used = f"none: {error}"
        say(f"in use      {used} on {device}")
    say(f"threads     {torch.get_num_threads()}")


def methods(_: argparse.Namespace) -> None:
    """Every method: what it is, where it comes from, and its options."""
    width = max(map(len, METHODS))
    say("methods (--method NAME; fwdgrad.explain(method=...))")
    for name, method in METHODS.items():
        say(f"  {name:{width}}  {method.line} [{method.source}]")
        options = ", ".join(field.name for field in dataclasses.fields(method))
        say(f"  {'':{width}}  options: {options or 'none'}")
