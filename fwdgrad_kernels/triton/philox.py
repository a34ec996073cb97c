"""Philox4x32-10, the twin of csrc/include/fwdgrad/philox.h.

All words are uint32: ``tl.philox`` itself would turn into Philox4x64 where a counter word is
64 bits wide, and takes a seed whose sign it extends.
"""

import triton
import triton.language as tl

PLACEMENT = tl.constexpr(1)
HADAMARD_ORDER = tl.constexpr(3)
HADAMARD_SIGNS = tl.constexpr(4)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Four counter words and two key words, uint32, to four random words."""
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, tl.full(c0.shape, 0xD2511F53, tl.uint32))
        low0 = c0 * tl.full(c0.shape, 0xD2511F53, tl.uint32)
        high1 = tl.umulhi(c2, tl.full(c2.shape, 0xCD9E8D57, tl.uint32))
        low1 = c2 * tl.full(c2.shape, 0xCD9E8D57, tl.uint32)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 += tl.full(k0.shape, 0x9E3779B9, tl.uint32)
        k1 += tl.full(k1.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def words_of(group, stream, sample, k0, k1):
    """The words of groups of draws: counter (group, stream, sample low, sample high).

    group, k0 and k1 are uint32 and sample is int64; tensors or scalars that broadcast together.
    """
    low = (sample & 0xFFFFFFFF).to(tl.uint32)
    high = ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32)
    zero = (group ^ group) + (low ^ low)
    return philox(
        zero + group,
        zero + tl.cast(stream, tl.uint32),
        zero + low,
        zero + high,
        zero + k0,
        zero + k1,
    )
