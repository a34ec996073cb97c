"""The pictures of a report: the input, its map, the standard error and the object."""

from __future__ import annotations

import base64
import io
import math

import torch
from torch import Tensor

from fwdgrad.explanation import Explanation
from fwdgrad.inputs import is_of_pixels
from fwdgrad.meaning import meaning
from fwdgrad.overlay import (
    Look,
    Pixels,
    bytes_of,
    full_strength,
    laid_on,
    picture_of,
    values_of,
)
from fwdgrad.report.text import escape


def pictures(explanation: Explanation, label: str, mask: Tensor | None) -> str:
    """The figures of an explanation of a picture, as HTML; see ``report``."""
    photo = picture_of(explanation)
    assert photo is not None  # see report
    height, width = photo.shape[1:]
    is_plain = is_of_pixels(explanation.input)
    note = "" if is_plain else "; its values are stretched to the screen’s"
    values, errors = values_of(explanation)
    full = full_strength(values)
    strength = Look().strength(values, errors, full)
    ends = f"<span>{-full:.2g}</span><i></i><span>+{full:.2g}</span>".replace("-", "−")
    shown = [
        _figure(
            "Picture",
            f"{width} × {height} pixels, as the model sees it{note}.",
            _png(bytes_of(photo)),
            "The picture that was explained",
            width,
        ),
        _figure(
            "Map",
            "Red pixels increase the score, blue ones decrease it: "
            f'{escape(meaning(explanation, label))}.<span class="scale">{ends}</span>',
            _png(laid_on(bytes_of(photo), strength)),
            f"The picture, paled; red where it increases the score of {label}, blue where it "
            "decreases it",
            width,
        ),
        _error_figure(explanation),
    ]
    if mask is not None:
        dimmed = photo * (0.25 + 0.75 * mask.float())
        alternative = "The picture, dark but for the object"
        shown.append(
            _figure("Object", "What the mask marks.", _png(bytes_of(dimmed)), alternative, width)
        )
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
        _png(bytes_of(colours)),
        f"The standard error at each place: the darker the larger, {largest:.2g} at most",
        error.shape[1],
    )


def _figure(title: str, caption: str, source: str, alternative: str, width: int) -> str:
    coarse = ' class="coarse"' if width < 112 else ""
    return (
        f'<figure>\n<img{coarse} src="{source}" alt="{escape(alternative)}">\n'
        f"<figcaption><h2>{title}</h2>{caption}</figcaption>\n</figure>\n"
    )


def _png(pixels: Pixels) -> str:
    """Pixels, uint8 (H, W, 3), as a data URI."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("a report needs Pillow: pip install 'fwdgrad-kernels[image]'") from None
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
