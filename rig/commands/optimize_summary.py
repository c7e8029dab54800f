"""What ``rig optimize`` prints: targets, rounds, the verdict, before against after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rig.units import Quantity
from rig.wording import boundary_words, count, figure, label, removal_words, scale_words

if TYPE_CHECKING:
    from rig.console import Console

# Of the budget used, measured in turns with the baseline, so that the meter's gain error cancels in a relative target.
VERDICTS = {
    "met": "MET: the whole interval is under 100 %",
    "missed": "MISSED: the whole interval is over 100 %",
    "undecided": "UNDECIDED: the interval straddles 100 %",
}
COUNTED = ("FLOP", "params")

# (heading, key of a network, unit) of the quantities before and after
COMPARED = (
    ("power", "power_w", "W"),
    ("quiet power", "idle_power_w", "W"),
    ("energy above quiet", "energy_active_j", "J"),
    ("energy in all", "energy_j", "J"),
    ("latency", "latency_s", "s"),
    ("test accuracy", "accuracy_test", "%"),
)


def show(result: Mapping[str, Any], console: Console) -> None:
    """The whole summary; figures that are missing are left out or n/a, never zero."""
    mark = label(result["kind"], result["basis"])
    for bound in result["budget"]:
        console.line(f"Target    {target_words(bound)}{_reachable(result, bound)}")
    console.line(f"Figures   {mark}, {boundary_words(result['device']['boundary'])}; intervals are 95 %")
    console.line()
    _rounds(result, console)
    console.line()
    used = figure(result["budget_used"], "%")
    console.line(f"{used} of the budget used, by a fresh measurement. {VERDICTS[result['verdict']]}")
    _compared(result, console)


def points(change: Mapping[str, Any]) -> str:
    """A change of accuracy in percentage points: ``-1.4 ± 0.4 points``."""
    return figure(Quantity.from_json(dict(change)).scaled(100.0), "points")


def target_words(bound: Mapping[str, Any]) -> str:
    """A limit in words: ``power ≤ 3.60 W at 60 fps (50 % of the baseline's active part)``."""
    limit = _amount(bound["limit"], bound["unit"])
    rate = f" at {bound['fps']:g} fps" if bound.get("fps") else ""
    of_what = "active part" if bound["quantity"] in ("power", "energy") else bound["quantity"]
    share = f" ({100 * bound['relative']:g} % of the baseline's {of_what})" if bound.get("relative") else ""
    return f"{bound['quantity']} ≤ {limit}{rate}{share}"


def _reachable(result: Mapping[str, Any], bound: Mapping[str, Any]) -> str:
    """From the narrowest network to the baseline, where the run says so."""
    ends = (result.get("reachable") or {}).get(bound["quantity"])
    if not ends:
        return ""
    low, high = (_amount(value, bound["unit"]) for value in ends)
    return f"; reachable {low} to {high} (predicted)"


def _amount(value: float, unit: str) -> str:
    return count(value, unit) if unit in COUNTED else figure({"value": value}, unit)


def _rounds(result: Mapping[str, Any], console: Console) -> None:
    units = {bound["quantity"]: bound["unit"] for bound in result["budget"]}
    rows = []
    for one in result["rounds"]:
        for name, measured in one["measured"].items():
            unit = units[name]
            predicted = one["predicted"].get(name)
            rows.append(
                [
                    str(one["round"]),
                    f"{one['width']:.2f}" if one.get("width") is not None else "-",
                    name,
                    figure(predicted, unit) if predicted else "n/a",
                    figure(measured, unit),
                    figure((one.get("usage") or {}).get(name), "%"),
                    f"{100 * one['accuracy_val']:.1f} %" if one.get("accuracy_val") is not None else "-",
                    one["verdict"],
                ]
            )
    columns = ["ROUND", "WIDTH", "LIMIT", "PREDICTED", "MEASURED", "BUDGET USED", "VALIDATION", "VERDICT"]
    console.table(columns, rows, right=("ROUND", "WIDTH", "PREDICTED", "MEASURED", "BUDGET USED", "VALIDATION"))


def _compared(result: Mapping[str, Any], console: Console) -> None:
    before, after = result["baseline"], result["result"]
    rows = [
        [name, figure(before[key], unit), figure(after[key], unit)]
        for name, key, unit in COMPARED
        if before[key] is not None or after[key] is not None
    ]
    for name, key, unit in (("arithmetic", "macs", "MAC"), ("parameters", "params", ""), ("file", "size_bytes", "B")):
        rows.append([name, count(before[key], unit), count(after[key], unit)])
    console.table(["", "BEFORE", "AFTER"], rows, right=("BEFORE", "AFTER"))
    if result.get("accuracy_change"):
        console.line(f"Test accuracy changed by {points(result['accuracy_change'])}")
    if result.get("retrained"):
        again = result["retrained"]
        console.line(
            f"From scratch, {again['epochs']} epochs: {figure(again['accuracy_test'], '%')} test accuracy, "
            f"{points(again['against_continued'])} against the weights that were continued"
        )
    if after["fps"]:
        console.line(f"{after['missed_deadlines']} of {after['frames']} deadlines missed at {after['fps']:g} fps")
    for text in (*removal_words(result.get("stages") or []), *scale_words(result.get("layers") or [])):
        console.line(f"{text[0].upper()}{text[1:]}")
    console.line(f"Network   {result['artifacts'].get('compressed', after['onnx'])}")
