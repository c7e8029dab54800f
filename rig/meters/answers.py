"""What an instrument or a log line says, as a number: or the reason why it is none. Never zero for "nothing"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# SCPI-1999, volume 1, 7.2.1.4 and 7.2.1.5: 9.91E37 stands for "not a number", ±9.9E37 for infinity.
SCPI_NAN = 9.91e37
SCPI_LARGEST = 9.8e37

# Narrower than float(), which takes "1_000" and digits of every script.
_NUMBER = re.compile(r"[+-]?(nan|inf(inity)?|(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)", re.ASCII | re.IGNORECASE)

NEGATIVE_ROOM_W = 0.02  # what the zero of a meter with nothing attached may be below zero


class BadAnswer(ValueError):
    """What is wrong with an answer; the caller says whose it was and what to do."""


def number(text: str) -> float:
    """A plain number. Raises BadAnswer for text, "not a number" and overload, said as IEEE 754 or SCPI have it."""
    said = text.strip()
    if not _NUMBER.fullmatch(said):
        raise BadAnswer(f"{_shown(text)} is no number")
    value = float(said)
    if math.isnan(value) or value == SCPI_NAN:
        raise BadAnswer(f"{_shown(text)} means that there is no reading (SCPI: not a number)")
    if math.isinf(value) or abs(value) >= SCPI_LARGEST:
        raise BadAnswer(f"{_shown(text)} means overload (SCPI: infinity)")
    return value


def fields_of(text: str, separator: str, pattern: str | None = None) -> list[str]:
    """The fields of an answer: the groups of ``pattern`` where there is one, else the parts between separators."""
    if pattern is None:
        return [part.strip() for part in text.strip().split(separator)]
    found = re.search(pattern, text)
    if found is None:
        raise BadAnswer(f"{_shown(text)} does not match {pattern!r}")
    return [(group or "").strip() for group in (found.groups() or (found.group(0),))]


def pick(fields: Sequence[str], position: int) -> str:
    """Field number ``position``, counted from 1."""
    if position > len(fields):
        raise BadAnswer(f"{_shown(','.join(fields))} has {len(fields)} field(s), field {position} is wanted")
    return fields[position - 1]


def power_w(fields: Sequence[str], positions: Sequence[int], unit_w: float, step_w: float = 0.0) -> float:
    """The product of the fields at ``positions``, in watts. Raises BadAnswer for a negative power as for no number."""
    watts = unit_w * math.prod(number(pick(fields, position)) for position in positions)
    if not math.isfinite(watts):
        raise BadAnswer(f"{_shown(','.join(fields))} is more than a power can be")
    if watts < -max(step_w, NEGATIVE_ROOM_W):
        raise BadAnswer(f"{watts:.6g} W is negative: the current leads are swapped, or a board feeds back")
    return watts


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
