"""What calls of the ops ask Triton to compile, where no GPU need be: with TRITON_INTERPRET=0.

Triton makes the signature and the key of each launch as it would on a GPU, from the arguments and
the target; a hook of its own keeps them, and lets nothing compile or run.
"""

import triton
from triton.backends.compiler import GPUTarget

from fwdgrad_kernels import triton as backend


class _NoGPU:
    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def listen(target):
    """Tensors on the CPU count as a GPU's from here on.

    Returns:
        (kernel's name, key) to (kernel, signature, constants, attributes) of what launches ask for;
        it fills as they do. A launch whose key is there would not compile anew.
    """
    asked = {}

    def keep(*, key, fn, compile, **_):
        found = fn.jit_function, compile["signature"], compile["constants"], compile["configs"][0]
        asked[fn.name, key] = found
        return True

    backend.missing = lambda device=None: ""
    backend.serves = lambda device: True
    triton.runtime.driver.set_active(_NoGPU(target))
    triton.knobs.runtime.jit_cache_hook = keep
    return asked


def target_of(name):
    """Of "cuda:90", say."""
    kind, arch = name.split(":")
    return GPUTarget(kind, int(arch) if arch.isdigit() else arch, 32 if kind == "cuda" else 64)
