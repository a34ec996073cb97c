"""What makes two runs the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.directions import order_of
from fwdgrad.files import digest_of
from fwdgrad.objectives import Objective, objective_name
from fwdgrad.plan import Plan
from fwdgrad.runner.fingerprint import parameters_digest
from fwdgrad_kernels import CONTRACT


def identity_of(
    plan: Plan,
    model: Callable[[Tensor], Any],
    targets: list[Any],
    objective: Objective,
    name: str | None,
) -> dict[str, Any]:
    """What makes two runs the same, as JSON has it: for checkpoints, and for ranks of a run."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            pairs = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            pairs.pop("order", None)  # of a grid: below
            return {"kind": type(value).__name__, **pairs}
        if isinstance(value, torch.nn.Module):
            return None
        return digest_of(value) if isinstance(value, Tensor) else value

    order = None if plan.spec is None else order_of(plan.spec)  # a method may choose it
    options = plain(plan.method)
    options.pop("kind")
    options.pop("control_variate", None)  # of the map alone
    return {
        "name": name,
        "contract": CONTRACT,
        "model": parameters_digest(model),
        "input": digest_of(plan.x),
        "shape": list(plan.x.shape),
        "dtype": str(plan.x.dtype),
        "target": targets if len(targets) > 1 else targets[0],
        "objective": objective_name(objective),
        "n_samples": plan.n_samples,
        "features": plain(plan.features),
        **({} if order is None else {"order": digest_of(order)}),
        "seed": plan.seed,
        "method": plan.method.name,
        **options,
    }
