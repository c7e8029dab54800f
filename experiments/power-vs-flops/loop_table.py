"""The loop's part of the README: every piece that was run, and the comparison; or that there is none yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import loop
from shown import table, with_interval


class Part(NamedTuple):
    """What was measured of one device in one variant: its pieces, and what they are compared by."""

    variant: str
    device: str
    measured: str
    rows: list[dict[str, Any]]

    @property
    def own(self) -> str:
        """The device's own resource."""
        return next(name for name in loop.BUDGETS[self.device] if name != "flops")

    @property
    def what(self) -> str:
        """Its cost in words."""
        return "active joules" if self.measured == "energy_active_j" else "seconds"

    @property
    def kind(self) -> str:
        """Where the figures come from."""
        return "costs SIMULATED, accuracies real" if self.rows[0]["kind"] == "simulated" else "all measured"


def loop_table(folder: Path) -> str:
    """The loop's comparison, as far as it has been measured."""
    parts = [_loop_part(part) for part in _parts(folder)]
    if not parts:
        return "**Not measured yet.** There are no results of the loop; nothing is claimed."
    return "\n\n".join(parts)


def loop_answer(folder: Path) -> str:
    """The comparison in a sentence a device: a point of the page's answer."""
    found = {part.device: part for part in reversed(list(_parts(folder))) if loop.compare(part.rows, part.measured)}
    if not found:
        return "7. **By the loop:** not measured yet."
    said = [f"`{part.device}` ({part.kind}; {part.variant}): {_compared(part)}" for part in found.values()]
    return "7. **The same network compressed by FLOPs, and by the device's own cost.** On " + " On ".join(said)


def _parts(folder: Path) -> Iterator[Part]:
    """What was measured, the fullest variant first."""
    for variant in loop.VARIANTS[:2]:
        rows = loop.results_in(folder, variant).rows()
        for device, measured in loop.MEASURED.items():
            of_device = [row for row in rows if row["device"] == device]
            if of_device:
                yield Part(variant, device, measured, of_device)


def _loop_part(part: Part) -> str:
    what = part.what
    lines = [
        f"**{part.device}**, {part.variant}, {part.kind}; {what} as shares of the baseline's, measured in turns:\n"
    ]
    cells = [
        [
            str(row["seed"]),
            f"{row['resource']} to {row['share']} %",
            f"{100 * row['macs_share']:.0f} %",
            with_interval(row[part.measured], 100.0, 1, " %"),
            f"{100 * row['baseline_test']:.2f} → {100 * row['result_test']:.2f} %",
        ]
        for row in part.rows
    ]
    lines.append(table(["seed", "compressed by", "MACs left", f"{what} left, measured", "test accuracy"], cells))
    lines += _spread(part.rows, part.measured, what)
    lines.append("\n" + _compared(part))
    return "\n".join(lines)


def _compared(part: Part) -> str:
    """What compressing by the device's own cost gains, in a sentence or two."""
    found, what = loop.compare(part.rows, part.measured), part.what
    if found is None:
        return "Too few pieces to compare: two of each resource in each of two seeds are needed."
    points, cost = found["points"], found["cost"]
    told = points["lo"] > 0 or points["hi"] < 0
    return (
        f"By {part.own} in place of FLOPs, {found['seeds']} seeds, {found['pieces']} networks: "
        f"{points['value']:+.2f} points [{points['lo']:+.2f}, {points['hi']:+.2f}] at equal measured {what}; "
        + (
            f"{cost['value']:.2f}× [{cost['lo']:.2f}, {cost['hi']:.2f}] of the measured {what} at equal accuracy."
            if cost is not None
            else f"at equal accuracy the factor on {what} cannot be told (accuracy hardly follows cost here)."
        )
        + ("" if told else " The two are not told apart: in this regime the professor is not refuted.")
    )


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
