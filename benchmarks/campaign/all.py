"""Attacks the library: kills, changed bytes, mutated pictures, odd models, threads, op calls.

    python benchmarks/campaign/all.py [--quick] [PART ...]

Each part runs in a process of its own and counts what went wrong; any of it makes the exit status
1. With --quick a few of each are tried; else the table of results is written.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TABLE = FOLDER.parent / "results" / "campaign.md"
PARTS = {  # what is tried, how often, how often with --quick
    "kills": ("runs killed at a random moment and gone on with", 1000, 8),
    "flips": ("saved maps and checkpoints with changed bytes", 2300, 100),
    "pictures": ("mutated pictures", 1000, 60),
    "models": ("models that misbehave", 500, 60),
    "interrupts": ("runs interrupted at a random moment", 2000, 40),
    "threads": ("maps made by eight threads at once", 200, 16),
    "ops": ("random op calls", 10_000, 300),
}
BAD = ("wrong", "lost", "left_over", "crashed")  # counts that must be 0


def attack(part: str, count: int, seed: int) -> dict[str, Any]:
    """A part's figures, from a process of its own."""
    line = [sys.executable, __file__, "--child", part, str(count), str(seed)]
    started = time.perf_counter()
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    figures: dict[str, Any] = {"crashed": 1}
    if done.returncode == 0:
        figures = json.loads(done.stdout.splitlines()[-1])
    return {**figures, "seconds": round(time.perf_counter() - started)}


def child(part: str, count: int, seed: int) -> None:
    """Runs a part, and prints its figures with the most memory that its process had."""
    sys.path.insert(0, str(FOLDER))
    figures = importlib.import_module(part).run(count, seed)

    from fwdgrad.runner.memory import process_memory

    peak = round(process_memory("VmHWM") / 2**20)
    print(json.dumps({"peak_mib": peak, **figures}))


def bad(figures: dict[str, Any]) -> int:
    """How much of it went wrong."""
    return sum(int(figures.get(name, 0)) for name in BAD)


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a page."""
    import torch
    from conftest import processor

    import fwdgrad
    from fwdgrad_kernels import native

    level = native.module.simd_level() if native.module is not None else "no compiled kernels"
    rows = []
    for part, figures in results.items():
        known = {"tried", "seconds", "peak_mib", *BAD}
        rest = ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in figures.items()
            if name not in known
        )
        counts = [str(figures.get(name, "")) for name in ("tried", *BAD, "peak_mib", "seconds")]
        rows.append(f"| {part}: {PARTS[part][0]} | {' | '.join(counts)} | {rest} |")
    return "\n".join(
        [
            "# Attacks",
            "",
            "Made by `make campaign`, whose exit status says whether a count of what went wrong is "
            "above 0. Lost: calls that a run repeats beyond a second of them; left over: files, "
            "locks, hooks or noise that a run leaves behind; the peak is that of the process.",
            "",
            f"{processor()}, {torch.get_num_threads()} threads, {level}; torch "
            f"{torch.__version__}, Python {platform.python_version()}, fwdgrad "
            f"{fwdgrad.__version__}.",
            "",
            "| attack | tried | wrong | lost | left over | crashed | peak, MiB | seconds | also |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Runs what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a few of each; writes nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"PART must be one of {', '.join(PARTS)}, got {', '.join(unknown)}")
    results = {}
    for part in options.parts or PARTS:
        count = PARTS[part][2 if options.quick else 1]
        results[part] = attack(part, count, options.seed)
        print(f"{part:<12} {results[part]}", flush=True)
    if not options.quick and not options.parts:
        sys.path.insert(0, str(FOLDER.parent))
        TABLE.write_text(table(results), encoding="utf-8")
    return int(any(bad(figures) for figures in results.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main())
