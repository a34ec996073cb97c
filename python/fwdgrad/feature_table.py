"""The features of an explanation as a table: what each is called, where it lies, its score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fwdgrad_kernels import Labels

if TYPE_CHECKING:
    from fwdgrad.explanation import Explanation

_OF_TEXT = ("character",)  # the axes of a text


@dataclasses.dataclass(frozen=True)
class Feature:
    """A part of an input, with its score: a word, a column, a cell of a picture, an element.

    Attributes:
        name: the word, the column, or where it lies: "rows 0:16, columns 16:32".
        score: in the explanation's units; elements of one feature share it.
        standard_error: of it; NaN where there is none.
        place: what indexes the input, ``photo[place]``, ``text[place]``, ``x[place]``: of a cell
            where it weighs most, so that cells tile the input, of a label the smallest box around
            it; None of a column.
        value: of a column the row's, a number or a word; of an element its number; None elsewhere.
    """

    name: str
    score: float
    standard_error: float
    place: Any = None
    value: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureTable:
    """All features of an explanation, in the run's order.

    Args:
        scores, errors: float64 (K,), on the CPU.
        axes: what the axes of the input are called on which they lie, such as "row".
        boxes: int64 (K, axes, 2): on each axis the first that is in and the first after it.
        names: of the features; None: where they lie.
        values: see ``Feature``.
        sizes: (K,), what they are sorted by, largest first; None: the scores' sizes.
        told: which features differ from zero by more than chance, bool (K,); None: nobody knows.
    """

    scores: Tensor
    errors: Tensor
    axes: tuple[str, ...]
    boxes: Tensor
    names: Sequence[str] | None = None
    values: Sequence[Any] | None = None
    sizes: Tensor | None = None
    told: Callable[[], Tensor] | None = None

    def only(self, is_in: Tensor) -> FeatureTable:
        """Some of the features, in the same order.

        Args:
            is_in: bool (K,).
        """
        told, which = self.told, is_in.nonzero()[:, 0].tolist()
        return dataclasses.replace(
            self,
            scores=self.scores[is_in],
            errors=self.errors[is_in],
            boxes=self.boxes[is_in],
            names=None if self.names is None else [self.names[i] for i in which],
            values=None if self.values is None else [self.values[i] for i in which],
            sizes=None if self.sizes is None else self.sizes[is_in],
            told=None if told is None else lambda: told()[is_in],
        )

    @property
    def order(self) -> list[int]:
        """The features' numbers, the largest first."""
        sizes = self.scores.abs() if self.sizes is None else self.sizes
        found: list[int] = sizes.nan_to_num(-1.0).argsort(descending=True, stable=True).tolist()
        return found

    @property
    def shown(self) -> list[int]:
        """The axes that tell features apart: on the others all lie in the same place."""
        if len(self.boxes) == 1:
            return list(range(len(self.axes)))
        return (self.boxes != self.boxes[:1]).any(0).any(1).nonzero()[:, 0].tolist()

    def rows(self, which: Sequence[int]) -> list[Feature]:
        """Some of the features."""
        boxes = self._boxes(which)
        places: list[Any] = [tuple(slice(*side) for side in box) for box in boxes]
        if self.axes == _OF_TEXT:
            places = [place[0] for place in places]
        each = zip(
            self.names_of(which),
            self.scores[which].tolist(),
            self.errors[which].tolist(),
            places if self.axes else [None] * len(boxes),
            self._values(which) or [None] * len(boxes),
            strict=True,
        )
        return [Feature(*one) for one in each]

    def columns(self) -> dict[str, Any]:
        """Names, values, places, scores and errors of all features, the largest first."""
        order = self.order
        found: dict[str, Any] = {"feature": self.names_of(order)}
        if self.values is not None:
            found["value"] = self._values(order)
        for axis in self.shown:
            start, stop = self.boxes[order][:, axis].T.numpy()
            name = self.axes[axis]
            if self.axes == _OF_TEXT:
                found |= {"start": start, "stop": stop}
            elif bool((stop - start == 1).all()):
                found[name] = start
            else:
                found |= {f"{name}_start": start, f"{name}_stop": stop}
        found["score"] = self.scores[order].numpy()
        found["standard_error"] = self.errors[order].numpy()
        return found

    def records(self) -> list[dict[str, Any]]:
        """The same feature by feature, as JSON has it; a place is a start and a stop by axis."""
        order = self.order
        found: dict[str, list[Any]] = {"feature": self.names_of(order)}
        if self.values is not None:
            found["value"] = self._values(order)
        if self.axes:
            shown = [(self.axes[axis], axis) for axis in self.shown]
            found["place"] = [{name: box[i] for name, i in shown} for box in self._boxes(order)]
        found["score"] = self.scores[order].tolist()
        found["standard_error"] = self.errors[order].tolist()
        return [dict(zip(found, one, strict=True)) for one in zip(*found.values(), strict=True)]

    def names_of(self, which: Sequence[int]) -> list[str]:
        """What some of the features are called."""
        if self.names is not None:
            return [self.names[i] for i in which]
        shown = [(self.axes[axis], axis) for axis in self.shown]
        found = []
        for box in self._boxes(which):
            parts = []
            for name, axis in shown:
                start, stop = box[axis]
                parts.append(f"{name} {start}" if stop - start == 1 else f"{name}s {start}:{stop}")
            found.append(", ".join(parts) or "all")
        return found

    def _boxes(self, which: Sequence[int]) -> list[list[list[int]]]:
        found: list[list[list[int]]] = self.boxes[which].tolist()
        return found

    def _values(self, which: Sequence[int]) -> list[Any]:
        return [] if self.values is None else [self.values[i] for i in which]


def axes_of(e: Explanation) -> tuple[str, ...]:
    """What the axes of an input are called: those of a picture, a volume, a series, a vector."""
    count, own = e.input.dim(), getattr(e.method, "axes", None)
    own = own or {1: 0, 2: 2, 3: 2, 4: 3}.get(count)
    if own is None or count > own + 1:
        return tuple(f"axis{i}" for i in range(count))
    trailing = {0: ("element",), 1: ("time",), 2: ("row", "column"), 3: ("layer", "row", "column")}
    return (("channel",) + trailing[own])[-count:]


def table_of(e: Explanation) -> FeatureTable:
    """The features of a map: its cells, labels or elements, as ``parts_of`` tells them.

    Of a grid that moves from sample to sample the cells are those that start with the input, with
    the map's value in the middle of each.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: 3 * batch[:, 1] - batch[:, 0]
        >>> e = fwdgrad.explain(model, torch.ones(3), method=fwdgrad.Coalitions())
        >>> table_of(e).columns()["feature"]
        ['element 1', 'element 0', 'element 2']
    """
    from fwdgrad.methods import plan_again
    from fwdgrad.parts import parts_of
    from fwdgrad.significance import told_parts

    plan = plan_again(e)
    parts = parts_of(plan)
    moves = plan.spec is not None and plan.spec.view.jitters

    def own(values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        if not moves:
            return parts.own(values, errors)[:2]
        at = parts.places().to(values.device)
        one, other = (each.reshape(-1)[at].double().cpu() for each in (values, errors))
        return one, other

    values, errors = e.attribution.detach(), e.standard_error.detach()
    scores, found = own(values, errors)
    sizes, _ = own(e.per_deviation(values), e.per_deviation(errors))
    boxes = parts.boxes()
    single = bool((boxes[..., 1] - boxes[..., 0] == 1).all())
    given = isinstance(e.features, Labels) and not single
    return FeatureTable(
        scores,
        found,
        axes_of(e),
        boxes,
        [f"label {i}" for i in range(len(scores))] if given else None,
        e.input.detach().double().flatten()[parts.places()].tolist() if single else None,
        sizes.abs(),
        None if bool(errors.isnan().all()) else lambda: told_parts(e)[1],
    )
