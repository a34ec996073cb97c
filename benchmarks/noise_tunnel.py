"""Peak memory and time of NoiseTunnel, ours and Captum's with the same micro-batch.

    python benchmarks/noise_tunnel.py [--rounds 3] [--threads 1]

128 samples, with ``nt_samples_batch_size`` the same for both; each run is a process of its own, and
the two take turns. Memory is the most that was resident above what was before the call, after a
call of two samples, in runs whose allocator gives blocks back (else it varies by a tenth). Beside
the time on the clock stands that of the processor, which says more on a machine with other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

SAMPLES = 128
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).eval(), torch.rand(1, 3, 224, 224)


def efficientnet() -> tuple[nn.Module, torch.Tensor]:
    from fwdgrad.adapters.images import efficientnet_lite0

    forward = efficientnet_lite0().forward
    module = forward if isinstance(forward, nn.Module) else forward.__self__
    torch.manual_seed(0)
    return module.requires_grad_(), torch.rand(1, 3, 224, 224)  # as a module is by default


def perceptron() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(4096, 256), nn.Tanh(), nn.Linear(256, 10)]
    return nn.Sequential(*layers).eval(), torch.rand(16, 4096)


MODELS = {f.__name__: f for f in (convolutions, efficientnet, perceptron)}
CASES = [
    ("convolutions", "Saliency", "smoothgrad", 16),
    ("convolutions", "Saliency", "vargrad", 16),
    ("efficientnet", "Saliency", "smoothgrad", 16),
    ("perceptron", "InputXGradient", "smoothgrad_sq", 16),
]


def one(
    model: str, method: str, kind: str, batch: int, ours: bool, threads: int
) -> dict[str, float]:
    """Seconds and peak bytes of one run, in this process."""
    import captum.attr

    from fwdgrad.integrations.captum_noise_tunnel import NoiseTunnel
    from fwdgrad.runner.memory import _Meter

    torch.set_num_threads(threads)
    module, x = MODELS[model]()
    tunnel_of: Callable = NoiseTunnel if ours else captum.attr.NoiseTunnel
    tunnel = tunnel_of(getattr(captum.attr, method)(module))
    options = {"nt_type": kind, "stdevs": 0.1, "target": 1}
    tunnel.attribute(x, nt_samples=2, **options)
    meter = _Meter(x.device)
    started, busy = time.perf_counter(), time.process_time()
    tunnel.attribute(x, nt_samples=SAMPLES, nt_samples_batch_size=batch, **options)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return {"seconds": seconds, "processor": busy, "bytes": meter.peak()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", type=json.loads)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one)))
        return
    for case in CASES:
        found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for _ in range(given.rounds):
            for ours in (True, False):
                command = [
                    sys.executable,
                    __file__,
                    "--one",
                    json.dumps([*case, ours, given.threads]),
                ]
                both = {}
                for setting, names in (({}, ("seconds", "processor")), (GIVING_BACK, ("bytes",))):
                    run = subprocess.run(
                        command,
                        check=True,
                        capture_output=True,
                        text=True,
                        env=os.environ | setting,
                    )
                    told = json.loads(run.stdout.splitlines()[-1])
                    both |= {name: told[name] for name in names}
                found[ours].append(both)
        text = []
        for name, unit in (("bytes", 2**20), ("seconds", 1), ("processor", 1)):
            a, b = (statistics.median(r[name] for r in found[ours]) for ours in (True, False))
            each = statistics.median(
                r[name] / s[name] for r, s in zip(found[True], found[False], strict=True)
            )
            text.append(f"{name}: {a / unit:.3g} / {b / unit:.3g} (median ratio {each:.3f})")
        print(*case, *text, sep="  ", flush=True)


if __name__ == "__main__":
    main()
