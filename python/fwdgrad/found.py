"""What was found to be enough, and how it is told and drawn."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fwdgrad.meaning import rounded
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 4  # columns that are named without being counted
_MOST = 8  # names in a sentence
_LOWER, _LEAST = 2, 0.1  # features that lower a score: so many, each so much of the first


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """The smallest part of an input that is enough, and the one whose loss takes the class away.

    Attributes:
        enough: bool, of the input's shape, or of its words or columns: the part that is enough.
            None where none is, for the score is no higher than the baseline's. Of a photo it is in
            the pixels that the model saw; ``explanation.on_photo(enough)`` is in the photo's own.
        enough_count: how many features it has: cells, words, columns ...
        enough_share: of these, or of a picture's area.
        enough_score: of that part alone.
        missing: the part whose loss takes the class away, or the score where ``of_class`` is False.
            None where the loss of none does that was tried.
        missing_count, missing_share: as above.
        missing_score: of the explained class, without that part.
        instead: the class that is predicted then; None without classes.
        instead_label: its name.
        instead_score: its score, then.
        target: the class that was explained.
        score: at the input.
        baseline_score: of what stands for the whole input.
        keep: of the rise from that to the score, how much is to be kept, or lost.
        of_class: whether missing is about the predicted class, or about the score alone.
        calls: forward calls that it took, each of one sample.
        count: of all features.
        label: the explained class in words.
        unit: "picture", "volume", or what a feature is called: "word", "column", "feature".
        names: of the features, where they have some.
        extent: where it lies on a photo: left, right, bottom, top; None: as it is.
        lowers: where the score is below the baseline's the features that lower it most, the
            strongest first, each with what it adds; none where features have no names, or slopes.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch @ torch.tensor([3.0, 0.0, 1.0, 0.0])
        >>> e = fwdgrad.explain(model, torch.ones(4), method=fwdgrad.Coalitions())
        >>> found = fwdgrad.evidence(model, e, keep=0.75)
        >>> print(found)
        1 of 4 features is enough for 75 % of the score; without 1 it falls from 4 to 1
        >>> found.enough.tolist(), found.missing_score
        ([True, False, False, False], 1.0)
    """

    enough: Tensor | None
    enough_count: int | None
    enough_share: float | None
    enough_score: float | None
    missing: Tensor | None
    missing_count: int | None
    missing_share: float | None
    missing_score: float | None
    instead: int | None
    instead_label: str | None
    instead_score: float | None
    target: int | None
    score: float
    baseline_score: float
    keep: float
    of_class: bool
    calls: int
    count: int
    label: str | None = None
    unit: str = "feature"
    names: tuple[str, ...] | None = None
    extent: tuple[float, float, float, float] | None = None
    lowers: tuple[tuple[int, float], ...] = ()

    def __repr__(self) -> str:
        """One line that says what it is."""
        return f"Evidence({self}, {self.calls} forward calls)"

    def __str__(self) -> str:
        """A sentence: what is enough, and without what it is something else."""
        kept = f"{100 * self.keep:.3g} % of the score"
        what = kept if self.target is None else plain(self.label)
        if self.names and self.score < self.baseline_score:
            return "; ".join(filter(None, [self._below(), self._of_lowering(), self._stays()]))
        return f"{self._of_enough(what)}; {self._of_missing()}"

    def to_dict(self) -> dict[str, Any]:
        """Shares, scores, classes and calls, as JSON has them, with the sentence."""
        left_out = ("enough", "missing", "names", "extent")
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in left_out
        }
        return {**values, "sentence": str(self)}

    def outline(self, ax: Axes, extent: tuple[float, float, float, float] | None = None) -> Axes:
        """Draws the two parts' borders over a picture: enough in a solid line, missing in a dashed.

        Args:
            ax: where the picture is, such as ``explanation.plot()`` returns.
            extent: where it lies there, as ``imshow`` has it: left, right, bottom, top; None: as
                the explanation was drawn.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: it is of no picture.
        """
        from fwdgrad.marks import draw_outline

        for part, line in ((self.enough, "-"), (self.missing, "--")):
            if part is not None:
                draw_outline(ax, part, line, extent or self.extent)
        return ax

    @property
    def _is_area(self) -> bool:
        return self.unit in ("picture", "volume")

    def _below(self) -> str:
        """How far the score is below the baseline's."""
        what, other = "input", "its baseline"
        if self.unit == "column":
            what, other = "row", "the other rows (their mean score)"
        by = self.baseline_score - self.score
        start = self.baseline_score + 0.0  # no -0
        return f"the {what} scores {self.score:.3g}, {rounded(by)} below the {start:.3g} of {other}"

    def _of_lowering(self) -> str:
        names = self.names or ()
        each = [f"{plain(names[i])} ({rounded(value)})" for i, value in self.lowers]
        verb = "lowers" if len(each) == 1 else "lower"
        return f"{' and '.join(each)} {verb} it most" if each else ""

    def _stays(self) -> str:
        """What a score that is below the baseline's has to say of its class."""
        return self._of_missing() if self.of_class else ""

    def _of_enough(self, what: str) -> str:
        if self.enough is None:
            return (
                f"no part is told to be enough: the {self.unit if self._is_area else 'input'} "
                f"scores {self.score:.3g}, and its baseline {self.baseline_score + 0.0:.3g}"
            )
        be = "is" if self._is_area or self.enough_count == 1 else "are"
        told = f"{self.enough_count} of {self.count} {self.unit}{'s' * (self.count != 1)}"
        if self._is_area:
            told = f"{_percent(self.enough_share)} of the {self.unit}"
        if self._is_short(self.enough_count):
            return f"{self._names(self.enough, ' and ')} {be} enough for {what}"
        listed = f": {self._names(self.enough)}" if self.names else ""
        return f"{told} {be} enough for {what}{listed}"

    def _of_missing(self) -> str:
        if self.missing is None and self.enough is None and not self.of_class:
            return "so none takes it away"
        if self.missing is None:
            stays = "the class stays" if self.of_class else "the score keeps more than it may"
            return f"{stays} without any part that was tried"
        part = _percent(self.missing_share) if self._is_area else f"{self.missing_count}"
        if self._is_short(self.missing_count):
            part = self._names(self.missing, " and ")
        elif self.names:
            part = f"{part} ({self._names(self.missing)})"
        score = (self.missing_score or 0.0) + 0.0  # no -0
        if self.of_class:
            return f"without {part} it is taken for {plain(self.instead_label)}"
        return f"without {part} it falls from {self.score:.3g} to {score:.3g}"

    def _is_short(self, count: int | None) -> bool:
        """Whether its names alone tell a part: of columns, not of words."""
        return self.unit == "column" and (count or 0) <= _FEW

    def _names(self, part: Tensor, last: str = ", ") -> str:
        if self.names is None:
            return ""
        found = [plain(self.names[i]) for i in part.nonzero().flatten().tolist()]
        if len(found) > _MOST:
            return ", ".join([*found[:_MOST], "..."])
        return last.join([*filter(None, [", ".join(found[:-1])]), *found[-1:]])


def lowering(adds: Tensor) -> tuple[tuple[int, float], ...]:
    """The features that lower a score most, the strongest first, each with what it adds.

    >>> import torch
    >>> lowering(torch.tensor([3.0, -1.0, -4.0, -2.0])), lowering(torch.tensor([-9.0, -0.5, 4.0]))
    (((2, -4.0), (3, -2.0)), ((0, -9.0),))
    """
    order: list[int] = adds.argsort(stable=True)[:_LOWER].tolist()
    least = _LEAST * float(adds.min())
    return tuple((i, float(adds[i])) for i in order if float(adds[i]) <= least < 0)


def _percent(share: float | None) -> str:
    value = 100 * (share or 0.0)
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"
