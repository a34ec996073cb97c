"""Drawing from another distribution than the one to smooth with."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fwdgrad.errors import warn
from fwdgrad_kernels import DISTRIBUTIONS, NoiseSpec, log_density, noise

_WEAK = 0.1  # a run whose weights leave a smaller share of its samples is warned of
_WITH_DENSITY = DISTRIBUTIONS[:5]  # all but rademacher


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws from another distribution than the mollifier, weighting each sample by a density ratio.

    The smoothed gradient stays that of the mollifier. The weight of a sample is a product over
    all its draws, so it is for inputs of few elements: with many, one sample outweighs all others,
    and the run warns.

    Args:
        distribution: to draw from: normal, cauchy, hyperbolic, logistic or uniform.
        factor: its scale over the mollifier's.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> Sampling("cauchy", 0.5)
        Sampling(distribution='cauchy', factor=0.5)

    Source: *Axiomatization of gradient smoothing in neural networks*, theorem 3.11.
    """

    distribution: str
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Checks each argument."""
        if self.distribution not in _WITH_DENSITY:
            raise ValueError(
                f"sampling's distribution must be one of {', '.join(_WITH_DENSITY)}, got "
                f"{self.distribution!r}"
            )
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)):
            raise TypeError(f"sampling's factor must be a number, got {self.factor!r}")
        if not 0 < self.factor < math.inf:
            raise ValueError(f"sampling's factor must be positive and finite, got {self.factor}")

    def check(self, mollifier: str) -> None:
        """Raises where draws do not reach all that the mollifier does."""
        if mollifier not in _WITH_DENSITY:
            raise ValueError(
                f"sampling needs a distribution with a density, and {mollifier!r} has none"
            )
        if self.distribution == "uniform" and not (mollifier == "uniform" and self.factor >= 1):
            raise ValueError(
                f"sampling's distribution must reach wherever {mollifier!r} does, and 'uniform' at "
                f"{self.factor} times its scale does not; use cauchy, say"
            )

    def log_weights(
        self,
        spec: NoiseSpec,
        mollifier: str,
        count: int,
        device: torch.device,
        backend: str,
    ) -> Tensor:
        """ln (phi(t) / p(t)) of the first samples' draws t: float64 (count,) on the CPU.

        ``spec`` is what is drawn: of this distribution, at ``factor`` times the mollifier's scale.
        """
        unit = dataclasses.replace(spec, scale=1.0)
        result = torch.empty(count, dtype=torch.float64)
        for number in range(count):
            drawn = noise(unit, number, 1, dtype=torch.float64, device=device, backend=backend)[0]
            ratio = log_density(mollifier, self.factor * drawn) + math.log(self.factor)
            ratio -= log_density(self.distribution, drawn)
            if isinstance(spec.scale, Tensor):
                ratio = ratio[spec.scale != 0]
            result[number] = ratio.sum().cpu()
        return result


def weights_of(log_weights: Tensor) -> Tensor:
    """The samples' weights; warns where a few of them outweigh all others."""
    largest = log_weights.max()
    if not bool(torch.isfinite(largest)):
        raise ValueError("sampling drew no sample that the mollifier could have; draw more samples")
    relative = (log_weights - largest).exp()
    effective = float(relative.sum() ** 2 / relative.square().sum())
    if effective < _WEAK * len(log_weights):
        warn(
            f"sampling leaves {effective:.1f} effective samples of {len(log_weights)}: a few "
            "outweigh all others; draw from one nearer to the mollifier, or smooth fewer elements"
        )
    return log_weights.exp()
