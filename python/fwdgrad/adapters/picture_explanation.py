"""The explanation of a picture, in the pixels of the photo as it was given."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.cropping import Cut
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.explanation import Explanation
from fwdgrad.meaning import score_name
from fwdgrad.shown import OfExplanation
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fwdgrad.drawing import Frame
    from fwdgrad.feature_table import FeatureTable

DRAWN = 1024  # pixels of a photo's longer side that are drawn


@dataclass(eq=False, repr=False)
class PictureExplanation(OfExplanation):
    """Which parts of a photo a score depends on, in the photo's own pixels.

    It has all attributes of the ``Explanation`` of what the model saw, too: ``attribution``,
    ``score``, ``reliability``, ``settings``, ... The grey beside a padded photo is in these, but it
    is no part of the photo: ``top``, ``to_frame`` and ``to_json`` leave out what lies in it alone.

    Attributes:
        explanation: of what the model saw: (C, H, W), its pixels in [0, 1].
        photo: all of it, upright: uint8 (H0, W0, 3).
        cut: what of the photo the model saw.
        label: the class that was explained, in words.
    """

    explanation: Explanation
    photo: np.ndarray[Any, Any]
    cut: Cut
    label: str

    _kind = "picture"

    def __repr__(self) -> str:
        """One line that says what it is."""
        height, width = self.photo.shape[:2]
        found = self.explanation
        return (
            f"PictureExplanation({plain(self.label)}: {score_name(found)} {found.score:.4g}, photo "
            f"{width} x {height}, {found.n_samples} samples, reliability {found.reliability:.2f})"
        )

    def heatmap(self) -> Tensor:
        """The explanation's heatmap in the photo's pixels: (H0, W0).

        Between the pixels that the model saw it is interpolated, and 0 where it saw none.
        """
        height, width = self.photo.shape[:2]
        return on_photo(self.explanation.heatmap(), self.cut, width, height)

    def on_photo(self, mask: Tensor) -> Tensor:
        """A mask of the model's pixels in the photo's own: bool (H0, W0), False where it saw none.

        Args:
            mask: bool (H, W) or (C, H, W), where it is in any channel: ``evidence(...).enough`` or
                ``significant()``, say.

        Raises:
            TypeError, ValueError: it is no mask of the model's pixels.

        Example:
            >>> import fwdgrad
            >>> from fwdgrad.adapters.pictures import ImageModel
            >>> photo = np.full((48, 96, 3), 200, np.uint8)
            >>> model = ImageModel(lambda batch: batch[..., :16, :16].mean((1, 2, 3)), size=32)
            >>> e = fwdgrad.explain(model, photo, method=fwdgrad.Regions("black"), n_samples=64)
            >>> enough = fwdgrad.evidence(model, e).enough
            >>> enough.shape, e.on_photo(enough).shape
            (torch.Size([3, 32, 32]), torch.Size([48, 96]))
        """
        if getattr(mask, "dtype", None) != torch.bool:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise ArgumentTypeError("mask", f"must be a tensor of bool, got {kind}")
        shape = tuple(self.explanation.input.shape)
        if tuple(mask.shape) not in (shape, shape[1:]):
            raise ArgumentError(
                "mask", f"must have shape {shape} or {shape[1:]}, got {tuple(mask.shape)}"
            )
        height, width = self.photo.shape[:2]
        inside = mask.reshape(-1, *shape[1:]).any(0).cpu().double()
        return on_photo(inside, self.cut, width, height, nearest=True) > 0

    def plot(
        self,
        ax: Axes | None = None,
        *,
        picture: bool = True,
        scale: float | None = None,
        sign: str = "both",
        threshold: float = 0.0,
        top: int = 3,
    ) -> Axes:
        """Draws the map over all of the photo, as ``Explanation.plot`` does, with its options.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError, ValueError: naming the option, what was given and what would do.
        """
        from fwdgrad.drawing import draw
        from fwdgrad.overlay import Look

        height, width = self.photo.shape[:2]
        frame = frame_of(small(self.photo), self.cut, width, height)
        look = Look(picture, scale, sign, threshold, top)
        return draw(self.explanation, ax, look, frame, self.label)

    def _features(self) -> FeatureTable:
        """With their places in the photo's pixels; of single channels, these last.

        What lies beside a padded photo is left out.
        """
        height, width = self.photo.shape[:2]
        table = self.explanation._features()
        channel, rows, columns = table.boxes.unbind(1)
        left, top, right, bottom = self.cut.box
        (wide, high), (beside, above) = self.cut.scaled, self.cut.margins
        boxes = [
            pixels_of(rows, above, high, (top, bottom), height),
            pixels_of(columns, beside, wide, (left, right), width),
        ]
        axes = ["row", "column"]
        if bool((channel != torch.tensor([0, len(self.explanation.input)])).any()):
            boxes, axes = [*boxes, channel], [*axes, "channel"]
        found = replace(table, axes=tuple(axes), boxes=torch.stack(boxes, 1))
        return found.only((found.boxes[..., 0] < found.boxes[..., 1]).all(1))

    def _about(self) -> dict[str, Any]:
        return {"photo": told(self.cut, self.photo.shape[1], self.photo.shape[0])}

    def _saved(self) -> dict[str, Any]:
        height, width = self.photo.shape[:2]
        photo = torch.from_numpy(np.array(small(self.photo)))  # a copy: it may be read-only
        size = width, height
        return {"photo": photo, "size": size, "cut": astuple(self.cut), "label": self.label}

    @classmethod
    def _of_saved(cls, explanation: Explanation, values: dict[str, Any]) -> PictureExplanation:
        photo = enlarged(values["photo"].numpy(), *values["size"])
        return cls(explanation, photo, Cut(*values["cut"]), values["label"])

    @classmethod
    def load(cls, path: str | os.PathLike[str], photo: Any = None) -> PictureExplanation:
        """Reads what ``save`` wrote, or ``fwdgrad explain`` for a photo.

        Args:
            path: the file.
            photo: that was explained: a path, a picture of Pillow, an array. None: as ``save``
                keeps it, with a longer side of 1,024 pixels at most; of a file of ``fwdgrad
                explain`` what the model saw, grey where it saw nothing.

        Raises:
            FileNotFoundError, PermissionError: there is none, or it may not be read.
            ValueError: it is damaged or of no photo, or the photo has another size.
        """
        from fwdgrad.adapters.pixels import read_any, to_bytes

        loaded = Explanation.load(path)
        if photo is None and isinstance(loaded, cls):
            return loaded
        found = loaded._whole()
        try:
            width, height = (int(found.provenance["picture"][side]) for side in ("width", "height"))
            cut = cut_of(found)
        except (TypeError, KeyError, ValueError, IndexError):
            raise ValueError(f"{path} does not say where it lies on a photo") from None
        if photo is not None:
            pixels = to_bytes(read_any(photo))
            if pixels.shape[:2] != (height, width):
                raise ArgumentError(
                    "photo",
                    f"must be the one that was explained, {width} x {height} pixels, got "
                    f"{pixels.shape[1]} x {pixels.shape[0]}",
                )
        else:
            planes = [
                0.5 + on_photo(plane.double().cpu() - 0.5, cut, width, height)
                for plane in found.input.expand(3, -1, -1)
            ]
            pixels = to_bytes(torch.stack(planes).clamp_(0, 1))
        return cls(found, pixels, cut, str(found.provenance.get("label", f"class {found.target}")))


def cut_of(explanation: Explanation) -> Cut:
    """What of its photo an explanation is of, by its provenance.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it does not say, or not rightly.
    """
    about = explanation.provenance["picture"]
    box, scaled = tuple(map(float, about["box"])), tuple(map(int, about["scaled"]))
    height, width = explanation.input.shape[1:]
    return Cut(box, scaled, (width, height))  # type: ignore[arg-type]


def told(cut: Cut, width: int, height: int) -> dict[str, Any]:
    """Where a map lies on its photo, as the provenance of an explanation has it.

    >>> told(Cut((0.0, 1.0, 4.0, 5.0), (8, 8), (8, 8)), 4, 6)
    {'width': 4, 'height': 6, 'box': [0.0, 1.0, 4.0, 5.0], 'scaled': [8, 8]}
    """
    return {"width": width, "height": height, "box": [*cut.box], "scaled": [*cut.scaled]}


def pixels_of(
    sides: Tensor, margin: int, scaled: int, box: tuple[float, float], length: int
) -> Tensor:
    """Which pixels of a photo lie in parts of what the model saw, along an axis: one at least.

    Args:
        sides: int64 (K, 2): where each part starts and stops.
        margin, scaled: where on the axis the photo's box starts there, and how long it is.
        box: where it starts and stops on the photo.
        length: of the photo.

    Returns:
        int64 (K, 2): where each starts and stops; none, twice the same, of one beside the photo.

    Example:
        >>> pixels_of(torch.tensor([[0, 1], [1, 3], [3, 4]]), 1, 3, (0.0, 30.0), 30).tolist()
        [[0, 0], [0, 20], [20, 30]]
    """
    at = box[0] + (sides.double() - margin) * ((box[1] - box[0]) / scaled)
    at = at.clamp(max(box[0], 0.0), min(box[1], length))
    start, stop = (at + 0.5).floor().long().clamp(max=length).unbind(1)
    between = (stop <= start) & (at[:, 1] > at[:, 0])  # several of the model's in one of the photo
    start = torch.where(between, at.mean(1).floor().long(), start)
    return torch.stack([start, torch.where(between, start + 1, stop)], 1)


def on_photo(values: Tensor, cut: Cut, width: int, height: int, *, nearest: bool = False) -> Tensor:
    """Values (h, w) of the pixels that a cut made, in the photo's: (height, width).

    Between them they are interpolated, or the nearest is taken; pixels of the photo that are not in
    the cut have 0.

    Example:
        >>> cut = Cut((1.0, 0.0, 3.0, 1.0), (2, 1), (2, 1))
        >>> on_photo(torch.tensor([[5.0, 7.0]]), cut, 4, 1)
        tensor([[0., 5., 7., 0.]])
    """
    left, top, right, bottom = cut.box
    for axis, length, low, high, i in ((0, height, top, bottom, 1), (1, width, left, right, 0)):
        side, first = cut.scaled[i], cut.margins[i]
        at = torch.arange(length, dtype=torch.float64) + 0.5
        inside = ((at > low) & (at < high)).nonzero()[:, 0]
        place = ((at[inside] - low) * (side / (high - low)) - 0.5).clamp_(0, side - 1)
        lower = place.floor().long().clamp_(max=side - 1)
        weight = (place - lower).to(values)
        if nearest:
            weight = weight.round()
        one, other = (
            values.index_select(axis, first + where)
            for where in (lower, (lower + 1).clamp_(max=side - 1))
        )
        found = torch.lerp(one, other, weight[:, None] if axis == 0 else weight)
        shape = (length, values.shape[1]) if axis == 0 else (values.shape[0], length)
        values = values.new_zeros(shape).index_copy_(axis, inside, found)
    return values


def frame_of(
    pixels: np.ndarray[Any, Any],
    cut: Cut,
    width: int,
    height: int,
    interpolation: str | None = None,
) -> Frame:
    """A photo for a map to be drawn on.

    Args:
        pixels: all of it, uint8 (h, w, 3), in whatever size.
        cut: what of the photo the model saw.
        width: of the photo that the cut is of.
        height: of it.
        interpolation: of matplotlib's, between the pixels.
    """
    from fwdgrad.drawing import Frame

    high, wide = pixels.shape[:2]
    left, top, right, bottom = cut.box
    across, down = wide / width, high / height
    own = replace(cut, box=(left * across, top * down, right * across, bottom * down))
    left, top, right, bottom = cut.extent
    return Frame(
        pixels,
        (width, height),
        (left, right, bottom, top),
        lambda values: on_photo(values, own, wide, high),
        interpolation,
    )


def enlarged(photo: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    """A photo that ``small`` made small in its own size again.

    >>> enlarged(np.zeros((1024, 512, 3), np.uint8), 2048, 4096).shape
    (4096, 2048, 3)
    """
    if photo.shape[:2] == (height, width):
        return photo
    from PIL import Image

    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))


def small(photo: np.ndarray[Any, Any], side: int = DRAWN) -> np.ndarray[Any, Any]:
    """A photo (h, w, 3) with its longer side at most so long, to be drawn.

    >>> small(np.zeros((4096, 2048, 3), np.uint8)).shape
    (1024, 512, 3)
    """
    longer = max(photo.shape[:2])
    if longer <= side:
        return photo
    from PIL import Image

    height, width = (max(1, round(length * side / longer)) for length in photo.shape[:2])
    picture = Image.fromarray(photo)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
