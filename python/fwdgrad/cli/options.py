"""What was given on the command line, as arguments of ``fwdgrad.explain``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from fwdgrad import Grid
from fwdgrad.cli.choices import METHOD_OPTIONS
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.methods import METHODS

_RUN = (
    "objective", "n_samples", "reliability", "max_samples", "seed", "batch_size", "memory",
    "device", "workers", "group",
)  # fmt: skip


def run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that are of no method."""
    return {name: value for name, value in vars(arguments).items() if name in _RUN}


def method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a method that were given."""
    given = {name: getattr(arguments, name) for name in METHOD_OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    for name in ("block", "clip"):
        if name in options:
            options[name] = options[name][0] if len(options[name]) == 1 else tuple(options[name])
    return options


def method_of(name: str, options: dict[str, Any]) -> Any:
    """The method of a name with the options that were given.

    Raises:
        ArgumentError: the method does not have one of them.

    Example:
        >>> method_of("smoothgrad", {"scale": 0.1}).scale
        0.1
        >>> method_of("gradient", {"scale": 0.1})
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: scale is no option of method='gradient', which has none
    """
    has = [f.name for f in fields(METHODS[name]) if f.name in METHOD_OPTIONS]
    for option in options:
        if option not in has:
            listed = [part for own in has for part in (", ", Option(own))]
            which = ["; it has ", *listed[1:]] if has else [", which has none"]
            raise ArgumentError(option, "is no option of ", Option("method", name), *which)
    return METHODS[name](**options)


def in_or_out(arguments: argparse.Namespace, *of: str) -> Any:
    """The method where features are in or out, and 0 where they are out.

    Args:
        arguments: of the command line.
        of: what they are of, for an error.
    """
    name, fields = arguments.method, method_options(arguments)
    if name == "auto" and fields:
        name = "coalitions" if "value" in fields else "regions"
    if name not in ("auto", "coalitions", "regions"):
        raise ArgumentError("method", "must be auto, coalitions or regions ", *of, f", got {name}")
    return name if name == "auto" else method_of(name, {**fields, "baseline": 0.0})


def photo_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``fwdgrad.explain`` for a photo, method and features among them."""
    name, options, run = arguments.method, method_options(arguments), run_options(arguments)
    if arguments.plain:
        if name not in ("auto", "forward-gradient"):
            raise ValueError(f"--plain is of --method forward-gradient, got --method {name}")
        for other in ("antithetic", "cell"):
            if options.get(other):
                raise ValueError(f"--plain has no pairs and no cells, got --{other}; leave one out")
        name, options["antithetic"] = "forward-gradient", False
    if name == "auto" and not options:
        return {**run, "method": "auto"}
    if name == "forward-gradient" and "cell" in options:
        cell = options.pop("cell")
        run["features"] = Grid((cell, cell), "nearest", jitter=True, share_channels=False)
    if name == "coalitions" and "cell" in options:
        cell = options.pop("cell")
        run["features"] = Grid((cell, cell), "nearest")
    return {**run, "method": method_of("regions" if name == "auto" else name, options)}
