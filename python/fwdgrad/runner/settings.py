"""How a run is made: what its result does not depend on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

from torch import Tensor

from fwdgrad.checks import check_integer, check_no_array
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option
from fwdgrad.outputs import told
from fwdgrad.plan import Plan
from fwdgrad.runner.links import group_of
from fwdgrad.runner.loop import Progress
from fwdgrad.runner.memory import BatchSize, parse_memory
from fwdgrad.runner.ranks import Ranks
from fwdgrad.runner.workers import Workers, workers_of


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run is made: see ``fwdgrad.explain`` for each.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> Settings(memory="1KiB").memory
        1024
    """

    batch_size: int | None = None
    memory: int | str | None = None
    checkpoint: str | os.PathLike[str] | None = None
    progress: Progress = False
    name: str | None = None
    backend: str = "auto"
    workers: int | Workers | None = None
    group: Any = None  # of torch.distributed; its ranks are the workers then

    def __post_init__(self) -> None:
        """Checks each argument."""
        for name in ("batch_size", "memory", "backend"):
            check_no_array(name, getattr(self, name))
        if self.batch_size is not None:
            self._set("batch_size", check_integer("batch_size", self.batch_size, 1))
        if self.batch_size is not None and self.memory is not None:
            raise ArgumentError(
                "batch_size",
                "and ",
                Option("memory"),
                " both set the micro-batch; give one of them",
            )
        if self.memory is not None:
            self._set("memory", parse_memory(self.memory))
        self._set("workers", workers_of(self.workers))
        if (group := group_of(self.group)) is not None:
            if self.workers is not None:
                raise ArgumentError(
                    "group", "and ", Option("workers"), " both say where the model is called; give "
                    "one of them",
                )  # fmt: skip
            self._set("workers", Ranks(group))
        if self.workers is not None and self.memory is not None:
            raise ArgumentError(
                "memory",
                "cannot be kept to by several workers; give ",
                Option("batch_size"),
                ", the samples that each takes at once",
            )
        if not (isinstance(self.progress, bool) or callable(self.progress)):
            raise ArgumentTypeError(
                "progress",
                f"must be True, False or a callable, got {told(repr(self.progress), 80)}",
            )
        if not (self.checkpoint is None or isinstance(self.checkpoint, (str, os.PathLike))):
            raise ArgumentTypeError(
                "checkpoint", f"must be a path, got {told(repr(self.checkpoint), 80)}"
            )
        if not (self.name is None or isinstance(self.name, str)):
            raise ArgumentTypeError(
                "name", f"must be a text or None, got {told(repr(self.name), 80)}"
            )

    @property
    def ranks(self) -> Ranks | None:
        """The workers, where they are ranks."""
        return self.workers if isinstance(self.workers, Ranks) else None

    def together(self) -> contextlib.AbstractContextManager[None]:
        """What ranks do at once, see ``Ranks``."""
        return contextlib.nullcontext() if self.ranks is None else self.ranks.together()

    def batch_of(self, plan: Plan, state: dict[str, Tensor], sums: int) -> BatchSize:
        """How many samples of a plan a forward call takes.

        Args:
            plan: of the run.
            state: what is kept of the samples.
            sums: bytes that follow the samples.
        """
        x, spec = plan.x, plan.spec
        fixed = x.nbytes + sum(tensor.nbytes for tensor in state.values())
        if spec is not None and isinstance(spec.scale, Tensor):
            fixed += spec.scale.nbytes
        if plan.path is not None:
            fixed += 2 * x.nbytes  # the baseline, and a point between
        if isinstance(plan.baseline, Tensor):
            fixed += plan.baseline.nbytes
        assert not isinstance(self.memory, str)
        return BatchSize(self.batch_size, self.memory, x.nbytes, fixed, sums, x.device)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
