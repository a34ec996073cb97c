"""fwdgrad evaluate: how good a map is."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from fwdgrad.adapters.images import ImageClassifier, load_classifier
from fwdgrad.adapters.photos import load_mask
from fwdgrad.advice import advice
from fwdgrad.cli.engine import on_asked_engine
from fwdgrad.cli.output import check_labels, check_no_input, decision, method_told, set_threads
from fwdgrad.devices import placed
from fwdgrad.errors import ArgumentError, Message, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.files import check_writable, write_atomically
from fwdgrad.inputs import is_of_pixels
from fwdgrad.metrics import (
    Curve,
    deletion,
    gini,
    information_curve,
    insertion,
    pointing_game,
    share_inside,
)
from fwdgrad.metrics.maps import heatmap_of
from fwdgrad.objectives import OBJECTIVES, resolve_target, scores_of
from fwdgrad.report import MARK, Number, report
from fwdgrad.runner.memory import DEFAULT_BYTES
from fwdgrad.scorer import outputs_at
from fwdgrad.terminal import say


def evaluate(arguments: argparse.Namespace) -> None:
    """Measures how good a map is, and writes a report where one is wanted."""
    set_threads(arguments)
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
        _check_report(arguments)
    adapter, engine = on_asked_engine(arguments, adapter, x)
    x = placed(adapter, x, arguments.device)
    _check_same_model(arguments, result, x, adapter)
    objective = arguments.objective or result.objective
    fill, why = _fill(arguments, x, adapter)
    options: dict[str, Any] = {"steps": arguments.steps, "fill": fill, "objective": objective}
    options["batch_size"] = arguments.batch_size
    if arguments.batch_size is None:
        options["batch_size"] = max(1, DEFAULT_BYTES["cpu"] // (x.numel() * x.element_size()))
    deleted, inserted = (
        follow(adapter.forward, x, result, result.target, **options)
        for follow in (deletion, insertion)
    )
    numbers = [Number("model", adapter.name), *_known(arguments, result, adapter)]
    if engine:
        numbers.append(Number("engine", engine))
    numbers += [
        Number("curves of", objective, f"in {len(deleted.scores) - 1} steps"),
        Number("fill", ", ".join(f"{v:.4g}" for v in torch.as_tensor(fill).reshape(-1)), why),
        *_measured(result, deleted, inserted, mask),
        _information(result, x, adapter, objective, options["batch_size"]),
    ]
    width = max(len(number.name) for number in numbers)
    for name, value, note in numbers:
        say(f"{name:{width}}  {value}" + (f" ({note})" if note else ""))
    if arguments.report is not None:
        page = report(
            result,
            adapter.label(result.target),
            numbers,
            deleted,
            inserted,
            followed=objective,
            mask=mask,
            command=arguments.line,
            model=arguments.model,
            saved=str(arguments.map),
        )
        write_atomically(arguments.report, page.encode())
        say(f"{'report':{width}}  {arguments.report}")


def _known(
    arguments: argparse.Namespace, result: Explanation, adapter: ImageClassifier
) -> list[Number]:
    """What a map's file says of it, a line each."""
    return [
        Number("class", adapter.label(result.target)),
        Number("method", *method_told(result)),
        Number("objective", result.objective, decision(result)),
        Number("score", f"{result.score:.4g}"),
        Number("samples", str(result.n_samples)),
        Number("reliability", f"{result.reliability:.3f}", arguments.spoken(advice(result))),
        Number("seconds", f"{result.seconds:.1f}"),
    ]


def _measured(
    result: Explanation, deleted: Curve, inserted: Curve, mask: torch.Tensor | None
) -> list[Number]:
    """What was measured of a map, a line each."""
    numbers = [
        Number("deletion", f"{deleted.auc:.4f}", "low is good"),
        Number("insertion", f"{inserted.auc:.4f}", "high is good"),
        Number("insertion - deletion", f"{inserted.auc - deleted.auc:.4f}", "high is good"),
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


def _information(
    result: Explanation, x: torch.Tensor, adapter: ImageClassifier, objective: str, batch_size: int
) -> Number:
    name, target = "information", result.target
    options: dict[str, Any] = {"objective": objective, "batch_size": batch_size}
    try:
        curve = information_curve(adapter.forward, x, result, target, **options)
    except (ImportError, ValueError) as error:
        return Number(name, "none", str(error))
    return Number(name, f"{curve.auc:.4f}", "the score over the picture's bytes; high is good")


def _fill(
    arguments: argparse.Namespace, x: torch.Tensor, adapter: ImageClassifier
) -> tuple[float | torch.Tensor, str]:
    """What deleted pixels become, and why."""
    if arguments.fill is not None:
        given = torch.as_tensor(arguments.fill)
        if is_of_pixels(x) and not is_of_pixels(given):
            values = ", ".join(f"{value:g}" for value in given.reshape(-1).tolist())
            raise ArgumentError("fill", f"must be from 0 to 1, as the pixels are, got {values}")
        return given if given.dim() else arguments.fill, "as given"
    if adapter.zero is not None:
        zero = torch.tensor(adapter.zero) if isinstance(adapter.zero, tuple) else adapter.zero
        return zero, "what the model's normalisation maps to zero"
    if bool(x.min() < 0) or bool(x.max() > 1):
        return 0.0, "the input lies outside [0, 1]: taken for normalised; see --fill"
    return 0.5, "grey: if your model's normalisation maps another value to zero, give it by --fill"


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


def _check_report(arguments: argparse.Namespace) -> None:
    path: Path = arguments.report
    inputs = {"MAP": arguments.map, "--mask": arguments.mask, "--labels": arguments.labels}
    check_no_input(f"--report {path}", [path], inputs)
    try:
        check_writable(path)
        if path.exists() and path.stat().st_size and MARK.encode() not in path.read_bytes()[:4096]:
            raise ValueError(f"--report {path} exists and is no report; give another name")
    except OSError as error:
        raise ValueError(f"--report {path} cannot be written to: {error.strerror}") from None
