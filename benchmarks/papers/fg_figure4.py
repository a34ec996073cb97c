"""FG figure 4: deletion and insertion of the vanilla gradient and of the forward gradient.

The runs of 5,000 noisy blocks are those of FG table 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from blockwise import (
    BLOCK,
    REGIONS,
    SAMPLES,
    SCALE,
    STEPS,
    deleted,
    gradients,
    inserted,
    losses,
    regions,
    settings_of_regions,
    size,
    vanilla,
)
from common import cached, data, estimate, parse_arguments, shown, write_table
from torch import Tensor

SEEDS = (0, 1, 2)
METHODS = ("gradient", "blocks", "other noise", "regions, 128 calls", "regions, 512 calls")
SHOWN = {
    "gradient": "vanilla gradient",
    "blocks": "forward gradient, 5,000 blocks",
    "other noise": "– same blocks, other noise",
    "regions, 128 calls": "forward gradient on regions, 128 calls",
    "regions, 512 calls": "forward gradient on regions, 512 calls",
}

Areas = list[float]  # deletion and insertion


def heatmap(network: str, photo: str, method: str, seed: int, samples: int) -> Tensor:
    """A method's map, (224, 224)."""
    if method == "gradient":
        return size(vanilla(network, photo))
    if method.startswith("regions"):
        return regions(network, photo, int(method.split()[1]), seed).sum(0)
    distribution = "normal" if method == "blocks" else "rademacher"
    found = losses(network, photo, seed, samples)
    (gradient,) = gradients(found, (samples,), seed, distribution)
    return size(gradient)


def areas(network: str, photo: str, method: str, seeds: tuple[int, ...], samples: int) -> Areas:
    """Areas under the two curves, the mean over seeds."""
    found = []
    for seed in seeds if method != "gradient" else (0,):
        values = heatmap(network, photo, method, seed, samples)
        found.append((deleted(network, photo, values), inserted(network, photo, values)))
    return [sum(column) / len(found) for column in zip(*found, strict=True)]


def columns_of(found: list[Areas], reference: list[Areas]) -> list[str]:
    """Deletion, insertion, and by how much better than the reference, photo by photo."""
    pairs = list(zip(found, reference, strict=True))
    gains: list[Callable[[Areas, Areas], float]] = [
        lambda one, other: other[0] - one[0],
        lambda one, other: one[1] - other[1],
    ]
    better = ["–", "–"]
    if found is not reference:
        better = [shown([gain(one, other) for one, other in pairs]) for gain in gains]
    return [
        shown([one[0] for one in found]),
        better[0],
        shown([one[1] for one in found]),
        better[1],
    ]


def main() -> None:
    options = parse_arguments(__doc__)
    estimate("3 minutes on one idle thread after fg_table2.py, 13 more before; goes on")
    seeds, networks, photos = SEEDS, tuple(data.NETWORKS), data.PHOTOS
    methods, samples = METHODS, SAMPLES
    if options.quick:
        seeds, networks, photos, samples = (0,), ("SqueezeNet 1.1",), {"coffee": ()}, 20
        methods = ("gradient", "blocks")
    rows = []
    for network in networks:
        found: dict[str, list[Areas]] = {}
        for method in methods:
            for photo in photos:
                key = {"experiment": "fg_figure4", "network": network, "photo": photo}
                key |= {"method": method, "seeds": seeds, "samples": samples, "steps": STEPS}
                key |= {"block": BLOCK, "scale": SCALE, "regions": REGIONS}
                if method.startswith("regions"):
                    key["regions"] = settings_of_regions(photo, int(method.split()[1]))
                call = functools.partial(areas, network, photo, method, seeds, samples)
                found.setdefault(method, []).append(cached(key, call))
        for method, values in found.items():
            rows.append((network, SHOWN[method], *columns_of(values, found["gradient"])))
    write_table(
        "fg_figure4",
        "FG figure 4: deletion (low is good) and insertion (high is good)",
        "python benchmarks/papers/fg_figure4.py",
        ("network", "map", "deletion", "lower by", "insertion", "higher by"),
        rows,
        [
            f"{len(photos)} photos, the predicted class's softmax, RISE's curves in {STEPS} steps; "
            "mean ± standard error over photos, each the mean of seeds "
            f"{', '.join(map(str, seeds))}. Lower and higher by: than the vanilla gradient, paired "
            "by photo. The vanilla gradient is that of the cross-entropy, its sizes summed over "
            f"channels. Blocks: see FG table 2 ({samples:,} calls, plain, sizes summed over "
            "channels); same blocks, other noise has no gradient in it. Regions: what "
            "explain makes of a photo by default, the probability, with its sign.",
            "The paper's figure is a chart, whose numbers the text does not give: the forward "
            "gradient is better than the vanilla one on Inception-V3, VGG-19 and ResNet-50, and "
            "worse on AlexNet.",
            COMMENT,
        ],
    )


COMMENT = (
    "As in the paper, 5,000 blocks are on average better than the vanilla gradient, in three "
    "of the four comparisons (not at deletion on SqueezeNet), though none is beyond about two "
    "standard errors. But other noise in the same blocks does as well: what helps is "
    "occlusion by blocks, not an estimate of the gradient. Maps of regions are the best at "
    "insertion with a fortieth to a tenth of the calls (over the vanilla gradient by five to "
    "seven standard errors on EfficientNet-Lite0, by two to three on SqueezeNet); at deletion "
    "those of 512 calls are, on EfficientNet-Lite0 hardly."
)

if __name__ == "__main__":
    main()
