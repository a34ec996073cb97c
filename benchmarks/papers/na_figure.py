"""NA figure 1: the gradient, SmoothGrad, VarGrad and others on one photo."""

from __future__ import annotations

import functools
from typing import Any

from common import (
    cached_tensor,
    classifier,
    data,
    draw_map,
    estimate,
    parse_arguments,
    save_picture,
    write_table,
)
from torch import Tensor

import fwdgrad
from fwdgrad.metrics.agreement import spearman
from fwdgrad.metrics.sparseness import gini

PHOTO, COPIES, SIGMA = "chelsea", 50, 0.025  # copies and sigma are the paper's

METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "smoothgrad": {"sigma": SIGMA, "queries": COPIES},
    "vargrad": {"sigma": SIGMA, "queries": COPIES},
    "gradient-x-input": {},
    "integrated-gradients": {},
    "smoothgrad-squared": {"sigma": SIGMA, "queries": COPIES},
    "adaptgrad": {"queries": COPIES},
    "noisegrad": {"queries": COPIES},
}


def photo_map(method: str, options: dict[str, Any]) -> Tensor:
    """The map, its absolute values summed over channels."""
    explanation = fwdgrad.explain(
        classifier(),
        data.photos()[PHOTO].x,
        method=method,
        target=data.PHOTOS[PHOTO][2][0],
        batch_size=4,
        **options,
    )
    return explanation.attribution.abs().sum(0)


def main() -> None:
    import matplotlib.pyplot as plt

    options = parse_arguments(__doc__)
    estimate("about a minute on one thread; it goes on where it was")
    methods = {k: METHODS[k] for k in ("gradient", "vargrad")} if options.quick else METHODS
    figure, axes = plt.subplots(3, 3, figsize=(6, 6.4), layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    axes.flat[0].imshow(data.photos()[PHOTO].x.permute(1, 2, 0).numpy())
    rows, gradient = [], None
    for ax, (method, chosen) in zip(axes.flat[1:], methods.items(), strict=False):
        if options.quick and chosen:
            chosen = {**chosen, "queries": 4}
        key = {"experiment": "na_figure", "photo": PHOTO, "method": method, "options": chosen}
        heatmap = cached_tensor(key, functools.partial(photo_map, method, chosen))
        gradient = heatmap if gradient is None else gradient
        draw_map(ax, heatmap, method)
        rows.append((method, f"{spearman(heatmap, gradient):.3f}", f"{gini(heatmap):.3f}"))
    save_picture("na_figure1", figure)
    plt.close(figure)
    write_table(
        "na_figure1",
        "NA figure 1: methods on one photo",
        "python benchmarks/papers/na_figure.py",
        ("method", "rank correlation with the gradient", "sparseness"),
        rows,
        [
            "![Maps of one photo](../../../docs/papers/na_figure1.jpg)",
            f"""{PHOTO}, EfficientNet-Lite0 (NA: Inception-v3), class = label; {COPIES} copies,
            SmoothGrad and VarGrad with sigma = {SIGMA} as in the paper, in units of pixels in
            [0, 1]; the others as `fwdgrad methods` has them. Maps are |a| summed over channels;
            sparseness is their Gini index. NA's epsilon-LRP and DeepLIFT are not here: they
            need rules for each kind of layer.""",
            COMMENT,
        ],
    )


COMMENT = """As in the paper, VarGrad is sparser than the gradient and SmoothGrad is not. VarGrad's
series has no term of the gradient itself, but that does not make the maps unlike: its ranks are
nearer to the gradient's than SmoothGrad's are."""

if __name__ == "__main__":
    main()
