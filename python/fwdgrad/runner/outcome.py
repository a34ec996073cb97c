"""What a run found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from fwdgrad.estimate.missing import is_missing
from fwdgrad.estimate.moments import Moments, Result
from fwdgrad.plan import Plan
from fwdgrad.scorer import Scorer


@dataclasses.dataclass
class Outcome:
    """What a run found.

    Attributes:
        scorer: with the targets, the objective, and the scores at the input.
        backend: of the kernels.
        scores: float64 (samples, signs, targets), from forward calls.
        plan: of the samples that were taken.
        maps: of each target, where a look has made them.
        moments: of gradients, where the model gave some.
        starts: the targets' scores where a path starts.
    """

    scorer: Scorer
    backend: str
    plan: Plan
    maps: list[Result] | None = None
    scores: Tensor | None = None
    moments: Moments | None = None
    starts: list[float] | None = None

    @property
    def missing(self) -> int:
        """Samples without a score."""
        return 0 if self.scores is None else int(is_missing(self.scores).sum())


OnLook = Callable[[Outcome, list[Result]], None]
