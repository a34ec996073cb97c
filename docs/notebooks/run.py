"""Runs the notebooks beside it and writes what they print and draw into them; no Jupyter needed.

    python docs/notebooks/run.py            # all
    python docs/notebooks/run.py lime shap  # some

Code cells run in order, in one namespace. Kept are standard output and figures; not kept are
counts of execution, times of day, warnings and progress bars, so that a second run changes only
what has changed. A cell that fails ends the run, and its notebook stays as it was.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DPI = 72  # of a figure: small files, which are committed


def outputs_of(notebook: dict[str, Any], name: str) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Each code cell with what it printed and drew, in the notebook's own format.

    Args:
        notebook: as JSON has it.
        name: told in tracebacks.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        code = compile("".join(cell["source"]), f"{name}, cell {number}", "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        text = printed.getvalue().splitlines(keepends=True)
        found: list[Any] = [{"name": "stdout", "output_type": "stream", "text": text}]
        yield cell, (found if text else []) + list(figures())


def figures() -> Iterator[dict[str, Any]]:
    """The figures that are open, as outputs; they are closed."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        drawn = io.BytesIO()
        plt.figure(number).savefig(
            drawn, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None}
        )
        data = {
            "image/png": base64.b64encode(drawn.getvalue()).decode(),
            "text/plain": ["a figure"],
        }
        yield {"data": data, "metadata": {}, "output_type": "display_data"}
    plt.close("all")


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, or all."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    for path in sorted(HERE.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell, outputs in list(outputs_of(notebook, path.name)):
            cell["outputs"] = outputs
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {len(text) // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
