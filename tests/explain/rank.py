"""What each rank of ``test_ranks`` does: ``python -m explain.rank RANK RANKS FOLDER``.

It prints what it found as JSON. Its last check ends rank 1 in the middle of a call.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import fwdgrad
from fwdgrad import Coalitions, ForwardGradient, Regions

from .models import Recorder, X, exact

PHOTO = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
RUN = {"n_samples": 48, "batch_size": 4, "objective": "output", "method": ForwardGradient(0.5)}
RUNS = {
    "regions": (PHOTO, RUN | {"method": Regions("grey", cell=8)}),
    "pairs": (X, RUN),
    "coalitions": (
        X,
        RUN
        | {"method": Coalitions(baseline=0.0), "features": torch.arange(48).view(X.shape) // 8}
        | {"n_samples": None},
    ),
    "until it is sure": (
        PHOTO,
        RUN | {"method": Regions("grey"), "n_samples": "auto", "reliability": 0.99},
    ),
    "one at a time": (X, RUN | {"batch_size": 1}),
    "a size of its own": (X, RUN | {"batch_size": None}),
}


def slow(batch):
    """(batch, 3): scores that do not depend on their batch, after a while."""
    time.sleep(0.002 * len(batch))
    return exact(batch[..., :4, :6] if batch.shape[-1] == 32 else batch)


def bits(found):
    """What an explanation has, as JSON keeps it to the bit."""
    tensors = [one.flatten().tolist() for one in (found.attribution, found.standard_error)]
    return [*tensors, found.reliability, found.score, found.target, found.n_samples]


class Rank:
    """A rank of several, and what it found.

    Args:
        rank: its number.
        folder: of the checkpoints.
    """

    def __init__(self, rank, folder):
        self.rank, self.folder, self.found = rank, folder, {}

    def explain(self, model=slow, x=X, target=0, **options):
        return fwdgrad.explain(model, x, target, **{"group": dist.group.WORLD, **RUN, **options})

    def keep(self, name, call):
        """Keeps what a call returns, or its error."""
        try:
            self.found[name] = call()
        except (Exception, KeyboardInterrupt) as error:
            self.found[name] = [type(error).__name__, str(error)]
        dist.barrier()

    def check(self):
        """All that ranks live through."""
        for name, (x, run) in RUNS.items():
            model = Recorder(slow)
            self.keep(name, lambda: [bits(e) for e in self.explain(model, x, [0, 1], **run)])  # noqa: B023
            self.found[f"{name}: asked"] = sum(model.asked) - 1
        looks = []
        self.keep(
            "watched", lambda: bits(self.explain(on_look=lambda e: looks.append(e.n_samples)))
        )
        self.found["looks"] = looks
        self.differ()
        self.refuse()
        self.fail()

    def differ(self):
        """Ranks that have not the same."""
        of = self.rank
        asked = Recorder(slow)
        layer = torch.nn.Linear(48, 2, bias=False, dtype=torch.float64)
        layer.weight.data.fill_(float(of == 2))
        layered = Recorder(lambda batch: layer(batch.flatten(1).double()))
        self.keep("seed", lambda: self.explain(asked, seed=7 if of == 2 else 0))
        self.keep("input", lambda: self.explain(asked, X + (of == 1)))
        self.keep("size", lambda: self.explain(asked, batch_size=4 + of))
        self.keep("method", lambda: self.explain(asked, method=ForwardGradient(0.5 + of)))
        self.keep("model", lambda: self.explain(layered))
        self.found["asked"] = sum(asked.asked) + sum(layered.asked)
        self.keep("output", lambda: self.explain(lambda batch: exact(batch) * (1 + (of == 1))))

    def refuse(self):
        """What cannot be done."""
        self.keep("gradient", lambda: self.explain(method="smoothgrad"))
        self.keep("workers", lambda: self.explain(workers=2))
        self.keep("memory", lambda: self.explain(memory="1GiB", batch_size=None))
        self.keep("one's argument", lambda: self.explain(seed=-1 if self.rank == 1 else 0))
        self.keep("group", lambda: self.explain(group="world"))
        self.keep("alone", lambda: bits(self.explain(group=None)))

    def at(self, rank, call, what):
        """A model that does something at a call of a rank; call 0 is on the input."""

        def before(recorder, batch):
            if self.rank == rank and len(recorder.asked) == call + 1:
                what()

        return Recorder(slow, before)

    def fail(self):
        """Ranks whose model fails, that are interrupted, and one that ends."""

        def bad():
            raise ValueError("too high")

        def ended_by(number):
            return lambda: os.kill(os.getpid(), number)

        def run(name, model, file=None, **options):
            path = self.folder / f"{file or name}.safetensors"
            # Others have a path that is of no use: rank 0 alone has the checkpoint.
            path = path if self.rank == 0 else "/nowhere/checkpoint"
            self.keep(name, lambda: bits(self.explain(model, checkpoint=path, **options)))

        run("rank 1 fails", self.at(1, 3, bad))
        run("rank 0 fails", self.at(0, 3, bad))
        run("at the input", self.at(2, 0, bad))
        run("rank 2 interrupted", self.at(2, 3, ended_by(signal.SIGINT)))
        run("rank 0 interrupted", self.at(0, 3, ended_by(signal.SIGTERM)))
        run("of another run", slow, "rank 1 fails", seed=1)
        model = Recorder(slow)
        run("goes on", model, "rank 0 fails")
        self.found["goes on: asked"] = sum(model.asked) - 1
        print(json.dumps(self.found), flush=True)
        started = time.monotonic()
        try:
            self.explain(
                self.at(1, 3, lambda: os._exit(3)), checkpoint=self.folder / "ended.safetensors"
            )
        except fwdgrad.ModelError as error:
            print(json.dumps([time.monotonic() - started, str(error)]), flush=True)


if __name__ == "__main__":
    number, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'init'}", rank=number, world_size=count
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Rank(number, folder).check()
