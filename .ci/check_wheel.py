"""What must hold of an installed wheel, before its tests: the kernels load, as fast as they can be.

python .ci/check_wheel.py    # outside of the checkout, so that no source is imported
"""

import platform
import sys
from pathlib import Path

import fwdgrad
import fwdgrad_kernels

for package in (fwdgrad, fwdgrad_kernels):
    folder = Path(package.__file__).parent
    print(package.__name__, fwdgrad.__version__, folder)
    assert Path(__file__).parents[1] not in folder.parents, "the source tree is imported"
    assert (folder / "py.typed").exists()
state = fwdgrad_kernels.backend_states()["cpu"]
print(state)
assert state.startswith("ready: "), state
# Levels that are chosen at run time need GCC 12 or newer, which manylinux_2_28 has.
if sys.platform == "linux" and platform.machine() == "x86_64":
    assert "x86-64" in state, state
if sys.platform != "darwin":
    assert "OpenMP" in state, state
