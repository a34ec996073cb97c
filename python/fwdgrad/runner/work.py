"""The work that workers do: the scores of a range of samples."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.runner.samples import Samples
from fwdgrad.runner.workers import Shared
from fwdgrad.scorer import Scorer

Found = tuple[Tensor, Tensor | None]


class Work:
    """All that is needed for a plan's scores but the model; it can be sent to another process.

    Args:
        samples: of the plan.
        scorer: with the targets and the objective.
    """

    def __init__(self, samples: Samples, scorer: Scorer) -> None:
        """Nothing is made yet."""
        self.samples, self.scorer = samples, scorer
        self._own = threading.local()  # a scorer for each thread

    def __getstate__(self) -> tuple[Samples, Scorer]:
        """What is sent."""
        return self.samples, self.scorer

    def __setstate__(self, state: tuple[Samples, Scorer]) -> None:
        """What was sent."""
        self.__init__(*state)  # type: ignore[misc]

    def scores(self, model: Callable[[Tensor], Any], first: int, count: int, batch: int) -> Found:
        """The scores of samples first onwards, at most ``batch`` in a call.

        Returns:
            float64 (count, signs, targets) on the CPU; and what the scorer saw, see
            ``Scorer.seen``.
        """
        scorer: Scorer | None = getattr(self._own, "scorer", None)
        if scorer is None or scorer.model is not model:
            scorer = self._own.scorer = self.scorer.with_model(model)

        def evaluate(rows: Tensor) -> list[Tensor]:
            # Copied: a model may return a view of its argument, or of a buffer of its own.
            return [one.to("cpu", torch.float64, copy=True) for one in scorer(rows)]

        with torch.no_grad():
            found = self.samples.results(evaluate, first, count, batch)
        scores = torch.stack([torch.stack(of_sign, dim=1) for of_sign in found], dim=1)
        return scores, scorer.taken()


def score(
    model: Callable[[Tensor], Any], work: Shared, first: int, count: int, batch: int
) -> Found:
    """``Work.scores`` of what is shared; for ``Pool.submit``."""
    found: Found = work.get().scores(model, first, count, batch)
    return found
