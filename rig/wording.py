"""Figures in lines and tables of the terminal, where the label of a figure (SIMULATED, ...) stands once beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
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


def removal_words(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each stage of training in which dead channels left the network, or should have."""
    found = []
    for stage in stages:
        cuts = [cut for cut in stage.get("removals") or [] if "parameters_after" in cut]
        left_in = len(stage.get("removals") or []) - len(cuts)
        if cuts:
            before, after = (f"{n:,}" for n in (cuts[0]["parameters_before"], cuts[-1]["parameters_after"]))
            times = "once" if len(cuts) == 1 else f"{len(cuts)} times"
            found.append(
                f"{stage['name']}: dead channels left {times} while it was trained, {before} → {after} parameters"
            )
            epochs = [epoch["time_s"] for epoch in stage.get("epochs") or []]
            if len(epochs) > 1:
                found[-1] += f"; its first epoch took {epochs[0]:.3g} s, its last {epochs[-1]:.3g} s"
        if left_in:
            found.append(
                f"{stage['name']}: {left_in} removals would have changed the network's answers and were undone"
            )
    return found


def scale_words(layers: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each way in which layers without batch-norm shrank."""
    ways = {"gates": "by gates, folded into them", "filters": "by the norms of their filters (group lasso)"}
    found = []
    for kind, way in ways.items():
        names = [str(layer["name"]) for layer in layers if layer.get("shrunk_by") == kind]
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            found.append(f"without batch-norm, shrunk {way}: {', '.join(names[:8])}{more}")
    return found
