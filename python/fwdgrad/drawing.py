"""Drawing an explanation with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fwdgrad.inputs import is_of_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fwdgrad.explanation import Explanation


def draw(explanation: Explanation, ax: Axes | None = None, *, picture: bool = True) -> Axes:
    """Draws a map over its input; see ``Explanation.plot``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ImportError(
                "plot needs matplotlib: pip install 'fwdgrad-kernels[image]'"
            ) from None
        _, ax = plt.subplots()
    x, attribution = explanation.input.detach().cpu(), explanation.attribution
    if getattr(explanation.method, "axes", None) == 1:
        _draw_series(ax, x, attribution.detach().cpu().double())
        return ax
    if x.dim() == 4:
        _draw_volume(ax, x, attribution.detach().cpu().double(), picture)
        return ax
    # Not in float32, which would lose the smallest.
    heat = explanation.over_planes(explanation.per_deviation(attribution)).cpu()
    image = x.float()
    shown = picture and image.dim() == 3 and image.shape[0] in (1, 3) and is_of_pixels(image)
    if shown:
        ax.imshow(image.mean(0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    _draw_heat(ax, strength_of(heat), shown, "equal" if image.dim() == 3 else "auto")
    ax.set_axis_off()
    return ax


def strength_of(heat: Tensor) -> Tensor:
    """Values as shares of a large one, in -1 .. 1: float32.

    The largest hundredth of what is not zero is at full strength, so that one pixel does not fade
    the rest.

    >>> strength_of(torch.tensor([0.0, -2.0, 4.0]).double())
    tensor([ 0.0000, -0.5000,  1.0000])
    """
    sizes = heat.abs()[heat.isfinite() & (heat != 0)]
    rank = max(1, round(0.99 * sizes.numel()))
    top = float(sizes.kthvalue(rank).values) if len(sizes) else 1.0
    return (heat / top).clamp(-1, 1).float()


def _draw_heat(ax: Axes, strength: Tensor, over: bool, aspect: Any, **where: Any) -> None:
    ax.imshow(
        strength.numpy(),
        cmap="seismic",
        vmin=-1,
        vmax=1,
        alpha=(0.75 * strength.abs().sqrt()).numpy() if over else None,
        aspect=aspect,
        **where,
    )


def draw_outline(
    ax: Axes, part: Tensor, line: str = "-", extent: tuple[float, float, float, float] | None = None
) -> None:
    """Draws the border of a part of a picture, to be seen on any.

    Args:
        ax: matplotlib axes with the picture.
        part: bool (H, W) or (C, H, W), where it is in any channel.
        line: of matplotlib's styles.
        extent: where the picture lies: left, right, bottom, top; None: a pixel is one.

    Raises:
        ValueError: it is of no picture.
    """
    import numpy as np

    if part.dim() not in (2, 3):
        raise ValueError(f"an outline is of a picture (C, H, W), got shape {tuple(part.shape)}")
    inside = part.cpu() if part.dim() == 2 else part.cpu().any(0)
    # Both sides of each pixel are points, so that borders lie between pixels; around all is none.
    inside = torch.nn.functional.pad(inside.float(), (1, 1, 1, 1))
    inside = inside.repeat_interleave(2, 0).repeat_interleave(2, 1)
    height, width = part.shape[-2:]
    left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
    across, down = (
        first
        + (np.arange(-1, count + 1)[:, None] + [1e-6, 1 - 1e-6]).ravel() * (last - first) / count
        for count, first, last in ((width, left, right), (height, top, bottom))
    )
    for colour, wide in (("black", 2.2), ("white", 1.0)):
        ax.contour(
            across, down, inside.numpy(), levels=[0.5],
            colors=colour, linewidths=wide, linestyles=line if colour == "white" else "-",
        )  # fmt: skip


def _draw_series(ax: Axes, x: Tensor, attribution: Tensor) -> None:
    """Channels as lines, over a strip of what each time adds: (C, T) or (T,)."""
    lines = x.double().reshape(-1, x.shape[-1])
    # Channels share their windows: each has what all of them add.
    heat = attribution.reshape(-1, x.shape[-1]).mean(0)
    low, high = float(lines.min()), float(lines.max())
    room = 0.05 * (high - low) or 1.0
    extent = (-0.5, x.shape[-1] - 0.5, low - room, high + room)
    _draw_heat(ax, strength_of(heat)[None], True, "auto", extent=extent, zorder=0)
    for line in lines:
        ax.plot(line.numpy(), color="black", linewidth=0.8, alpha=1 / len(lines) ** 0.5)
    ax.set_xlim(extent[:2])
    ax.set_ylim(extent[2:])


def _draw_volume(ax: Axes, x: Tensor, attribution: Tensor, picture: bool) -> None:
    """Slices (H, W), (D, W) and (D, H) through the largest value, side by side: (C, D, H, W)."""
    volume, heat = x.double().mean(0), attribution.mean(0)
    peak = [int(i) for i in torch.unravel_index(heat.abs().argmax(), heat.shape)]
    strength = strength_of(heat)
    low, high = float(volume.min()), float(volume.max())
    grey = (volume - low) / ((high - low) or 1.0)
    shape = tuple(heat.shape)
    height = max(shape[0], shape[1])
    canvas = [torch.full((height, 0), torch.nan), torch.zeros(height, 0)]
    for axis, at in enumerate(peak):
        for i, whole in enumerate((grey.float(), strength)):
            part = whole.select(axis, at)
            side = torch.full((height, part.shape[1] + 2), torch.nan if i == 0 else 0.0)
            side[: part.shape[0], : part.shape[1]] = part
            canvas[i] = torch.cat([canvas[i], side], 1)
    if picture:
        ax.imshow(canvas[0].numpy(), cmap="gray", vmin=0, vmax=1)
    _draw_heat(ax, canvas[1], picture, "equal")
    ax.set_axis_off()
    depth, row, column = peak
    ax.set_title(f"slices at depth {depth}, row {row}, column {column}", fontsize="small")
