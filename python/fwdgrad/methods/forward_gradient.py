"""The gradient from forward calls alone, by the likelihood-ratio method."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor

from fwdgrad.checks import check_choice, check_integer, check_no_array
from fwdgrad.directions import order_of
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Message, Option, warn
from fwdgrad.methods.base import Method, Request, method
from fwdgrad.methods.baseline import baseline_on, checked_baseline
from fwdgrad.methods.blur import light_blur
from fwdgrad.methods.noise import check_noise, hadamard_spec, on_device, scale_on
from fwdgrad.plan import Plan
from fwdgrad_kernels import DESIGNS, AdaptiveScale, Grid, NoiseSpec, Perturber

CONTROL_VARIATES = (None, "clean", "leave-one-out", "mean")
_SAMPLES = 1024  # where nothing is asked for


@method
class ForwardGradient(Method):
    """The gradient of the smoothed score, from forward calls alone.

    The model is called on samples x + J_i z_i, and their scores w_i are averaged against the
    noise's own score function:

        g(x) = 1/(n q) sum_i w_i s(J_i z_i),    s(z) = -d/dz ln mu(z).

    Its expectation is the gradient of the model smoothed by the noise (theorems 1 and 2). With
    ``antithetic=False`` and no control variate it is the paper's plain estimator to the letter.

    Args:
        scale: the noise's scale, in the input's units: a positive number, a tensor of the input's
            shape, zero where an element is to be left alone, or an ``AdaptiveScale``, AdaptGrad's.
            None is a fifth of the input's range; with a baseline 0.5, of input - baseline. A row
            of a table whose columns are of unlike scale needs a tensor: a share of their standard
            deviations.
        distribution: of the noise: "normal" (the default), "cauchy", "hyperbolic", "logistic" or
            "rademacher" (random signs, which the Hadamard design has). Cauchy's heavy tails need
            a bounded score, such as a probability.
        design: "independent" samples, or "hadamard": orthogonal signs. Whole groups, of the next
            power of two above the number of features, are exact for a linear score.
        block: extents over the trailing axes, at most two, of a random block that alone is noisy:
            less variance at equal coverage. One number is the same extent for each.
        antithetic: each draw is taken with both signs, a pair of samples: half the variance or
            less where the score is nearly linear, since even terms cancel.
        control_variate: None, "clean" (subtracts the score at x), "leave-one-out" (subtracts the
            mean score of the other samples) or "mean" (of all samples). The first two leave the
            expectation as it is; "mean" takes off 1/n of independent samples' estimate, and
            nothing of whole Hadamard groups'. Antithetic pairs cancel them all.
        baseline: "black", "grey", "white", "blur", a number or a tensor. The noise then goes
            along input - baseline, and the attribution is the score's derivative along it, not
            per unit of the input. An element on the baseline has none: nothing moves it.
        clip: (low, high) to clamp samples to; the noise then smooths the model of clamped inputs.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch @ torch.tensor([1.0, -2.0, 0.0])
        >>> method = ForwardGradient(scale=0.1, design="hadamard")
        >>> e = fwdgrad.explain(model, torch.zeros(3), method=method, n_samples=8)
        >>> e.attribution.round() + 0.0
        tensor([ 1., -2.,  0.])

    Source: *Is forward gradient an effective tool for explaining black-box models?*, equations 2
    and 6, algorithm 1.
    """

    name = "forward-gradient"
    line = "the smoothed gradient from forward calls alone, plain or blockwise"
    source = "FG equations 2 and 6"
    grows = True

    scale: float | Tensor | AdaptiveScale | None = None
    distribution: str | None = None
    design: str = "independent"
    block: tuple[int, ...] | int | None = None
    antithetic: bool = True
    control_variate: str | None = None
    baseline: str | float | Tensor | None = None
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Checks each option."""
        check_noise(self)
        for name in ("design", "block", "control_variate"):
            check_no_array(name, getattr(self, name))
        check_choice("design", self.design, DESIGNS)
        own = "rademacher" if self.design == "hadamard" else "normal"
        if self.distribution is None:
            object.__setattr__(self, "distribution", own)
        if self.design == "hadamard" and self.distribution != own:
            raise ArgumentError(
                "distribution",
                "must be rademacher, or left out, with ",
                Option("design", "hadamard"),
                f", whose samples are signs, got {self.distribution!r}",
            )
        if self.distribution == "uniform":
            raise ArgumentError(
                "distribution",
                "must have a score, and 'uniform' has none: its density has no slope "
                "inside its support; use normal, cauchy, hyperbolic, logistic or rademacher",
            )
        if self.control_variate not in CONTROL_VARIATES:
            raise ArgumentError(
                "control_variate",
                f"must be None, 'clean', 'leave-one-out' or 'mean', got {self.control_variate!r}",
            )
        if self.control_variate is not None and self.antithetic:
            raise ArgumentError(
                "control_variate",
                "must be None with antithetic pairs, which cancel it, got "
                f"{self.control_variate!r}; or give ",
                Option("antithetic", False),
            )
        if isinstance(self.block, (list, tuple)):
            extents = tuple(check_integer("block", extent, 1) for extent in self.block)
            object.__setattr__(self, "block", extents)
        elif self.block is not None:
            object.__setattr__(self, "block", check_integer("block", self.block, 1))
        if self.baseline is not None:
            object.__setattr__(self, "baseline", checked_baseline(self.baseline))
            if isinstance(self.scale, (Tensor, AdaptiveScale)):
                kind = "a tensor" if isinstance(self.scale, Tensor) else "a rule"
                raise ArgumentTypeError(
                    "scale", f"must be a number where a baseline is given, got {kind}"
                )

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples, of whose scores the map is summed."""
        features = on_device(request.features, x.device)
        _check_cells(x, features)
        samples = request.count(_SAMPLES, self.antithetic)
        scale: float | Tensor | AdaptiveScale
        if self.baseline is None:
            scale = scale_on(x, self.scale, floor=True)
        else:
            assert not isinstance(self.scale, (Tensor, AdaptiveScale))
            scale = 0.5 if self.scale is None else self.scale  # of x - baseline
        assert self.distribution is not None
        if self.design == "hadamard":
            most = request.most or samples  # of one group, however many are taken
            spec = hadamard_spec(
                x, features, scale, request.seed, most, self.antithetic, self.block
            )
        else:
            shape = tuple(x.shape)
            spec = NoiseSpec(
                shape, self.distribution, scale, self.block, features, seed=request.seed
            )
        plan = Plan(
            method=dataclasses.replace(self, scale=scale),
            x=x,
            gradient="forward",
            samples=samples,
            seed=request.seed,
            spec=spec,
            features=request.features,
            antithetic=self.antithetic,
            baseline=None if self.baseline is None else baseline_on(x, self.baseline, light_blur),
            clip=self.clip,
            control_variate=self.control_variate,
        )
        plan = request.whole(plan)
        check_moves(plan)
        if self.design == "hadamard":
            warn_of_design(plan)
        if self.control_variate == "leave-one-out" and plan.samples <= plan.unit:
            raise ArgumentError(
                "n_samples",
                "must give leave-one-out at least two independent groups, that is more "
                f"than {plan.unit}, got {plan.n_samples}; or use ",
                Option("control_variate", "clean"),
            )
        return plan


def check_moves(plan: Plan) -> None:
    """Raises where a baseline does not fit the input, or is the input."""
    if plan.baseline is None:
        return
    assert plan.spec is not None
    Perturber(plan.x, plan.spec, baseline=plan.baseline, position=plan.position)  # checks its shape
    if bool(plan.unmoved().all()):
        raise ArgumentError(
            "baseline",
            "must differ from x somewhere: nothing would move; give another, such as 0.5",
        )


def warn_of_design(plan: Plan) -> None:
    """Warns where a group of orthogonal samples does not tell all features."""
    spec = plan.spec
    assert spec is not None
    order = order_of(spec)
    count = math.prod(spec.grid) if order is None else len(order)
    least = count + (0 if plan.antithetic else 1)
    if plan.features is not None and plan.samples < least:
        warn(
            Message(
                Option("n_samples"),
                f" must be at least {least * plan.signs} to tell {count} features "
                f"apart, got {plan.n_samples}; whole groups, of {spec.group * plan.signs}, do it "
                "best",
            )
        )
    grid = spec.features
    if plan.antithetic or plan.samples >= 2 * spec.group or not isinstance(grid, Grid):
        return
    at_0 = spec.jitters if not spec.view.linear else max(spec.view.cells[:2]) == 1
    which = "first cell of the grid"
    if grid.order is not None:
        which, corner = "cell of draw 0", int(spec.view.linear and not at_0)
        at_0 = bool((grid.order[corner:] == 0).any())
    if at_0:
        warn(
            Message(
                f"the {which} has one sign in all samples, so that what it adds is "
                "not told from the score's mean; give ",
                Option("antithetic", True),
                ", or a grid that is 'nearest' and does not jitter",
            )
        )


def _check_cells(x: Tensor, features: object) -> None:
    """Raises where cells would join what is not alike: the channels of a series."""
    if x.dim() != 2 or not isinstance(features, Grid):
        return
    sizes = features.sizes(tuple(x.shape))
    if len(sizes) == 2 and min(*sizes, *x.shape) > 1 and sizes[0] == sizes[1]:
        raise ArgumentError(
            "features",
            f"must be cells of one axis for x of shape {tuple(x.shape)}, got {features}: "
            "squares over both axes would join the channels of a series; give Grid((cell, 1)) for "
            "(T, C), Grid((cell,)) for (C, T), or a picture (H, W) as x[None], with "
            "lambda batch: model(batch[:, 0])",
        )
