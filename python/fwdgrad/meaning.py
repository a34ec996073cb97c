"""What a map's values are, in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import Tensor

from fwdgrad.methods import (
    Coalitions,
    ForwardGradient,
    GradientXInput,
    IntegratedGradients,
    Regions,
    SmoothGradSquared,
    VarGrad,
)
from fwdgrad.objectives import AUTO, OBJECTIVES
from fwdgrad.terminal import plain
from fwdgrad_kernels import Grid, Labels

if TYPE_CHECKING:
    from fwdgrad.explanation import Explanation


def has_sign(explanation: Explanation) -> bool:
    """Whether values tell what increases and what decreases the score, not sizes alone."""
    return not isinstance(explanation.method, (SmoothGradSquared, VarGrad))


def is_probability(explanation: Explanation) -> bool:
    """Whether the score is a probability: by the objective, or by what the model returned.

    >>> import torch, fwdgrad
    >>> share = lambda batch: torch.stack([batch[:, 0], 1 - batch[:, 0]], 1)
    >>> is_probability(fwdgrad.explain(share, torch.tensor([0.25, 1.0]), method="gradient"))
    True
    """
    e = explanation
    decision = str(e.provenance.get("objective", "")).removeprefix("auto: ")
    return e.objective in ("probability", "sigmoid") or (
        e.objective == "output" and decision == AUTO["probabilities"][1]
    )


def score_name(explanation: Explanation) -> str:
    """What the score is called beside its value: the objective, a probability where it is one.

    Of a callable whose name is no plain one, such as a detector's, it is the score.
    """
    if is_probability(explanation):
        return "probability"
    name = explanation.objective
    return name if name in OBJECTIVES or name.isidentifier() else "score"


def score_of(explanation: Explanation, label: str | None = None) -> str:
    """What the score is called in a sentence: "probability of cat" where it is one, or "score"."""
    e = explanation
    if not is_probability(e):
        return "score"
    return "probability" if e.target is None else _score(e, label)


def headline(explanation: Explanation, label: str | None = None) -> str:
    """What was explained and what it scores."""
    e = explanation
    of = f"{score_name(e)} {e.score:.3g}"
    label = label or e.provenance.get("label")
    if e.target is not None:
        label = label or f"class {e.target}"
    elif label and e.objective == "output":
        of = f"{e.score:.3g}"
    return f"{plain(label)}: {of}" if label else of


def run_in_words(explanation: Explanation) -> str:
    """How many samples a map has, and how reliable it is."""
    e = explanation
    known = f"reliability {e.reliability:.2f}" if e.reliability == e.reliability else ""
    return f"{e.n_samples:,} sample{'s' * (e.n_samples != 1)}, {known or 'reliability not known'}"


def meaning(explanation: Explanation, label: str | None = None) -> str:
    """What a map's values are: the words beneath a bar of its colours.

    Args:
        explanation: of anything.
        label: the class, in words.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch.mean((2, 3))
        >>> x = torch.rand(3, 16, 16)
        >>> meaning(fwdgrad.explain(model, x, 1, method="regions", n_samples=16), "green (class 1)")
        'change of the output of green when a cell is sharp, not blurred'
        >>> meaning(fwdgrad.explain(model, x, 1, method="gradient"))
        "change of the output of class 1 per unit of a pixel's value"
    """
    e, method = explanation, explanation.method
    one, score = _feature(e), _score(e, label)
    change = f"change of the {score}"
    whole = "picture" if e.input.dim() == 3 else "input"
    base = getattr(method, "baseline", None)
    if isinstance(method, (Regions, Coalitions)):
        shapley = ": its Shapley value" * (getattr(method, "value", "") == "shapley")
        there = "sharp" if base == "blur" else f"the {whole}'s"
        return f"{change} when a {one} is {there}, not {named(base)}{shapley}"
    if isinstance(method, IntegratedGradients):
        return f"what a {one} adds to the {change} from {named(base)} to the {whole}"
    if isinstance(method, ForwardGradient) and base is not None:
        return f"slope of the {score} as a {one} goes from {named(base)} to the {whole}"
    if isinstance(method, GradientXInput):
        return f"{change} per unit of a {one}'s value, times this value"
    per = f"per unit of a {one}'s value"
    if isinstance(method.noise_scale, Tensor):
        per = f"per deviation of the noise on a {one}"
    if isinstance(method, SmoothGradSquared):
        return f"mean square of the {change} {per}, under noise"
    if isinstance(method, VarGrad):
        return f"variance of the {change} {per}, under noise"
    return f"{change} {per}"


def _score(e: Explanation, label: str | None) -> str:
    if e.target is None:
        return "model's output" if e.objective == "output" else "score"
    label = label or str(e.provenance.get("label", f"class {e.target}"))
    return f"{score_name(e)} of {plain(re.sub(r' [(]class [0-9]+[)]$', '', label))}"


def _feature(e: Explanation) -> str:
    """What a value is of, in a word."""
    if isinstance(e.features, Labels):
        return "region"
    axes = getattr(e.method, "axes", None)
    if isinstance(e.features, Grid):
        axes = len(e.features.sizes(tuple(e.input.shape)))
    if axes == 1:
        return "window"
    if isinstance(e.features, Grid) or isinstance(getattr(e.method, "cell", None), int):
        return "cell"
    return "pixel" if e.input.dim() == 3 and e.input.shape[0] in (1, 3) else "number"


def is_change(explanation: Explanation) -> bool:
    """Whether a map's values are changes of the score, not slopes."""
    return isinstance(explanation.method, (Regions, Coalitions, IntegratedGradients))


def unit_of(explanation: Explanation) -> tuple[float, str]:
    """What a map's values are multiplied by to be shown, and what is said of that.

    Changes of a probability are told in percentage points.

    >>> import torch, fwdgrad
    >>> mean, x = lambda batch: batch.mean(1), torch.rand(4)
    >>> unit_of(fwdgrad.explain(mean, x, method=fwdgrad.Coalitions(), objective="sigmoid"))
    (100.0, ', in percentage points')
    >>> unit_of(fwdgrad.explain(mean, x, method=fwdgrad.Coalitions()))
    (1.0, '')
    """
    if is_change(explanation) and is_probability(explanation):
        return 100.0, ", in percentage points"
    return 1.0, ""


def rounded(value: float) -> str:
    """A number to two digits, without an exponent where it has a usual size.

    >>> rounded(123.4), rounded(2.13), rounded(-0.0456)
    ('123', '2.1', '-0.046')
    """
    return f"{value:,.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"


def named(baseline: object) -> str:
    """What a picture is where it is its baseline.

    >>> named("blur"), named("grey"), named(0.5)
    ('blurred', 'grey', '0.5')
    """
    if isinstance(baseline, Tensor):
        return "the baseline"
    if isinstance(baseline, str):
        return "blurred" if baseline == "blur" else baseline
    return f"{baseline:g}" if isinstance(baseline, float) else str(baseline)
