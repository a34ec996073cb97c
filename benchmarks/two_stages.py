"""Are two stages better than one? Coarse cells, then small features where values are large.

    python benchmarks/two_stages.py                # half an hour on two cores
    python benchmarks/two_stages.py --cutouts 45   # all on each background: some hours
    python benchmarks/two_stages.py --quick        # one picture, 128 calls: no table is written

One stage is what ``Regions`` does. Two stages spend half the calls on it, and the other half on
features of a second kind: unions of cells of 8 pixels, cut out of a tree by splitting, again and
again, the feature whose share of the first map is largest. The tree is that of colours (a binary
partition tree: neighbours are merged by Ward's distance) or of halves (squares). The map is the
mean of both stages' maps, each a density whose absolute values sum to one.

Judged by insertion, deletion and the share inside the mask, which maps are often chosen by, by
IROF and ROAD, and by an exact game: the Banzhaf values of nine equal parts from all 512
coalitions, against the sum of a map over each.

Sources: binary partition trees: Salembier and Garrido 2000; IROF: Rieger and Hansen 2020; ROAD:
Rong et al. 2022. What is found is kept in two-stages/ of the cache folder.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import data
import numpy as np
import peers
import torch
from torch import Tensor

import fwdgrad
from fwdgrad import Regions, metrics
from fwdgrad.directions import directions
from fwdgrad.files import write_atomically
from fwdgrad.methods.blur import light_blur
from fwdgrad_kernels import Grid, NoiseSpec, expand, noise

SIDE, CUTOUTS, SEEDS = 8, 3, 2
BUDGETS = {128: (64, 64, 64), 500: (250, 250, 256)}  # calls of both stages, and the second's group
WAYS = ("one stage", "two stages, tree of colours", "two stages, squares")
SHAPE = (3, peers.SIZE, peers.SIZE)
RESULTS = peers.RESULTS / "two-stages.md"
COLUMNS = {
    "insertion": "insertion ↑", "deletion": "deletion ↓", "inside": "inside ↑", "irof": "IROF ↑",
    "road": "ROAD ↓", "game": "exact game ↑", "repeat": "repeat ↑",
}  # fmt: skip

Splits = list[tuple[int, int]]
"""A tree over lines 0 to L - 1 of a grid: the children of nodes L, L + 1 and so on."""


class Job(NamedTuple):
    """The maps of one picture, of all ways."""

    network: str
    background: str
    name: str
    calls: int

    @property
    def file(self) -> Any:
        """Where what was found is kept."""
        return data.cache_folder() / "two-stages" / ("-".join(map(str, self)) + ".pt")


@functools.cache
def lines() -> tuple[NoiseSpec, Tensor]:
    """The grid of the smallest cells, and (lines, H, W) how much of each element is a line's."""
    spec = NoiseSpec(SHAPE, "rademacher", features=Grid(SIDE))
    return spec, torch.stack([expand(one, spec)[0] for one in torch.eye(spec.draws)])


def halves(height: int, width: int) -> Splits:
    """The tree that halves a grid of lines across its longer side."""
    found: Splits = []

    def split(y: int, x: int, h: int, w: int) -> int:
        if h == w == 1:
            return y * width + x
        a, b = h // 2 if h >= w else 0, w // 2 if w > h else 0
        first = split(y, x, a or h, b or w)
        found.append((first, split(y + a, x + b, h - a, w - b)))
        return height * width + len(found) - 1

    split(0, 0, height, width)
    return found


def of_colours(x: Tensor) -> Splits:
    """The binary partition tree of a picture: neighbours that are most alike are merged first."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.feature_extraction.image import grid_to_graph

    spec, share = lines()
    height, width = spec.grid[-2:]
    colours = torch.einsum("lyx,cyx->lc", share, x) / share.sum((1, 2))[:, None]
    places = torch.cartesian_prod(torch.arange(height) / height, torch.arange(width) / width)
    grown = AgglomerativeClustering(
        n_clusters=1, connectivity=grid_to_graph(height, width), compute_full_tree=True
    ).fit(torch.cat([colours, places / 2], 1).numpy())
    return [(int(a), int(b)) for a, b in grown.children_]


def cut(tree: Splits, values: Tensor, count: int) -> Tensor:
    """So many features, of which none has much more of the values than another: (lines,) labels."""
    size = len(values)
    inside = [[line] for line in range(size)]
    for a, b in tree:
        inside.append(inside[a] + inside[b])
    heap = [(-float(values.sum()), size + len(tree) - 1)]
    whole: list[int] = []
    while heap and len(heap) + len(whole) < count:
        node = heapq.heappop(heap)[1]
        if node < size:
            whole.append(node)
            continue
        for child in tree[node - size]:
            heapq.heappush(heap, (-float(values[inside[child]].sum()), child))
    labels = torch.empty(size, dtype=torch.long)
    nodes = {node for _, node in heap} | set(whole)
    todo, number = [size + len(tree) - 1], 0
    while todo:  # along the tree, so that near features have near numbers
        node = todo.pop()
        if node in nodes:
            labels[inside[node]] = number
            number += 1
        else:
            todo += tree[node - size]
    return labels


def second(score: Any, x: Tensor, labels: Tensor, calls: int, group: int, seed: int) -> Tensor:
    """The map (H, W) of features that are unions of lines, by a Hadamard group."""
    share, count = lines()[1], int(labels.max()) + 1
    signs = NoiseSpec((group,), "rademacher", design="hadamard", seed=seed)
    taken = directions((count,), group, seed)
    draws = noise(signs, first=0, count=calls)[:, taken]
    behind, scores = light_blur(x, 2), []
    for some in draws.split(4):
        keep = torch.einsum("nl,lyx->nyx", some[:, labels], share)[:, None] / 2 + 0.5
        scores.append(score(behind + keep * (x - behind)).double())
    found = torch.cat(scores)
    values = (draws.double() * (found - found.mean())[:, None]).mean(0)
    area = torch.zeros(count).index_add_(0, labels, share.sum((1, 2)))
    return torch.einsum("l,lyx->yx", (values.float() / area)[labels], share)


def maps(network: peers.Network, x: Tensor, target: int, calls: int, seed: int) -> list[Tensor]:
    """A map of each of ``WAYS``, of as many calls."""

    def one(n_samples: int) -> Tensor:
        return fwdgrad.explain(
            network.model, x, target, method=Regions(), objective="probability",
            n_samples=n_samples, seed=seed, batch_size=4,
        ).heatmap()  # fmt: skip

    first, more, group = BUDGETS[calls]
    coarse, share = one(first), lines()[1]
    mass = torch.einsum("lyx,yx->l", share, coarse.abs())
    height, width = lines()[0].grid[-2:]
    found = [one(calls)]
    for tree in (of_colours(x), halves(height, width)):
        labels = cut(tree, mass, group - group // 4 - max(1, group // 32))
        fine = second(
            lambda batch: network.model(batch).softmax(1)[:, target], x, labels, more, group, seed
        )
        found.append(coarse / coarse.abs().sum() + fine / fine.abs().sum())
    return found


def irof(score: Any, x: Tensor, heat: Tensor) -> float:
    """IROF: superpixels (SLIC) become the picture's mean, of largest mean value first.

    The mean over superpixels of the share of the score that is lost. (Quantus 0.6 does not take
    pictures of three channels.)
    """
    from skimage.segmentation import slic

    parts = torch.from_numpy(slic(peers.as_array(x), n_segments=50, start_label=0))
    order = torch.stack([heat[parts == k].mean() for k in parts.unique()]).argsort(descending=True)
    mean, pictures = x.mean((1, 2), keepdim=True), [x]
    for k in parts.unique()[order]:
        pictures.append(torch.where(parts == k, mean, pictures[-1]))
    found = torch.cat([score(some) for some in torch.stack(pictures).split(4)])
    return float((1 - found[1:] / found[0]).mean())


def road(score: Any, x: Tensor, heat: Tensor, seed: int = 0) -> float:
    """ROAD: the score where most relevant pixels are replaced by what their neighbours say.

    The mean over four shares of the pixels; the imputation is Quantus's.
    """
    from quantus.functions.perturb_func import noisy_linear_imputation

    order, pictures = heat.flatten().argsort(descending=True).numpy(), []
    np.random.seed(seed)  # noqa: NPY002 - what Quantus draws from
    for share in (0.05, 0.1, 0.2, 0.3):
        some = order[: int(share * len(order))]
        pictures.append(torch.from_numpy(noisy_linear_imputation(x.double().numpy(), some)))
    return float(score(torch.stack(pictures).float()).mean())


def game(score: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Nine equal parts of a picture (H, W), and their exact Banzhaf values."""
    third = (torch.arange(peers.SIZE) * 3 // peers.SIZE)[None]
    parts, behind = 3 * third.T + third, light_blur(x, 2)
    subsets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9)
    scores = torch.cat(
        [score(behind + s[:, parts][:, None] * (x - behind)) for s in subsets.split(4)]
    ).double()
    return parts, 2 * ((2 * subsets - 1).double() * scores[:, None]).mean(0)


def run(job: Job) -> None:
    """Makes the maps of a picture, judges those of the first seed, and keeps what was found."""
    if job.file.exists():
        return
    torch.set_num_threads(1)
    network = peers.network_of(job.network)
    picture = peers.pictures(job.background)[job.name]
    target = int(network.model(picture.x[None]).argmax())

    def score(batch: Tensor) -> Tensor:
        return network.model(batch).softmax(1)[:, target]

    of = [maps(network, picture.x, target, job.calls, seed) for seed in range(SEEDS)]
    parts, values = game(score, picture.x)
    found = {}
    for way, heats in zip(WAYS, zip(*of, strict=True), strict=True):
        heat = heats[0].double()
        sums = torch.zeros(len(values), dtype=torch.double)
        sums.index_add_(0, parts.flatten(), heat.flatten())
        found[way] = {
            **peers.curves_of(network, picture.x, heat),
            "irof": irof(score, picture.x, heat),
            "road": road(score, picture.x, heat),
            "inside": metrics.share_inside(heat, picture.mask),
            "game": float(torch.corrcoef(torch.stack([sums, values]))[0, 1]),
            "repeat": metrics.spearman(*heats),
        }
    job.file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, job.file.with_suffix(".part"))
    job.file.with_suffix(".part").rename(job.file)


def table(jobs: list[Job]) -> str:
    """Means, and the difference from one stage with its standard error."""
    lines = [
        f"| network | calls | pictures | | {' | '.join(COLUMNS.values())} |",
        "|---|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for network, calls in dict.fromkeys((job.network, job.calls) for job in jobs):
        found = [
            torch.load(job.file, weights_only=True)
            for job in jobs
            if (job.network, job.calls) == (network, calls) and job.file.exists()
        ]
        for way in WAYS if len(found) > 1 else ():
            cells = []
            for column in COLUMNS:
                own = torch.tensor([one[way][column] for one in found])
                less = own - torch.tensor([one[WAYS[0]][column] for one in found])
                more = f" ({less.mean():+.3f} ± {less.std() / len(less) ** 0.5:.3f})"
                cells.append(f"{own.mean():.3f}" + more * (way != WAYS[0]))
            lines.append(f"| {network} | {calls} | {len(found)} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


HEAD = """# Two stages against one

Made by `python benchmarks/two_stages.py`: the first {} cut-outs on each of five backgrounds that
the network names rightly; in brackets the difference from one stage, picture by picture, with its
standard error. IROF: superpixels become the picture's mean, the share of the score that is lost;
ROAD: the score with 5, 10, 20 and 30 % of the pixels imputed from their neighbours (by Quantus);
exact game: the correlation of a map's sums over nine equal parts with their exact Banzhaf values;
repeat: rank correlation of two seeds' maps.

"""


def main() -> None:
    """Makes the maps that are not there, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one picture, 128 calls, no table")
    parser.add_argument("--cutouts", type=int, default=CUTOUTS, help="on each background")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    jobs = [
        Job(network, background, name, calls)
        for calls in BUDGETS
        for network in data.NETWORKS
        for background in data.BACKGROUNDS
        for _, name in peers.named(peers.network_of(network), background)[: options.cutouts]
    ]
    if options.quick:
        jobs = jobs[:1]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(run, jobs), 1):
            if done % 20 == 0:
                print(f"{done} of {len(jobs)} pictures", flush=True)
    print(table(jobs))
    if not options.quick:
        write_atomically(RESULTS, (HEAD.format(options.cutouts) + table(jobs)).encode())


if __name__ == "__main__":
    main()
