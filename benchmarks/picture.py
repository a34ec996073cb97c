"""The README's picture: two photos, and three tools' maps of them by as many forward calls.

    python benchmarks/picture.py              # docs/compare.jpg: a minute
    python benchmarks/picture.py there.png    # or another file

It needs the extra ``peers``, which ``make peers`` installs. Tools are called as peers.py calls them
for its table, with seed 0, and explain the probability of the class that the network names. All
maps are drawn alike, as ``Explanation.plot`` draws one without standard errors (each has its own
largest hundredth at full strength), over the photo in grey: the cup's red could be taken for a
map's. Calls are counted; seconds are those of one core, the model's in them, after a short run of
each tool that imports and compiles what it needs.

The photos were chosen before this picture was first made, and no map was changed for its sake.
Both are among the seven that ours was chosen on, which benchmarks/results/peers.md says, too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import data
import peers
import torch

from fwdgrad.adapters.images import imagenet_labels
from fwdgrad.overlay import Look, Pixels, bytes_of, full_strength, laid_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALLS = 512
PHOTOS = ("chelsea", "coffee")
TOOLS = {  # and the budget of each that makes so many calls
    "fwdgrad": (peers.regions, CALLS - 1),  # and the photo itself
    "SHAP (partition)": (peers.partition_shap, CALLS + 4),
    "Captum (KernelSHAP)": (peers.kernel_shap, CALLS + 2),
}
GREY = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
DPI, WIDE = 200, 8.0  # 1600 pixels
PLAIN = {"fontsize": 10, "parse_math": False}


def row(network: peers.Network, x: torch.Tensor) -> list[tuple[str, Pixels, str]]:
    """A photo and its maps, each as a title, pixels, and what is said below."""
    probabilities = network.model(x[None]).softmax(1)[0]
    target = int(probabilities.argmax())
    label = imagenet_labels()[target]
    grey = bytes_of((x * GREY).sum(0, keepdim=True))
    found = [("photo", bytes_of(x), f"{label}, {probabilities[target]:.2f}")]
    for title, (tool, budget) in TOOLS.items():
        tool(peers.Counted(network, target, 64), x, 64, 0)
        score = peers.Counted(network, target, CALLS)
        started = time.process_time()
        heat = tool(score, x, budget, 0).double()
        seconds = time.process_time() - started
        if score.calls != CALLS:
            raise AssertionError(f"{title} made {score.calls} calls, not {CALLS}")
        strength = Look().strength(heat, None, full_strength(heat))
        said = f"{score.calls} calls, {seconds:.1f} s"
        print(f"{label:12} {title:20} {said}", flush=True)
        found.append((title, laid_on(grey, strength), said))
    return found


def draw(rows: list[list[tuple[str, Pixels, str]]]) -> Figure:
    """All rows below each other, with one bar of the colours."""
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    figure = plt.figure(figsize=(WIDE, 2.24 * len(rows) + 0.5), layout="constrained", dpi=DPI)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for panels, axes in zip(rows, grid, strict=True):
        for (title, pixels, said), ax in zip(panels, axes, strict=True):
            ax.imshow(pixels, interpolation="bicubic")
            ax.set(xticks=[], yticks=[], frame_on=False)
            ax.set_xlabel(said, labelpad=3, **PLAIN)
            if panels is rows[0]:
                ax.set_title(title, fontsize=11)
    colours = ListedColormap(laid_on(None, torch.linspace(-1, 1, 256)[None])[0] / 255)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), colours), ax=grid, location="bottom",
        shrink=0.4, aspect=40, pad=0.02, ticks=[],
    )  # fmt: skip
    bar.outline.set_linewidth(0.5)
    for at, side, text in ((-0.03, "right", "decreases the score"),
                           (1.03, "left", "increases the score")):  # fmt: skip
        bar.ax.text(at, 0.5, text, ha=side, va="center", transform=bar.ax.transAxes, **PLAIN)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=Path, default=data.ROOT / "docs" / "compare.jpg")
    path = parser.parse_args().path
    torch.set_num_threads(1)
    network, photos = peers.network_of("EfficientNet-Lite0"), data.photos()
    figure = draw([row(network, photos[name].x) for name in PHOTOS])
    options = {"quality": 82, "optimize": True} if path.suffix == ".jpg" else {}
    figure.savefig(path, pil_kwargs=options)
    print(f"{path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
