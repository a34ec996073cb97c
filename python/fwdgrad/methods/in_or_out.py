"""What model adapters take for features that are in or out, such as words and columns."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from fwdgrad.errors import Message, Option, ReliabilityWarning, warn
from fwdgrad.methods.base import Method, Request
from fwdgrad.methods.coalitions import MOST, Coalitions
from fwdgrad.methods.noise import labels_of, on_device
from fwdgrad.methods.regions import Regions
from fwdgrad.plan import Plan

SAMPLES = 1024  # where nothing is asked for
_SPARE = 4  # directions of a group at least that tell the error, where there is one group
_FEW = 7  # features of which all coalitions are no more calls than enough Hadamard groups


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InOrOut(Method):
    """All coalitions of features where they are no more than the samples; else ``Regions(0.0)``.

    Both are of the Banzhaf value: the first is exact, the second estimates it. In pairs of opposite
    samples what two words do together cancels out of the score of each: on reviews of 40 words,
    scores of 128 samples in pairs correlate .99 with those of 4,096, and without .97. Fewer pairs
    than words, though, cannot tell the words apart, and do far worse than single samples. A run
    that takes as many samples as make its map sure begins with 128, and chooses as for these.

    Args:
        pairs: whether samples come in pairs where there are enough of them.
        least: features up to which all coalitions are called where no number is asked for, however
            many they are.

    Example:
        >>> import torch
        >>> InOrOut().plan(torch.ones(5), Request(n_samples=100)).method
        Coalitions(value='banzhaf', baseline=0.0)
        >>> InOrOut(pairs=True).plan(torch.ones(40), Request(n_samples=1000)).method
        Regions(baseline=0.0, cell='auto', antithetic=True, axes=None, directions=None)
    """

    grows = True

    pairs: bool = False
    least: int = 0

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The run that explains which features matter; x is 1 where a feature is in."""
        labels = labels_of(on_device(request.features, x.device), tuple(x.shape), x.device)
        count = len(x) if labels is None else labels.count
        asked, coalitions = request.count(SAMPLES), 1 << min(count, MOST)
        if request.n_samples is None and count <= self.least and _may(request, coalitions):
            asked = coalitions
        if labels is not None and count <= MOST and coalitions <= asked:
            return Coalitions().plan(x, dataclasses.replace(request, n_samples=None))
        if more := all_instead(count, asked):
            warn(more, ReliabilityWarning)
        pairs, odd = divmod(asked, 2)
        group = 1 << (count - 1).bit_length()
        enough = pairs >= 2 * group or (pairs >= group and group - count >= _SPARE)
        return Regions(0.0, antithetic=self.pairs and enough and not odd).plan(x, request)


def _may(request: Request, samples: int) -> bool:
    """Whether a run that goes on until its map is sure may take so many."""
    return request.most is None or samples <= request.most


def all_instead(count: int, n_samples: int) -> Message:
    """Advice to call all coalitions of so few features; nothing where they are more.

    >>> all_instead(5, 16)
    "what two features do together may be told as a third one's; n_samples=32 calls all \
coalitions of 5 features, and is exact"
    """
    if count > _FEW or n_samples >= 1 << count:
        return Message()
    return Message(
        "what two features do together may be told as a third one's; ",
        Option("n_samples", 1 << count),
        f" calls all coalitions of {count} features, and is exact",
    )


def is_chosen(explanation: Any) -> bool:
    """Whether a run took ``Regions`` by itself, for want of samples for all coalitions."""
    e = explanation
    is_auto = str(e.provenance.get("method", "")).startswith("auto")
    return is_auto and isinstance(e.method, Regions) and e.input.dim() == 1
