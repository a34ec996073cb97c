"""From random words to noise of unit scale and to its score, the twin of distributions.h.

The same polynomials in the same order: Triton's own log is not exact enough next to 1, where
Box-Muller's small radii come from.
"""

import triton
import triton.language as tl

NORMAL = tl.constexpr(0)
CAUCHY = tl.constexpr(1)
HYPERBOLIC = tl.constexpr(2)
LOGISTIC = tl.constexpr(3)
UNIFORM = tl.constexpr(4)
RADEMACHER = tl.constexpr(5)
HADAMARD = tl.constexpr(6)

UNIT24 = tl.constexpr(5.9604644775390625e-8)  # 2^-24
TURN24 = tl.constexpr(3.7450702e-7)  # 2 pi 2^-24


@triton.jit
def uniform24(word):
    """2^24 times the uniform number: an odd int32 below 2^24."""
    return ((word >> 8) | 1).to(tl.int32)


@triton.jit
def uniform11(word):
    """2u - 1, exact."""
    return (uniform24(word) - (1 << 23)).to(tl.float32) * (2 * UNIT24)


@triton.jit
def log_positive(x):
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    t = (bits - exponent * (1 << 23)).to(tl.float32, bitcast=True) - 1.0
    p = 0.08994725962
    p = p * t - 0.1441778403
    p = p * t + 0.1487463788
    p = p * t - 0.1655304576
    p = p * t + 0.199645123
    p = p * t - 0.2500252186
    p = p * t + 0.3333390204
    p = p * t - 0.4999998432
    return exponent.to(tl.float32) * 0.69314718056 + (t + t * t * p)


@triton.jit
def sin_octant(x):
    s = x * x
    return x + x * s * (-0.166666508 + s * (0.008331984473 + s * -0.0001949623381))


@triton.jit
def cos_octant(x):
    s = x * x
    return 1.0 + s * (-0.499998953 + s * (0.04165631892 + s * -0.00135980869))


@triton.jit
def cos_sin_turn(turn24):
    quarter = (turn24 + (1 << 21)) >> 22
    x = (turn24 - quarter * (1 << 22)).to(tl.float32) * TURN24
    s, c = sin_octant(x), cos_octant(x)
    swap = (quarter & 1) != 0
    cosine, sine = tl.where(swap, s, c), tl.where(swap, c, s)
    cosine = tl.where(((quarter + 1) & 2) != 0, -cosine, cosine)
    sine = tl.where((quarter & 2) != 0, -sine, sine)
    return cosine, sine


@triton.jit
def normal_pair(word_a, word_b):
    u = uniform24(word_a).to(tl.float32) * UNIT24
    r = tl.sqrt(-2.0 * log_positive(u))
    cosine, sine = cos_sin_turn(uniform24(word_b))
    return r * cosine, r * sine


@triton.jit
def cauchy(word):
    d = uniform24(word) - (1 << 23)
    size = tl.where(d < 0, -d, d)
    steep = size > (1 << 22)
    x = tl.where(steep, (1 << 23) - size, size).to(tl.float32) * (0.5 * TURN24)
    s, c = sin_octant(x), cos_octant(x)
    t = tl.where(steep, c, s) / tl.where(steep, s, c)
    return tl.where(d < 0, -t, t)


@triton.jit
def logistic(word):
    u = uniform24(word)
    return log_positive(u.to(tl.float32) / ((1 << 24) - u).to(tl.float32))


@triton.jit
def one_word(word, DISTRIBUTION: tl.constexpr, SCORE: tl.constexpr):
    """A draw, or its score, of a distribution that takes one word."""
    if SCORE:
        if DISTRIBUTION == CAUCHY:
            _, sine = cos_sin_turn(uniform24(word))
            value = -sine
        elif DISTRIBUTION == HYPERBOLIC:
            value = 2.0 * uniform11(word)
        else:
            value = uniform11(word)
    elif DISTRIBUTION == CAUCHY:
        value = cauchy(word)
    elif DISTRIBUTION == HYPERBOLIC:
        value = 0.5 * logistic(word)
    elif DISTRIBUTION == LOGISTIC:
        value = logistic(word)
    else:
        value = uniform11(word)
    return value


@triton.jit
def four_words(w0, w1, w2, w3, DISTRIBUTION: tl.constexpr, SCORE: tl.constexpr):
    """The four draws, or scores, of a group of a real-valued distribution."""
    if DISTRIBUTION == NORMAL:  # its own score
        a, b = normal_pair(w0, w1)
        c, d = normal_pair(w2, w3)
    else:
        a, b = one_word(w0, DISTRIBUTION, SCORE), one_word(w1, DISTRIBUTION, SCORE)
        c, d = one_word(w2, DISTRIBUTION, SCORE), one_word(w3, DISTRIBUTION, SCORE)
    return a, b, c, d
