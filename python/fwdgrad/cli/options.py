"""What was given on the command line, as the options of a method."""

from __future__ import annotations

import argparse
from typing import Any

import torch

import fwdgrad
from fwdgrad.methods import light_blur

_FILLS = {"grey": 0.5, "black": 0.0, "white": 1.0}


def photo_options(arguments: argparse.Namespace, x: torch.Tensor) -> dict[str, Any]:
    """What was given on the command line, as the method's options."""
    given = vars(arguments)
    if arguments.method == "auto":
        arguments.method = "likelihood-ratio" if arguments.plain else "regions"
    check_noise(arguments)
    of_regions = arguments.method == "regions"
    if not of_regions and arguments.method != "likelihood-ratio":
        return _method_options(arguments)
    if arguments.plain and of_regions:
        raise ValueError("--plain is of --method likelihood-ratio, got --method regions")
    if arguments.plain:
        for name in ("antithetic", "cell", "field", "shared"):
            if given.get(name):
                raise ValueError(f"--plain has no pairs and no cells, got --{name}; leave one out")
    options = ({"antithetic": False} if arguments.plain else {}) | _noise_options(given)
    baseline = given.get("baseline")
    if baseline == "none" and of_regions:
        options |= {"baseline": None, "position": 1.0, "sigma": given.get("sigma")}
    elif baseline == "blurred" and not of_regions:
        options["baseline"] = light_blur(x)
    elif baseline in _FILLS:
        options["baseline"] = _FILLS[baseline]
    if arguments.control is not None:
        options["control"] = arguments.control
    return {**options, **common_options(arguments)}


def _noise_options(given: dict[str, Any]) -> dict[str, Any]:
    """What was given of the noise on a photo."""
    names = ("law", "sigma", "cell", "field", "shared", "antithetic")
    options = {name: given[name] for name in names if name in given}
    if "block" in given:
        block = given["block"]
        options["block"] = block[0] if len(block) == 1 else tuple(block)
    return options


def check_noise(arguments: argparse.Namespace) -> None:
    """Refuses options of noise on the input, or of cells, where there are none."""
    given, method = vars(arguments), fwdgrad.METHODS[arguments.method]
    noisy = callable(method.options) or "sigma" in method.options or given.get("sigma")
    if not (noisy or method.source is fwdgrad.LikelihoodRatio):
        for name in ("law", "block", "cell", "field", "shared"):
            if name in given:
                raise ValueError(
                    f"--{name} is of noise on the input, and --method {arguments.method} has none: "
                    "give --sigma"
                )
    if "field" in given and arguments.method != "regions" and given.get("cell", 1) == 1:
        raise ValueError("--field is between cells, and there are none: give --cell")


def path_steps(arguments: argparse.Namespace) -> int:
    """How many points integrated gradients take on the path."""
    given = vars(arguments)
    return given["queries"] if "queries" in given and not given.get("sigma") else 50


def common_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that every method has."""
    names = (
        *("method", "objective", "queries", "seed", "batch_size", "memory", "checkpoint"),
        "device",
    )
    return {name: vars(arguments)[name] for name in names if name in arguments}


def _method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a method that asks the model for its gradient: its own, and what was given."""
    given = vars(arguments)
    if arguments.plain or arguments.control is not None:
        what = "--plain" if arguments.plain else "--control"
        raise ValueError(f"{what} is of --method likelihood-ratio, got --method {arguments.method}")
    options = _noise_options(given)
    if arguments.method == "integrated-gradients":
        baseline = given.get("baseline", "black")
        if baseline == "none":
            raise ValueError("--baseline must not be none on a path: it starts there")
        options["saliency"] = fwdgrad.IntegratedGradients(baseline, steps=path_steps(arguments))
    elif "baseline" in given:
        raise ValueError(
            "--baseline is of --method likelihood-ratio and integrated-gradients, got --method "
            f"{arguments.method}"
        )
    return {**options, **common_options(arguments)}
