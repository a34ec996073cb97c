"""What the tests run in a process of its own, to kill it or to measure its memory."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from fwdgrad.runner import checkpoint as checkpoints

from .models import X, exact, forward_gradient

RUN = {"n_samples": 400, "scale": 0.3, "batch_size": 4, "seed": 3}


def command(task, *arguments):
    """The command line and environment of a task."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-m", "explain.worker", task, *map(str, arguments)]
    return line, {**os.environ, "PYTHONPATH": path}


def result_of(task, *arguments):
    """Runs a task to its end; what it printed as JSON."""
    line, environment = command(task, *arguments)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def slow(log, checkpoint, save_every):
    """A run that takes its time and logs a byte per sample; see ``RUN``."""
    # A shell starts background jobs with SIGINT ignored, and Python then leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    checkpoints.SAVE_EVERY_SECONDS = float(save_every)
    checkpoints.SAVE_SHARE = math.inf

    def model(batch):
        time.sleep(0.02)
        if len(batch) > 1:  # not the input itself
            with open(log, "ab") as file:
                file.write(b"." * len(batch))
        return exact(batch)

    forward_gradient(model, X, target=1, checkpoint=checkpoint, **RUN)


def status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


class Peak:
    """The most memory since it was made, above what was in use then."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")
        self.start = status("VmRSS")

    def read(self):
        return status("VmHWM") - self.start


def peak_of_samples(count):
    """The most bytes in use in a run of so many samples of a photo-sized input."""
    x = torch.zeros(3, 224, 224)
    options = {"scale": 0.1, "distribution": "rademacher", "antithetic": False, "batch_size": 32}
    forward_gradient(points, x, target=0, n_samples=int(count), **options)
    print(json.dumps(status("VmHWM")))


def points(batch):
    """Looks at 48 elements that lie far apart."""
    return exact(batch.flatten(1)[:, :: batch[0].numel() // 48])


def budget(memory, own_samples, output):
    """A run inside a budget: sizes of the batches, and the peak above what was there before."""
    x = torch.linspace(0, 1, 3 * 512 * 512).view(3, 512, 512)
    sizes = []

    def model(batch):
        sizes.append(len(batch))
        own = batch.new_empty((int(own_samples), *batch.shape)).fill_(1.0)
        return points(batch) * own[0, 0, 0, 0, 0]

    options = {"target": 1, "scale": 0.1, "distribution": "rademacher"}
    forward_gradient(model, x[:, :64, :64], batch_size=2, n_samples=4, **options)
    sizes.clear()
    peak = Peak()
    forward_gradient(model, x, memory=memory, n_samples=192, **options).save(output)
    print(json.dumps([sizes[1:], peak.read()]))


def photos(size, *paths):
    """Bytes at the most that reading a photo takes, for each of them."""
    from fwdgrad.adapters.photos import load_photo

    load_photo(paths[0], int(size))  # what Pillow and NumPy take once
    peaks = []
    for path in paths:
        peak = Peak()
        load_photo(path, int(size))
        peaks.append(peak.read())
    print(json.dumps(peaks))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
