"""A law to draw from other than the one to smooth with."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fwdgrad.errors import warn
from fwdgrad_kernels import LAWS, NoiseSpec, noise
from fwdgrad_kernels.scale import law_log_density

_WEAK = 0.1  # a run whose weights leave a smaller share of its copies is warned of


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws from another law than the mollifier, each copy weighted by the ratio of densities.

    The smoothed gradient stays that of the mollifier. The weight of a copy is a product over all
    its draws, so it is for inputs of few elements: with many, one copy outweighs all others, and
    the run warns.

    Args:
        law: to draw from: normal, cauchy, hyperbolic, logistic or uniform.
        factor: its scale over the mollifier's.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> Sampling("cauchy", 0.5)
        Sampling(law='cauchy', factor=0.5)

    Source: *Axiomatization of gradient smoothing in neural networks*, theorem 3.11.
    """

    law: str
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Checks each argument."""
        if self.law not in LAWS[:5]:
            raise ValueError(
                f"sampling's law must be one of {', '.join(LAWS[:5])}, got {self.law!r}"
            )
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)):
            raise TypeError(f"sampling's factor must be a number, got {self.factor!r}")
        if not 0 < self.factor < math.inf:
            raise ValueError(f"sampling's factor must be positive and finite, got {self.factor}")

    def check(self, mollifier: str) -> None:
        """Raises where draws do not reach all that the mollifier does."""
        if mollifier not in LAWS[:5]:
            raise ValueError(f"sampling needs a law with a density, and {mollifier!r} has none")
        if self.law == "uniform" and not (mollifier == "uniform" and self.factor >= 1):
            raise ValueError(
                f"sampling's law must reach wherever {mollifier!r} does, and 'uniform' at "
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
        """ln (phi(t) / p(t)) of the first copies' draws t: float64 (count,) on the CPU.

        ``spec`` is what is drawn: of this law, at ``factor`` times the mollifier's scale.
        """
        unit = dataclasses.replace(spec, scale=1.0)
        result = torch.empty(count, dtype=torch.float64)
        for copy in range(count):
            drawn = noise(unit, copy, 1, dtype=torch.float64, device=device, backend=backend)[0]
            ratio = law_log_density(mollifier, self.factor * drawn) + math.log(self.factor)
            ratio -= law_log_density(self.law, drawn)
            if isinstance(spec.scale, Tensor):
                ratio = ratio[spec.scale != 0]
            result[copy] = ratio.sum().cpu()
        return result


def weights_of(log_weights: Tensor) -> Tensor:
    """The copies' weights; warns where a few of them outweigh all others."""
    largest = log_weights.max()
    if not bool(torch.isfinite(largest)):
        raise ValueError("sampling drew no copy that the mollifier could have; draw more copies")
    relative = (log_weights - largest).exp()
    effective = float(relative.sum() ** 2 / relative.square().sum())
    if effective < _WEAK * len(log_weights):
        warn(
            f"sampling leaves {effective:.1f} effective copies of {len(log_weights)}: a few "
            "outweigh all others; draw from a law nearer to the mollifier, or smooth fewer "
            "elements"
        )
    return log_weights.exp()
