"""One white-box SmoothGrad in a process of its own; prints its peak memory, as JSON.

Peak memory is what the process used above what it used after one plain gradient.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from memory import status

import fwdgrad
from fwdgrad.adapters.images import efficientnet_lite0


def main() -> None:
    which, batch, copies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = efficientnet_lite0().forward
    x = torch.rand(3, 224, 224)
    fwdgrad.explain(model, x, method="gradient", target=0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if which == "ours":
        fwdgrad.explain(
            model, x, method="smoothgrad", target=0, sigma=0.1, queries=copies, batch_size=batch
        )
    else:
        from captum.attr import NoiseTunnel, Saliency

        NoiseTunnel(Saliency(model)).attribute(
            x[None], nt_samples=copies, nt_samples_batch_size=batch or None, stdevs=0.1, target=0,
            abs=False,
        )  # fmt: skip
    print(json.dumps({"peak": status("VmHWM") - before}))


if __name__ == "__main__":
    main()
