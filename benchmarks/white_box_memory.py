"""One white-box SmoothGrad in a process of its own; prints its peak memory, as JSON.

Peak memory is what the process used above what it used after one plain gradient.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import torch
from memory import status

import fwdgrad
from fwdgrad.adapters.images import efficientnet_lite0


def main() -> None:
    which, batch, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = efficientnet_lite0().forward
    x = torch.rand(3, 224, 224)
    run = functools.partial(fwdgrad.explain, model, x, target=0, objective="output")
    run(method="gradient")
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if which == "ours":
        run(method=fwdgrad.SmoothGrad(scale=0.1), n_samples=samples, batch_size=batch)
    else:
        from captum.attr import NoiseTunnel, Saliency

        NoiseTunnel(Saliency(model)).attribute(
            x[None], nt_samples=samples, nt_samples_batch_size=batch or None, stdevs=0.1, target=0,
            abs=False,
        )  # fmt: skip
    print(json.dumps({"peak": status("VmHWM") - before}))


if __name__ == "__main__":
    main()
