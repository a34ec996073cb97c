"""Detectors: why is this thing found here? D-RISE's score of a box, as an objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.detector_outputs import FORMS, Seen, form_of, iou, read
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.files import digest_of
from fwdgrad.objectives import class_number
from fwdgrad.outputs import told

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Detection:
    """Something that a detector finds; as an objective, how surely it is still found there.

    Its score is D-RISE's: the most, over all boxes that the model finds in a sample, of
    IoU(box, found) x cosine(class scores) x objectness. See ``Detections``, which explains several
    from the same calls.

    Args:
        box: left, top, right, bottom, in the units of the model's own boxes: pixels, or 0 to 1.
        label: the class, as the model gives it: a number, or a name.
        score: what the model gave it; kept.
        class_scores: of all classes, for the cosine with what is found; None: 1 for the label and
            0 for the others, as for lists of labels always.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> found = [[((0, 0, 8, 8), "cat", 0.5), ((4, 0, 12, 8), "cat", 0.9)]]
        >>> Detection((0, 0, 8, 8), "cat")(found)  # 1 x .5, and 1 / 3 x .9
        tensor([0.5000], dtype=torch.float64)
    """

    box: Box
    label: int | str
    score: float | None = None
    class_scores: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks the box and the label."""
        object.__setattr__(self, "box", _box(self.box))
        if not isinstance(self.label, str):
            number = class_number("label", self.label, "a class's number or name")
            object.__setattr__(self, "label", number)
        if self.class_scores is not None:
            scores = tuple(float(one) for one in self.class_scores)
            if not (scores and all(map(math.isfinite, scores)) and any(scores)):
                raise ArgumentError("class_scores", "must be finite and not all zeros")
            object.__setattr__(self, "class_scores", scores)

    def __str__(self) -> str:
        """The label and where, as in "cat at 0 0 8 8"; class scores by their digest."""
        text = _said(self.label, self.box)
        if self.class_scores is None:
            return text
        return f"{text} {digest_of(torch.tensor(self.class_scores))[:8]}"

    def __call__(self, outputs: Any) -> Tensor:
        """The score of each sample: (batch,)."""
        return Detections([self])(outputs)[:, 0]

    def settled(self, outputs: Any, x: Tensor) -> Detections:
        """See ``Detections.settled``."""
        return Detections([self]).settled(outputs, x)


class Detections:
    """Boxes of a picture, as an objective: each is a target, and all are explained by one run.

    ``explain(model, x, [0, 1, 2], objective=Detections.of(model(x[None])))`` gives the maps of the
    first three. The score of a target is D-RISE's, see ``Detection``. Objectness is what the model
    gives: of lists the score; of ``"detr"`` 1 less the probability that there is nothing; of
    ``"yolov5"`` its own; of the others, which have none, the largest class score.

    Args:
        found: what to explain: ``Detection``s, or (box, label).
        form: what the model returns for a batch. "lists": for each sample a dict of "boxes" (n, 4),
            "labels" (n,) and "scores" (n,), as of torchvision and of Hugging Face's
            ``post_process_object_detection``, or a list of (box, label, score); boxes are left,
            top, right, bottom. "detr": "logits" (batch, queries, classes + 1), the last for
            nothing, and "pred_boxes" (batch, queries, 4), centre, width and height from 0 to 1,
            as of DETR, Table Transformer, YOLOS; "detr-sigmoid": the same without a class for
            nothing, as of Conditional and Deformable DETR, RT-DETR. "yolov5": (batch, N, 5 +
            classes) and "yolov8": (batch, 4 + classes, N), centre, width and height in pixels,
            objectness of the former alone, classes' probabilities. "auto" tells by the output;
            never "detr-sigmoid".

    Attributes:
        found: the ``Detection``s, in the order of the targets.
        form: as given; in a run, which it is.
        n_targets: how many there are.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        A detector that finds the first of two lamps if it is bright:

        >>> import torch, fwdgrad
        >>> def model(batch):
        ...     return [[((0, 0, 8, 32), "lamp", float(one[0, :, :8].mean()))] for one in batch]
        >>> x = torch.zeros(1, 32, 32)
        >>> x[0, :, :8] = x[0, :, 24:] = 1
        >>> lamp = Detections.of(model(x[None]))
        >>> method = fwdgrad.Regions("black")
        >>> e = fwdgrad.explain(model, x, 0, objective=lamp, method=method, n_samples=64)
        >>> divmod(int(e.heatmap().argmax()), 32)[1] < 8
        True

    Source: Petsiuk et al. 2021, *Black-box explanation of object detectors via saliency maps*,
    section 3.2.
    """

    def __init__(self, found: Sequence[Any], *, form: str = "auto") -> None:
        """Checks each."""
        if isinstance(found, (str, Detection, Mapping)) or not isinstance(found, (list, tuple)):
            raise ArgumentTypeError(
                "found", f"must be a list of Detection, got {type(found).__name__}"
            )
        if not found:
            raise ArgumentError("found", "must have at least one Detection, got none")
        self.form = _check_form(form)
        self.found = tuple(_detection(one) for one in found)
        self.n_targets = len(self.found)
        own = "" if form == "auto" else f"; {form}"
        self.__qualname__ = f"Detections({', '.join(map(str, self.found))}{own})"

    @classmethod
    def of(cls, outputs: Any, min_score: float = 0.3, *, form: str = "auto") -> Detections:
        """What a model finds in a picture, the surest first.

        Of boxes with the same label that overlap by more than half of their union, the surest alone
        is taken.

        Args:
            outputs: what the model returned for one picture: ``model(x[None])``.
            min_score: the least score to take; where there is a class score and objectness their
                product counts.
            form: see the class.

        Raises:
            TypeError, ValueError: there is no such box, or the output has another form.

        Example:
            >>> found = [[((0, 0, 8, 8), "cat", 0.5), ((1, 0, 9, 8), "cat", 0.9)]]
            >>> Detections.of(found).found
            (Detection(box=(1.0, 0.0, 9.0, 8.0), label='cat', score=0.9),)
        """
        form = form_of(outputs, _check_form(form))
        (one, *others) = read(outputs, form)
        if others or len(one.boxes) > 1:
            raise ArgumentError("outputs", "must be of one picture: give model(x[None])")
        boxes, sure, labels = one.alone()
        kept: list[Detection] = []
        for i in sure.argsort(descending=True, stable=True).tolist():
            if sure[i] < min_score:
                break
            if not bool((boxes[i, :2] < boxes[i, 2:]).all()):  # empty
                continue
            label = labels[i]
            same = [two.box for two in kept if two.label == label]
            if same and float(iou(boxes[i : i + 1], boxes.new_tensor(same)).max()) > 0.5:
                continue
            own = None if one.classes is None else tuple(one.classes.flatten(0, -2)[i].tolist())
            kept.append(Detection(tuple(boxes[i].tolist()), label, float(sure[i]), own))
        if not kept:
            most = f"the surest has {float(sure.max()):.3g}" if len(sure) else "none is there"
            raise ArgumentError(
                "min_score", f"must be lower: no box has a score of {min_score:g}, {most}"
            )
        return cls(kept, form=form)

    def __len__(self) -> int:
        """How many there are."""
        return self.n_targets

    def __getitem__(self, target: int) -> Detection:
        """One of them."""
        return self.found[target]

    def __iter__(self) -> Iterator[Detection]:
        """All of them, in the order of the targets."""
        return iter(self.found)

    def __repr__(self) -> str:
        """What is found, and where."""
        return self.__qualname__

    def settled(self, outputs: Any, x: Tensor) -> Detections:
        """With the form that the output at the input shows.

        Raises:
            ValueError: a box lies outside the picture, or the model finds no such thing in it.
        """
        known = Detections(self.found, form=form_of(outputs, self.form))
        seen = read(outputs, known.form)[0]
        boxes, sure, labels = seen.alone()
        far = [1.0, 1.0] if known.form.startswith("detr") else list(map(float, x.shape[:-3:-1]))
        if x.dim() > 2 or known.form.startswith("detr"):
            if len(boxes):  # the model may have units of its own
                far = torch.maximum(boxes.new_tensor(far), boxes[:, 2:].amax(0)).tolist()
            for one in self.found:
                _check_inside(one, far)
        scores = known(outputs)[0]
        for one, score in zip(self.found, scores.tolist(), strict=True):
            if score > 0:
                continue
            order = sure.argsort(descending=True)[:5].tolist()
            finds = "; ".join(_said(labels[i], boxes[i].tolist()) for i in order)
            has = f"it finds {finds}; give one of these, or" if order else "it finds nothing; give"
            what = "no such label" if one.label not in labels else "none of that label there"
            raise ArgumentError(
                "objective",
                f"is of {one}, and the model finds {what} at x: {has} "
                "Detections.of(model(x[None]), min_score=...)",
            )
        return known

    def about(self, target: int | None, x: Tensor) -> dict[str, Any]:
        """What an explanation's provenance says of a target: its label, and its box in pixels.

        Boxes within 0 to 1 are shares of the picture's sides; what lies outside is cut off. Of one
        that leaves it by more than a twentieth the units are not known, and there is no box.

        Example:
            >>> Detections([((0, 0, 0.5, 1), "cat")]).about(0, torch.zeros(3, 8, 16))
            {'label': 'cat at 0 0 0.5 1', 'box': [0.0, 0.0, 8.0, 8.0]}
        """
        one = self.found[target or 0]
        label = one.label if isinstance(one.label, str) else f"class {one.label}"
        found: dict[str, Any] = {"label": _said(label, one.box)}
        if x.dim() != 3:
            return found
        far = [float(side) for side in (x.shape[2], x.shape[1])] * 2
        box = list(one.box)
        if max(box) <= 1.0:
            box = [share * side for share, side in zip(box, far, strict=True)]
        if all(side <= 1.05 * most for side, most in zip(box, far, strict=True)):
            found["box"] = [min(max(side, 0.0), most) for side, most in zip(box, far, strict=True)]
        return found

    def __call__(self, outputs: Any) -> Tensor:
        """The scores of each sample: (batch, n_targets)."""
        seen = read(outputs, form_of(outputs, self.form))
        return torch.cat([self._scores(one) for one in seen])

    def _scores(self, seen: Seen) -> Tensor:
        """The scores of what was read together: (batch, n_targets)."""
        if not seen.boxes.shape[1]:  # nothing is found
            return seen.boxes.new_zeros(len(seen.boxes), self.n_targets)
        if seen.classes is None:  # a label, whose class score is 1: the cosine is 1 or 0
            cosines = torch.stack([seen.has(one.label) for one in self.found], 1)[None]
        else:
            normal = torch.nn.functional.normalize
            rows = torch.stack([_class_scores(one, seen.classes) for one in self.found])
            cosines = normal(seen.classes, dim=-1) @ normal(rows, dim=-1).T
        overlap = iou(seen.boxes, seen.boxes.new_tensor([one.box for one in self.found]))
        return (overlap * cosines * seen.objectness[..., None]).amax(1)


def _detection(one: Any) -> Detection:
    if isinstance(one, Detection):
        return one
    if isinstance(one, (list, tuple)) and len(one) == 2:
        return Detection(*one)
    raise ArgumentTypeError(
        "found", f"must be a list of Detection or of (box, label), got {told(repr(one), 80)} in it"
    )


def _class_scores(one: Detection, like: Tensor) -> Tensor:
    """The class scores of a target, for those of a model: (classes,)."""
    count, own = like.shape[-1], one.class_scores
    if own is not None:
        if len(own) != count:
            raise ArgumentError(
                "class_scores",
                f"must be {count}, one for each of the model's classes, got {len(own)}",
            )
        return like.new_tensor(own)
    if isinstance(one.label, str) or not 0 <= one.label < count:
        raise ArgumentError(
            "label", f"must lie in 0 .. {count - 1}, the model's classes, got {one.label!r}"
        )
    row = like.new_zeros(count)
    row[one.label] = 1
    return row


def _said(label: Any, box: Sequence[float]) -> str:
    return f"{label} at {' '.join(f'{side:.4g}' for side in box)}"


def _box(box: Any) -> Box:
    try:
        sides = tuple(float(side) for side in box)
    except (TypeError, ValueError):
        sides = ()
    if len(sides) != 4 or not all(map(math.isfinite, sides)):
        raise ArgumentError("box", f"must be left, top, right, bottom, got {told(repr(box), 80)}")
    left, top, right, bottom = sides
    if not (left < right and top < bottom):
        raise ArgumentError(
            "box",
            "must be left, top, right, bottom with left < right and top < bottom, got "
            f"{told(repr(box), 80)}; of left, top, width, height give (left, top, left + width, "
            "top + height)",
        )
    return left, top, right, bottom


def _check_form(form: Any) -> str:
    if not isinstance(form, str) or form not in FORMS:
        raise ArgumentError(
            "form", f"must be one of {', '.join(FORMS)}, got {told(repr(form), 80)}"
        )
    return form


def _check_inside(one: Detection, far: Sequence[float]) -> None:
    """Raises where most of a box lies outside the picture, (width, height)."""
    left, top, right, bottom = one.box
    inside = max(min(right, far[0]) - max(left, 0), 0) * max(min(bottom, far[1]) - max(top, 0), 0)
    if inside < 0.5 * (right - left) * (bottom - top):
        raise ArgumentError(
            "box",
            f"must lie in the picture, 0 0 {far[0]:.4g} {far[1]:.4g} in the model's units, got "
            f"that of {one}",
        )
