"""What detectors return, read: boxes, their class scores and how sure each is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ModelError
from fwdgrad.outputs import floating, told

FORMS = ("auto", "lists", "detr", "detr-sigmoid", "yolov5", "yolov8")
_READ = (
    "dicts of boxes, labels and scores, or lists of (box, label, score), one for each sample; "
    "logits (batch, queries, classes + 1) and pred_boxes (batch, queries, 4); arrays (batch, N, "
    "5 + classes) or (batch, 4 + classes, N)"
)


@dataclasses.dataclass
class Seen:
    """What is found in a sample, or in several with as many boxes.

    Attributes:
        boxes: (batch, n, 4), left, top, right, bottom.
        objectness: (batch, n).
        classes: their scores (batch, n, classes); None where each box has one label.
        labels: that, numbers (n,) or names; of a batch of one.
        sure: the score of each, (batch, n).
    """

    boxes: Tensor
    objectness: Tensor
    sure: Tensor
    classes: Tensor | None = None
    labels: Tensor | list[Any] = dataclasses.field(default_factory=list)

    def alone(self) -> tuple[Tensor, Tensor, list[Any]]:
        """Boxes (n, 4), scores (n,) and labels of the first sample."""
        if self.classes is not None:
            labels = self.classes[0].argmax(-1).tolist()
        else:
            labels = self.labels.tolist() if isinstance(self.labels, Tensor) else self.labels
        return self.boxes[0].detach(), self.sure[0].detach(), labels

    def has(self, label: int | str) -> Tensor:
        """1 for each box of that label, else 0: (n,)."""
        if isinstance(self.labels, Tensor):
            return (self.labels == (-1 if isinstance(label, str) else label)).to(self.sure)
        return self.sure.new_tensor([own == label for own in self.labels])


def read(outputs: Any, form: str) -> list[Seen]:
    """What is found: of lists one for each sample, else one for all.

    Raises:
        ModelError: the output has another form.
    """
    try:
        if form == "lists":
            return [_of_list(one) for one in outputs]
        return [_of_queries(outputs, form) if form.startswith("detr") else _of_grid(outputs, form)]
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model's output is not of the form {form!r}: {told(error, 200)}; Detections reads "
            f"{_READ}"
        ) from error


def _of_list(one: Any) -> Seen:
    """What is found in a sample, from a dict or from (box, label, score)s."""
    if isinstance(one, Mapping):
        boxes, labels, sure = one["boxes"], one["labels"], one["scores"]
    else:
        boxes, labels, sure = zip(*one, strict=True) if len(one) else ((), (), ())
    boxes, sure = _numbers(boxes), _numbers(sure)
    if not isinstance(labels, Tensor):
        labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
        if labels and all(isinstance(label, (int, np.integer)) for label in labels):
            labels = torch.tensor(labels)
    boxes = boxes.reshape(len(sure), 4)
    if len(labels) != len(sure):
        raise ValueError(f"{len(labels)} labels for {len(sure)} scores")
    return Seen(boxes[None], sure[None], sure[None], labels=labels)


def _of_queries(outputs: Any, form: str) -> Seen:
    """What DETR and its kin return."""
    logits, boxes = (_numbers(_part(outputs, name)) for name in ("logits", "pred_boxes"))
    if logits.dim() != 3 or boxes.shape != (*logits.shape[:2], 4):
        raise ValueError(f"logits {tuple(logits.shape)}, pred_boxes {tuple(boxes.shape)}")
    if form == "detr":
        classes = logits.softmax(-1)
        objectness, classes = 1 - classes[..., -1], classes[..., :-1]
    else:
        classes = logits.sigmoid()
        objectness = classes.amax(-1)
    return Seen(_corners(boxes), objectness, classes.amax(-1), classes)


def _of_grid(outputs: Any, form: str) -> Seen:
    """What YOLO and its kin return before the boxes are picked."""
    rows = _numbers(_array(outputs))
    rows = rows.transpose(1, 2) if form == "yolov8" else rows
    skip = 5 if form == "yolov5" else 4
    if rows.shape[2] <= skip:
        raise ValueError(f"{rows.shape[2]} numbers for each box")
    classes = rows[..., skip:]
    if len(rows) == 1 and not bool(((classes >= 0) & (classes <= 1)).all()):  # as at the input
        raise ValueError(
            f"class scores from {float(classes.min()):.3g} to {float(classes.max()):.3g} are no "
            "probabilities; give lists of (box, label, score) made of it"
        )
    most = classes.amax(-1)
    objectness = rows[..., 4] if form == "yolov5" else most
    sure = objectness * most if form == "yolov5" else most
    return Seen(_corners(rows[..., :4]), objectness, sure, classes)


def form_of(outputs: Any, form: str) -> str:
    """The form of an output.

    Raises:
        ModelError: none is known.
    """
    if form != "auto":
        return form
    if _part(outputs, "pred_boxes") is not None and _part(outputs, "logits") is not None:
        return "detr"
    if isinstance(outputs, (list, tuple)) and outputs:
        one = outputs[0]
        if isinstance(one, Mapping) and {"boxes", "labels", "scores"} <= one.keys():
            return "lists"
        if isinstance(one, (list, tuple)) and all(
            isinstance(row, (list, tuple)) and len(row) == 3 for row in one
        ):
            return "lists"
    array = _array(outputs)
    if array is not None:
        return "yolov5" if array.shape[1] > array.shape[2] else "yolov8"
    what = type(outputs).__name__
    if isinstance(outputs, Mapping):
        what += f" with the keys {told(', '.join(map(repr, outputs)), 100)}"
    elif isinstance(outputs, (Tensor, np.ndarray)):
        what += f" {tuple(outputs.shape)}"
    elif isinstance(outputs, (list, tuple)) and outputs:
        what += f" of {type(outputs[0]).__name__}"
    raise ModelError(
        f"no boxes are known in what the model returned, {what}: Detections reads {_READ}; wrap "
        "the model so that it returns one of these"
    )


def _part(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return None if isinstance(outputs, (Tensor, np.ndarray)) else getattr(outputs, name, None)


def _array(outputs: Any) -> Any:
    """An array of three axes, or the first of a tuple, as YOLOv5 returns it; None of all else."""
    if isinstance(outputs, (list, tuple)) and outputs:
        outputs = outputs[0]
    is_array = isinstance(outputs, (Tensor, np.ndarray)) and len(outputs.shape) == 3
    return outputs if is_array else None


def _numbers(values: Any) -> Tensor:
    if isinstance(values, (list, tuple)) and any(isinstance(one, Tensor) for one in values):
        values = torch.stack([torch.as_tensor(one) for one in values])
    if not isinstance(values, Tensor):
        values = torch.from_numpy(np.array(values, dtype=np.float64))
    return floating(values)


def _corners(boxes: Tensor) -> Tensor:
    """From centre, width and height to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def iou(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) and (k, 4): (..., k)."""
    boxes = boxes[..., None, :]
    sides = torch.minimum(boxes[..., 2:], wanted[:, 2:]) - torch.maximum(
        boxes[..., :2], wanted[:, :2]
    )
    both = sides.clamp(min=0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2]).clamp(min=0).prod(-1) for one in (boxes, wanted)]
    union = areas[0] + areas[1] - both
    return both / union.clamp(min=torch.finfo(both.dtype).tiny)
