"""The Triton twins of csrc/include/fwdgrad: philox, laws, draws, and a file per op.

Import this package only where Triton is installed; ``fwdgrad_kernels.ops`` does so when the
backend is asked for.
"""
