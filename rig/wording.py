"""Figures in lines and tables of the terminal, where the label of a figure (SIMULATED, ...) stands once beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rig.units import Quantity

BOUNDARIES = {
    "wall": "at the wall",
    "board_input": "board input",
    "module": "module input",
    "package": "processor package",
    "rail": "one rail",
}


def figure(data: Mapping[str, Any] | Quantity | None, unit: str) -> str:
    """A quantity (or its JSON form) with its interval, without its label; ``n/a`` where it is missing."""
    quantity = data if isinstance(data, Quantity) else Quantity.from_json(dict(data)) if data else None
    if quantity is None or quantity.value is None:
        return "n/a"
    kind = "predicted" if quantity.kind == "predicted" else "measured"
    return dataclasses.replace(quantity, kind=kind, basis=None).format(unit)


def label(kind: str, basis: str | None) -> str:
    """``MEASURED``, ``SIMULATED``, ``PREDICTED from SIMULATED``: what a reader must see beside the figures."""
    return Quantity(None, kind=kind, basis=basis).label


def boundary_words(boundary: str | None) -> str:
    """Where power is measured, in words."""
    return BOUNDARIES.get(boundary or "", "no power source")


def count(number: float | None, unit: str) -> str:
    """A large count with a prefix, ``41.2 MMAC``; without a unit every digit, ``271,098``."""
    if number is not None and unit in ("", "params"):
        return f"{number:,.0f} {unit}".strip()
    return "n/a" if number is None else Quantity(float(number)).format(unit)
