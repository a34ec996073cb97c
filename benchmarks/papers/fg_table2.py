"""FG table 2: does insertion rise with the number of noisy blocks, and fall at the last thousand?

A run of 5,000 samples, each with one noisy block, gives the maps after 1, 2, 3, 4 and 5 thousand.
Beside them is what the same losses and blocks give with other noise: no gradient is in that.
"""

from __future__ import annotations

import functools

import torch
from blockwise import (
    BLOCK,
    SAMPLES,
    SCALE,
    STEPS,
    gradients,
    inserted,
    losses,
    size,
    vanilla,
)
from common import cached, data, estimate, mean_and_error, parse_arguments, shown, write_table

from fwdgrad.metrics import cosine

COUNTS = (1000, 2000, 3000, 4000, 5000)
SEEDS = (0, 1, 2)
PAPER = {1000: 51.33, 2000: 59.54, 3000: 60.08, 4000: 60.26, 5000: 57.20}
MAPS = ("size", "signed", "blocks", "cosine")

Curve = dict[str, list[float]]  # of a map, a number after each count


def run(network: str, photo: str, seed: int, counts: tuple[int, ...]) -> Curve:
    """Insertion (%) of the maps of one run, and the cosine (%) with the model's own gradient."""
    found = losses(network, photo, seed, counts[-1])
    own = vanilla(network, photo)
    curve: Curve = {name: [] for name in MAPS}
    normal, other = (gradients(found, counts, seed, kind) for kind in ("normal", "rademacher"))
    for gradient, blocks in zip(normal, other, strict=True):
        maps = {"size": size(gradient), "signed": -gradient.sum(0), "blocks": size(blocks)}
        for name, heatmap in maps.items():
            curve[name].append(100 * inserted(network, photo, heatmap))
        curve["cosine"].append(100 * cosine(gradient, own))
    return curve


def bounds(network: str, photo: str) -> dict[str, float]:
    """Insertion (%) of the model's own gradient, and of no order at all."""
    heatmap = torch.rand(data.SIZE, data.SIZE, generator=torch.manual_seed(0))
    own = vanilla(network, photo)
    return {
        "own": 100 * inserted(network, photo, size(own)),
        "random": 100 * inserted(network, photo, heatmap),
    }


def step(curves: list[list[Curve]], counts: tuple[int, ...], before: int, after: int) -> str:
    """How the insertion of "size" changes from one count to another, over photos and by seeds."""
    steps = [[run["size"][after] - run["size"][before] for run in runs] for runs in curves]
    by_photo = [sum(runs) / len(runs) for runs in steps]
    by_seed = [sum(runs) / len(runs) for runs in zip(*steps, strict=True)]
    single = [one for runs in steps for one in runs]
    deviation = mean_and_error(single)[1] * len(single) ** 0.5
    each = ", ".join(f"{one:+.2f}" for one in by_seed)
    return (
        f"{counts[after]:,} less {counts[before]:,} blocks: {shown(by_photo, 2)} (seed by seed "
        f"{each}; deviation of single runs {deviation:.1f})"
    )


def lead(curves: list[list[Curve]], ends: list[dict[str, float]]) -> str:
    """What the last "size" has over other maps, photo by photo."""

    def mean(runs: list[Curve], name: str) -> float:
        return sum(run[name][-1] for run in runs) / len(runs)

    others = {
        "the same blocks with other noise": [mean(runs, "blocks") for runs in curves],
        "the model's own gradient": [end["own"] for end in ends],
        "a random order": [end["random"] for end in ends],
    }
    parts = []
    for name, values in others.items():
        pairs = zip(curves, values, strict=True)
        parts.append(f"{name} {shown([mean(runs, 'size') - value for runs, value in pairs], 2)}")
    return "the last map less that of " + ", ".join(parts)


def main() -> None:
    options = parse_arguments(__doc__)
    estimate("15 minutes on one idle thread; goes on where it was")
    counts, seeds, networks, photos = COUNTS, SEEDS, tuple(data.NETWORKS), tuple(data.PHOTOS)
    if options.quick:
        counts, seeds, networks, photos = (10, 20), (0,), ("SqueezeNet 1.1",), ("coffee",)
    rows = [[f"{count:,}", PAPER.get(count, "–")] for count in counts]
    headers, notes = ["blocks", "insertion, FG"], []
    for network in networks:
        curves, ends = [], []
        for photo in photos:
            key = {"experiment": "fg_table2", "network": network, "photo": photo}
            key |= {"block": BLOCK, "scale": SCALE, "steps": STEPS}
            ends.append(cached(key, functools.partial(bounds, network, photo)))
            runs = []
            for seed in seeds:
                call = functools.partial(run, network, photo, seed, counts)
                runs.append(cached(key | {"seed": seed, "counts": counts}, call))
            curves.append(runs)
        for name in MAPS:
            for at, row in enumerate(rows):
                row.append(shown([sum(r[name][at] for r in p) / len(p) for p in curves], 1))
        headers += [
            f"insertion, ours, {network}",
            "signed",
            "same blocks, other noise",
            "cosine with the gradient",
        ]
        notes.append(
            f"{network}: the model's own gradient {shown([e['own'] for e in ends], 1)}, a random "
            f"order {shown([e['random'] for e in ends], 1)}. {step(curves, counts, -2, -1)}; "
            f"{step(curves, counts, 0, -2)}; {lead(curves, ends)}."
        )
    write_table(
        "fg_table2",
        "FG table 2: insertion with 1 to 5 thousand noisy blocks",
        "python benchmarks/papers/fg_table2.py",
        headers,
        rows,
        [
            f"All in %. Equation 6, plain: a block of {BLOCK} x {BLOCK} pixels a sample (a tenth "
            f"of the picture; cut at the border), normal noise of {SCALE:.3f} (1 on EfficientNet's "
            "normalised input; FG does not say), weighted with the cross-entropy of the predicted "
            f"class; {SAMPLES:,} samples, of which the first are the smaller runs. "
            f"{len(photos)} photos (FG: ImageNet), seeds {', '.join(map(str, seeds))}; mean ± "
            "standard error over photos, each the mean of its seeds. Insertion as RISE has it, "
            f"{STEPS} steps. The map is the sum over channels of |gradient|; signed: what "
            "increases the class's score first. Same blocks, other noise: the same losses summed "
            "against signs that the samples did not have, which leaves what blocks alone tell. "
            "Cosine: of all 150,528 numbers with the gradient of the cross-entropy.",
            *notes,
            COMMENT,
        ],
    )


COMMENT = (
    "The paper's fall of 3.06 points from 4,000 to 5,000 is not found: the step is zero within "
    "its standard error on both networks, and its sign changes from seed to seed. A fall of "
    "that size is one to two deviations of a single run on a single picture, so it is chance "
    "only if the paper's row is of a few pictures and one seed. Nor is its rise of 9 points "
    "from 1,000 to 4,000 found. That the map is on average better at insertion than the model's "
    "own gradient agrees with the paper (by about two standard errors). But the gradient is not "
    "in it: its cosine with that is zero, and other noise in the same blocks inserts as well. "
    "The map shows where a noisy block makes the loss large, which is occlusion by blocks, and "
    "a thousand of them tell that as well as five."
)

if __name__ == "__main__":
    main()
