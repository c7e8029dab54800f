"""How figures are written in the README: digits, units, intervals; and Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


class MissingFigure(ValueError):
    """The results lack a figure that the README shows."""


def number(value: float, digits: int = 2) -> str:
    """``digits`` significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"


def with_interval(found: Any, scale: float, places: int, unit: str) -> str:
    """``17.6 % [14.1, 21.3]``; the value alone where there is no interval."""
    if not isinstance(found, dict):
        return f"{scale * found:.{places}f}{unit}"
    if found["value"] is None:
        return "–"
    text = f"{scale * found['value']:.{places}f}{unit}"
    if found["lo"] is None:
        return text
    return f"{text} [{scale * found['lo']:.{places}f}, {scale * found['hi']:.{places}f}]"


def _alone(found: Any) -> float:
    return float(found["value"] if isinstance(found, dict) else found)


FORMATS: dict[str, Callable[[Any], str]] = {
    "pct": lambda v: with_interval(v, 100.0, 1, " %"),
    "share": lambda v: with_interval(v, 100.0, 0, " %"),
    "pctv": lambda v: f"{100 * _alone(v):.1f} %",
    "sharev": lambda v: f"{100 * _alone(v):.0f} %",
    "rank": lambda v: with_interval(v, 1.0, 2, ""),
    "rankv": lambda v: f"{_alone(v):.2f}",
    "rank3": lambda v: with_interval(v, 1.0, 3, ""),
    "times": lambda v: with_interval(v, 1.0, 2, "×"),
    "timesv": lambda v: f"{_alone(v):.2f}×",
    "num": lambda v: number(_alone(v), 2),
    "num3": lambda v: number(_alone(v), 3),
    "whole": lambda v: f"{_alone(v):,.0f}",
    "giga": lambda v: number(_alone(v) / 1e3, 3),
    "signed": lambda v: f"{100 * _alone(v):+.1f} %",
    "text": str,
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
