"""The pictures of a report: the input, its map, the standard error and the object."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from torch import Tensor

from fwdgrad.explanation import Explanation
from fwdgrad.inputs import is_of_pixels
from fwdgrad.report.text import escape


def pictures(explanation: Explanation, label: str, mask: Tensor | None) -> str:
    """The figures of an explanation of a picture, as HTML; see ``report``."""
    x = explanation.input.detach().float().cpu()
    height, width = x.shape[1:]
    is_plain = is_of_pixels(x)
    photo = x if is_plain else (x - x.min()) / (float(x.max() - x.min()) or 1.0)
    note = "" if is_plain else "; its values are stretched to the screen’s"
    shown = [
        _figure(
            "Picture",
            f"{width} × {height} pixels, as the model sees it{note}.",
            _png(photo),
            "The picture that was explained",
            width,
        ),
        _figure(
            "Map",
            "Red pixels increase the score, blue ones decrease it."
            '<span class="scale"><span>decrease</span><i></i><span>increase</span></span>',
            _drawn(explanation),
            f"The picture in grey; red where it increases the score of {label}, blue where it "
            "decreases it",
            width,
        ),
        _error_figure(explanation),
    ]
    if mask is not None:
        dimmed = photo * (0.25 + 0.75 * mask.float())
        alternative = "The picture, dark but for the object"
        shown.append(_figure("Object", "What the mask marks.", _png(dimmed), alternative, width))
    return "".join(shown)


def _error_figure(explanation: Explanation) -> str:
    error = explanation.over_planes(explanation.standard_error).cpu()
    known = error.isfinite()
    largest = float(error[known].max()) if bool(known.any()) else math.nan
    if not largest > 0:
        why = "None: the run was too short to tell, or its method leaves no way to."
        if largest == 0:
            why = "Zero everywhere: no other seed would change the map."
        return f"<figure>\n<figcaption><h2>Standard error</h2>{why}</figcaption>\n</figure>\n"
    strength = (error / largest).where(known, 0.0)[..., None]
    paper, ink = torch.tensor([[247, 246, 250], [72, 42, 120]], dtype=torch.float64) / 255
    colours = (paper + (ink - paper) * strength).permute(2, 0, 1)
    top = float(explanation.over_planes(explanation.attribution).abs().max())
    unknown = float((~known).double().mean())
    rest = f" It is not known at {100 * unknown:.2g} % of the places." if unknown else ""
    return _figure(
        "Standard error",
        f"Of the map, at most: dark is {largest:.2g}, where the map’s own largest value is "
        f"{top:.2g}.{rest}",
        _png(colours),
        f"The standard error at each place: the darker the larger, {largest:.2g} at most",
        error.shape[1],
    )


def _figure(title: str, caption: str, source: str, alternative: str, width: int) -> str:
    coarse = ' class="coarse"' if width < 112 else ""
    return (
        f'<figure>\n<img{coarse} src="{source}" alt="{escape(alternative)}">\n'
        f"<figcaption><h2>{title}</h2>{caption}</figcaption>\n</figure>\n"
    )


def _png(pixels: Tensor) -> str:
    """Values (1 or 3, H, W) in [0, 1] as a data URI."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("a report needs Pillow: pip install 'fwdgrad-kernels[image]'") from None
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    array = np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="png", optimize=True)
    return _data(content)


def _drawn(explanation: Explanation) -> str:
    """What ``plot`` draws, a pixel for each of the map's."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "a report needs matplotlib: pip install 'fwdgrad-kernels[image]'"
        ) from None
    height, width = explanation.heatmap().shape
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    explanation.plot(figure.add_axes((0, 0, 1, 1)))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return _data(content)


def _data(content: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
