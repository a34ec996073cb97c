"""Many photos by the command line: one process against two, and a second photo against the first.

    python benchmarks/many.py workers    # 100 photos of 128 samples: one process, two, in turn
    python benchmarks/many.py second     # what a photo after the first takes beside the model

On a machine with nothing else to do. Photos are cuts of scikit-image's.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import data
from PIL import Image

SAMPLES = 128


def write_photos(folder: Path, count: int) -> None:
    """Writes so many different cuts of the photos, 256 x 256."""
    folder.mkdir()
    names = itertools.cycle(data.photos().items())
    for number in range(count):
        name, photo = next(names)
        pixels = (photo.x.permute(1, 2, 0) * 255).round().byte().numpy()
        cut = Image.fromarray(pixels).rotate(number % 7, resample=Image.Resampling.BICUBIC)
        cut.resize((256, 256)).save(folder / f"{number:03}-{name}.jpg", quality=95)


def timed(photos: list[Path], output: Path, samples: int, *options: str) -> float:
    """Seconds of wall that the command takes."""
    command = [sys.executable, "-m", "fwdgrad", "explain", *map(str, photos)]
    command += ["--samples", str(samples), "--output", str(output), "--no-progress", *options]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def workers(folder: Path, count: int, rounds: int) -> None:
    """Two processes of a thread each against one of a thread, and of two threads, in turn."""
    photos = sorted((folder / "photos").iterdir())[:count]
    ways = {
        "two processes": ("--threads", "1", "--workers", "2"),
        "one process, one thread": ("--threads", "1"),
        "one process, two threads": ("--threads", "2"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for place, (way, options) in enumerate(ways.items()):
            output = folder / f"maps-{place}-{turn}"
            seconds[way].append(timed(photos, output, SAMPLES, *options))
            print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
    two = seconds["two processes"]
    print(f"{count} photos, {SAMPLES} samples, medians of {rounds}:")
    for way, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, two, strict=True))
        print(f"{way}: {statistics.median(found):.1f} s, {ratio:.2f} of two processes' time")


def second(folder: Path, rounds: int, samples: int) -> None:
    """What one more photo takes, and how much of it is the model's calls: by differences."""
    photos = sorted((folder / "photos").iterdir())
    for engine in ("torch", "onnxruntime"):
        shares = []
        for turn in range(rounds):
            # One more photo costs a m + b for m samples: twice the samples tell the model's a.
            cost = {}
            for many in (samples, 2 * samples):
                few, more = (
                    timed(photos[:n], folder / f"s-{engine}-{turn}-{many}-{n}", many,
                          "--engine", engine) for n in (2, 6)
                )  # fmt: skip
                cost[many] = (more - few) / 4
            model = cost[2 * samples] - cost[samples]
            shares.append(cost[samples] / model)
            print(f"{engine}: one more photo {cost[samples]:.2f} s, {samples} samples of it "
                  f"{model:.2f} s: {shares[-1]:.3f}", flush=True)  # fmt: skip
        print(f"{engine}: {statistics.median(shares):.3f}, the median of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("workers", "second"))
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1024)
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", arguments.photos)
        if arguments.what == "workers":
            workers(folder, arguments.photos, arguments.rounds)
        else:
            second(folder, arguments.rounds, arguments.samples)


if __name__ == "__main__":
    main()
