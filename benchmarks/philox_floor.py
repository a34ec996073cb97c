"""A kernel that makes Philox blocks and does nothing with them: the floor under any draw."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.philox import words_of


@triton.jit
def philox_floor(out, calls, first, SIZE: tl.constexpr):
    """Each element xors the words of ``calls`` blocks of its own."""
    group = (tl.program_id(0) * SIZE + tl.arange(0, SIZE)).to(tl.uint32)
    kept = group ^ group
    key = tl.cast(first, tl.uint32)
    for i in range(calls):
        a, b, c, d = words_of(group, 0, tl.cast(first + i, tl.int64), key, key)
        kept = kept ^ a ^ b ^ c ^ d
    tl.store(out + tl.program_id(0) * SIZE + tl.arange(0, SIZE), kept.to(tl.int32, bitcast=True))
