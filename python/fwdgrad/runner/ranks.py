"""Ranks of torch.distributed as workers.

Every rank calls ``explain`` with the same arguments. Rank 0 runs the loop and hands out ranges of
sample numbers; all ranks, rank 0 in a thread, make those samples, call the model and give back the
scores. At the end each has all scores, and sums the same map.

A rank that fails says so to rank 0, which tells the others; of one whose process has ended gloo
tells. On each rank threads listen, so that Ctrl-C comes through while it waits.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from fwdgrad.interrupts import ended_by_signals
from fwdgrad.runner.checkpoint import shown
from fwdgrad.runner.fingerprint import Answer, differ
from fwdgrad.runner.links import over_gloo
from fwdgrad.runner.rank_ends import Others, RankZero
from fwdgrad.runner.work import Found
from fwdgrad.runner.workers import Pool

_NAMED = 3  # differences of ranks


class Ranks:
    """The ranks of a group of torch.distributed; see the module's text.

    All that happens between them is within ``together``.

    Args:
        group: of several ranks.

    Attributes:
        rank: this one's.
        count: how many there are.
        kept: the end of a message: what is left of the scores.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Nothing is said yet."""
        self._group = group
        self.rank, self.count = group.rank(), group.size()
        self.kept = ""
        self._end: RankZero | Others | None = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All that happens between the ranks; where one fails in it, all do."""
        # torchrun ends the others by SIGTERM where one has failed: what there is, is kept.
        with ended_by_signals(), contextlib.ExitStack() as stack:
            group, is_new = over_gloo(self._group)
            if is_new:
                stack.callback(dist.destroy_process_group, group)
            end = self._end = Others(group) if self.rank else RankZero(group)
            stack.callback(setattr, self, "_end", None)
            try:
                yield
            except BaseException as error:
                end.failed(error, self.kept)
                raise
            end.close()

    def agree(self, what: Mapping[str, Any], answer: Answer | None = None, own: Any = None) -> Any:
        """Raises on every rank where they have not the same, and names those that differ.

        Args:
            what: must be the same, as JSON has it.
            answer: the model's, whose numbers may be off by a rounding.
            own: whatever else there is.

        Returns:
            ``own`` of rank 0.

        Raises:
            ValueError: ranks differ.
        """
        texts = {name: json.dumps(value, default=repr) for name, value in what.items()}
        assert self._end is not None
        return self._end.agree((texts, answer, own), _differences)

    def open(self, model: Callable[..., Any]) -> contextlib.AbstractContextManager[Pool]:
        """On rank 0: all ranks, each of which has a model of its own."""
        assert isinstance(self._end, RankZero)
        return self._end.open(model)

    def spread(self, scores: Tensor) -> None:
        """On rank 0: gives the others all scores, and ends their work."""
        assert isinstance(self._end, RankZero)
        self._end.spread(scores)

    def serve(self, score: Callable[[int, int, int], Found]) -> Tensor:
        """On another: gives rank 0 the scores that it asks for; at the end all scores.

        Args:
            score: of samples first onwards, how many, how many at once.
        """
        assert isinstance(self._end, Others)
        return self._end.serve(score)


def _differences(given: list[Any]) -> str:
    """How ranks differ from rank 0, in what each gave to ``Ranks.agree``; nothing where none does.

    >>> _differences([({"seed": "0"}, None, 1), ({"seed": "0"}, None, 2), ({"seed": "7"}, None, 3)])
    'ranks differ: rank 2 has seed 7, rank 0 has 0'
    """
    (own, answer, _), *others = given
    found = []
    for rank, (texts, other, _) in enumerate(others, 1):
        bad = [
            (name, *(shown(json.loads(one.get(name, "null"))) for one in (texts, own)))
            for name in own | texts
            if texts.get(name) != own.get(name)
        ]
        if not bad and answer is not None:
            which = differ(other.numbers, answer.numbers, answer.precision).nonzero()[:_NAMED, 0]
            if len(which):
                numbers = (
                    ", ".join(f"{value:.6g}" for value in one.numbers[which].tolist())
                    for one in (other, answer)
                )
                bad.append(("output at the input", *numbers))
        found += [f"rank {rank} has {name} {its}, rank 0 has {ours}" for name, its, ours in bad]
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"ranks differ: {'; '.join(found[:_NAMED])}{more}" if found else ""
