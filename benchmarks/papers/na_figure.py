"""NA figure 1: the gradient, SmoothGrad, VarGrad and others on one photo."""

from __future__ import annotations

import functools
from typing import Any

import torch
from common import (
    cached,
    cached_tensor,
    classifier,
    data,
    draw_map,
    estimate,
    parse_arguments,
    save_picture,
    write_table,
)
from propagation import deep_lift, epsilon_lrp
from torch import Tensor

import fwdgrad
from fwdgrad import (
    AdaptGrad,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    NoiseGrad,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from fwdgrad.metrics.agreement import spearman
from fwdgrad.metrics.sparseness import gini

PHOTO, SAMPLES, SCALE = "chelsea", 50, 0.025  # samples and scale are the paper's
EPSILON = 1e-4  # that of the program that the paper used

METHODS: dict[str, dict[str, Any]] = {
    "gradient": {"method": Gradient()},
    "smoothgrad": {"method": SmoothGrad(SCALE), "n_samples": SAMPLES},
    "vargrad": {"method": VarGrad(SCALE), "n_samples": SAMPLES},
    "gradient-x-input": {"method": GradientXInput()},
    "integrated-gradients": {"method": IntegratedGradients()},
    "epsilon-lrp": {"epsilon": EPSILON},
    "deeplift": {"baseline": 0.0},
    "smoothgrad-squared": {"method": SmoothGradSquared(SCALE), "n_samples": SAMPLES},
    "adaptgrad": {"method": AdaptGrad(), "n_samples": SAMPLES},
    "noisegrad": {"method": NoiseGrad(), "n_samples": SAMPLES},
}
PROPAGATED = {"epsilon-lrp": epsilon_lrp, "deeplift": deep_lift}
OF_INPUT = ("gradient-x-input", "integrated-gradients", *PROPAGATED)  # their sums mean something


def attribution(name: str, options: dict[str, Any]) -> Tensor:
    """How each element of the photo contributes to its label, (3, H, W)."""
    x, target = data.photos()[PHOTO].x, data.PHOTOS[PHOTO][2][0]
    if name in PROPAGATED:
        return PROPAGATED[name](classifier(), x, target, **options)
    explanation = fwdgrad.explain(
        classifier(), x, target, objective="output", batch_size=4, **options
    )
    return explanation.attribution


@torch.no_grad()
def scores() -> list[float]:
    """The label's score on the photo and on black."""
    x = data.photos()[PHOTO].x
    return classifier()(torch.stack([x, torch.zeros_like(x)]))[:, data.PHOTOS[PHOTO][2][0]].tolist()


def main() -> None:
    import matplotlib.pyplot as plt

    options = parse_arguments(__doc__)
    estimate("about a minute on one thread; it goes on where it was")
    names = ("gradient", "vargrad", *PROPAGATED) if options.quick else METHODS
    figure, axes = plt.subplots(3, 4, figsize=(7.4, 5.9), layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    axes.flat[0].imshow(data.photos()[PHOTO].x.permute(1, 2, 0).numpy())
    rows, gradient = [], None
    for ax, name in zip(axes.flat[1:], names, strict=False):
        chosen = METHODS[name]
        if options.quick and "n_samples" in chosen:
            chosen = {**chosen, "n_samples": 4}
        key = {"experiment": "na_figure", "photo": PHOTO, "method": name, "options": chosen}
        values = cached_tensor({**key, "signs": True}, functools.partial(attribution, name, chosen))
        heatmap = values.abs().sum(0)
        gradient = heatmap if gradient is None else gradient
        draw_map(ax, heatmap, name)
        total = f"{values.sum():.3f}" if name in OF_INPUT else "–"
        rows.append((name, f"{spearman(heatmap, gradient):.3f}", f"{gini(heatmap):.3f}", total))
    save_picture("na_figure1", figure)
    plt.close(figure)
    score, of_black = cached({"experiment": "na_figure", "photo": PHOTO, "of": "scores"}, scores)
    write_table(
        "na_figure1",
        "NA figure 1: methods on one photo",
        "python benchmarks/papers/na_figure.py",
        ("method", "rank correlation with the gradient", "sparseness", "sum"),
        rows,
        [
            "![Maps of one photo](../../../docs/papers/na_figure1.jpg)",
            f"""{PHOTO}, EfficientNet-Lite0 (NA: Inception-v3), class = label; {SAMPLES} samples,
            SmoothGrad and VarGrad with sigma = {SCALE} as in the paper, in units of pixels in
            [0, 1]; the others with default settings. Maps are |a| summed over channels;
            sparseness is their Gini index.""",
            f"""epsilon-LRP (epsilon = {EPSILON}) and DeepLIFT (rescale rule, from black) are ours:
            gradients in which each ReLU6 has another slope, after Ancona et al. 2018, as in the
            program that NA used. On small networks they give Captum's numbers. Captum's own need
            another network than EfficientNet-Lite0 as it is: its LRP stops, and its DeepLIFT has
            no rule for ReLU6 and gives gradient-x-input.""",
            f"""The score is {score:.3f}, on black {of_black:.3f}, a difference of
            {score - of_black:.3f}: DeepLIFT's sum must be the difference, and that of integrated
            gradients nearly. epsilon-LRP shares the score out between the pixels and the biases
            (BatchNorm's shifts, the last layer's, the normalisation's): but for epsilon, what its
            sum lacks is theirs. All four multiply with the pixel, so that black counts for nothing;
            NA's program multiplies with what the network takes, of which grey is the zero.""",
            COMMENT,
        ],
    )


COMMENT = """As in the paper, VarGrad is sparser than the gradient, and than the four that multiply
with the pixel, and SmoothGrad is not. VarGrad's series has no term of the gradient itself, but that
does not make the maps unlike: its ranks are nearer to the gradient's than SmoothGrad's are. The
four show the dark rims of the eyes because black counts for nothing. epsilon-LRP differs from
gradient-x-input only where a ReLU6 is at its top, and by epsilon. That DeepLIFT and integrated
gradients have nearly one sum does not make them alike: DeepLIFT is the farthest of the four from
the gradient, and bright in the lower corners, where fur and whiskers are."""

if __name__ == "__main__":
    main()
