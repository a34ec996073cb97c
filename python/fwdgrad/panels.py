"""The two panels of an explained picture: all of the photo, and the map on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fwdgrad.adapters.cropping import Cut
from fwdgrad.adapters.picture_explanation import frame_of
from fwdgrad.drawing import Drawn, Frame, draw_map, standing_out
from fwdgrad.marks import draw_numbers, draw_outline
from fwdgrad.overlay import Look, Pixels, bytes_of, full_strength, picture_of, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from fwdgrad.explanation import Explanation


@dataclasses.dataclass(frozen=True, eq=False)
class Panels:
    """A photo, and what of it a model saw.

    Attributes:
        pixels: all of it, uint8 (h, w, 3), in whatever size.
        width, height: the photo's own, in which the panels' axes count.
        cut: what of it the model saw.
    """

    pixels: Pixels
    width: int
    height: int
    cut: Cut

    @classmethod
    def of_input(cls, explanation: Explanation) -> Panels:
        """Of what the model saw alone, where the photo is not at hand."""
        photo = picture_of(explanation)
        assert photo is not None  # see report
        height, width = photo.shape[1:]
        return cls(bytes_of(photo), width, height, Cut.of(width, height, None, "stretch"))

    @property
    def share(self) -> float:
        """Of the photo, that the model saw."""
        left, top, right, bottom = self.cut.box
        return (right - left) * (bottom - top) / (self.width * self.height)

    @property
    def frame(self) -> Frame:
        """The photo, for a map to lie on."""
        return frame_of(self.pixels, self.cut, self.width, self.height, "nearest")

    def scaled(self, width: int, height: int) -> Panels:
        """The same in a drawing's own pixels."""
        from PIL import Image

        is_coarse = width > 3 * self.pixels.shape[1]  # its pixels are to be seen as such
        how = Image.Resampling.NEAREST if is_coarse else Image.Resampling.BICUBIC
        pixels = np.asarray(Image.fromarray(self.pixels).resize((width, height), how))
        return dataclasses.replace(self, pixels=pixels)

    def draw_photo(self, ax: Axes) -> None:
        """Draws the photo, with a frame around what the model saw, where that is not all."""
        from matplotlib.patches import Rectangle

        ax.imshow(self.pixels, extent=(0, self.width, self.height, 0), interpolation="nearest")
        ax.set_axis_off()
        left, top, right, bottom = self.cut.box
        if self.share < 1:
            for colour, line in (("black", "-"), ("white", "--")):  # to be seen on any photo
                sides = right - left, bottom - top
                ax.add_patch(Rectangle((left, top), *sides, fill=False, ec=colour, ls=line))

    def draw_map(self, ax: Axes, explanation: Explanation, look: Look, label: str) -> Drawn:
        """Draws the map on the photo, paled."""
        drawn = draw_map(explanation, ax, look, self.frame, label)
        ax.set_xlim(0, self.width)  # what is beside a padded photo is not drawn
        ax.set_ylim(self.height, 0)
        return drawn

    def outline(self, ax: Axes, part: Tensor, line: str) -> None:
        """Draws the border of a part of what the model saw; see ``draw_outline``."""
        draw_outline(ax, part, line, self.frame.extent)

    def number(self, ax: Axes, explanation: Explanation, places: list[tuple[float, float]]) -> None:
        """Numbers places of the photo, 1 for the first, beside the colours of the map."""
        values, errors = values_of(explanation)
        strength = Look().strength(values, errors, full_strength(values))
        texts = [(x, y, str(i)) for i, (x, y) in enumerate(places, 1)]
        box = {"boxstyle": "circle,pad=0.25", "alpha": 1, "ec": "black", "lw": 1}
        draw_numbers(ax, texts, strength, self.frame.extent, 13, weight="bold", bbox=box)

    def standing_out(self, explanation: Explanation) -> Iterator[tuple[float, float, float, float]]:
        """See ``drawing.standing_out``."""
        return standing_out(explanation, Look(), self.frame)
