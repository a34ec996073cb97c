"""The parts of an input in a map's order, and those that were found to be enough."""

from __future__ import annotations

import torch
from torch import Tensor

from fwdgrad.explanation import Explanation
from fwdgrad.methods import (
    AdaptGrad,
    ForwardGradient,
    FusionGrad,
    Gradient,
    NoiseGrad,
    SmoothGrad,
    plan_again,
)
from fwdgrad.parts import Parts, parts_of
from fwdgrad.plan import Plan

# Their maps are of the score per unit of the input, not of what the input adds.
_GRADIENTS = (Gradient, SmoothGrad, AdaptGrad, NoiseGrad, FusionGrad, ForwardGradient)


def ranked(e: Explanation, plan: Plan, outside: float | Tensor) -> tuple[Parts, Tensor]:
    """The parts, and what each adds by the map: float64 (K,) on the CPU."""
    parts = parts_of(plan, joined=True)
    values = e.attribution
    if type(e.method) in _GRADIENTS and plan.baseline is None:
        # Pixels' gradients have signs that hardly hold over a cell: there it is how large they are.
        values = values.abs() if plan.x.dim() in (3, 4) else values * (plan.x - outside)
    return parts, parts.means(values).cpu()


def found_again(e: Explanation) -> dict[str, Tensor]:
    """The two parts of a picture, "enough" and "missing", by what its provenance has of them.

    It calls no model.

    Args:
        e: of a picture, of which ``fwdgrad explain`` has told what is enough.

    Returns:
        Of each part that there is, where it lies: bool, of the input's shape.
    """
    known = e.provenance.get("evidence") or {}
    counts = {name: known.get(f"{name}_count") for name in ("enough", "missing")}
    if not any(counts.values()):
        return {}
    parts, adds = ranked(e, plan_again(e), 0.0)
    order = adds.argsort(descending=True, stable=True)
    found = {}
    for name, count in counts.items():
        if count is not None:
            is_in = torch.zeros(len(order), dtype=torch.bool)
            is_in[order[:count]] = True
            found[name] = parts.mask(is_in.to(e.input.device)) > 0.5
    return found
