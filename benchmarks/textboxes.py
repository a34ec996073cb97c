"""PP-OCRv4, a detector of lines of text, and pictures with text.

    python benchmarks/data.py textboxes                            # fetches it
    python benchmarks/detections.py textboxes                      # is each map's peak in the box?

The detector (Apache-2.0, 4.7 MB) lies in rapidocr-onnxruntime 1.4.4 as an ONNX model from pictures
to how surely each pixel is of text; boxes are made of that as differentiable binarization has it
(Liao et al. 2020), with the package's own settings, but with sides along the picture's.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIZE = 512  # pixels of a picture's side
MODEL = "ch_PP-OCRv4_det_infer.onnx"
IS_TEXT, GROWTH = 0.3, 1.6  # the package's thresh and unclip_ratio
MIN_SCORE = 0.5  # its box_thresh: what counts as found
LABEL = "text"


def prepare(package: Path, folder: Path) -> None:
    """Takes the model out of the wheel."""
    with zipfile.ZipFile(package) as archive:
        (folder / MODEL).write_bytes(archive.read(f"rapidocr_onnxruntime/models/{MODEL}"))


def boxes_of(probabilities: Any) -> list[tuple[tuple[float, ...], str, float]]:
    """The lines of text in a map (height, width) of how surely each pixel is of text.

    Each connected part where that is above 0.3 is a line, and its mean there the score. The network
    shrinks lines, so the box around a part grows by 1.6 times its area over its perimeter.

    Returns:
        (box, "text", score) of each, however low its score is: a sample's then falls gradually.
    """
    from scipy import ndimage

    is_text = probabilities > IS_TEXT
    is_text[:, 1:] |= is_text[:, :-1].copy()
    is_text[1:] |= is_text[:-1].copy()
    parts, _ = ndimage.label(is_text, np.ones((3, 3)))
    slices = ndimage.find_objects(parts)
    means = ndimage.mean(probabilities, parts, range(1, len(slices) + 1))
    found = []
    for (rows, columns), mean in zip(slices, means, strict=True):
        top, bottom, left, right = rows.start, rows.stop - 1, columns.start, columns.stop - 1
        height, width = bottom - top, right - left
        if min(height, width) < 3:
            continue
        grown = GROWTH * height * width / (2 * (height + width))
        box = (left - grown, top - grown, right + grown, bottom + grown)
        found.append((box, LABEL, float(mean)))
    return found


class TextBoxes:
    """From pictures (batch, 3, height, width), RGB in [0, 1], to the lines of text in each.

    Sides are multiples of 32. Returns a list of (box, "text", score) for each picture, see
    ``boxes_of``.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Loads what ``prepare`` wrote; as many threads as there are processors by default."""
        import onnxruntime

        from fwdgrad.adapters.arrays import OnnxModel

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=["CPUExecutionProvider"]
        )
        self.model = OnnxModel(session)

    def __call__(self, batch: Tensor) -> list[list[tuple[tuple[float, ...], str, float]]]:
        """See the class."""
        maps = self.model(2 * batch.flip(1) - 1)  # blue, green, red in [-1, 1]
        return [boxes_of(one) for one in maps[:, 0].numpy()]


# ---- pictures with text ------------------------------------------------------------------------


def pictures() -> dict[str, Tensor]:
    """Eight photos with their name and a line below it, a printed page and a photo of print.

    All are (3, 512, 512) in [0, 1].
    """
    import centernet
    import data

    found = {name: written(x, name) for name, x in centernet.photos().items()}
    for name in ("page", "text"):
        found[name] = centernet.load(data.package_file("skimage", f"data/{name}.png"))
    return found


def written(x: Tensor, name: str) -> Tensor:
    """A picture with its name in large letters and a sentence in small ones, by Pillow's font."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray((255 * x).round().byte().permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(image)
    lines = (name.split("_")[-1], 72, (40, 120)), ("Do not lean out", 32, (200, 330))
    for text, size, place in lines:
        draw.text(
            place, text, "white", ImageFont.load_default(size),
            stroke_width=size // 16, stroke_fill="black",
        )  # fmt: skip
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
