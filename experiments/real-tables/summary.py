"""The tables of README.md, from the stored units: each target, what was reached, and what the references reach."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

BEGIN, END = "<!-- tables: begin (written by study.py) -->", "<!-- tables: end -->"
QUANTITIES = {"latency_s": "latency", "power_w": "mean power", "energy_j": "energy", "energy_active_j": "active energy"}
REFERENCES = {
    "flops_line": "FLOPs line",
    "latency_x_power": "latency × power",
    "polynomial": "NeuralPower",
    "forest": "nn-Meter forest",
    "lookup": "lookup",
    "kind_sums": "sums a kind",
    "raw_forest": "plain forest",
}
BOARDS = {"rpi4_tflite": "Pi 4", "odroid_n2plus_tflite": "Odroid N2+"}


class Target(NamedTuple):
    """One figure that is asked: of which table, protocol and part, and at most how many per cent."""

    title: str
    table: str
    protocol: str
    part: str
    at_most: Mapping[str, float]


def _network_targets() -> list[Target]:
    found = []
    for table, board in BOARDS.items():
        for dtype, most in (
            ("float32", {"latency_s": 3.0, "energy_j": 3.0, "energy_active_j": 4.0, "power_w": 2.0}),
            ("int8", {"latency_s": 2.5, "energy_j": 2.5, "energy_active_j": 3.0, "power_w": 0.9}),
        ):
            found.append(Target(f"{board} {dtype}", table, "folds", f"dtype={dtype}", most))
    for table, board in BOARDS.items():
        for dtype in ("float32", "int8"):
            for family, most in (("mobilenet-v1", 7), ("mobilenet-v2", 7), ("efficientnet", 7), ("mobilenet-v3", 12)):
                both = {"latency_s": float(most), "energy_j": float(most)}
                title = f"{board} {dtype}, {family} left out"
                found.append(Target(title, table, f"family {family}", f"dtype={dtype}", both))
                found.append(
                    Target(f"{title}, from the other board", table, f"transfer {family}", f"dtype={dtype}", both)
                )
    return found


TARGETS = [
    Target("TX2 GPU kernels", "tx2_gpu_conv", "folds", "all", {"latency_s": 5.0, "power_w": 3.3, "energy_j": 6.0}),
    Target("TX2 GPU, ≥ 10 ms", "tx2_gpu_conv", "folds", "slow", {"latency_s": 3.5, "power_w": 2.5, "energy_j": 4.5}),
    Target("TX2 CPU kernels", "tx2_cpu_conv", "folds", "all", {"latency_s": 2.5, "power_w": 1.4, "energy_j": 3.0}),
    Target("TX2 GPU, a level left out (median)", "tx2_gpu_conv", "levels", "all", {"latency_s": 8.0, "power_w": 7.0}),
    Target("TX2 CPU, a level left out (median)", "tx2_cpu_conv", "levels", "all", {"latency_s": 8.0, "power_w": 7.0}),
    Target("T4", "t4_conv_latency", "folds", "all", {"latency_s": 10.0}),
    Target("V100", "v100_conv_latency", "folds", "all", {"latency_s": 11.0}),
    *_network_targets(),
    Target("Jetson Nano", "jetson_nano_tensorrt", "folds", "all", {"latency_s": 4.5, "energy_j": 4.5}),
]


def short(result: Mapping[str, Any]) -> str:
    """One line of a unit: our errors and what it took."""
    ours = result["methods"]["ours"]
    errors = {QUANTITIES[q]: parts["all"]["mape"] for q, parts in ours.items()}
    told = ", ".join(f"{name} {100 * mape:.2f} %" for name, mape in errors.items() if mape is not None)
    return f"{told}; {result['seconds']:.0f} s"


def write_readme(results: Path, readme: Path) -> str:
    """Replace the tables between the markers of README.md; returns them."""
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    tables = (targets_table(stored), quintiles_table(stored), levels_table(stored), intervals_table(stored))
    text = "\n\n".join(table for table in tables if table.count("\n") > 1)  # more than heads
    if readme.exists():
        old = readme.read_text(encoding="utf-8")
        before, rest = old.split(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return text


def _units(stored: Sequence[Mapping[str, Any]], table: str, protocol: str) -> list[Mapping[str, Any]]:
    name, _, unit = protocol.partition(" ")
    found = [one for one in stored if one["table"] == table and one["protocol"] == name]
    return [one for one in found if one["unit"] == unit] if unit else found


def _values(units: Sequence[Mapping[str, Any]], method: str, quantity: str, part: str, what: str) -> list[float]:
    found = [one["methods"].get(method, {}).get(quantity, {}).get(part, {}).get(what) for one in units]
    return [value for value in found if value is not None]


def _joined(values: Sequence[float], protocol: str) -> float:
    return statistics.median(values) if protocol == "levels" else statistics.fmean(values)


def targets_table(stored: Sequence[Mapping[str, Any]]) -> str:
    """Every target with what was reached (mean over splits ± their standard deviation) and the references."""
    heads = ["data", "quantity", "target", "cost model", *REFERENCES.values()]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for target in TARGETS:
        units = _units(stored, target.table, target.protocol)
        if not units:
            continue
        for quantity, most in target.at_most.items():
            ours = [100 * v for v in _values(units, "ours", quantity, target.part, "mape")]
            if not ours:
                lines.append(_row([target.title, QUANTITIES[quantity], f"≤ {most:g} %", "no price", *[""] * 7]))
                continue
            reached = _joined(ours, target.protocol)
            spread = f" ± {statistics.stdev(ours):.2f}" if len(ours) > 1 and target.protocol == "folds" else ""
            mark = "" if reached <= most else " (missed)"
            unpriced = sum(_values(units, "ours", quantity, target.part, "unpriced"))
            note = f", {unpriced:.0f} unpriced" if unpriced else ""
            others = [_values(units, method, quantity, target.part, "mape") for method in REFERENCES]
            shown = [f"{100 * _joined(v, target.protocol):.1f}" if v else "" for v in others]
            alone = _values(units, "ours_place_not_told", quantity, target.part, "mape")
            note += f"; {100 * _joined(alone, target.protocol):.2f} % where lines are not told" if alone else ""
            count = f" ({len(ours)} levels)" if target.protocol == "levels" else ""
            figure = f"**{reached:.2f}**{spread} %{mark}{note}"
            lines.append(_row([target.title + count, QUANTITIES[quantity], f"≤ {most:g} %", figure, *shown]))
    return "\n".join(lines)


def quintiles_table(stored: Sequence[Mapping[str, Any]]) -> str:
    """Latency by fifths of size (MACs, the smallest first), tables of latencies alone."""
    lines = [_row(["latency by fifth of size", "method", "1", "2", "3", "4", "5"]), _row(["---"] * 7)]
    for table in ("t4_conv_latency", "v100_conv_latency"):
        units = _units(stored, table, "folds")
        for method, name in {"ours": "cost model", "forest": "nn-Meter forest", "lookup": "lookup"}.items():
            parts = [_values(units, method, "latency_s", f"size={fifth}", "mape") for fifth in range(1, 6)]
            if all(parts):
                cells = [f"{100 * statistics.fmean(own):.1f} %" for own in parts]
                lines.append(_row([table.split("_")[0].upper(), name, *cells]))
    return "\n".join(lines)


def levels_table(stored: Sequence[Mapping[str, Any]]) -> str:
    """The median over the levels of each column that were left out, and the worst level."""
    lines = [_row(["levels left out", "column", "levels", "latency", "worst", "power", "worst"]), _row(["---"] * 7)]
    for table in ("tx2_gpu_conv", "tx2_cpu_conv"):
        units = _units(stored, table, "levels")
        for column in dict.fromkeys(one["unit"].rpartition("-")[0] for one in units):
            own = [one for one in units if one["unit"].rpartition("-")[0] == column]
            cells = []
            for quantity in ("latency_s", "power_w"):
                errors = [100 * v for v in _values(own, "ours", quantity, "all", "mape")]
                cells += [f"{statistics.median(errors):.1f} %", f"{max(errors):.1f} %"] if errors else ["", ""]
            lines.append(_row([table.removesuffix("_conv"), column, str(len(own)), *cells]))
    return "\n".join(lines)


def intervals_table(stored: Sequence[Mapping[str, Any]]) -> str:
    """Coverage of the 95 % intervals pooled per table, and their median half-width over the median error."""
    heads = ["intervals", "quantity", "covered", "tolerance", "half-width", "median error", "ratio (≤ 4)"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    tables = dict.fromkeys(one["table"] for one in stored)
    for table in tables:
        units = _units(stored, table, "folds")
        for quantity, name in QUANTITIES.items():
            covered, half, error, n = (
                _values(units, "ours", quantity, "all", what) for what in ("coverage", "half_width", "median", "n")
            )
            if not covered:
                continue
            share, width, typical = (statistics.fmean(values) for values in (covered, half, error))
            tolerance = 1.96 * math.sqrt(0.95 * 0.05 / n[0])
            inside = "" if abs(share - 0.95) <= tolerance else " (outside)"
            allowed = f"{95 - 100 * tolerance:.1f} to {min(95 + 100 * tolerance, 100):.1f} %"
            lines.append(
                _row(
                    [
                        table, name, f"{100 * share:.1f} %{inside}", allowed, f"{100 * width:.1f} %",
                        f"{100 * typical:.2f} %", f"{width / typical:.1f}",
                    ]
                )
            )  # fmt: skip
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
