"""The command line as one of several ranks, as torchrun starts them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator

import torch
import torch.distributed as dist

from fwdgrad.errors import ArgumentError


@contextlib.contextmanager
def ranks_of(arguments: argparse.Namespace) -> Iterator[None]:
    """Within it ``arguments.group`` has the ranks, and ``arguments.leads`` is of rank 0 alone.

    Of a process that is alone they are None and True. ``--device cuda`` becomes each rank's own.

    Raises:
        ValueError: there are not as many GPUs as ranks.
    """
    arguments.group = None
    arguments.leads = True
    if int(os.environ.get("WORLD_SIZE") or 1) == 1 or "RANK" not in os.environ:
        yield
        return
    arguments.leads = os.environ["RANK"] == "0"
    if arguments.device == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK") or 0), torch.cuda.device_count()
        if local >= there:
            raise ArgumentError(
                "device", f"cuda needs a GPU a rank, got local rank {local} and {there} GPUs"
            )
        arguments.device = f"cuda:{local}"
        torch.cuda.set_device(local)
    if arguments.workers is not None:
        raise ArgumentError("workers", "and torchrun both share the work out; give one of them")
    # Scores are numbers on the CPU, wherever the model is.
    with _ended_at_once():  # while it waits for ranks that do not come
        dist.init_process_group("gloo")
    try:
        arguments.group = dist.group.WORLD
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _ended_at_once() -> Iterator[None]:
    """Signals end the process in C, too, where Python would handle them only afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
