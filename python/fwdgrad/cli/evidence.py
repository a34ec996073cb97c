"""What is enough, at the end of fwdgrad explain."""

from __future__ import annotations

import argparse
from typing import Any

from fwdgrad.enough import evidence
from fwdgrad.errors import Message, ModelError, warn
from fwdgrad.explanation import Explanation
from fwdgrad.found import Evidence


def evidence_of(arguments: argparse.Namespace, model: Any, result: Any) -> Evidence | None:
    """What is enough of an explained input; its provenance has it from then on.

    A model that fails now has a map already, which is not lost for it.

    Args:
        arguments: of the command line.
        model: that was explained.
        result: what ``explain`` returned.

    Returns:
        None with --no-evidence, and where it cannot be told, of which a warning tells why.
    """
    if arguments.no_evidence:
        return None
    try:
        found = evidence(model, result)
    except (ModelError, TypeError, ValueError) as error:
        warn(Message("what is enough cannot be told: ", error))
        return None
    e = result if isinstance(result, Explanation) else result.explanation
    e.provenance["evidence"] = found.to_dict()
    return found


def line_of(found: Evidence) -> str:
    """What is printed of it."""
    return f"evidence     {found} ({found.calls} forward calls)"


def legend_of(found: Evidence) -> str:
    """What the borders in a picture mean."""
    enough, _, missing = str(found).partition("; ")
    lines = [f"solid line: {enough}"] * (found.enough is not None)
    lines += [f"dashed line: {missing}"] * (found.missing is not None)
    return "\n".join(lines)
