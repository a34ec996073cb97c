"""Maps of a black box at the same number of forward calls: other tools', and ours.

    python benchmarks/peers.py            # about an hour and a half on two cores
    python benchmarks/peers.py --full     # all cut-outs, 4,224 calls too, three seeds: a night
    python benchmarks/peers.py --quick    # a minute, two pictures: no table is written

Every method explains the probability of the class that the network predicts, on the same pictures,
with the same calls of the same network (ONNX Runtime, one thread). A map is kept for each method,
picture, budget and seed, in peers/ of the cache folder (FWDGRAD_CACHE, or ~/.cache/fwdgrad), so a
run that was stopped goes on, and a change runs only what it touches. The table goes to
benchmarks/results/peers.md.

Methods come from their own libraries where there is one to install: RISE and sliding windows from
xaitk-saliency, LIME from lime, the partition explainer from shap, KernelSHAP from Captum. Those
called "our version" are short ones of a published method whose library does not install beside
this torch (Sobol and HSIC: xplique needs TensorFlow) or does not exist (evolution strategies).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import data
import numpy as np
import torch
from fast import fast
from torch import Tensor
from torch.nn import functional

import fwdgrad
from fwdgrad import metrics
from fwdgrad.boxes.images import efficientnet_lite0

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "results" / "peers.md"
FILL = 127 / 255  # what EfficientNet-Lite0's normalisation maps to zero
SIZE, STEPS = 224, 28


class Counted:
    """The class's probability, and how many pictures it was asked for: never more than allowed."""

    def __init__(self, model: Callable[[Tensor], Tensor], target: int, budget: int) -> None:
        self.model, self.target, self.budget, self.calls = model, target, budget, 0

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


# ---- the peers -------------------------------------------------------------------------------
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

    class Box(ClassifyImage):
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

    stack.fill = 127
    picture = (as_array(x) * 255).round().astype(np.uint8)
    return torch.from_numpy(np.asarray(stack.generate(picture, Box())[0], dtype=np.float64))


def lime(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """LIME (Ribeiro et al. 2016): its image explainer as it comes, quickshift and mean colours."""
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
        baselines=FILL,
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
    found = []
    for some in masks.split(4):
        keep = functional.interpolate(some.view(-1, 1, cells, cells).float(), size=(SIZE, SIZE))
        found.append(score(FILL + keep * (x - FILL)))
    return torch.cat(found)


def _upsampled(values: Tensor) -> Tensor:
    grid = values.double()[None, None]
    return functional.interpolate(grid, size=(SIZE, SIZE), mode="bicubic")[0, 0]


def evolution(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Evolution strategies (Ilyas et al. 2018), our version: pairs of pixel noise, sigma 0.1."""
    return _ours(score, x, budget, seed, method="likelihood-ratio", sigma=0.1)


def forward_gradient(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """The forward gradient paper's: plain copies, each noisy on a block of a tenth."""
    return _ours(
        score, x, budget, seed, method="likelihood-ratio", antithetic=False, block=(103, 103)
    )


def regions(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Ours: what ``fwdgrad explain`` does with a picture."""
    return _ours(score, x, budget, seed, method="regions")


def regions_on_grey(score: Counted, x: Tensor, budget: int, seed: int) -> Tensor:
    """Ours, with grey in the place of the blur."""
    return _ours(score, x, budget, seed, method="regions", baseline=FILL)


def _ours(score: Counted, x: Tensor, budget: int, seed: int, **options: Any) -> Tensor:
    # One call goes to the picture itself.
    even = options.get("method") != "regions" and options.get("antithetic", True)
    queries = budget - 1 - (budget - 1) % 2 if even else budget - 1
    if options["method"] == "regions":
        queries = budget
    found = fwdgrad.explain(
        score.scores,
        x,
        target=score.target,
        queries=queries,
        seed=seed,
        batch_size=4,
        **{"objective": "probability", **options},
    )
    heat = found.heatmap().double()
    # Gradients of pixels count by their size, as in the paper's own figures.
    return heat if options["method"] == "regions" else found.attribution.double().abs().sum(0)


PEERS: dict[str, Callable[[Counted, Tensor, int, int], Tensor]] = {
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
METHODS = {**PEERS, **OURS}
FIXED = {sliding_window, partition_shap}  # nothing is drawn: one seed is all


# ---- one map, and what it is worth -----------------------------------------------------------


def record(
    name: str, where: tuple[str, str], picture: data.Photo, model: Any, budget: int, seed: int
) -> dict[str, Any]:
    """A method's map of a picture and its numbers, from the cache where they are there."""
    method = METHODS[name]
    source = inspect.getsource(method)
    for helper in (_by_xaitk, _masked, _upsampled, _ours, Counted):
        if f"{helper.__name__}(" in source or helper is Counted:
            source += inspect.getsource(helper)
    if method in OURS.values() or method is evolution:
        source += inspect.getsource(fwdgrad.methods.regions)
    key = [source, *where, budget, seed, STEPS]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = data.cache_folder() / "peers" / f"{digest}.npz"
    if path.exists():
        with np.load(path) as kept:
            return {**json.loads(str(kept["numbers"])), "map": torch.from_numpy(kept["map"])}
    target = int(model(picture.x[None]).argmax())
    counted = Counted(model, target, budget)
    started = time.perf_counter()
    heat = method(counted, picture.x, budget, seed).double()
    seconds = time.perf_counter() - started
    allowed = budget + 1  # ours asks once more, for the picture's own score
    if counted.calls > allowed:
        raise AssertionError(f"{name} made {counted.calls} calls of {budget}")
    options = {"steps": STEPS, "fill": FILL, "batch_size": 4}
    numbers: dict[str, Any] = {
        "calls": counted.calls,
        "seconds": seconds,
        "insertion": metrics.insertion(model, picture.x, heat, target, **options).auc,
        "deletion": metrics.deletion(model, picture.x, heat, target, **options).auc,
    }
    if picture.mask is not None:
        numbers["pointing"] = float(metrics.pointing_game(heat, picture.mask))
        numbers["inside"] = metrics.share_inside(heat, picture.mask)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part.npz")
    small = heat.float().numpy()
    np.savez_compressed(aside, numbers=json.dumps(numbers), map=small)
    aside.replace(path)
    return {**numbers, "map": torch.from_numpy(small)}


def peak_memory(names: list[str], budget: int) -> dict[str, float]:
    """MiB that each method needs above the same program without it, in a process of its own."""

    def run(what: str) -> float:
        line = [sys.executable, __file__, "--peak", what, str(budget)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    without = run("nothing")
    return {name: run(name) - without for name in names}


def print_peak(name: str, budget: int) -> None:
    import resource

    model = fast(efficientnet_lite0())
    x = data.photos()["chelsea"].x
    target = int(model(x[None]).argmax())
    if name == "nothing":
        for _ in range(4):
            model(x.expand(4, -1, -1, -1).contiguous())
    else:
        METHODS[name](Counted(model, target, budget), x, budget, 0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# ---- the table -------------------------------------------------------------------------------


def pictures(model: Any, count: int | None) -> dict[tuple[str, str], data.Photo]:
    """Seven photos, and cut-outs on grass that the network names rightly, in their order."""
    chosen = {("photo", name): photo for name, photo in data.photos().items()}
    right = [
        (name, cut)
        for name, cut in data.cutouts("grass").items()
        if int(model(cut.x[None]).argmax()) in cut.labels
    ]
    return {**chosen, **{("grass", name): cut for name, cut in right[:count]}}


def summary(records: dict[tuple[Any, ...], dict[str, Any]], name: str, budget: int) -> dict:
    """A method's means over pictures, each first over its seeds, and their standard errors."""
    of = {key: one for key, one in records.items() if key[0] == name and key[2] == budget}
    shown = sorted({key[1] for key in of})
    values: dict[str, list[float]] = {}
    for where in shown:
        runs = [one for key, one in of.items() if key[1] == where]
        for column in ("insertion", "deletion", "pointing", "inside", "seconds"):
            known = [one[column] for one in runs if column in one]
            if known:
                values.setdefault(column, []).append(float(np.mean(known)))
        values.setdefault("difference", []).append(values["insertion"][-1] - values["deletion"][-1])
        if len(runs) > 1:
            values.setdefault("repeat", []).append(metrics.spearman(runs[0]["map"], runs[1]["map"]))
    return {column: (float(np.mean(v)), _error(v), v) for column, v in values.items()}


def _error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


COLUMNS = {
    "insertion": ("insertion ↑", 3, True),
    "deletion": ("deletion ↓", 3, False),
    "difference": ("ins. - del. ↑", 3, True),
    "pointing": ("pointing ↑", 2, True),
    "inside": ("inside ↑", 2, True),
    "repeat": ("repeat ↑", 2, True),
    "seconds": ("seconds", 1, False),
}


def write(
    records: dict[tuple[Any, ...], dict[str, Any]],
    budgets: list[int],
    peaks: dict[str, float],
    line: str,
    shown: int,
    seeds: int,
) -> str:
    text = [
        "# Maps of a black box at the same number of calls",
        "",
        f"Made by `{line}`. EfficientNet-Lite0 by ONNX Runtime on one thread; torch "
        f"{torch.__version__}. {shown} pictures, {seeds} seeds. Standard errors are over "
        "pictures, each first averaged over its seeds; bold is the best of a column. Insertion "
        f"and deletion in {STEPS} steps (RISE's definitions); pointing (15 pixels) and the share "
        "inside the mask on the cut-outs alone; repeat: rank correlation of two seeds' maps; "
        "seconds with the calls, on a machine that did other work beside; memory (MiB) above the "
        f"model's own, at {budgets[-1]} calls. What ours does was chosen on the seven photos and "
        "on eight other cut-outs.",
    ]
    means = {
        budget: {name: one for name in METHODS if (one := summary(records, name, budget))}
        for budget in budgets
    }
    for budget, found in means.items():
        best = {
            column: (max if up else min)(one[column][0] for one in found.values() if column in one)
            for column, (_, _, up) in COLUMNS.items()
            if any(column in one for one in found.values())
        }
        text += ["", f"## {budget} calls", ""]
        memory = budget == budgets[-1] and bool(peaks)
        heads = ["method", *(head for head, _, _ in COLUMNS.values()), *(["memory"] * memory)]
        text += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for name, one in found.items():
            cells = [name]
            for column, (_, digits, _) in COLUMNS.items():
                if column not in one:
                    cells.append("-")
                    continue
                mean, error, _ = one[column]
                cell = f"{mean:.{digits}f}"
                if column != "seconds" and not math.isnan(error):
                    cell += f" ± {error:.{digits}f}"
                cells.append(f"**{cell}**" if mean == best[column] else cell)
            if memory:
                cells.append(f"{peaks[name]:.0f}" if name in peaks else "-")
            text.append(f"| {' | '.join(cells)} |")
    text += ["", "## Against each peer, picture by picture", ""]
    text += _paired(means)
    return "\n".join(text) + "\n"


def _paired(means: dict[int, dict[str, dict]]) -> list[str]:
    """Ours less the peer's, paired over pictures; also with fewer calls than the peer has.

    Args:
        means: each method's ``summary``, by budget.
    """
    lines = ["| ours, calls | peer, calls | insertion | deletion |", "|---|---|---|---|"]
    ours = {budget: found["fwdgrad regions"] for budget, found in means.items()
            if "fwdgrad regions" in found}  # fmt: skip
    rows = [
        (calls, one, theirs, peer, found[peer])
        for calls, one in ours.items()
        for theirs, found in means.items()
        for peer in PEERS
        if theirs >= calls and peer in found
    ]
    for calls, one, theirs, peer, other in rows:
        cells = []
        for column in ("insertion", "deletion"):
            pairs = zip(one[column][2], other[column][2], strict=True)
            apart = [a - b for a, b in pairs]
            cells.append(f"{np.mean(apart):+.3f} ± {_error(apart):.3f}")
        lines.append(f"| {calls} | {peer}, {theirs} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all cut-outs, up to 4,224 calls")
    parser.add_argument("--quick", action="store_true", help="two pictures; no table is written")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        return print_peak(options.peak[0], int(options.peak[1]))
    model = fast(efficientnet_lite0())
    shown = pictures(model, None if options.full else 9)
    budgets, seeds = [500, 1536], 2
    own = [128]  # ours is also asked with fewer calls than any peer
    if options.full:
        budgets, seeds = [500, 1536, 4224], 3
    if options.quick:
        shown, budgets, seeds, own = dict(list(shown.items())[6:8]), [140], 1, []
    names = [n for n in METHODS if not options.only or any(o in n for o in options.only)]
    jobs = [
        (name, where, budget, seed)
        for budget in own + budgets
        for name in names
        if budget not in own or name in OURS
        for where in shown
        for seed in range(1 if METHODS[name] in FIXED else seeds)
    ]
    batch = torch.rand(4, 3, SIZE, SIZE)
    started = time.perf_counter()
    for _ in range(8):
        model(batch)
    each = (time.perf_counter() - started) / 32
    calls = sum(budget + 2 * STEPS + 2 for _, _, budget, _ in jobs)
    print(f"# {len(jobs)} maps, {calls} calls: about {calls * each * 1.3 / 60:.0f} minutes, less "
          "what is kept from before", flush=True)  # fmt: skip
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, (name, where, budget, seed) in enumerate(jobs, 1):
        records[name, where, budget, seed] = record(name, where, shown[where], model, budget, seed)
        if number % 20 == 0:
            print(f"{number} of {len(jobs)}", file=sys.stderr, flush=True)
    peaks = {}
    if not options.quick:
        peaks = peak_memory(names, budgets[-1])
    line = "make peers" if not options.full else "python benchmarks/peers.py --full"
    text = write(records, own + budgets, peaks, line, len(shown), seeds)
    print(text)
    if not options.quick and not options.only:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
