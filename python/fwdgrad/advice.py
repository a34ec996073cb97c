"""What a map's reliability says, and what would raise it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fwdgrad.errors import ReliabilityWarning, warn
from fwdgrad.explanation import Explanation
from fwdgrad.noise import noise_spec
from fwdgrad.powers import sum_of_squares
from fwdgrad.saliency import IntegratedGradients, VarGrad, smallest_cell

GOOD = 0.8  # from here on a map is called repeatable
LOW = 0.3  # below it is warned of: such a map correlates less than 0.55 with one of no noise

Option = Callable[[str], str]  # how an option is written: in Python, or on the command line


def in_python(name: str) -> str:
    """An option as Python has it.

    >>> in_python("queries")
    'queries='
    """
    return f"{name}="


def advice(result: Explanation, option: Option = in_python) -> str:
    """What a map's reliability says, and what would raise it.

    Args:
        result: the map.
        option: how the options that are named are written.

    Example:
        >>> import fwdgrad, torch
        >>> e = fwdgrad.explain(lambda b: b.sum(1), torch.ones(3), method="gradient", target=None)
        >>> advice(e)
        'nothing was drawn by chance'
    """
    if math.isnan(result.reliability):
        return why_nan(result, option=option)
    if not is_drawn(result.settings):
        return "nothing was drawn by chance"
    of_regions = result.settings.get("position", 1) != 1
    if result.reliability >= GOOD and of_regions:  # told by its own error, and too high; see there
        return "little of the map is noise, by its own error; another seed would tell more"
    if result.reliability >= GOOD:
        return "other noise would give much the same map"
    queries, cell, block = map(option, ("queries", "cell", "block"))
    if result.settings["method"] != "likelihood-ratio":
        return f"much of the map is noise: ask for more {queries}"
    if result.settings.get("features") is not None:
        return f"much of the map is noise: ask for more {queries}, or give fewer features"
    if of_regions:  # more queries make finer ones, at first
        size = result.settings["cell"]
        if 2 * size > max(result.input.shape[-2:]):
            return f"much of the map is noise: ask for more {queries}"
        more = f" or more {queries}" if size <= smallest_cell(tuple(result.input.shape)) else ""
        return f"much of the detail is noise: a {cell} above {size}{more} would leave less of it"
    if result.input.dim() != 3:  # a table's columns or a volume's planes are not to be joined
        return f"much of the map is noise: ask for more {queries}"
    return f"much of the map is noise: ask for more {queries}, a larger {cell} or a {block}"


def advice_for_words(result: Any, option: Option = in_python) -> str:
    """The same of a ``TextExplanation``; nothing where its scores are no noise."""
    if math.isnan(result.reliability):
        return why_nan(result.explanation, len(result.words), option)
    if not is_noise(result):
        return ""
    if result.explanation.settings["method"] != "likelihood-ratio":
        return f"much of it is noise: ask for more {option('queries')}"
    alike = result.explanation.attribution.dim() == 1
    other = "" if alike else f", or let a word's numbers share their draws ({option('shared')})"
    return f"much of it is noise: ask for more {option('queries')}{other}"


def is_drawn(settings: dict[str, Any]) -> bool:
    """Whether a run drew anything by chance: noise, or places on a path.

    >>> is_drawn({"sigma": 0.0}), is_drawn({"sigma": 0.1})
    (False, True)
    """
    saliency, sigma = settings.get("saliency"), settings.get("sigma")
    drawn_path = isinstance(saliency, IntegratedGradients) and saliency.steps is None
    without = isinstance(sigma, float) and sigma == 0
    return not without or settings.get("parameters") is not None or drawn_path


def why_nan(result: Explanation, words: int | None = None, option: Option = in_python) -> str:
    """Why there is no reliability, of a map or of the scores of so many words."""
    saliency = result.settings["saliency"]
    if words is not None and isinstance(saliency, VarGrad):
        return "it is told by the words' standard errors, and VarGrad has none"
    if not bool(result.attribution.any()):
        return "it is zero everywhere"
    if words == 1:
        return "a single word has none to compare it with"
    kept = ("law", "block", "cell", "field", "shared", "shift", "features")
    spec = noise_spec(
        tuple(result.input.shape),
        **{name: result.settings[name] for name in kept if name in result.settings},
        paired=result.settings["antithetic"],
    )
    unit = math.lcm(spec.group, getattr(saliency, "steps", None) or 1)
    least = 2 * unit * (2 if result.settings["antithetic"] else 1)
    if result.queries >= least:
        return "it is the same everywhere, by half of the run at least"
    return f"no two halves of the run to compare: that takes {option('queries')} {least} or more"


def is_noise(result: Any) -> bool:
    """Whether most of a map, or of the scores of words, is noise.

    Its reliability is low, and its errors are as large as its values: values that are all alike
    correlate with nothing, however well they are known.

    >>> import fwdgrad, torch
    >>> is_noise(fwdgrad.explain(lambda b: b.sum(1), torch.ones(3), method="gradient", target=None))
    False
    """
    if not result.reliability < LOW:  # NaN is not
        return False
    if isinstance(result, Explanation):
        values, errors = map(result.per_deviation, (result.attribution, result.standard_error))
    else:
        values, errors = result.scores, result.standard_errors
    total = sum_of_squares(values)
    return not (total and sum_of_squares(errors) / total < 0.5)


def warn_of_noise(low: Sequence[Explanation], count: int) -> None:
    """Warns once where maps of a run, of as many as are counted, are mostly noise."""
    if not low:
        return
    worst = min(low, key=lambda e: e.reliability)
    which = "" if worst.target is None else f" of class {worst.target}"
    many = "" if count == 1 else f", the worst of {len(low)} such among {count},"
    warn(
        f"the map{which}{many} has a reliability of {worst.reliability:.2f}: {advice(worst)}",
        ReliabilityWarning,
    )
