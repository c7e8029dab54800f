"""The loop's part of the README: every piece that was run, and the comparison; or that there is none yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loop
from shown import table, with_interval


def loop_table(folder: Path) -> str:
    """The loop's comparison, as far as it has been measured."""
    parts = []
    for variant in loop.VARIANTS[:2]:
        rows = loop.results_in(folder, variant).rows()

        for device, measured in loop.MEASURED.items():
            of_device = [row for row in rows if row["device"] == device]
            if of_device:
                parts.append(_loop_part(variant, device, measured, of_device))
    if not parts:
        return "**Not measured yet.** There are no results of the loop; nothing is claimed."
    return "\n\n".join(parts)


def _loop_part(variant: str, device: str, measured: str, rows: list[dict[str, Any]]) -> str:
    simulated = rows[0]["kind"] == "simulated"
    own = next(name for name in loop.BUDGETS[device] if name != "flops")
    what = "active joules" if measured == "energy_active_j" else "seconds"
    kind = "costs SIMULATED, accuracies real" if simulated else "all measured"
    lines = [f"**{device}**, {variant}, {kind}; {what} as shares of the baseline's, measured in turns:\n"]
    cells = [
        [
            str(row["seed"]),
            f"{row['resource']} to {row['share']} %",
            f"{100 * row['macs_share']:.0f} %",
            with_interval(row[measured], 100.0, 1, " %"),
            f"{100 * row['baseline_test']:.2f} → {100 * row['result_test']:.2f} %",
        ]
        for row in rows
    ]
    lines.append(table(["seed", "compressed by", "MACs left", f"{what} left, measured", "test accuracy"], cells))
    lines += _spread(rows, measured, what)
    found = loop.compare(rows, measured)
    if found is None:
        lines.append("\nToo few pieces to compare: two of each resource in each of two seeds are needed.")
        return "\n".join(lines)
    points, cost = found["points"], found["cost"]
    told = points["lo"] > 0 or points["hi"] < 0
    lines.append(
        f"\nBy {own} in place of FLOPs, {found['seeds']} seeds, {found['pieces']} networks: "
        f"{points['value']:+.2f} points [{points['lo']:+.2f}, {points['hi']:+.2f}] at equal measured {what}; "
        + (
            f"{cost['value']:.2f}× [{cost['lo']:.2f}, {cost['hi']:.2f}] of the measured {what} at equal accuracy."
            if cost is not None
            else f"at equal accuracy the factor on {what} cannot be told (accuracy hardly follows cost here)."
        )
        + ("" if told else " The two are not told apart: in this regime the professor is not refuted.")
    )
    return "\n".join(lines)


def _spread(rows: list[dict[str, Any]], measured: str, what: str) -> list[str]:
    """What one FLOPs limit comes out at in the device's own cost, from seed to seed."""
    found = []
    for share in sorted({row["share"] for row in rows if row["resource"] == "flops"}):
        costs = [row[measured]["value"] for row in rows if (row["resource"], row["share"]) == ("flops", share)]
        if len(costs) > 1:
            found.append(
                f"{share} % of the FLOPs came out at {100 * min(costs):.0f} to {100 * max(costs):.0f} % of the {what}"
            )
    return ["\n" + "; ".join(found) + "."] if found else []
