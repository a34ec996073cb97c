"""From the outcome of a run and its maps to explanations."""

from __future__ import annotations

from typing import Any

import torch

from fwdgrad.advice import still
from fwdgrad.estimate.moments import Result
from fwdgrad.explanation import Explanation
from fwdgrad.files import digest_of
from fwdgrad.objectives import objective_name
from fwdgrad.runner.outcome import Outcome
from fwdgrad_kernels import CONTRACT


def explanations_of(
    outcome: Outcome,
    maps: list[Result],
    seconds: float,
    known: dict[str, Any],
) -> list[Explanation]:
    """The explanation of each target.

    Args:
        outcome: of a run, or of one that is not over.
        maps: of each target.
        seconds: how long they took.
        known: what their provenance has beside versions and the like.
    """
    from fwdgrad import __version__

    plan, scorer = outcome.plan, outcome.scorer
    x = plan.x
    provenance = {
        "fwdgrad": __version__,
        "contract": CONTRACT,
        "torch": torch.__version__,
        "backend": outcome.backend,
        "device": str(x.device),
        "threads": torch.get_num_threads(),
        "input_sha256": digest_of(x),
        **known,
        **({"objective": f"auto: {scorer.decision}"} if scorer.decision else {}),
        **({"missing_samples": outcome.missing} if outcome.missing else {}),
    }
    found = []
    own = getattr(scorer.objective, "about", None)
    for t, (attribution, error, reliability) in enumerate(maps):
        delta = None
        if outcome.starts is not None:
            change = scorer.clean[t] - outcome.starts[t]
            delta = float(attribution.double().sum()) - change
        scores = None if outcome.scores is None else outcome.scores[..., t]
        found.append(
            Explanation(
                attribution=attribution,
                standard_error=error,
                reliability=reliability,
                n_samples=plan.n_samples,
                target=scorer.targets[t],
                score=scorer.clean[t],
                objective=objective_name(scorer.objective),
                method=plan.method.copied(),
                features=plan.features,
                seed=plan.seed,
                input=x.clone(memory_format=torch.contiguous_format),  # the caller's may change
                seconds=seconds,
                convergence_delta=delta,
                provenance={
                    **provenance,
                    **(own(scorer.targets[t], x) if own else {}),
                    **still(plan, scores, scorer.clean[t]),
                },
            )
        )
    return found
