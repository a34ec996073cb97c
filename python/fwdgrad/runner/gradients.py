"""The model's own gradients of a micro-batch of samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.errors import Message, ModelError, Option
from fwdgrad.importance import weights_of
from fwdgrad.outputs import is_out_of_memory, told
from fwdgrad.parameters import NoisyParameters, Swapped
from fwdgrad.plan import Plan
from fwdgrad.scorer import Scorer

_NO_GRADIENT = Message(
    "the model gives no gradient: its score does not depend on the input through operations of "
    "torch that have one; use ",
    Option("method", "forward-gradient"),
    ", which needs forward calls alone",
)


class Gradients:
    """Of each target's score by each sample; then the scores themselves.

    Args:
        model: takes a batch of samples.
        scorer: makes its scores.
        noisy: its parameters, where they get noise.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], scorer: Scorer, noisy: NoisyParameters | None
    ) -> None:
        """Finds the parameters that ask for a gradient: detached, the graph keeps less."""
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
        asking = [p for p in parameters if p.requires_grad and (noisy is None or p not in noisy)]
        self._scorer = scorer
        self._detached: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if asking:
            self._detached = Swapped(asking)

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """(batch, *x.shape) for each target, then (batch,) for each."""
        with self._detached, torch.enable_grad():
            leaf = batch.detach().requires_grad_()
            try:
                return self._of(leaf)
            except Exception as error:
                text = told(error)
                if "in-place operation" in text:
                    raise ModelError(
                        "the model changes its input in place, which has no gradient; wrap it, "
                        f"e.g. lambda batch: model(batch.clone()) ({text})"
                    ) from error
                if "requires grad" in text and "numpy" in text:
                    raise ModelError(_NO_GRADIENT) from error
                if isinstance(error, ModelError) or is_out_of_memory(error):
                    raise
                raise ModelError(
                    f"the model's gradient failed: {type(error).__name__}: {text}"
                ) from error

    def _of(self, leaf: Tensor) -> list[Tensor]:
        scores = self._scorer(leaf, differentiable=True)
        gradients: list[Tensor] = []
        for i, score in enumerate(scores):
            last = i + 1 == len(scores)
            if not score.requires_grad:
                raise ModelError(_NO_GRADIENT)
            # As torch.autograd.grad does it, in which no function of torch is seen: a backward of
            # the model's own may read parameters, too.
            total = score.sum()
            (gradient,) = torch.autograd.Variable._execution_engine.run_backward(
                (total,), (torch.ones_like(total),), not last, False, (leaf,),
                allow_unreachable=True, accumulate_grad=False,
            )  # fmt: skip
            if gradient is None:
                raise ModelError(_NO_GRADIENT)
            gradients.append(gradient)
        # A score that is not finite may have a gradient that is.
        return gradients + [score.detach().nan_to_num() for score in scores]


def weights_of_samples(plan: Plan, noisy: NoisyParameters | None, backend: str) -> Tensor | None:
    """Each sample's weight: of the path's quadrature, and of the densities of theorem 3.11."""
    logs = torch.zeros(plan.samples, dtype=torch.float64)
    if plan.sampling is not None:
        assert plan.spec is not None
        logs += plan.sampling.log_weights(
            plan.spec, plan.smoothed_with, plan.samples, plan.x.device, backend
        )
    if noisy is not None:
        per = plan.per_draw
        logs += noisy.log_weights(plan.samples // per).repeat_interleave(per)
    of_path = None if plan.path is None else plan.path.weights
    if not bool((logs != 0).any()):
        return of_path
    weights = weights_of(logs)
    return weights if of_path is None else weights * of_path
