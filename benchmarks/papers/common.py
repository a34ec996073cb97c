"""What the papers' experiments share: results that are kept, tables, pictures, and the data.

Every file here is run as ``python benchmarks/papers/NAME.py [--quick]``. What it computes goes to
papers/ in the cache folder (FWDGRAD_CACHE, or ~/.cache/fwdgrad), a file for each result, so that a
run that was stopped goes on where it was. ``--quick`` takes a few seconds, keeps nothing and writes
nothing: it shows that the code runs, not what comes out.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import torch
from safetensors.torch import load, save

import fwdgrad
from fwdgrad.adapters.images import efficientnet_lite0
from fwdgrad.files import write_atomically
from fwdgrad_kernels import CONTRACT

sys.path.append(str(Path(__file__).parents[1]))
import data

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "papers"
PICTURES = ROOT / "docs" / "papers"
MOST_BYTES = 60_000  # of a picture in the repository

__all__ = [
    "cached",
    "cached_tensor",
    "classifier",
    "data",
    "draw_map",
    "estimate",
    "keeps",
    "mean_and_error",
    "parse_arguments",
    "save_picture",
    "shown",
    "write_table",
    "write_whole",
]

_keeps = True  # False with --quick


def parse_arguments(description: str, add: Callable[[argparse.ArgumentParser], Any] | None = None):
    """The options of an experiment, ``quick`` among them; sets one thread and the random seed.

    Args:
        description: the file's docstring, of which the first line is shown.
        add: adds options of the file's own.
    """
    global _keeps
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, of small sizes; writes nothing"
    )
    if add is not None:
        add(parser)
    options = parser.parse_args()
    _keeps = not options.quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return options


def keeps() -> bool:
    """Whether results are kept: not with --quick."""
    return _keeps


def estimate(text: str) -> None:
    """Says before the work how long it will take."""
    print(f"# {text}" if _keeps else "# --quick: small sizes, nothing is written", flush=True)


def cached(key: dict[str, Any], compute: Callable[[], Any]) -> Any:
    """A result of an earlier run, or of this one.

    Args:
        key: everything that defines the result: the experiment, the method and its options, the
            model, the picture, the seed; a method's value counts by its repr. The library's
            version and that of the noise contract are added.
        compute: gives the result, of what JSON holds.
    """
    if not _keeps:
        return json.loads(json.dumps(compute()))
    full = _whole(key)
    path = _path(full, "json")
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["value"]
    value = compute()
    content = json.dumps({"key": full, "value": value}, default=repr)
    write_whole(path, content.encode())
    return value


def cached_tensor(key: dict[str, Any], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Like ``cached``, of a tensor."""
    if not _keeps:
        return compute()
    path = _path(_whole(key), "safetensors")
    if path.exists():
        return load(path.read_bytes())["value"]  # not mapped to the file
    value = compute().contiguous()
    write_whole(path, save({"value": value}))
    return value


def _whole(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "fwdgrad": fwdgrad.__version__, "contract": CONTRACT}


def _path(key: dict[str, Any], ending: str) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True, default=repr).encode()).hexdigest()[:32]
    return data.cache_folder() / "papers" / f"{name}.{ending}"


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all; a dot for whoever waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    print(".", end="", file=sys.stderr, flush=True)


@functools.cache
def classifier() -> Callable[[torch.Tensor], torch.Tensor]:
    """EfficientNet-Lite0, with a gradient."""
    return efficientnet_lite0().forward


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of what is a number, and its standard error: NaN of fewer than two."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return math.nan, math.nan
    mean = sum(known) / len(known)
    if len(known) < 2:
        return mean, math.nan
    spread = sum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return mean, math.sqrt(spread / len(known))


def shown(values: Sequence[float], digits: int = 3) -> str:
    """``mean ± standard error``, for a table."""
    mean, error = mean_and_error(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def machine() -> str:
    """The processor and the versions, in a sentence."""
    names = [platform.processor() or platform.machine()]
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0]}, {torch.get_num_threads()} thread; torch {torch.__version__}, Python "
        f"{platform.python_version()}, fwdgrad {fwdgrad.__version__}."
    )


def write_table(
    name: str,
    title: str,
    command: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[str] | str,
) -> None:
    """Prints a table, and writes it to results/papers/NAME.md unless the run is quick.

    Args:
        name: of the file.
        title: its heading.
        command: that makes it.
        headers: of the columns.
        rows: their cells, as they are to be shown.
        notes: paragraphs under the table; what was done, and what agrees with the paper. Where
            their lines break does not matter.
    """
    paragraphs = [notes] if isinstance(notes, str) else list(notes)
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (headers, *rows)]
    lines.insert(1, "|" + "---|" * len(headers))
    text = [f"# {title}", "", f"Made by `{command}`. {machine()}", "", *lines]
    for paragraph in paragraphs:
        text += ["", " ".join(paragraph.split())]
    print("\n" + "\n".join(text), flush=True)
    if _keeps:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def draw_map(ax: Any, heatmap: torch.Tensor, title: str = "") -> None:
    """Draws a map (H, W) without signs: black is nothing, white the largest hundredth."""
    sizes = heatmap.abs()
    top = float(sizes.flatten().kthvalue(max(1, round(0.99 * sizes.numel()))).values) or 1.0
    ax.imshow((sizes / top).clamp(max=1).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()


def save_picture(name: str, figure: Any) -> None:
    """Writes a figure of matplotlib to docs/papers/NAME.jpg, small, unless the run is quick."""
    if not _keeps:
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.jpg"
    for quality in range(85, 20, -10):
        figure.savefig(path, dpi=100, pil_kwargs={"quality": quality, "optimize": True})
        if path.stat().st_size <= MOST_BYTES:
            break
    else:
        raise ValueError(f"{path} is too large: {path.stat().st_size} bytes of {MOST_BYTES}")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes", flush=True)
