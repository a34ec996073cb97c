"""What a report needs: a map checked by deletion and insertion, beside an order drawn by chance."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.advice import advice, advice_for_words
from fwdgrad.cli.output import check_no_input, decision, method_told
from fwdgrad.errors import ArgumentError
from fwdgrad.explanation import Explanation
from fwdgrad.files import check_writable, write_atomically
from fwdgrad.inputs import is_of_pixels
from fwdgrad.metrics import (
    Curve,
    deletion,
    gini,
    insertion,
    pointing_game,
    random_order,
    share_inside,
)
from fwdgrad.panels import Panels
from fwdgrad.report import MARK, Number, report
from fwdgrad.runner.memory import DEFAULT_BYTES

_LEAST = 8  # steps of a curve
_SHARE, _CALLS = 5, 40  # of a map's own calls one in so many checks it, and so many at least
_ENDS = 2  # calls of a curve besides one a step: before the first, and to look at the output


@dataclasses.dataclass(frozen=True)
class Check:
    """A map's curves, and those of an order drawn by chance.

    Attributes:
        deleted, inserted: in the map's order.
        chance: both in the other; None where that was not asked for.
        calls: of the model, each of one sample.
        below: whether the score is below that of what is compared with: the order is then that of
            what lowers it.
    """

    deleted: Curve
    inserted: Curve
    chance: tuple[Curve, Curve] | None
    calls: int
    below: bool = False


def calls_of(n_samples: int) -> int:
    """How many calls check a map of so many: a fifth as many, and 40 at least."""
    return max(_CALLS, n_samples // _SHARE)


def steps_of(n_samples: int, orders: int = 2) -> int:
    """Of how many steps curves are: two in each order take the calls of a check.

    >>> steps_of(512), 4 * (steps_of(512) + 2) / 512
    (23, 0.1953125)
    >>> steps_of(64), 4 * (steps_of(64) + 2)
    (8, 40)
    """
    return max(_LEAST, calls_of(n_samples) // (2 * orders) - _ENDS)


def check_of(
    adapter: ImageClassifier,
    x: Tensor,
    result: Explanation,
    *,
    steps: int | None,
    fill: float | Tensor,
    objective: str,
    batch_size: int | None = None,
    by_chance: bool = True,
) -> Check:
    """Deletion and insertion in a map's order, and in one that is drawn by chance.

    Args:
        adapter: of the model that was explained.
        x: what was explained, where the model takes it.
        result: its explanation.
        steps, fill, objective, batch_size: see ``fwdgrad.metrics.deletion``.
        by_chance: whether the other order is followed, too.
    """
    calls = 0

    def forward(batch: Tensor) -> Any:
        nonlocal calls
        calls += len(batch)
        return adapter.forward(batch)

    options: dict[str, Any] = {"steps": steps, "fill": fill, "objective": objective}
    options["batch_size"] = batch_of(x) if batch_size is None else batch_size
    both = [
        (
            deletion(forward, x, ranking, result.target, **options),
            insertion(forward, x, ranking, result.target, **options),
        )
        for ranking in (result, *([random_order(result)] if by_chance else []))
    ]
    return Check(*both[0], both[1] if by_chance else None, calls)


def batch_of(x: Tensor) -> int:
    """How many inputs a call has, where that is not given."""
    return max(1, DEFAULT_BYTES["cpu"] // (x.numel() * x.element_size()))


def known(arguments: argparse.Namespace, result: Any, label: str) -> list[Number]:
    """What a map's file says of it, a line each; of a text or a row the result of ``explain``."""
    e, advised = result, advice
    if not isinstance(result, Explanation):
        e, advised = result.explanation, advice_for_words
    return [
        Number("class", label),
        Number("method", *method_told(e)),
        Number("objective", e.objective, decision(e)),
        Number("score", f"{e.score:.4g}"),
        Number("samples", str(e.n_samples)),
        Number("reliability", f"{result.reliability:.3f}", arguments.spoken(advised(result))),
        Number("seconds", f"{e.seconds:.1f}", "of the map, without the start of the model"),
    ]


def curves_measured(check: Check) -> list[Number]:
    """The areas under curves, a line each."""
    deleted, inserted = check.deleted, check.inserted
    good = ["high is good", "low is good"] if check.below else ["low is good", "high is good"]
    notes = good
    if check.chance is not None:
        notes = [
            f"{note}; in an order drawn by chance {curve.auc:.4f}"
            for note, curve in zip(good, check.chance, strict=True)
        ]
    return [
        Number("deletion", f"{deleted.auc:.4f}", notes[0]),
        Number("insertion", f"{inserted.auc:.4f}", notes[1]),
        Number("insertion - deletion", f"{inserted.auc - deleted.auc:.4f}", good[1]),
    ]


def measured(result: Explanation, check: Check, mask: Tensor | None = None) -> list[Number]:
    """What was measured of a map, a line each."""
    numbers = [
        *curves_measured(check),
        Number("gini", f"{gini(result):.4f}", "0: all pixels alike; near 1: a single one"),
    ]
    if mask is not None:
        near, exact = (
            "hit" if pointing_game(result, mask, tolerance) else "miss" for tolerance in (15, 0)
        )
        share = float(mask.double().mean())
        numbers += [
            Number("pointing game", near, f"15 pixels beside the object count; {exact} without"),
            Number("share inside", f"{share_inside(result, mask):.4f}", f"by chance {share:.4f}"),
        ]
    return numbers


def fill_of(
    given: float | tuple[float, ...] | None, x: Tensor, adapter: ImageClassifier
) -> tuple[float | Tensor, str]:
    """What deleted pixels become, and why."""
    if given is not None:
        fill = torch.as_tensor(given)
        if is_of_pixels(x) and not is_of_pixels(fill):
            values = ", ".join(f"{value:g}" for value in fill.reshape(-1).tolist())
            raise ArgumentError("fill", f"must be from 0 to 1, as the pixels are, got {values}")
        return fill if isinstance(given, tuple) else given, "as given"
    if adapter.zero is not None:
        zero = torch.tensor(adapter.zero) if isinstance(adapter.zero, tuple) else adapter.zero
        return zero, "what the model's normalisation maps to zero"
    if bool(x.min() < 0) or bool(x.max() > 1):
        return 0.0, "the input lies outside [0, 1]: taken for normalised; see --fill"
    return 0.5, "grey: if your model's normalisation maps another value to zero, give it by --fill"


def curves_told(objective: str, check: Check, fill: float | Tensor, why: str) -> list[Number]:
    """How the curves came about, a line each."""
    told = ", ".join(f"{v:.4g}" for v in torch.as_tensor(fill).reshape(-1).tolist())
    steps = f"in {len(check.deleted.scores) - 1} steps"
    return [Number("curves of", objective, steps), Number("fill", told, why)]


def write_report_of(
    path: Path,
    arguments: argparse.Namespace,
    adapter: ImageClassifier,
    result: Explanation,
    panels: Panels,
    saved: Path,
    among: int = 1,
) -> Check:
    """Checks a map that was just made, and writes its report.

    Args:
        path: of the report.
        arguments: of the command line.
        adapter: of the model that was explained.
        result: of a photo.
        panels: the photo.
        saved: the explanation's own file.
        among: how many maps the same calls made, which share the calls that check them.

    Raises:
        ModelError, TypeError, ValueError: the model failed, or the map cannot be ranked.
    """
    x = result.input
    fill, why = fill_of(None, x, adapter)
    steps = min(steps_of(result.n_samples // among), x.shape[-2] * x.shape[-1])
    options: dict[str, Any] = {"steps": steps, "fill": fill, "objective": result.objective}
    check = check_of(adapter, x, result, **options, batch_size=arguments.batch_size)
    numbers = [
        Number("model", adapter.name),
        *known(arguments, result, adapter.label(result.target)),
        *curves_told(result.objective, check, fill, why),
        *measured(result, check),
    ]
    label = adapter.label(result.target)
    write_page(path, arguments, label, result, numbers, check, saved=saved.name, panels=panels)
    return check


def write_page(
    path: Path,
    arguments: argparse.Namespace,
    label: str,
    result: Any,
    numbers: list[Number],
    check: Check | None,
    **more: Any,
) -> None:
    """Writes the report of a map that was checked; more is what else ``report`` takes."""
    if check is not None:
        more |= {"deletion": check.deleted, "insertion": check.inserted}
        more |= {"chance": check.chance, "calls": check.calls}
    page = report(
        result,
        label,
        numbers,
        command=arguments.line,
        model=arguments.model,
        **more,
    )
    write_atomically(path, page.encode())


def is_report(path: Path) -> bool:
    """Whether a file is there, and a page of ours."""
    return path.is_file() and MARK.encode() in path.read_bytes()[:4096]


def check_report(path: Path, inputs: dict[str, Path | None], given: str) -> None:
    """Raises where a report cannot be written, or would take another file's place.

    Args:
        path: of the report.
        inputs: the files that are read, by what they are.
        given: how a message calls it.
    """
    check_no_input(given, [path], inputs)
    try:
        check_writable(path)
        if path.exists() and path.stat().st_size and not is_report(path):
            raise ValueError(f"{given} exists and is no report; give another name")
    except OSError as error:
        raise ValueError(f"{given} cannot be written to: {error.strerror}") from None
