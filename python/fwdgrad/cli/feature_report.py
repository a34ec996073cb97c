"""The report of a text or a row: words or columns taken out and put back, beside chance."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.cli.reporting import (
    Check,
    calls_of,
    curves_measured,
    known,
    steps_of,
    write_page,
)
from fwdgrad.enough import asked_of
from fwdgrad.metrics import Curve, deletion, insertion
from fwdgrad.objectives import objective_again
from fwdgrad.report import Number

_LEAST = 4  # features: the order of fewer tells nothing
_ORDERS = 4  # for which there are calls: the explanation's own, and three drawn by chance
_MOST = 5  # of these, where there are few features


def check_of_features(model: Any, result: Any, among: int = 1) -> tuple[Check, int] | None:
    """Deletion and insertion of words or columns, and the mean of both in orders of chance.

    Those come first that raise the score most; where it is below that of an empty text or of the
    other rows, those that lower it most.

    Args:
        model: that was explained.
        result: its explanation of a text or a row.
        among: how many explanations the same calls made, which share the calls that check them.

    Returns:
        The curves, and how many orders were drawn; None where there are too few features.

    Raises:
        ModelError, TypeError, ValueError: the model failed, or is another one.

    Example:
        >>> import fwdgrad, numpy as np
        >>> from fwdgrad.adapters.tables import TableModel
        >>> model = TableModel(lambda rows: rows @ [8.0, 4.0, 2.0, 1.0], np.zeros((1, 4)))
        >>> row = fwdgrad.explain(model, np.ones(4))
        >>> check, orders = check_of_features(model, row)
        >>> check.deleted.scores.tolist(), check.inserted.scores.tolist(), check.calls, orders
        ([15.0, 7.0, 3.0, 1.0, 0.0], [0.0, 8.0, 12.0, 14.0, 15.0], 36, 2)
    """
    asked = asked_of(model, result, None, None)
    e, count, calls = asked.explanation, len(asked.adds), 0
    if count < _LEAST:
        return None
    steps = min(count, steps_of(e.n_samples // among, _ORDERS))
    objective = objective_again(e.objective, "the explanation is of")

    def forward(rows: Tensor) -> Any:
        nonlocal calls
        calls += len(rows)
        return asked.forward(torch.stack([asked.sample(row > 0.5) for row in rows]))

    x = torch.ones(count, dtype=torch.float64)
    options: dict[str, Any] = {"steps": steps, "objective": objective}

    def both(order: Tensor) -> tuple[Curve, Curve]:
        return (
            deletion(forward, x, order, e.target, **options),
            insertion(forward, x, order, e.target, start=torch.zeros_like(x), **options),
        )

    with warnings.catch_warnings():  # of which the explanation's run has told
        warnings.simplefilter("ignore")
        found = both(asked.adds)
        below = bool(found[1].scores[0] > found[0].scores[0])
        if below:  # what lowers it counts: the same curves from their ends, in the opposite order
            found = Curve(found[1].scores.flip(0)), Curve(found[0].scores.flip(0))
        orders = max(1, min(_MOST, calls_of(e.n_samples // among) // calls - 1))
        drawn = torch.Generator().manual_seed(0)
        chance = [both(torch.randperm(count, generator=drawn)) for _ in range(orders)]
    means = [
        Curve(torch.stack([c.scores for c in one]).mean(0)) for one in zip(*chance, strict=True)
    ]
    return Check(*found, (means[0], means[1]), calls, below), orders


def write_report_of_features(
    path: Path,
    arguments: argparse.Namespace,
    model: Any,
    result: Any,
    label: str,
    saved: Path,
    among: int,
) -> str:
    """Checks an explanation that was just made, and writes its report.

    Args:
        path: of the report.
        arguments: of the command line.
        model: that was explained.
        result: its explanation of a text or a row.
        label: what was explained.
        saved: the explanation's own file.
        among: see ``check_of_features``.

    Returns:
        What is said of the check.

    Raises:
        ModelError, TypeError, ValueError: see ``check_of_features``.
    """
    numbers = [Number("model", arguments.model), *known(arguments, result, label)]
    check, told = None, "not checked: so few features have no order to speak of"
    if (checked := check_of_features(model, result, among)) is not None:
        check, orders = checked
        by_chance = f"by chance: the mean of {orders} order{'s' * (orders > 1)}"
        steps = Number("curves", f"{len(check.deleted.scores) - 1} steps", by_chance)
        numbers += [steps, *curves_measured(check)]
        told = f"{check.calls} forward calls checked it"
    write_page(path, arguments, label, result, numbers, check, saved=saved.name)
    return told
