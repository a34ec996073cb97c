"""Why is each thing found where it is? A detector, and a map for each box from the same calls.

    python examples/explain_detection.py                      # a detector of bright squares
    python examples/explain_detection.py --model centernet    # COCO's 80 kinds of things
    python examples/explain_detection.py photo.jpg --model centernet
    python examples/explain_detection.py scan.png --model textboxes    # lines of text

The first needs nothing but this package. CenterNet, and PP-OCRv4 for text, are fetched by ``python
benchmarks/data.py centernet textboxes`` in a checkout of the repository, and need
'fwdgrad-kernels[demo,arrays]'; 512 samples take some minutes. The maps go to detection.png, with
the boxes.

A detector of your own is a callable from a batch of pictures to what it finds in each:
torchvision's and Hugging Face's dicts, YOLO's arrays, or lists of (box, label, score); see
``Detections``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import fwdgrad
from fwdgrad.adapters.detection import Detections

SIDE = 16  # pixels of a window of the detector that is made here


def lamps(batch: Tensor) -> list[list[tuple[tuple[int, ...], str, float]]]:
    """Finds windows of 16 x 16 pixels that are bright, the surer the brighter."""
    found = []
    for picture in avg_pool2d(batch.mean(1, keepdim=True), SIDE)[:, 0]:
        places = (picture > 0.25).nonzero().tolist()
        found.append(
            [
                (
                    (SIDE * column, SIDE * row, SIDE * (column + 1), SIDE * (row + 1)),
                    "lamp",
                    float(picture[row, column]),
                )
                for row, column in places
            ]
        )
    return found


def street() -> Tensor:
    """A dark picture (3, 128, 128) with two lamps."""
    picture = 0.1 * torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    picture[:, 16:32, 32:48] = 0.9
    picture[:, 80:96, 96:112] = 0.7
    return picture


def of_coco(photo: str | None) -> tuple[Callable[[Tensor], Any], Tensor, tuple[str, ...]]:
    """CenterNet, a photo (scikit-image's cup of coffee by default) and the labels' names."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    import centernet
    import data

    x = centernet.photos()["coffee"] if photo is None else centernet.load(photo)
    return centernet.CenterNet(data.ready("centernet")), x, centernet.COCO


def of_text(photo: str | None) -> tuple[Callable[[Tensor], Any], Tensor]:
    """PP-OCRv4, and a picture: scikit-image's cup of coffee with two lines of text by default."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    import centernet
    import data
    import textboxes

    x = textboxes.pictures()["coffee"] if photo is None else centernet.load(photo)
    return textboxes.TextBoxes(data.ready("textboxes")), x


def main() -> None:
    """Prints what is found and writes the maps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", help="for the last two models")
    parser.add_argument("--model", choices=("lamps", "centernet", "textboxes"), default="lamps")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument("--output", type=Path, default=Path("detection.png"))
    arguments = parser.parse_args()
    model: Callable[[Tensor], Any] = lamps
    x, names = street(), None
    if arguments.model == "centernet":
        model, x, names = of_coco(arguments.photo)
    elif arguments.model == "textboxes":
        model, x = of_text(arguments.photo)
    with torch.no_grad():
        found = Detections.of(model(x[None]), arguments.min_score)
    # One map for each box, from the same calls. The stand-in sees brightness, which a blur keeps.
    baseline = "black" if arguments.model == "lamps" else "blur"
    maps = fwdgrad.explain(
        model,
        x,
        list(range(len(found))),
        objective=found,
        method=fwdgrad.Regions(baseline),
        n_samples=arguments.samples,
        progress=True,
    )

    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(found), figsize=(4 * len(found), 5), squeeze=False, layout="constrained"
    )
    for one, e, ax in zip(found, maps, axes[0], strict=True):
        left, top, right, bottom = one.box
        label = one.label if names is None else names[int(one.label)]
        row, column = divmod(int(e.heatmap().argmax()), x.shape[-1])
        inside = left <= column <= right and top <= row <= bottom
        print(
            f"{label} {one.score:.2f} at {left:.0f} {top:.0f} {right:.0f} {bottom:.0f}: peak "
            f"{'in' if inside else 'outside'} the box, reliability {e.reliability:.2f}"
        )
        e.plot(ax)
        ax.set_title(f"{label} {one.score:.2f}")
    figure.savefig(arguments.output)
    print(f"maps: {arguments.output}")


if __name__ == "__main__":
    main()
