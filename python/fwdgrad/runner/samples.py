"""Making a plan's samples, a micro-batch at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.parameters import NoisyParameters
from fwdgrad.plan import Plan
from fwdgrad.scorer import Scorer
from fwdgrad_kernels import Perturber, empty_samples

Results = list[list[Tensor]]  # of each sign of the noise, for each target: a row for each sample


class Samples:
    """The samples of a plan, made from their numbers whenever they are asked for.

    Args:
        plan: of the run.
        backend: of the kernels.
        noisy: the model's parameters, where they get noise.
    """

    def __init__(self, plan: Plan, backend: str, noisy: NoisyParameters | None = None) -> None:
        """Nothing is made yet."""
        self.plan, self.backend, self.noisy = plan, backend, noisy
        self._own = threading.local()  # a buffer and a perturber for each thread

    def __getstate__(self) -> dict[str, Any]:
        """All but what is each thread's own: another process makes that anew."""
        return {name: value for name, value in vars(self).items() if name != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Nothing is made yet."""
        vars(self).update(state, _own=threading.local())

    def rows(self, count: int) -> Tensor:
        """Memory for so many samples, used again and again."""
        own = self._own
        if getattr(own, "buffer", None) is None or len(own.buffer) < count:
            own.buffer = None  # free the old one first
            own.buffer = empty_samples(self.plan.x, count, self.plan.spec)
        rows: Tensor = own.buffer[:count]
        return rows

    def release(self) -> None:
        """Gives that memory back."""
        self._own.buffer = None

    def begin(self, sample: int) -> contextlib.AbstractContextManager[object]:
        """What the model is called within for this sample and those that share its parameters."""
        if self.noisy is None:
            return contextlib.nullcontext()
        self.noisy.begin(sample // self.plan.per_draw)
        return self.noisy

    def results(
        self, evaluate: Callable[[Tensor], list[Tensor]], first: int, count: int, batch: int
    ) -> Results:
        """Makes samples first onwards and evaluates them, at most ``batch`` at once."""
        signs = self.plan.signs
        pairs = signs == 2 and 2 * count <= batch
        rows = self.rows(2 * count if pairs else count)
        results = []
        for sign in (1,) if pairs or signs == 1 else (1, -1):
            self.fill(rows, first, count, sign, pairs)
            with self.begin(first):
                found = evaluate(rows)
            for start in range(0, len(rows), count):
                results.append([one[start : start + count] for one in found])
        return results

    def fill(self, out: Tensor, first: int, count: int, sign: int = 1, pairs: bool = False) -> None:
        """Writes samples first onwards: with pairs, all of one sign and then all of the other."""
        plan, x, spec = self.plan, self.plan.x, self.plan.spec
        if plan.labels is not None:
            self._fill_coalitions(out[:count], first, plan.labels)
            return
        if plan.path is None and spec is not None:
            self._filler(pairs)(out, first, sign=sign)
            return
        for i in range(count):
            point = x if plan.path is None else plan.path.point(x, first + i)
            run = None
            if spec is not None:
                run = Perturber(point, spec, clip=plan.clip, backend=self.backend)
            for row, s in ((i, sign), (count + i, -sign)) if pairs else ((i, sign),):
                if run is None:
                    out[row] = point
                else:
                    run(out[row : row + 1], first + i, sign=s)

    def _fill_coalitions(self, out: Tensor, first: int, labels: Tensor) -> None:
        """Sample i has the input where the bit of i that an element's label names is set."""
        x, device = self.plan.x, labels.device
        numbers = torch.arange(first, first + len(out), device=device)[:, None]
        features = torch.arange(self.plan.samples.bit_length() - 1, device=device)
        is_in = (numbers >> features & 1).bool()[:, labels]
        baseline = torch.as_tensor(self.plan.baseline, dtype=x.dtype, device=x.device)
        torch.where(is_in, x, baseline, out=out)

    def _filler(self, pairs: bool) -> Perturber:
        """What fills micro-batches, checked once."""
        filler: Perturber | None = getattr(self._own, "filler", None)
        if filler is None or filler.pairs != pairs:
            plan = self.plan
            assert plan.spec is not None
            filler = self._own.filler = Perturber(
                plan.x, plan.spec, clip=plan.clip, pairs=pairs, baseline=plan.baseline,
                position=plan.position, backend=self.backend,
            )  # fmt: skip
        return filler

    def scores_again(self, scorer: Scorer, numbers: list[int], batch: int) -> Tensor:
        """The scores of single samples, asked for anew: float64 (numbers, targets)."""
        size = min(1 if self.noisy is not None else batch, len(numbers))
        buffer, found = empty_samples(self.plan.x, size, self.plan.spec), []
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            for place, number in enumerate(some):
                self.fill(buffer[place : place + 1], number, 1)
            with torch.no_grad(), self.begin(some[0]):
                scores = scorer(buffer[: len(some)])
            found.append(torch.stack([one.to("cpu", torch.float64) for one in scores], dim=1))
        return torch.cat(found).nan_to_num()  # as a run of gradients keeps them
