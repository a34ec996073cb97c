"""Maps of a black box at the same number of forward calls: other tools' and ours.

    python benchmarks/peers.py                 # make peers: three hours or more on two cores
    python benchmarks/peers.py --budgets 128 500    # the first of its tables: under an hour
    python benchmarks/peers.py --others        # the strongest of them, on cut-outs left out there
    python benchmarks/peers.py --backgrounds   # and on every background
    python benchmarks/peers.py --full          # two networks, three seeds: about a day
    python benchmarks/peers.py --quick         # a minute, two pictures: no table is written

Cut-outs are shown where the network names them rightly.

Every method explains the probability of the predicted class, on the same pictures, with as many
calls of the same network (ONNX Runtime, one thread), in as many processes as there
are cores. A map is kept for each method, network, picture, budget and seed, in peers/ of the cache
folder (FWDGRAD_CACHE, or ~/.cache/fwdgrad), so a run that was stopped goes on, and a change runs
only what it touches. The table goes to benchmarks/results/peers.md.

Methods are those of their own libraries where one can be installed: RISE and sliding windows from
xaitk-saliency, LIME from lime, the partition explainer from shap, KernelSHAP from Captum. Those
called "our version" are short ones of a published method whose library does not install beside
this torch (Sobol and HSIC: xplique needs TensorFlow) or does not exist (evolution strategies).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import inspect
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import FunctionType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import data
import numpy as np
import torch
from fast import fast
from torch import Tensor
from torch.nn import functional

import fwdgrad
from fwdgrad import ForwardGradient, Regions, metrics
from fwdgrad.directions import directions
from fwdgrad.files import write_atomically
from fwdgrad.methods.blur import light_blur
from fwdgrad.runner.memory import process_memory
from fwdgrad_kernels import CONTRACT

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SIZE, STEPS = 224, 28
SHOWN, TUNED_ON = 9, 8  # cut-outs in the table, and those after them that ours was chosen on

BUDGETS = (128, 500, 1536, 4224)
OURS_ALONE = (128,)  # fewer calls than any other tool gets
COSTED = 1536  # the budget at which seconds and memory are measured, or the largest below it


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier that is only called.

    Attributes:
        name: a key of ``data.NETWORKS``.
        model: takes (batch, 3, 224, 224) in [0, 1]; returns logits (batch, classes).
        fill: (3,): what its normalisation maps to zero; the methods' grey.
    """

    name: str
    model: Callable[[Tensor], Tensor]
    fill: Tensor


@functools.cache
def network_of(name: str) -> Network:
    """A network by ONNX Runtime, on one thread, loaded once in a process."""
    classifier = data.NETWORKS[name]()
    return Network(name, fast(classifier), torch.tensor(classifier.zero).expand(3))


class Counted:
    """The class's probability, which counts the forward calls of a method.

    Args:
        network: that is called; its ``fill`` is the score's.
        target: the class.
        budget: how many pictures a method may have evaluated.
    """

    def __init__(self, network: Network, target: int, budget: int) -> None:
        self.model, self.fill = network.model, network.fill
        self.target, self.budget, self.calls = target, budget, 0

    def scores(self, batch: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        self.calls += len(batch)
        return self.model(batch)

    def __call__(self, batch: Tensor) -> Tensor:
        """Probabilities (batch,)."""
        return self.scores(batch).softmax(1)[:, self.target]

    def of_arrays(self, pictures: Any) -> Any:
        """Of (batch, height, width, 3) as libraries of NumPy have them: (batch, 1)."""
        batch = torch.from_numpy(np.ascontiguousarray(np.asarray(pictures, dtype=np.float32)))
        return self(batch.permute(0, 3, 1, 2).contiguous())[:, None].double().numpy()


def as_array(x: Tensor) -> Any:
    return x.permute(1, 2, 0).contiguous().numpy()


# ---- other tools -----------------------------------------------------------------------------
#
# Each takes the counted score, the picture, the budget and a seed, and returns a map (H, W).


def rise(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """RISE (Petsiuk et al. 2018): 7 x 7 cells, half of them kept, on grey."""
    from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.rise import RISEStack

    stack = RISEStack(n=budget, s=7, p1=0.5, seed=seed, threads=0, debiased=False)
    return _by_xaitk(stack, score, x)


def sliding_window(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Occlusion (Zeiler and Fergus 2014): a grey window of 50 pixels at every place of a grid."""
    from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.slidingwindow import (
        SlidingWindowStack,
    )

    for stride in range(1, SIZE):  # the finest grid within the budget, one call for the picture
        if math.ceil((SIZE + 50) / stride) ** 2 < budget:
            break
    stack = SlidingWindowStack(window_size=(50, 50), stride=(stride, stride), threads=0)
    return _by_xaitk(stack, score, x)


def _by_xaitk(stack: Any, score: Counted, x: Tensor) -> Tensor:
    from smqtk_classifier import ClassifyImage

    class Adapter(ClassifyImage):
        def get_labels(self) -> list[str]:
            return ["target"]

        def classify_images(self, pictures: Any) -> Any:
            batch = []
            for picture in pictures:
                batch.append(np.asarray(picture, dtype=np.float32) / 255)
                if len(batch) == 4:
                    yield from ({"target": float(p)} for p in score.of_arrays(batch)[:, 0])
                    batch = []
            if batch:
                yield from ({"target": float(p)} for p in score.of_arrays(batch)[:, 0])

        def get_config(self) -> dict[str, Any]:
            return {}

    stack.fill = (score.fill * 255).round().to(torch.uint8).numpy()  # as the picture is
    picture = (as_array(x) * 255).round().astype(np.uint8)
    return torch.from_numpy(np.asarray(stack.generate(picture, Adapter())[0], dtype=np.float64))


def lime(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """LIME (Ribeiro et al. 2016): its image explainer by default: quickshift, mean colours."""
    from lime.lime_image import LimeImageExplainer

    explainer = LimeImageExplainer(random_state=seed)
    with contextlib.redirect_stderr(io.StringIO()):  # its bar
        found = explainer.explain_instance(
            as_array(x).astype(np.double),
            score.of_arrays,
            labels=(0,),
            top_labels=None,
            num_samples=budget,
            batch_size=4,
            random_seed=seed,
        )
    weights = dict(found.local_exp[0])
    lut = np.array([weights.get(i, 0.0) for i in range(found.segments.max() + 1)])
    return torch.from_numpy(lut[found.segments])


def kernel_shap(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """KernelSHAP (Lundberg and Lee 2017) by Captum, on about 50 superpixels (SLIC), on grey."""
    from captum.attr import KernelShap
    from skimage.segmentation import slic

    segments = torch.from_numpy(slic(as_array(x), n_segments=50, start_label=0))
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    found = KernelShap(score).attribute(
        x[None],
        baselines=score.fill.view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE),
        feature_mask=segments[None, None].expand(1, 3, SIZE, SIZE),
        n_samples=budget - 2,  # and one for each end
        perturbations_per_eval=4,
    )
    return found[0, 0].double()


def partition_shap(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """SHAP's partition explainer (Owen values), which blurs what it leaves out (128 x 128)."""
    import shap

    masker = shap.maskers.Image("blur(128,128)", (SIZE, SIZE, 3))
    explainer = shap.PartitionExplainer(score.of_arrays, masker)
    picture = as_array(x)[None].astype(np.float32)
    found = explainer(picture, max_evals=budget - 4, batch_size=4, silent=True)
    return torch.from_numpy(np.asarray(found.values, dtype=np.float64)[0, ..., 0].sum(-1))


def sobol(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Sobol attribution (Fel et al. 2021), our version: total indices of 8 x 8 cells, by Jansen."""
    cells, d = 8, 64
    n = max(1, budget // (d + 2))
    both = torch.quasirandom.SobolEngine(2 * d, scramble=True, seed=seed).draw(n)
    one, other = both[:, :d], both[:, d:]
    of_one = _masked(score, x, one, cells)
    _masked(score, x, other, cells)  # part of the design; Jansen's total index needs only the first
    total = []
    for k in range(d):
        mixed = one.clone()
        mixed[:, k] = other[:, k]
        total.append((of_one - _masked(score, x, mixed, cells)).square().mean() / 2)
    variance = of_one.var() if n > 1 else torch.tensor(1.0)
    return _upsampled((torch.stack(total) / variance.clamp(min=1e-12)).view(cells, cells))


def hsic(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """HSIC attribution (Novello et al. 2022), our version: 7 x 7 cells, each on or off."""
    cells, d = 7, 49
    masks = (torch.rand(budget, d, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    y = _masked(score, x, masks, cells).double()
    distance = (y[:, None] - y[None]).square()
    width = distance[distance > 0].sqrt().median() if bool((distance > 0).any()) else 1.0
    of_y = torch.exp(-distance / (2 * width**2))
    centred = of_y - of_y.mean(0) - of_y.mean(1, keepdim=True) + of_y.mean()
    values = []
    for k in range(d):
        same = (masks[:, None, k] == masks[None, :, k]).double()
        values.append((centred * same).mean())
    return _upsampled(torch.stack(values).view(cells, cells))


def _masked(score: Counted, x: Tensor, masks: Tensor, cells: int) -> Tensor:
    """The scores of pictures of which a mask (n, cells^2) of nearest cells keeps a share."""
    fill, found = score.fill[:, None, None], []
    for some in masks.split(4):
        keep = functional.interpolate(some.view(-1, 1, cells, cells).float(), size=(SIZE, SIZE))
        found.append(score(fill + keep * (x - fill)))
    return torch.cat(found)


def _upsampled(values: Tensor) -> Tensor:
    grid = values.double()[None, None]
    return functional.interpolate(grid, size=(SIZE, SIZE), mode="bicubic")[0, 0]


def evolution(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Evolution strategies (Ilyas et al. 2018), our version: pairs of pixel noise, sigma 0.1."""
    n_samples = budget - 1 - (budget - 1) % 2  # pairs, and one call goes to the picture itself
    return _sizes(_ours(score, x, n_samples, seed, ForwardGradient(scale=0.1)))


def forward_gradient(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """The forward gradient paper's: plain samples, each noisy on a block of a tenth."""
    method = ForwardGradient(block=(103, 103), antithetic=False)
    return _sizes(_ours(score, x, budget - 1, seed, method))


def regions(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Ours: what ``fwdgrad explain`` does with a picture."""
    return _ours(score, x, budget, seed, Regions()).heatmap().double()


def regions_on_grey(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Ours, with grey in place of the blur."""
    grey = score.fill[:, None, None].expand_as(x)
    return _ours(score, x, budget, seed, Regions(grey)).heatmap().double()


def _ours(score: Counted, x: Tensor, n_samples: int, seed: int, method: Any) -> fwdgrad.Explanation:
    return fwdgrad.explain(
        score.scores,
        x,
        score.target,
        method=method,
        objective="probability",
        n_samples=n_samples,
        seed=seed,
        batch_size=4,
    )


def _sizes(found: fwdgrad.Explanation) -> Tensor:
    """Gradients of pixels count by their size, as in the paper's own figures."""
    return found.attribution.double().abs().sum(0)


OTHERS: dict[str, Callable[[Counted, Tensor, int, int], Tensor]] = {
    "RISE (xaitk-saliency)": rise,
    "Occlusion (xaitk-saliency)": sliding_window,
    "LIME (lime)": lime,
    "KernelSHAP (Captum)": kernel_shap,
    "Partition (shap)": partition_shap,
    "Sobol (our version)": sobol,
    "HSIC (our version)": hsic,
    "Evolution strategies (our version)": evolution,
}
OURS: dict[str, Callable[[Counted, Tensor, int, int], Tensor]] = {
    "Forward gradient, as in the paper": forward_gradient,
    "fwdgrad regions, on grey": regions_on_grey,
    "fwdgrad regions": regions,
}
METHODS = {**OTHERS, **OURS}
STRONGEST = ["Occlusion (xaitk-saliency)", "Partition (shap)", "fwdgrad regions"]
FIXED = {sliding_window, partition_shap}  # nothing is drawn: one seed is all


# ---- one map, and what it is worth -----------------------------------------------------------


Where = tuple[str, str]  # "photo" or a cut-out's background, and the picture's name


@dataclass(frozen=True)
class Job:
    """A map to be made, and where it is kept."""

    network: str
    name: str  # of the method
    where: Where
    budget: int
    seed: int
    path: Path


def job_of(network: str, name: str, where: Where, budget: int, seed: int) -> Job:
    key = [network, *code_of(METHODS[name]), *where, budget, seed, STEPS]
    if METHODS[name] in (regions, regions_on_grey):
        key += [*code_of(Regions), *code_of(light_blur), *code_of(directions), CONTRACT]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = data.cache_folder() / "peers" / f"{digest}.npz"
    return Job(network, name, where, budget, seed, path)


@functools.cache
def code_of(function: FunctionType | type) -> tuple[str, ...]:
    """The code of a function or class and of what it uses of its module, without docstrings."""
    found: dict[str, str] = {}
    todo = [function]
    while todo:
        one = todo.pop()
        (tree,) = ast.parse(inspect.getsource(one)).body
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        found[one.__name__] = ast.unparse(tree)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used = [vars(sys.modules[one.__module__]).get(name) for name in sorted(names - set(found))]
        todo += [
            other
            for other in used
            if isinstance(other, (FunctionType, type)) and other.__module__ == one.__module__
        ]
    return tuple(code for _, code in sorted(found.items()))


def kept(path: Path) -> dict[str, Any]:
    """A map and its numbers."""
    with np.load(path) as file:
        return {**json.loads(str(file["numbers"])), "map": torch.from_numpy(file["map"])}


def make(job: Job) -> None:
    """Makes a method's map of a picture, measures it, and keeps both."""
    if job.path.exists():  # another run was faster
        return
    network, picture = network_of(job.network), pictures(job.where[0])[job.where[1]]
    target = int(network.model(picture.x[None]).argmax())
    counted = Counted(network, target, job.budget)
    started = time.perf_counter()
    heat = METHODS[job.name](counted, picture.x, job.budget, job.seed).double()
    seconds = time.perf_counter() - started
    allowed = job.budget + 1  # ours calls it once more, on the picture itself
    if counted.calls > allowed:
        raise AssertionError(f"{job.name} made {counted.calls} calls of {job.budget}")
    numbers: dict[str, Any] = {
        "calls": counted.calls,
        "seconds": seconds,  # beside whatever else ran
        **curves_of(network, picture.x, heat),
    }
    if picture.mask is not None:
        numbers["pointing"] = float(metrics.pointing_game(heat, picture.mask))
        numbers["inside"] = metrics.share_inside(heat, picture.mask)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, numbers=json.dumps(numbers), map=heat.float().numpy())
    write_atomically(job.path, content.getvalue())


def curves_of(network: Network, x: Tensor, heat: Tensor) -> dict[str, float]:
    """A map's insertion and deletion, of the class that the network predicts."""
    return {
        curve.__name__: curve(
            network.model, x, heat, steps=STEPS, fill=network.fill, batch_size=4
        ).auc
        for curve in (metrics.insertion, metrics.deletion)
    }


@functools.cache
def pictures(kind: str) -> dict[str, data.Photo]:
    """The photos, or the cut-outs on a background."""
    return data.photos() if kind == "photo" else data.cutouts(kind)


def named(network: Network, background: str = "grass") -> list[Where]:
    """The cut-outs on a background that the network names rightly, in their order."""
    return [(background, name) for name in data.recognised(network.model, background)]


def chosen(network: Network, count: int | None) -> list[Where]:
    """The photos, and so many of the cut-outs."""
    return [("photo", name) for name in pictures("photo")] + named(network)[:count]


def others(network: Network) -> list[Where]:
    """The cut-outs of neither the table nor the eight that ours was chosen on."""
    return named(network)[SHOWN + TUNED_ON :]


def everywhere(network: Network) -> list[Where]:
    """The cut-outs on each background."""
    return [where for background in data.BACKGROUNDS for where in named(network, background)]


def plan(
    network: str, names: Iterable[str], seeds: dict[int, int], shown: list[Where]
) -> list[Job]:
    """Every map of a network's tables; what draws nothing has one seed."""
    return [
        job_of(network, name, where, budget, seed)
        for budget, most in seeds.items()
        for name in names
        if name in OURS or budget not in OURS_ALONE
        for where in shown
        for seed in range(1 if METHODS[name] in FIXED else most)
    ]


# ---- all maps, in several processes ----------------------------------------------------------


def make_all(jobs: list[Job], processes: int) -> None:
    """Makes the maps in so many processes, small budgets first."""
    networks = sorted({job.network for job in jobs})
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start, (networks,))
    futures = [pool.submit(make, job) for job in sorted(jobs, key=lambda job: job.budget)]
    try:
        for number, done in enumerate(as_completed(futures), 1):
            done.result()
            if number % 20 == 0:
                print(f"{number} of {len(jobs)}", file=sys.stderr, flush=True)
    finally:  # where one failed, or after Ctrl-C
        pool.shutdown(cancel_futures=True)


def _start(networks: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once: what is kept is whole
    torch.set_num_threads(1)
    for name in networks:
        network_of(name)


Records = dict[Job, dict[str, Any]]

# ---- what noise in a map does ----------------------------------------------------------------


def speckled(heat: Tensor, seed: int = 0) -> Tensor:
    """A map, and half its deviation of noise that knows nothing of the model: 9-pixel cells."""
    cells = -(-SIZE // 9)
    draws = torch.randn(1, 1, cells, cells, generator=torch.Generator().manual_seed(seed))
    noise = functional.interpolate(draws.double(), size=(9 * cells,) * 2, mode="bilinear")
    return heat + 0.5 * heat.std() * noise[0, 0, :SIZE, :SIZE]


def of_speckles(network: Network, records: Records) -> list[str]:
    """How much better or worse maps of 500 calls (and ours of 128) do with that noise in them."""
    lines = ["| method, calls | insertion | deletion |", "|---|---|---|"]
    for budget, name in [(128, "fwdgrad regions"), *((500, name) for name in METHODS)]:
        changes = []
        for job, one in records.items():
            if (job.name, job.budget, job.seed) != (name, budget, 0):
                continue
            x = pictures(job.where[0])[job.where[1]].x
            found = curves_of(network, x, speckled(one["map"].double()))
            changes.append([found[c] - one[c] for c in ("insertion", "deletion")])
        if changes:
            cells = " | ".join(_change(column) for column in zip(*changes, strict=True))
            lines.append(f"| {name}, {budget} | {cells} |")
    return lines


# ---- what it costs ---------------------------------------------------------------------------


def costs(network: str, names: Iterable[str], budget: int) -> dict[str, tuple[float, float]]:
    """Each method's seconds, and MiB above the program's without it: medians of three processes."""

    def run(what: str) -> tuple[float, float]:
        line = [sys.executable, __file__, "--cost", network, what, str(budget)]
        # Large arrays go back at once: what malloc keeps of them differs by 700 MiB between runs.
        tidy = {f"MALLOC_{name}_THRESHOLD_": str(2**20) for name in ("MMAP", "TRIM")}
        done = subprocess.run(
            line, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **tidy}
        )
        seconds, peak = map(float, done.stdout.split()[-2:])
        return seconds, peak

    rounds = [{name: run(name) for name in ("nothing", *names)} for _ in range(3)]
    middle = {name: np.median([one[name] for one in rounds], axis=0) for name in rounds[0]}
    without = middle.pop("nothing")[1]
    return {name: (seconds, max(0.0, peak - without)) for name, (seconds, peak) in middle.items()}


def print_cost(network: Network, name: str, budget: int) -> None:
    """Seconds and peak MiB of a method on one photo; of "nothing", those of a call."""
    x = data.photos()["chelsea"].x
    target = int(network.model(x[None]).argmax())
    network.model(x.expand(4, -1, -1, -1).contiguous())
    started = time.perf_counter()
    if name != "nothing":
        METHODS[name](Counted(network, target, budget), x, budget, 0)
    seconds = time.perf_counter() - started
    print(seconds, process_memory("VmHWM") / 2**20)  # getrusage would have the parent's own in it


# ---- the table -------------------------------------------------------------------------------


Costs = dict[int, dict[str, tuple[float, float]]]


def summary(records: Records, name: str, budget: int) -> dict[str, tuple[float, float, list]]:
    """A method's means over pictures, each first over its seeds, and their standard errors."""
    of = {job: one for job, one in records.items() if (job.name, job.budget) == (name, budget)}
    values: dict[str, list[float]] = {}
    for where in sorted({job.where for job in of}):
        runs = [one for job, one in of.items() if job.where == where]
        for column in ("insertion", "deletion", "pointing", "inside"):
            known = [one[column] for one in runs if column in one]
            if known:
                values.setdefault(column, []).append(float(np.mean(known)))
        values.setdefault("difference", []).append(values["insertion"][-1] - values["deletion"][-1])
        if len(runs) > 1:
            values.setdefault("repeat", []).append(metrics.spearman(runs[0]["map"], runs[1]["map"]))
    return {column: (float(np.mean(v)), _error(v), v) for column, v in values.items()}


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _change(values: Sequence[float]) -> str:
    """The mean of differences, with its sign, and its standard error."""
    return f"{np.mean(values):+.3f} ± {_error(values):.3f}"


INTRODUCTION = """# Maps of a black box at the same number of calls

Made by `{command}`. Networks by ONNX Runtime on one thread; torch {torch}. Standard errors are over
pictures, each first averaged over its seeds; bold is the best of a column. Insertion and deletion
in {steps} steps (RISE's definitions); pointing (15 pixels) and the share inside the mask on the
cut-outs alone; repeat: rank correlation of two seeds' maps. Seconds, with the calls, and memory
(MiB above the network's own, what a library takes when it is imported among them) are of one photo
on one thread, each method in a process of its own with nothing beside it: medians of three. Grey
is what the network's normalisation maps to zero.
"""
CHOSEN = """\
What ours does was chosen with EfficientNet-Lite0 on the seven photos and on eight other cut-outs;
between a few blurs and sizes of cells, the means on these pictures were looked at, too.
"""
CHOSEN_ON_OTHERS = """\
These are the cut-outs that are neither in the table of other tools nor among the eight on which
ours was chosen. One choice was looked at on them as well: that grids of cells do not jitter.
"""
ON_BACKGROUNDS = """\
Cut-outs on uniform and textured backgrounds. Ours was chosen with pictures on grass alone.
"""
SPECKLES = """
### What noise in a map does

A map plus half its standard deviation of noise that knows nothing of the network (cells of 9
pixels), less the map as it is: both curves look at where pixels lie, not only at what they say.
"""
COLUMNS = {
    "insertion": ("insertion ↑", 3, True),
    "deletion": ("deletion ↓", 3, False),
    "difference": ("ins. - del. ↑", 3, True),
    "pointing": ("pointing ↑", 2, True),
    "inside": ("inside ↑", 2, True),
    "repeat": ("repeat ↑", 2, True),
    "seconds": ("seconds", 1, False),
    "memory": ("memory", 0, False),
}


def section(
    network: str, records: Records, spent: Costs, pairs: Iterable[tuple[int, int]]
) -> list[str]:
    """A network's tables: one for each budget, and the other tools beside ours."""
    means: dict[int, dict[str, dict]] = {}
    for budget in sorted({job.budget for job in records}):
        found = {name: one for name in METHODS if (one := summary(records, name, budget))}
        for name, (seconds, memory) in spent.get(budget, {}).items():
            found[name] |= {"seconds": (seconds, math.nan, []), "memory": (memory, math.nan, [])}
        means[budget] = found
    shown = len({job.where for job in records})
    lines = ["", f"## {network}: {shown} pictures"]
    for budget, found in means.items():
        seeds = 1 + max(job.seed for job in records if job.budget == budget)
        lines += ["", f"### {budget} calls, {seeds} seed{'s' * (seeds > 1)}", "", *_table(found)]
    return [
        *lines,
        "",
        "### Against each other tool, picture by picture",
        "",
        *_paired(means, pairs),
    ]


def _table(found: dict[str, dict]) -> list[str]:
    """A row for each method; a column for what is known of one at least."""
    best = {
        column: (max if up else min)(one[column][0] for one in found.values() if column in one)
        for column, (_, _, up) in COLUMNS.items()
        if any(column in one for one in found.values())
    }
    heads = ["method", *(COLUMNS[column][0] for column in best)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, one in found.items():
        cells = [name]
        for column in best:
            if column not in one:
                cells.append("-")
                continue
            (mean, error, _), digits = one[column], COLUMNS[column][1]
            cell = f"{mean:.{digits}f}"
            if not math.isnan(error):
                cell += f" ± {error:.{digits}f}"
            cells.append(f"**{cell}**" if mean == best[column] else cell)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _paired(means: dict[int, dict[str, dict]], pairs: Iterable[tuple[int, int]]) -> list[str]:
    """Ours less the other tool's, paired over pictures.

    Args:
        means: each method's ``summary``, by budget.
        pairs: budgets of ours and of the other tools; those that were not run are left out.
    """
    columns = ("insertion", "deletion", "difference")
    titles = ["ours, calls", "other tool, calls", *(COLUMNS[column][0] for column in columns)]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for calls, theirs in pairs:
        one = means.get(calls, {}).get("fwdgrad regions")
        for tool in OTHERS:
            other = means.get(theirs, {}).get(tool)
            if one is None or other is None:
                continue
            cells = []
            for column in columns:
                both = zip(one[column][2], other[column][2], strict=True)
                cells.append(_change([a - b for a, b in both]))
            lines.append(f"| {calls} | {tool}, {theirs} | {' | '.join(cells)} |")
    return lines


@dataclass(frozen=True)
class Run:
    """Which maps are made, and what is said above their table.

    Attributes:
        file: of the table, in benchmarks/results.
        help: of its option.
        seeds: how many at each budget.
        pictures: of a network.
        about: the pictures, to the table's reader.
        names: of the methods.
        pairs: calls of ours, and of the other tools beside it.
        networks: how many.
    """

    file: str
    help: str
    seeds: dict[int, int]
    pictures: Callable[[Network], list[Where]]
    about: str = CHOSEN
    names: Sequence[str] = tuple(METHODS)
    pairs: Sequence[tuple[int, int]] = ((128, 500), (500, 500), (500, 4224), (1536, 1536))
    networks: int = 1


RUNS = {
    "": Run(
        "peers.md",
        "",
        {128: 2, 500: 2, 1536: 2, 4224: 1},
        functools.partial(chosen, count=SHOWN),
    ),
    "full": Run(
        "peers.md",
        "two networks, all cut-outs",
        dict.fromkeys(BUDGETS, 3),
        functools.partial(chosen, count=None),
        pairs=[(ours, theirs) for ours in BUDGETS for theirs in BUDGETS if ours <= theirs],
        networks=len(data.NETWORKS),
    ),
    "others": Run(
        "peers-others.md",
        "the strongest other tools and ours on the cut-outs that the table leaves out",
        {128: 2, 500: 2, 4224: 1},
        others,
        CHOSEN_ON_OTHERS,
        STRONGEST,
    ),
    "backgrounds": Run(
        "peers-backgrounds.md",
        "the strongest other tools and ours on uniform and textured backgrounds",
        {128: 1, 500: 1},
        everywhere,
        ON_BACKGROUNDS,
        STRONGEST,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    more = parser.add_mutually_exclusive_group()
    for name, one in RUNS.items():
        if name:
            more.add_argument(
                f"--{name}", dest="run", action="store_const", const=name, default="", help=one.help
            )
    parser.add_argument("--quick", action="store_true", help="two pictures; no table is written")
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help=f"no table is written; of {', '.join(METHODS)}"
    )
    parser.add_argument(
        "--budgets", type=int, nargs="+", choices=BUDGETS, help="only these (default: the run's)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes (default: the cores)"
    )
    parser.add_argument("--cost", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        network, name, budget = options.cost
        return print_cost(network_of(network), name, int(budget))
    run = RUNS[options.run]
    networks, seeds, pairs = list(data.NETWORKS)[: run.networks], run.seeds, run.pairs
    if options.budgets:
        seeds = {calls: seeds[calls] for calls in seeds if calls in options.budgets}
    if options.quick:
        seeds, pairs = {140: 1}, ((140, 140),)
    costed = max((calls for calls in seeds if calls <= COSTED), default=min(seeds))
    names = [n for n in run.names if not options.only or any(o in n for o in options.only)]
    jobs = []
    for network in networks:
        shown = run.pictures(network_of(network))
        if options.quick:
            shown = shown[6:8]  # a photo and a cut-out
        jobs += plan(network, names, seeds, shown)
    missing = [job for job in jobs if not job.path.exists()]
    minutes = sum(job.budget + 2 * STEPS + 2 for job in missing) * _seconds_each() * 1.5 / 60
    print(f"# {len(jobs)} maps, {len(jobs) - len(missing)} are kept from before; about "
          f"{minutes / options.jobs:.0f} minutes", flush=True)  # fmt: skip
    try:
        make_all(missing, options.jobs)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    whole = not options.quick and not options.only
    command = "python benchmarks/peers.py" + f" --{options.run}" * bool(options.run)
    if options.budgets:
        command += f" --budgets {' '.join(map(str, seeds))}"
    text = [INTRODUCTION.format(command=command, torch=torch.__version__, steps=STEPS), run.about]
    for network in networks:
        records = {job: kept(job.path) for job in jobs if job.network == network}
        complete = whole and len(names) == len(METHODS)
        spent = {costed: costs(network, METHODS, costed)} if complete else {}
        text += section(network, records, spent, pairs)
        if complete:
            text += SPECKLES, *of_speckles(network_of(network), records)
        if run.pictures is everywhere:
            for background in data.BACKGROUNDS:
                part = {job: one for job, one in records.items() if job.where[0] == background}
                text += section(f"{network}, on {background}", part, {}, pairs)
    print("\n".join(text))
    if whole:
        (RESULTS / run.file).write_text("\n".join(text) + "\n", encoding="utf-8")


def _seconds_each() -> float:
    """Of a picture in a batch of four."""
    batch, model = torch.rand(4, 3, SIZE, SIZE), network_of(next(iter(data.NETWORKS))).model
    started = time.perf_counter()
    for _ in range(8):
        model(batch)
    return (time.perf_counter() - started) / 32


if __name__ == "__main__":
    main()
