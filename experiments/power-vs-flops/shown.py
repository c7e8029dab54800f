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
    if found is None or (isinstance(found, dict) and found["value"] is None):
        return "–"
    if not isinstance(found, dict):
        return f"{scale * found:.{places}f}{unit}"
    text = f"{scale * found['value']:.{places}f}{unit}"
    if found["lo"] is None:
        return text
    return f"{text} [{scale * found['lo']:.{places}f}, {scale * found['hi']:.{places}f}]"


def _alone(write: Callable[[float], str]) -> Callable[[Any], str]:
    """A format of the value without its interval; a dash where there is none."""

    def shown(found: Any) -> str:
        value = found["value"] if isinstance(found, dict) else found
        return "–" if value is None else write(float(value))

    return shown


FORMATS: dict[str, Callable[[Any], str]] = {
    "pct": lambda v: with_interval(v, 100.0, 1, " %"),
    "share": lambda v: with_interval(v, 100.0, 0, " %"),
    "rank": lambda v: with_interval(v, 1.0, 2, ""),
    "rank3": lambda v: with_interval(v, 1.0, 3, ""),
    "times": lambda v: with_interval(v, 1.0, 2, "×"),
    "pctv": _alone(lambda v: f"{100 * v:.1f} %"),
    "sharev": _alone(lambda v: f"{100 * v:.0f} %"),
    "rankv": _alone(lambda v: f"{v:.2f}"),
    "timesv": _alone(lambda v: f"{v:.2f}×"),
    "num": _alone(lambda v: number(v, 2)),
    "num3": _alone(lambda v: number(v, 3)),
    "whole": _alone(lambda v: f"{v:,.0f}"),
    "giga": _alone(lambda v: number(v / 1e3, 3)),
    "signed": _alone(lambda v: f"{100 * v:+.1f} %"),
    "text": str,
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
