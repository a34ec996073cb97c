"""The two sides of a row are timed in turn in one run; the rows become one committed table."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad_kernels import native

RESULTS = Path(__file__).parent / "results" / "cpu.md"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


@dataclass
class Table:
    """Rows under headings, in the order in which they come."""

    sections: dict[str, list[str]] = field(default_factory=dict)

    def add(self, heading: str, columns: str, *cells: object) -> None:
        section = self.sections.setdefault(f"## {heading}", [])
        if not section:
            titles = columns.split("|")
            section += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
        section.append(f"| {' | '.join(map(str, cells))} |")

    def write(self) -> None:
        simd = native.module.simd_level() if native.module else "no native module"
        lines = [
            "# CPU benchmarks",
            "",
            "Made by `make bench`. Times are medians; the two sides of a row run in turn in one "
            "process, each round one of either. Ratios carry over to other machines better than "
            "times do.",
            "",
            f"{processor()}, {torch.get_num_threads()} threads, {simd}; torch "
            f"{torch.__version__}, Python {platform.python_version()}, fwdgrad "
            f"{fwdgrad.__version__}.",
        ]
        for heading, rows in self.sections.items():
            lines += ["", heading, "", *rows]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    table = Table()
    yield table
    # A part of the rows must not replace the committed table of all of them.
    if not request.session.testsfailed and not request.config.option.keyword:
        table.write()


@pytest.fixture
def compare(benchmark) -> Callable[..., tuple[float, float]]:  # type: ignore[no-untyped-def]
    """Median seconds of ours and of the other side, timed in turn."""

    def run(
        ours: Callable[[], object], other: Callable[[], object], rounds: int = 15
    ) -> tuple[float, float]:
        others = []

        def before_each_round() -> None:
            start = time.perf_counter()
            other()
            others.append(time.perf_counter() - start)

        ours()  # warm
        benchmark.pedantic(ours, setup=before_each_round, rounds=rounds, iterations=1)
        return benchmark.stats.stats.median, statistics.median(others)

    return run
