"""Tables of a study's README: Markdown, means over seeds with their intervals, and the part that the script writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NOT_MEASURED = "**Not measured yet.** There are no results; nothing is claimed.\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_behind(mark: str, folder: Path, tables: str) -> None:
    """Put the tables behind the mark in the folder's README.md, in place of what is there."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8").split(mark)[0]
    path.write_text(f"{text}{mark}\n\n{tables}", encoding="utf-8")


def mean_interval(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean with the 95 % interval of Student's t; no interval from one value, None from none."""
    from scipy import stats

    n = len(values)
    if n == 0:
        return None
    middle = float(np.mean(values))
    if n == 1:
        return {"value": middle, "lo": None, "hi": None, "n": 1}
    half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return {"value": middle, "lo": middle - half, "hi": middle + half, "n": n}


def with_interval(found: dict[str, Any] | None, places: int, scale: float = 1.0, sign: bool = False) -> str:
    """``+0.12 [−0.05, +0.29]``; the value alone without an interval, a dash without a value."""
    if found is None:
        return "–"
    form = f"{'+' if sign else ''}.{places}f"
    text = f"{scale * found['value']:{form}}"
    if found["lo"] is None:
        return text
    return f"{text} [{scale * found['lo']:{form}}, {scale * found['hi']:{form}}]"
