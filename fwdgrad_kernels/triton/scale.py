"""AdaptGrad's scale from an element's value and bounds, the twin of scale.h."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.distributions import CAUCHY, HYPERBOLIC, LOGISTIC, NORMAL

NEAREST = tl.constexpr(1)
EXACT = tl.constexpr(2)


@triton.jit
def exp_negative(x):
    y = tl.minimum(x, 87.0) * -1.44269504
    whole = (y - 0.5).to(tl.int32)
    r = (y - whole.to(tl.float32)) * 0.69314718056
    p = 1.9841270e-4
    p = p * r + 1.3888889e-3
    p = p * r + 8.3333333e-3
    p = p * r + 4.1666667e-2
    p = p * r + 1.6666667e-1
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = ((whole + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < 87.0, p * power, 0.0)


@triton.jit
def atan_positive(t):
    large, middle = t > 2.41421356, t > 0.41421356
    a = tl.where(large, -1.0, tl.where(middle, t - 1.0, t))
    b = tl.where(large, t, tl.where(middle, t + 1.0, 1.0))
    x = a / b
    s = x * x
    base = tl.where(large, 1.57079633, tl.where(middle, 0.78539816, 0.0))
    odd = 0.199777106478 + s * (-0.138776856032 + s * 0.0805374449538)
    return base + (x + x * s * (-0.333329491539 + s * odd))


@triton.jit
def within(t, DISTRIBUTION: tl.constexpr):
    """The probability of |xi| <= t, and its derivative."""
    if DISTRIBUTION == NORMAL:
        tail = exp_negative(0.5 * t * t)
        k = 1.0 / (1.0 + 0.3275911 * 0.70710678 * t)
        p = 1.061405429
        p = p * k - 1.453152027
        p = p * k + 1.421413741
        p = p * k - 0.284496736
        p = p * k + 0.254829592
        probability, density = 1.0 - p * k * tail, 0.79788456 * tail
    elif DISTRIBUTION == CAUCHY:
        probability, density = 0.63661977 * atan_positive(t), 0.63661977 / (1.0 + t * t)
    elif DISTRIBUTION == HYPERBOLIC or DISTRIBUTION == LOGISTIC:  # noqa: SIM109
        rate: tl.constexpr = 1.0 if DISTRIBUTION == HYPERBOLIC else 0.5
        e = exp_negative(2.0 * rate * t)
        d = 1.0 / (1.0 + e)
        probability, density = (1.0 - e) * d, 4.0 * rate * e * d * d
    else:
        probability, density = tl.minimum(t, 1.0), tl.where(t < 1.0, 1.0, 0.0)
    return probability, density


@triton.jit
def adaptive_scale(
    x, low, high, floor, factor, confidence, start_far, start_near,
    DISTRIBUTION: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """The scales of a tile; of x's type."""
    below, above = tl.abs(x - low), tl.abs(high - x)
    near, far = tl.minimum(below, above), tl.maximum(below, above)
    if RULE == EXACT:
        n, f = near.to(tl.float32), far.to(tl.float32)
        v = tl.maximum(start_far / f, start_near / tl.maximum(n, 1e-30))
        for _ in tl.static_range(6):
            p, p_slope = within(n * v, DISTRIBUTION)
            q, q_slope = within(f * v, DISTRIBUTION)
            slope = tl.maximum(n * p_slope + f * q_slope, 1e-30)
            v += tl.maximum(2.0 * confidence - p - q, 0.0) / slope
        scale = tl.where(n > 0.0, 1.0 / v, 0.0).to(x.dtype)
    else:
        scale = near * factor.to(x.dtype)
    return tl.maximum(scale, floor.to(x.dtype))
