"""Do the maps of what detectors find lie in the boxes? Writes results/detections.md.

    python benchmarks/data.py centernet textboxes   # fetches the detectors
    python benchmarks/detections.py                 # both, all pictures: hours on two cores
    python benchmarks/detections.py centernet --pictures coffee --cell 50    # prints alone

CenterNet finds COCO's things in eight photos, PP-OCRv4 lines of text drawn on these and on a page.
The boxes of a picture come from the same calls. ``--checkpoints`` keeps each picture's scores.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import centernet
import data
import textboxes
import torch
from torch import Tensor

import fwdgrad
from fwdgrad.adapters.detection import Detections
from fwdgrad.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "detections.md"
SURE = 0.3  # CenterNet's authors show what has this score


@dataclasses.dataclass(frozen=True)
class Detector:
    """A detector, its pictures and the least score of what it finds, as its package has it."""

    name: str
    load: Callable[[Path], Callable[[Tensor], Any]]
    pictures: Callable[[], dict[str, Tensor]]
    label_of: Callable[[Any], str]
    min_score: float


MODELS = {
    "centernet": Detector(
        "CenterNet", centernet.CenterNet, centernet.photos, centernet.COCO.__getitem__, 0.2
    ),
    "textboxes": Detector(
        "PP-OCRv4", textboxes.TextBoxes, textboxes.pictures, str, textboxes.MIN_SCORE
    ),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """A box and where its map's peak is.

    Attributes:
        picture, label, score: what was found where, and how surely.
        side: of the box, the shorter, in pixels.
        share: of the picture that is in the box: how often a peak anywhere would be.
        cell: of the map's regions, in pixels.
        peak: column and row.
        inside: whether the peak is in the box.
        near: whether its cell, which is as exactly as the map tells, reaches into the box.
        near_share: how often that of a peak anywhere would.
        reliability: of the map.
    """

    picture: str
    label: str
    score: float
    side: float
    share: float
    cell: int
    peak: tuple[int, int]
    inside: bool
    near: bool
    near_share: float
    reliability: float

    def __str__(self) -> str:
        where = "in" if self.inside else "near" if self.near else "outside"
        return (
            f"{self.picture:<18} {self.label:<13} {self.score:.2f}  {self.side:3.0f} pixels, "
            f"{self.share:4.0%} of the picture  peak {where} {self.peak}  reliability "
            f"{self.reliability:.2f}"
        )


def explained(
    model: Callable[[Tensor], Any],
    pictures: Iterable[tuple[str, Tensor]],
    min_score: float,
    label_of: Callable[[Any], str],
    method: fwdgrad.Regions,
    samples: int,
    checkpoints: Path | None = None,
) -> Iterator[Found]:
    """Each box that a detector finds in pictures (3, height, width)."""
    for name, x in pictures:
        with torch.no_grad():
            outputs = model(x[None])
        try:
            found = Detections.of(outputs, min_score)
        except ValueError as error:
            print(f"{name}: {error}", flush=True)
            continue
        maps = fwdgrad.explain(
            model, x, list(range(len(found))), objective=found, method=method, n_samples=samples,
            batch_size=4, checkpoint=checkpoints and checkpoints / f"{name}.safetensors",
        )  # fmt: skip
        for one, e in zip(found, maps, strict=True):
            assert isinstance(e.method, fwdgrad.Regions)
            yield placed(name, label_of(one.label), one, e.heatmap(), int(e.method.cell), e)


def placed(name: str, label: str, one: Any, heatmap: Tensor, cell: int, e: Any) -> Found:
    """Where the peak of a map lies."""
    height, width = heatmap.shape
    row, column = divmod(int(heatmap.argmax()), width)
    left, top, right, bottom = one.box

    def is_in(border: float) -> bool:
        return left - border <= column <= right + border and top - border <= row <= bottom + border

    def share(border: float) -> float:
        sides = (
            min(right + border, width) - max(left - border, 0),
            min(bottom + border, height) - max(top - border, 0),
        )
        return sides[0] * sides[1] / (height * width)

    return Found(
        name, label, one.score, min(right - left, bottom - top), share(0), cell, (column, row),
        is_in(0), is_in(cell / 2), share(cell / 2), e.reliability,
    )  # fmt: skip


def summary(found: list[Found], sure: float | None = None) -> list[str]:
    """Rows of a table: how many peaks are in the boxes, of which boxes."""
    kinds = {
        "a cell or more": [one for one in found if one.side >= one.cell],
        "smaller than a cell": [one for one in found if one.side < one.cell],
        "all": found,
    }
    if sure is not None:
        kinds[f"score {sure} or more"] = [one for one in found if one.score >= sure]
    return [
        f"| {kind} | {len(some)} | {sum(one.inside for one in some)} | "
        f"{sum(one.share for one in some):.1f} | {sum(one.near for one in some)} | "
        f"{sum(one.near_share for one in some):.1f} |"
        for kind, some in kinds.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Prints each box; writes the table where nothing was left out or changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--pictures", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--samples", type=int, default=1024, help="default: 1024")
    parser.add_argument("--min-score", type=float, help="default: as the detector's program has it")
    parser.add_argument("--cell", type=int, help="default: the smallest for so many samples")
    parser.add_argument("--baseline", default="blur", help="blur, grey, black or white")
    parser.add_argument(
        "--checkpoints", type=Path, help="folder to go on from, of the same options"
    )
    options = parser.parse_args(arguments)
    method = fwdgrad.Regions(options.baseline, options.cell or "auto")
    parts = []
    for key in options.models or MODELS:
        if key not in MODELS:
            parser.error(f"MODEL must be one of {', '.join(MODELS)}, got {key!r}")
        detector = MODELS[key]
        folder = options.checkpoints and options.checkpoints / key
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        pictures = detector.pictures().items()
        found = []
        for one in explained(
            detector.load(data.ready(key)),
            [(name, x) for name, x in pictures if name in (options.pictures or [name])],
            detector.min_score if options.min_score is None else options.min_score,
            detector.label_of,
            method,
            options.samples,
            folder,
        ):
            found.append(one)
            print(one, flush=True)
        rows = summary(found, SURE if key == "centernet" else None)
        print("\n".join(rows))
        parts.append(section(detector.name, found, rows))
    changed = {k for k, v in vars(options).items() if v != parser.get_default(k)}
    if not changed - {"models", "checkpoints"} and len(parts) == len(MODELS):
        write_atomically(RESULTS, (HEAD.format(options.samples) + "".join(parts)).encode())
        print(f"written: {RESULTS}")


HEAD = """# Do the maps of what detectors find lie in the boxes?

Made by `python benchmarks/detections.py`: D-RISE's score of each box, `Regions` with its defaults
and {} calls a picture, all boxes of a picture from the same calls. A map is as exact as its cells
are: "within a cell" counts a peak whose cell reaches into the box. By chance is how many peaks
would lie there if they lay anywhere in the picture.
"""


def section(name: str, found: list[Found], rows: list[str]) -> str:
    """A detector's part of the results."""
    cells = ", ".join(str(cell) for cell in sorted({one.cell for one in found}))
    lines = [
        f"\n## {name}, cells of {cells} pixels\n",
        "| boxes | | peak inside | by chance | within a cell | by chance |",
        "|---|---|---|---|---|---|",
        *rows,
        "\n| picture | found | score | shorter side | peak | reliability |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        where = "inside" if one.inside else "within a cell" if one.near else "outside"
        lines.append(
            f"| {one.picture} | {one.label} | {one.score:.2f} | {one.side:.0f} | {where} | "
            f"{one.reliability:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
