"""fwdgrad evaluate: how good a map is."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

from fwdgrad.adapters.images import ImageClassifier, load_classifier
from fwdgrad.adapters.photos import load_mask
from fwdgrad.checks import check_integer
from fwdgrad.cli.engine import on_asked_engine
from fwdgrad.cli.output import check_drawing, check_labels, set_threads
from fwdgrad.cli.reporting import (
    batch_of,
    check_of,
    check_report,
    curves_told,
    fill_of,
    known,
    measured,
    write_page,
)
from fwdgrad.devices import placed
from fwdgrad.errors import Message, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.many import check_options
from fwdgrad.metrics import (
    information_curve,
)
from fwdgrad.metrics.maps import heatmap_of
from fwdgrad.objectives import OBJECTIVES, resolve_target, scores_of
from fwdgrad.report import Number
from fwdgrad.scorer import outputs_at
from fwdgrad.terminal import say


def evaluate(arguments: argparse.Namespace) -> None:
    """Measures how good a map is, and writes a report where one is wanted."""
    set_threads(arguments)
    check_options({name: getattr(arguments, name) for name in ("batch_size", "device")})
    if arguments.steps is not None:
        check_integer("steps", arguments.steps, 1)
    if arguments.map.is_dir():
        raise ValueError(
            f"MAP must be a file, such as {arguments.map / 'explanation.safetensors'}, got a folder"
        )
    result = Explanation.load(arguments.map)
    x = result.input
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise ValueError(
            f"{arguments.map} is of an input of shape {tuple(x.shape)}, and evaluate takes those "
            "of pictures, (3, H, W); fwdgrad.metrics in Python takes others, insertion with start="
        )
    if result.objective not in OBJECTIVES:
        raise ValueError(
            f"{arguments.map} explains {result.objective}, a callable that its file does not have; "
            "fwdgrad.metrics.deletion(..., objective=...) in Python takes it"
        )
    try:
        heatmap_of(result, x.shape)
    except ValueError as error:
        raise ValueError(Message(arguments.map, " cannot be measured: ", error)) from None
    adapter = load_classifier(arguments.model, x.shape[-1], arguments.labels)
    mask = None
    if arguments.mask is not None:
        photo = result.provenance.get("photo")
        cut = {}
        if photo:
            fit = photo.get("fit", "crop")  # the only one there was before maps told it
            cut = {"photo": (photo["width"], photo["height"]), "fit": fit}
        shape = (x.shape[1], x.shape[2])
        mask = load_mask(arguments.mask, shape, max_pixels=arguments.max_pixels, **cut)
    if arguments.report is not None:
        inputs = {"MAP": arguments.map, "--mask": arguments.mask, "--labels": arguments.labels}
        check_report(arguments.report, inputs, f"--report {arguments.report}")
        check_drawing("--report")
    adapter, engine = on_asked_engine(arguments, adapter, x)
    x = placed(adapter, x, arguments.device)
    _check_same_model(arguments, result, x, adapter)
    objective = arguments.objective or result.objective
    fill, why = fill_of(arguments.fill, x, adapter)
    check = check_of(
        adapter,
        x,
        result,
        steps=arguments.steps,
        fill=fill,
        objective=objective,
        batch_size=arguments.batch_size,
        by_chance=arguments.report is not None,
    )
    numbers = [
        Number("model", adapter.name),
        *known(arguments, result, adapter.label(result.target)),
    ]
    if engine:
        numbers.append(Number("engine", engine))
    numbers += [
        *curves_told(objective, check, fill, why),
        *measured(result, check, mask),
        _information(result, x, adapter, objective, arguments.batch_size),
    ]
    width = max(len(number.name) for number in numbers)
    for name, value, note in numbers:
        say(f"{name:{width}}  {value}" + (f" ({note})" if note else ""))
    if arguments.report is not None:
        more = {"followed": objective, "mask": mask, "saved": str(arguments.map)}
        label = adapter.label(result.target)
        write_page(arguments.report, arguments, label, result, numbers, check, **more)
        say(f"{'report':{width}}  {arguments.report}")


def _information(
    result: Explanation,
    x: torch.Tensor,
    adapter: ImageClassifier,
    objective: str,
    batch_size: int | None,
) -> Number:
    name, target = "information", result.target
    batch_size = batch_of(x) if batch_size is None else batch_size
    options: dict[str, Any] = {"objective": objective, "batch_size": batch_size}
    try:
        curve = information_curve(adapter.forward, x, result, target, **options)
    except (ImportError, ValueError) as error:
        return Number(name, "none", str(error))
    return Number(name, f"{curve.auc:.4f}", "the score over the picture's bytes; high is good")


def _check_same_model(
    arguments: argparse.Namespace, result: Explanation, x: torch.Tensor, adapter: ImageClassifier
) -> None:
    """Raises where the model's score at the input is not the one that was explained."""
    with torch.no_grad():
        outputs = outputs_at(adapter.forward, x)
    if arguments.labels is not None:
        check_labels(arguments, adapter, outputs)
    try:
        target = resolve_target(result.target, outputs, result.objective, batch=1)
        score = float(scores_of(outputs, result.objective, target, 1))
    except (TypeError, ValueError, ModelError) as error:
        raise ValueError(
            Message(
                f"--model {adapter.name} is not the one that {arguments.map} explains: ",
                *(error, "; give the --model that explain had"),
            )
        ) from None
    if not math.isclose(score, result.score, rel_tol=1e-3, abs_tol=1e-6):
        label = adapter.label(result.target)
        raise ValueError(
            f"--model {adapter.name} is not the one that {arguments.map} explains: its "
            f"{result.objective} of {label} is {score:.6g}, and the explained one "
            f"{result.score:.6g}; give the --model that explain had"
        )
