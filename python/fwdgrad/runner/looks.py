"""How many samples a run calls for: a number, or until a look at its map finds it sure enough.

Looks are at fixed numbers of samples, and a look depends on their scores alone, so a run stops at
the same one for any batch size, workers and ranks, and when it goes on from a checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from fwdgrad.checks import check_integer, check_no_array, check_number
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option
from fwdgrad.estimate.moments import Result
from fwdgrad.methods.base import Method
from fwdgrad.outputs import told
from fwdgrad.plan import Plan

_GROWTH = 1.5  # from a look to the next
_WATCHED = 16  # perturbed inputs of the first look of a run of a number of them


@dataclasses.dataclass(frozen=True)
class AutoSamples:
    """As many samples as make a map sure: ``n_samples="auto"`` of ``fwdgrad.explain``.

    Args:
        reliability: of every target's map, from which on a run stops.
        max_samples: at which it stops at the latest.

    Example:
        >>> AutoSamples.of("auto", 0.8, None)
        AutoSamples(reliability=0.8, max_samples=4096)
        >>> AutoSamples.of(256, 0.8, None)
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: reliability needs n_samples='auto', got n_samples=256
    """

    reliability: float = 0.9
    max_samples: int = 4096

    @classmethod
    def of(cls, n_samples: Any, reliability: Any, max_samples: Any) -> AutoSamples | None:
        """What was asked for; None where it is a number of samples.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        given = {"reliability": reliability, "max_samples": max_samples}
        for name, value in {"n_samples": n_samples, **given}.items():
            check_no_array(name, value)
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(n_samples, str):
            if n_samples != "auto":
                shown = told(repr(n_samples), 80)
                raise ArgumentTypeError("n_samples", f"must be an integer or 'auto', got {shown}")
            return cls(**given)
        for name in given:
            auto = Option("n_samples", "auto")
            raise ArgumentError(name, "needs ", auto, f", got n_samples={n_samples!r}")
        return None

    def __post_init__(self) -> None:
        """Checks each."""
        value = check_number("reliability", self.reliability)
        if not 0 < value < 1:
            raise ArgumentError("reliability", f"must be between 0 and 1, got {value:g}")
        object.__setattr__(self, "reliability", value)
        most = check_integer("max_samples", self.max_samples, 1)
        object.__setattr__(self, "max_samples", most)

    def check_method(self, method: Method) -> None:
        """Raises where a method's map cannot be of more and more samples of one plan."""
        if not method.grows:
            raise ArgumentError(
                "n_samples",
                "must be a number or left out with ",
                Option("method", method.name),
                ", got 'auto', which regions, coalitions and forward-gradient take",
            )

    def check_plan(self, plan: Plan) -> None:
        """Raises where the first look takes more samples than there may be."""
        if plan.n_samples > self.max_samples:
            raise ArgumentError(
                "max_samples",
                f"must be at least {plan.n_samples}, the fewest that {plan.method.name} takes "
                f"here, got {self.max_samples}",
            )

    def most(self, plan: Plan) -> int:
        """The most samples of a plan (a pair counts once): whole units, or all coalitions."""
        if plan.labels is not None:
            return plan.samples
        return self.max_samples // plan.signs // plan.unit * plan.unit

    def is_reached(self, found: Sequence[float]) -> bool:
        """Whether every target's reliability is; one that cannot be told is not."""
        return all(value >= self.reliability for value in found)

    def told(self, plan: Plan, found: Sequence[float]) -> str:
        """How a run ended, whose targets have these reliabilities.

        Example:
            >>> import torch
            >>> from fwdgrad.methods import Regions, plan_of
            >>> plan = plan_of(torch.ones(12), Regions(0.0), n_samples=384)
            >>> AutoSamples().told(plan, [0.95, 0.91])
            'auto: reliability 0.91 >= 0.9 after 384 of at most 4096'
        """
        sign = ">=" if self.is_reached(found) else "<"
        known = f"reliability {lowest(found):.3g} {sign} {self.reliability:g}"
        known = "reliability not known" if math.isnan(lowest(found)) else known
        return f"auto: {known} after {plan.n_samples} of at most {self.max_samples}"


def lowest(found: Sequence[float]) -> float:
    """The lowest reliability; NaN where one cannot be told.

    >>> lowest([0.5, 0.25]), lowest([0.5, math.nan])
    (0.25, nan)
    """
    return math.nan if any(map(math.isnan, found)) else min(found)


class Goal:
    """How many samples a run calls for: all of them.

    Args:
        samples: how many these are.

    Attributes:
        samples: how many it calls for, as far as is known.
        said: what there is to say of the last look, beside a bar.
        results: each target's map of the samples so far, where a look made it.
        may_end: whether it may turn out that fewer do: then no more is asked for before a look.
    """

    said = ""
    results: list[Result] | None = None
    may_end = False

    def __init__(self, samples: int) -> None:
        """Nothing is called for yet."""
        self.samples = samples

    def after(self, done: int) -> int:
        """How many samples there are to be, once so many have a score; those, where that is all."""
        return self.samples


class Watched(Goal):
    """All samples of a plan, with looks on the way for somebody who watches.

    Looks are at the first samples whose map is fair, and at twice as many each time. A part of a
    Hadamard group would mix up features: at half of it, of 200 seeds, half had two features with a
    third of each in the other, or more.

    Args:
        plan: of the run.
        look: is given how many first samples there are; not at the end.

    Example:
        >>> import torch
        >>> from fwdgrad.methods import Regions, plan_of
        >>> plan = plan_of(torch.ones(20), Regions(0.0), n_samples=300)  # groups of 64
        >>> goal, seen = Watched(plan, print), [0]
        >>> for _ in range(4):
        ...     seen.append(goal.after(seen[-1]))
        64
        128
        256
        >>> seen
        [0, 64, 128, 256, 300]
    """

    def __init__(self, plan: Plan, look: Callable[[int], None]) -> None:
        """Nothing is called for yet."""
        super().__init__(plan.samples)
        self._look, self._first = look, plan.samples
        if plan.method.grows and plan.labels is None:
            least = 2 if plan.control_variate == "leave-one-out" else 1  # which are of others
            units = -(-_WATCHED // (plan.signs * plan.unit))
            self._first = max(units, least) * plan.unit

    def after(self, done: int) -> int:
        """See ``Goal``."""
        if 0 < done < self.samples:
            self._look(done)
        return min(2 * done or self._first, self.samples)


class Looks(Goal):
    """How many samples make a map sure.

    Args:
        auto: when it is.
        plan: of the first look.
        judge: gives each target's map, of so many first samples.
        show: is given how many these are, and their maps, at each look but the last.
    """

    may_end = True

    def __init__(
        self,
        auto: AutoSamples,
        plan: Plan,
        judge: Callable[[int], list[Result]],
        show: Callable[[int, list[Result]], None],
    ) -> None:
        """Nothing is called for yet."""
        super().__init__(plan.samples)
        self._auto, self._judge, self._show, self._unit = auto, judge, show, plan.unit
        self._most = auto.most(plan)

    def after(self, done: int) -> int:
        """See ``Goal``."""
        if not done:
            return self.samples
        self.results = None  # memory for the next
        self.results = self._judge(done)
        found = [reliability for _, _, reliability in self.results]
        self.said = f"reliability={lowest(found):.2f}"
        if not self._auto.is_reached(found):
            units = int(_GROWTH * done / self._unit)
            self.samples = min(max(units * self._unit, done + self._unit), self._most)
        if self.samples > done:
            self._show(done, self.results)
        return self.samples
