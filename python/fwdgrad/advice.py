"""What a map's reliability says, and what would raise it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fwdgrad.errors import Message, Option, ReliabilityWarning, warn
from fwdgrad.explanation import Explanation
from fwdgrad.meaning import named, score_name
from fwdgrad.methods import ForwardGradient, Regions, VarGrad, plan_again
from fwdgrad.methods.blur import smallest_cell
from fwdgrad.methods.in_or_out import all_instead, is_chosen
from fwdgrad.parts import parts_of
from fwdgrad.plan import Plan
from fwdgrad.powers import sum_of_squares
from fwdgrad_kernels import Labels

GOOD = 0.8  # from here on a map is called repeatable
_ROUGH = 0.5  # below it more than half of a map's variance is noise
_STILL = 0.025  # of a score: where half of a picture changes it by less, the map shows little
LOW = 0.3  # below it is warned of: such a map correlates less than 0.55 with one of no noise


def advice(result: Explanation) -> Message:
    """What a map's reliability says, and what would raise it.

    Example:
        >>> import fwdgrad, torch
        >>> e = fwdgrad.explain(lambda b: b.sum(1), torch.ones(3), method="gradient")
        >>> advice(e)
        'nothing was drawn by chance'
    """
    if math.isnan(result.reliability):
        return why_nan(result)
    if not is_drawn(result):
        return Message("nothing was drawn by chance")
    of_regions = isinstance(result.method, Regions)
    if result.reliability >= GOOD and of_regions:  # told by its own error
        return Message("another seed would give much the same map, by its own error")
    if result.reliability >= GOOD:
        return Message("other noise would give much the same map")
    samples = _samples(result)
    is_rough = result.reliability < _ROUGH
    more = f"{'much' if is_rough else 'some'} of the map is noise: ask for more ", samples
    if isinstance(result.features, Labels):
        return Message(*more, ", or give fewer features")
    cell = getattr(result.method, "cell", None)
    if isinstance(cell, int):  # of regions: more samples make finer ones, at first
        axes = getattr(result.method, "axes", None) or result.input.dim() - 1
        if 2 * cell > max(result.input.shape[-axes:]):
            return Message(*more)
        much = "much" if is_rough else "some"
        coarser = f"{much} of the detail is noise: a ", Option("cell"), f" above {cell}"
        is_finest = cell <= smallest_cell(result.input.shape[-axes:])
        many = (" or more ", samples) if is_finest else ()
        return Message(*coarser, *many, " would leave less of it")
    # A table's columns or a volume's planes are not to be joined.
    if not isinstance(_source(result), ForwardGradient) or result.input.dim() != 3:
        return Message(*more)
    grid = ", a grid of larger cells (", Option("features"), ") or a ", Option("block")
    return Message(*more, *grid)


def advice_for_words(result: Any) -> Message:
    """The same of the scores of words or columns; nothing where they are no noise."""
    if math.isnan(result.reliability):
        return why_nan(result.explanation, len(result.scores))
    if not is_noise(result):
        return _all_instead(result.explanation)
    more = "much of it is noise: ask for more ", _samples(result.explanation)
    alike = result.explanation.attribution.dim() == 1
    if alike or not isinstance(_source(result.explanation), ForwardGradient):
        return Message(*more)
    shared = ", or let a word's numbers share their draws (", Option("share_channels"), ")"
    return Message(*more, *shared)


def _all_instead(e: Explanation) -> Message:
    """Advice to call all coalitions, where asking for more samples of a few features does so."""
    return all_instead(parts_of(plan_again(e)).count, e.n_samples) if is_chosen(e) else Message()


def _samples(result: Explanation) -> Option:
    """What to raise for more samples: of a run that stops by itself, the most that it may take."""
    return Option("max_samples" if "n_samples" in result.provenance else "n_samples")


def _source(result: Explanation) -> Any:
    """The method, or the one whose gradient it takes."""
    return getattr(result.method, "gradient", result.method)


def is_drawn(result: Explanation) -> bool:
    """Whether a run drew anything by chance: noise, or places on a path.

    >>> import fwdgrad, torch
    >>> x = torch.arange(3.0)
    >>> is_drawn(fwdgrad.explain(lambda b: b.sum(1), x, method="smoothgrad"))
    True
    """
    # Of regions a plan has a blur, which takes a while of a large picture.
    return isinstance(result.method, (Regions, ForwardGradient)) or plan_again(result).is_random


def why_nan(result: Explanation, words: int | None = None) -> Message:
    """Why there is no reliability, of a map or of the scores of so many words."""
    if words is not None and isinstance(result.method, VarGrad):
        return Message("it is told by the words' standard errors, and VarGrad has none")
    if not bool(result.attribution.any()):
        return Message("it is zero everywhere")
    if words == 1:
        return Message("a single word has none to compare it with")
    plan = plan_again(result)
    least = 2 * plan.unit * plan.signs
    if result.n_samples >= least:
        return Message("it is the same everywhere, by half of the run at least")
    halves = "no two halves of the run to compare: that takes ", _samples(result)
    return Message(*halves, f" {least} or more")


def _judged(result: Any) -> Any:
    """What of a result is told to be noise: of one without scores of its own, the explanation."""
    has_own = isinstance(result, Explanation) or hasattr(result, "scores")
    return result if has_own else result.explanation


def is_noise(result: Any) -> bool:
    """Whether most of a map, or of the scores of words, is noise.

    Its reliability is low, and its errors are as large as its values: values that are all alike
    correlate with nothing, however well they are known.

    >>> import fwdgrad, torch
    >>> is_noise(fwdgrad.explain(lambda b: b.sum(1), torch.ones(3), method="gradient"))
    False
    """
    result = _judged(result)
    if not result.reliability < LOW:  # NaN is not
        return False
    if isinstance(result, Explanation):
        values, errors = map(result.per_deviation, (result.attribution, result.standard_error))
    else:
        values, errors = result.scores, result.standard_errors
    total = sum_of_squares(values)
    return not (total and sum_of_squares(errors) / total < 0.5)


def warn_of_noise(found: Sequence[Any], count: int | None = None) -> None:
    """Warns once where explanations, of so many, are mostly noise, or nobody knows how much."""
    low, count = list(filter(is_noise, found)), len(found) if count is None else count
    for one in found:
        is_map = isinstance(one, Explanation) and bool(one.attribution.any())
        if is_map and math.isnan(one.reliability) and not low:
            why = Message("the map has no reliability: ", why_nan(one))
            warn(why, ReliabilityWarning)
            return
    if not low:
        return
    low = list(map(_judged, low))
    worst = min(low, key=lambda e: e.reliability)
    of_map = isinstance(worst, Explanation)
    target = worst.target if of_map else worst.explanation.target
    which = "" if target is None else f" of class {target}"
    many = "" if count == 1 else f", the worst of {len(low)} such among {count},"
    said = f"has a reliability of {worst.reliability:.2f}: "
    found = advice(worst) if of_map else advice_for_words(worst)
    what = f"the map{which}{many} {said}" if of_map else f"the explanation{which}{many} {said}"
    warn(Message(what, found), ReliabilityWarning)


def still(plan: Plan, scores: Tensor | None, clean: float) -> dict[str, list[float]]:
    """What an explanation's provenance has of samples of a picture that all score as it does.

    Args:
        plan: of the run.
        scores: float64 (samples, signs), of a target; NaN where one is missing.
        clean: at the input.

    Returns:
        The lowest score and the highest by "hardly_changed"; nothing where they are others, or of a
        run that does not put a baseline in the place of half of a picture.
    """
    method, is_picture = plan.method, plan.x.dim() == 3
    if scores is None or not (isinstance(method, Regions) and is_picture):
        return {}
    if method.axes not in (None, 2):
        return {}
    found = scores[scores.isfinite()]
    if not len(found) or bool((found == found[0]).all()):  # of which the run has told
        return {}
    low, high = float(found.min()), float(found.max())
    if not max(abs(low - clean), abs(high - clean)) < _STILL * abs(clean):
        return {}
    return {"hardly_changed": [float(f"{end:.4g}") for end in (low, high)]}


def unmoved(e: Explanation) -> str:
    """That a picture scores nearly the same with half of it hidden; "" where it does not.

    Its map shows small changes, as strong in colour as those of any.
    """
    if "hardly_changed" not in e.provenance:
        return ""
    low, high = (f"{end:.3g}" for end in e.provenance["hardly_changed"])
    other = low if low == high else f"{low} to {high}"
    base: Any = getattr(e.method, "baseline", None)
    base = named(base) if isinstance(base, str) else f"at {named(base)}"
    score = score_name(e)
    return f"with half of the picture {base} the {score} is {other}, and {e.score:.3g} as it is"


def try_another(e: Explanation) -> Message:
    """The same with what may help."""
    said = unmoved(e)
    if not said:
        return Message()
    other = Option("baseline", "black" if getattr(e.method, "baseline", None) == "grey" else "grey")
    return Message(said, ": the map shows little; try ", other, " or another ", Option("objective"))


def warn_of_stillness(found: Sequence[Any]) -> None:
    """Warns of the first explanation of a picture that hardly changes its score."""
    for one in found:
        e = one if isinstance(one, Explanation) else getattr(one, "explanation", None)
        if isinstance(e, Explanation) and (said := try_another(e)):
            warn(said, ReliabilityWarning)
            return
