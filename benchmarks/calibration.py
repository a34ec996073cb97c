"""How sure are maps, and how sure do they say they are?

    python benchmarks/calibration.py            # about two hours on two quiet cores
    python benchmarks/calibration.py --quick    # two pictures, two seeds: no table is written

Photos and cut-outs, two networks, several budgets, five seeds of each map. What is said is the
mean of the maps' ``reliability``; what is measured, the mean correlation of the maps of two seeds.
Standard errors are held against the spread of cells' values over the seeds, and each seed's values
against the mean of the others: how often does the interval of 95 % hold it?

The same with directions in the order of the cells, as they were, on the first pictures: maps of
two designs at the same number of calls, by insertion, deletion and repeat.

Maps' values are kept in calibration/ of the cache folder, so a run that was stopped goes on; remove
it where the estimate has changed. The table goes to benchmarks/results/calibration.md.
"""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import data
import peers
import torch
from torch import Tensor

import fwdgrad
from fwdgrad import Grid, Regions, metrics
from fwdgrad.estimate.student import two_sided
from fwdgrad.files import write_atomically
from fwdgrad.methods import plan_again
from fwdgrad.parts import parts_of
from fwdgrad.significance import degrees_of_freedom
from fwdgrad_kernels import NoiseSpec

BUDGETS = (128, 500, 1024)
SEEDS, CUTOUTS, COMPARED, STEPS = 5, 53, 20, 28
DESIGNS = ("cosets", "in order")
RESULTS = peers.RESULTS / "calibration.md"


@dataclass(frozen=True)
class Job:
    """One map."""

    network: str
    kind: str  # "photo", or a cut-out's background
    name: str
    design: str
    samples: int
    seed: int

    @property
    def file(self) -> Any:
        """Where what was found of it is kept."""
        name = "-".join(map(str, vars(self).values())).replace(" ", "_")
        return data.cache_folder() / "calibration" / f"{name}.pt"


def method_of(design: str, samples: int) -> dict[str, Any]:
    """The arguments of ``explain``: as they are by default, or as they were."""
    if design == "cosets":
        return {"method": Regions()}
    shape = (3, peers.SIZE, peers.SIZE)
    for cell in range(8, peers.SIZE):
        count = NoiseSpec(shape, features=Grid(cell)).draws
        if count < samples:
            return {"method": Regions(), "features": Grid(cell, order=torch.arange(count))}
    raise AssertionError


def run(job: Job) -> None:
    """Makes a map, and keeps what is needed of it."""
    if job.file.exists():
        return
    network = peers.network_of(job.network)
    picture = peers.pictures(job.kind)[job.name]
    e = fwdgrad.explain(
        network.model, picture.x, objective="probability", n_samples=job.samples, seed=job.seed,
        batch_size=8, **method_of(job.design, job.samples),
    )  # fmt: skip
    plan = plan_again(e)
    own, error, _ = parts_of(plan).own(e.attribution, e.standard_error)
    found = {
        "reliability": e.reliability, "score": e.score, "map": e.heatmap()[::4, ::4].clone(),
        "own": own, "error": error, "degrees": degrees_of_freedom(plan),
    }  # fmt: skip
    if job.seed == 0 and job.network == next(iter(data.NETWORKS)):
        for name, curve in (("insertion", metrics.insertion), ("deletion", metrics.deletion)):
            found[name] = curve(
                network.model, picture.x, e.heatmap(), e.target, objective="probability",
                steps=STEPS, batch_size=8,
            ).auc  # fmt: skip
        if picture.mask is not None:
            found["inside"] = metrics.share_inside(e.heatmap(), picture.mask)
    job.file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, job.file.with_suffix(".part"))
    job.file.with_suffix(".part").rename(job.file)


def repeat_of(maps: list[Tensor]) -> float:
    """The mean correlation of the maps of two seeds."""
    found = torch.corrcoef(torch.stack([one.flatten().double() for one in maps]))
    count = len(maps)
    return float((found.sum() - count) / (count * (count - 1)))


@dataclass(frozen=True)
class Row:
    """One picture, by all seeds of a design and a budget."""

    said: float
    measured: float
    error: float  # the standard errors' mean square over the values' variance over seeds
    held: float  # how often an interval of 95 % held the mean of the other seeds


def row_of(found: list[dict[str, Any]]) -> Row:
    """Of the maps of all seeds."""
    own = torch.stack([one["own"] for one in found])
    error = torch.stack([one["error"] for one in found])
    moves = (error > 0).all(0)  # what lies on its own blur has no value and no error
    own, error, count = own[:, moves], error[:, moves], len(own)
    others = (own.sum(0) - own) / (count - 1)
    ratios = (own - others) / (error * math.sqrt(1 + 1 / (count - 1)))
    chances = torch.stack([two_sided(r, one["degrees"]) for r, one in zip(ratios, found)])  # noqa: B905
    return Row(
        sum(one["reliability"] for one in found) / count,
        repeat_of([one["map"] for one in found]),
        float((error.square().mean() / own.var(0).mean()).sqrt()),
        float((chances > 0.05).double().mean()),
    )


def jobs_of(
    networks: list[str], cutouts: int, compared: int, seeds: int, budgets: Any
) -> list[Job]:
    """All maps; those of another design for the first pictures of the first network."""
    found = []
    for network in networks:
        shown = [("photo", name) for name in peers.pictures("photo")]
        drawn = [peers.named(peers.network_of(network), b) for b in ("grass", "grey", "brick")]
        mixed = [where for three in zip(*drawn, strict=False) for where in three]
        for place, (kind, name) in enumerate((shown + mixed)[: len(shown) + cutouts]):
            for design in DESIGNS:
                first = network == networks[0] and place < compared
                if design == DESIGNS[0] or first:
                    found += [
                        Job(network, kind, name, design, samples, seed)
                        for samples in budgets
                        for seed in range(seeds)
                    ]
    return sorted(found, key=lambda job: (job.samples, job.network != networks[0]))


Groups = dict[tuple[str, str, int], dict[tuple[str, str], list[dict[str, Any]]]]


def plot(groups: Groups) -> None:
    """Said against measured, a point for each picture and budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, design in zip(panels, reversed(DESIGNS), strict=True):
        for (network, drawn, samples), of in groups.items():
            rows = [row_of(found) for found in of.values() if len(found) > 1]
            if drawn == design and rows:
                label = f"{network}, {samples:,} samples"
                said, measured = [row.said for row in rows], [row.measured for row in rows]
                axes.scatter(said, measured, s=9, alpha=0.7, label=label)
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        axes.set(
            title=f"directions: {design}", xlabel="said: reliability", xlim=(0, 1), ylim=(0, 1)
        )
        axes.legend(fontsize="x-small", loc="upper left")
    panels[0].set_ylabel("measured: correlation of two seeds")
    figure.savefig(RESULTS.with_suffix(".png"), dpi=100)


def found_of(jobs: list[Job]) -> Groups:
    """What is kept of all maps that are there."""
    groups: Groups = {}
    for job in jobs:
        if job.file.exists():
            of = groups.setdefault((job.network, job.design, job.samples), {})
            found = torch.load(job.file, weights_only=True)
            of.setdefault((job.kind, job.name), []).append(found)
    return groups


def tables(jobs: list[Job], groups: Groups) -> str:
    """What is written of them."""
    most = max(len(found) for of in groups.values() for found in of.values())
    lines = [
        "| network | directions | samples | pictures | said | measured | off by, mean | 9th decile "
        "| error / spread | 95 % held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (network, design, samples), of in groups.items():
        rows = [row_of(found) for found in of.values() if len(found) == most]
        if not rows:
            continue
        off = torch.tensor([abs(row.said - row.measured) for row in rows])
        error = torch.tensor([row.error for row in rows])
        lines.append(
            f"| {network} | {design} | {samples:,} | {len(rows)} | "
            f"{sum(row.said for row in rows) / len(rows):.3f} | "
            f"{sum(row.measured for row in rows) / len(rows):.3f} | {off.mean():.3f} | "
            f"{off.quantile(0.9):.3f} | {error.median():.2f} ({error.quantile(0.1):.2f} to "
            f"{error.quantile(0.9):.2f}) | {sum(row.held for row in rows) / len(rows):.3f} |"
        )
    lines += [
        "",
        "The two designs on the same pictures, at the same number of calls (seed 0; repeat: the "
        "mean correlation of two seeds; the difference's standard error in brackets):",
        "",
        "| samples | pictures | directions | insertion | deletion | inside | repeat |",
        "|---|---|---|---|---|---|---|",
    ]
    network = jobs[0].network
    for samples in sorted({job.samples for job in jobs}):
        both = [groups.get((network, design, samples), {}) for design in DESIGNS]
        shared = [w for w in both[1] if all(len(of.get(w, ())) == most for of in both)]
        columns: list[list[list[float]]] = [
            [
                [one[w][0][name] for w in shared if name in one[w][0]]
                for name in ("insertion", "deletion", "inside")
            ]
            + [[row_of(one[w]).measured for w in shared]]
            for one in both
        ]
        if len(shared) < 2:
            continue
        for design, values in zip(reversed(DESIGNS), reversed(columns), strict=True):
            cells = []
            for own, old in zip(values, columns[1], strict=True):
                if len(own) < 2:
                    cells.append("")
                    continue
                apart = torch.tensor(own) - torch.tensor(old)
                more = f" ({apart.mean():+.3f} ± {apart.std() / len(apart) ** 0.5:.3f})"
                cells.append(f"{sum(own) / len(own):.3f}" + more * (design == DESIGNS[0]))
            lines.append(f"| {samples:,} | {len(shared)} | {design} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


HEAD = """# How sure are maps, and how sure do they say they are?

Made by `python benchmarks/calibration.py`: `Regions` with its defaults, the probability of the
class, {} seeds of each map. "Said" is `reliability`, "measured" the mean correlation of the maps of
two seeds; off by how much, for each picture. The standard errors of cells over the spread of their
values over seeds (root mean squares; the median over pictures, first and ninth decile). 95 % held:
how often a cell's interval held the mean of the other seeds. Directions: cosets are the default;
in order are those of before, a cell for nearly each sample.

![Said against measured](calibration.png)

"""


def main() -> None:
    """Makes the maps that are not there, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two pictures, two seeds, no table")
    parser.add_argument("--cutouts", type=int, default=CUTOUTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--tables", action="store_true", help="of the maps that are there")
    options = parser.parse_args()
    networks = list(data.NETWORKS)
    if options.quick:
        jobs = jobs_of(networks[:1], 0, 2, 2, (64,))[:8]
    else:
        jobs = jobs_of(networks, options.cutouts, COMPARED, options.seeds, options.budgets)
    if not options.tables:
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            for done, _ in enumerate(pool.map(run, jobs, chunksize=4), 1):
                if done % 50 == 0:
                    print(f"{done} of {len(jobs)} maps", flush=True)
    groups = found_of(jobs)
    found = tables(jobs, groups)
    print(found)
    if not options.quick:
        plot(groups)
        write_atomically(RESULTS, (HEAD.format(options.seeds) + found).encode())


if __name__ == "__main__":
    main()
