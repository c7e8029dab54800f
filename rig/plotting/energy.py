"""Section 3: where did the energy go? Paired bars a kernel family, and a remainder: they sum to what was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from rig.plotting.figure import ReportFigure, ReportTable
from rig.plotting.numbers import Interval, compact, display_unit, interval, percent, total
from rig.plotting.style import AFTER, BEFORE, INK, SOFT_INK, bar_style, interval_arms, legend_above, word
from rig.results import KernelShare, Network, RunResult

TOP = 12
REMAINDER = "remainder"
OTHER = "other"


class Share(NamedTuple):
    """What one family of kernels takes in one network: calls, MACs, energy (or time) per inference, where from."""

    calls: int
    macs: int
    cost: Interval
    extrapolated: bool
    source: str


class EnergyRow(NamedTuple):
    """One family before and after; None where the network has no such kernel."""

    label: str
    before: Share | None
    after: Share | None


class EnergyData(NamedTuple):
    """Rows sorted by cost before, then other and remainder; every column sums to ``totals`` (measured), in ``unit``."""

    quantity: str
    unit: str
    rows: tuple[EnergyRow, ...]
    totals: tuple[Interval | None, Interval | None]
    simulated: bool
    paired: bool
    kinds: tuple[str, ...]


def family(label: str) -> str:
    """A kernel label without its channel counts: ``conv3x3 16->16 @32`` and ``conv3x3 11->9 @32`` are one family."""
    return re.sub(r"\s+\d+->\d+", "", label)


def energy_data(result: RunResult) -> EnergyData | None:
    """Group, pair and complete the kernels of both networks; None where there are no kernels."""
    networks = (result.baseline, result.result if result.result is not None else result.network)
    lists = (result.kernels.before, result.kernels.after)
    if result.network is not None and not lists[1]:
        lists = ((), lists[0])  # type: ignore[assignment]
    if not any(lists):
        return None
    powered = all(k.energy_active_j is not None for kernels in lists for k in kernels)
    factor, unit = _unit(lists, powered)
    groups = [_families(kernels, powered, factor) for kernels in lists]
    order = sorted({*groups[0], *groups[1]}, key=lambda name: (-_weight(groups, name), name))
    rows = [EnergyRow(name, groups[0].get(name), groups[1].get(name)) for name in order[:TOP]]
    if order[TOP:]:
        rest = [_merge([g[name] for name in order[TOP:] if name in g]) for g in groups]
        rows.append(EnergyRow(f"{OTHER} ({len(order) - TOP} more)", rest[0], rest[1]))
    totals = tuple(
        _measured(network, powered, factor) if group else None for network, group in zip(networks, groups, strict=True)
    )
    remainders = [_remainder(t, g) for t, g in zip(totals, groups, strict=True)]
    if any(r is not None for r in remainders):
        rows.append(EnergyRow(REMAINDER, remainders[0], remainders[1]))
    kinds = {
        q.label
        for kernels in lists
        for k in kernels
        if (q := k.energy_active_j if powered else k.latency_s) is not None
    }
    quantity = "energy above quiet" if powered else "latency"
    return EnergyData(quantity, unit, tuple(rows), totals, result.simulated, bool(groups[0]), tuple(sorted(kinds)))  # type: ignore[arg-type]


def _unit(lists: Sequence[Sequence[KernelShare]], powered: bool) -> tuple[float, str]:
    costs = [q.value for kernels in lists for k in kernels if (q := k.energy_active_j if powered else k.latency_s)]
    sums = sum(c for c in costs if c is not None)
    return display_unit([sums / 4], "J" if powered else "s")


def _families(kernels: Sequence[KernelShare], powered: bool, factor: float) -> dict[str, Share]:
    groups: dict[str, list[Share]] = {}
    for kernel in kernels:
        cost = interval(kernel.energy_active_j if powered else kernel.latency_s, factor)
        if cost is None:
            raise ValueError(f"kernel {kernel.name}: neither energy nor latency")
        share = Share(kernel.calls, kernel.macs, cost, kernel.extrapolated, kernel.source)
        groups.setdefault(family(kernel.label), []).append(share)
    return {name: merged for name, shares in groups.items() if (merged := _merge(shares)) is not None}


def _merge(shares: Sequence[Share]) -> Share | None:
    if not shares:
        return None
    sources = ", ".join(sorted({s.source for s in shares if s.source}))
    return Share(
        sum(s.calls for s in shares),
        sum(s.macs for s in shares),
        total([s.cost for s in shares]),
        any(s.extrapolated for s in shares),
        sources,
    )


def _weight(groups: Sequence[dict[str, Share]], name: str) -> float:
    return max(g[name].cost.value for g in groups if name in g)


def _measured(network: Network | None, powered: bool, factor: float) -> Interval | None:
    return None if network is None else interval(network.energy_active_j if powered else network.latency_s, factor)


def _remainder(whole: Interval | None, group: dict[str, Share]) -> Share | None:
    """Measured minus the kernels' sum; its interval adds both half-widths. It may be negative."""
    if whole is None or not group:
        return None
    parts = total([share.cost for share in group.values()])
    value = whole.value - parts.value
    if whole.lo is None or whole.hi is None or parts.lo is None or parts.hi is None:
        return Share(0, 0, Interval(value), False, "measured − kernels")
    return Share(0, 0, Interval(value, whole.lo - parts.hi, whole.hi - parts.lo), False, "measured − kernels")


def draw_energy(data: EnergyData, ax: Axes) -> Axes:
    """Paired horizontal bars from zero: before grey above, after blue beneath; whiskers are 95 % intervals."""
    sides = [("before", BEFORE, [r.before for r in data.rows])] if data.paired else []
    sides.append(("after" if data.paired else "this network", AFTER, [r.after for r in data.rows]))
    height = 0.8 / len(sides)
    tips = [0.0] * len(data.rows)
    for index, (name, colour, shares) in enumerate(sides):
        present = [(row, share) for row, share in enumerate(shares) if share is not None]
        places = [row + (index - (len(sides) - 1) / 2) * height for row, _ in present]
        values = [share.cost.value for _, share in present]
        ax.barh(
            places, values, height=height * 0.9, label=name + word(data.simulated), **bar_style(data.simulated, colour)
        )
        arms = interval_arms(values, [s.cost.lo for _, s in present], [s.cost.hi for _, s in present])
        ax.errorbar(values, places, xerr=arms, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.0)
        for row, share in present:
            tips[row] = max(tips[row], share.cost.hi if share.cost.hi is not None else share.cost.value)
    reach = max(tips)
    for row, (entry, tip) in enumerate(zip(data.rows, tips, strict=True)):
        ax.text(tip + 0.012 * reach, row, _pair_text(entry), va="center", color=SOFT_INK)
    ax.axvline(0, color=SOFT_INK, linewidth=0.7)
    ax.set_yticks(range(len(data.rows)), [_row_name(row) for row in data.rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(data.rows) - 0.5, -0.5)
    ax.set_xlim(right=1.2 * reach)
    ax.set_xlabel(f"{data.quantity.capitalize()}, {data.unit} per inference")
    legend_above(ax)
    return ax


def _row_name(row: EnergyRow) -> str:
    calls = [s.calls for s in (row.before, row.after) if s is not None and s.calls]
    flag = " ▲" if any(s is not None and s.extrapolated for s in (row.before, row.after)) else ""
    if not calls:
        return row.label
    if row.before is None or row.after is None or row.before.calls == row.after.calls:
        return f"{row.label} ×{calls[0]}{flag}"
    return f"{row.label} ×{row.before.calls}→{row.after.calls}{flag}"


def _pair_text(row: EnergyRow) -> str:
    return " → ".join(compact(s.cost.value) for s in (row.before, row.after) if s is not None)


def energy_figure(data: EnergyData) -> ReportFigure:
    """The paired bars with caption, alt text and numbers."""
    rows = tuple(
        (row.label, side, s.calls, s.macs, *s.cost, s.extrapolated, s.source)
        for row in data.rows
        for side, s in (("before", row.before), ("after", row.after))
        if s is not None
    )
    mark = "SIMULATED. " if data.simulated else ""
    first = data.rows[0]
    sums = " → ".join(compact(t.value) for t in data.totals if t is not None)
    triangle = " ▲ marks kernels outside the calibrated range." if any(r[7] for r in rows) else ""
    return ReportFigure(
        key="energy",
        title=f"Where did the {'energy' if data.unit.endswith('J') else 'time'} go?",
        caption=f"{mark}Mostly into {first.label}: {_pair_text(first)} {data.unit} of {sums} {data.unit} in all. "
        "Kernels of one operation and resolution are summed, their intervals added in full (errors of one kind go "
        f"together); kernel values are {_kinds(data)}. "
        f"The remainder is measured − sum of kernels: every column sums to the measured total.{triangle}",
        alt=f"{mark}Horizontal bars of {data.quantity} per inference in {data.unit}"
        f"{', before and after' if data.paired else ''}: "
        + "; ".join(f"{row.label} {_pair_text(row)}" for row in data.rows)
        + ".",
        columns=("kernels", "network", "calls", "macs", "value", "lo", "hi", "extrapolated", "source"),
        rows=rows,
        draw=lambda figure: draw_energy(data, figure.subplots()),
        height_mm=22 + (8.4 if data.paired else 5.6) * len(data.rows),
    )


def _kinds(data: EnergyData) -> str:
    return " and ".join(data.kinds) or "of unknown kind"


def energy_table(data: EnergyData) -> ReportTable:
    """Calls, MMAC, cost and share of the measured total, by family."""
    mark = " SIMULATED" if data.simulated else ""
    sides = [("before", 0), ("after", 1)] if data.paired else [("", 1)]
    columns = ["Kernels"]
    for name, _ in sides:
        columns += [
            f"Calls {name}".strip(),
            f"MMAC {name}".strip(),
            f"{data.unit} {name}{mark}".strip(),
            f"Share {name}".strip(),
        ]
    columns.append("Source")
    rows = [_table_row(row, data, [index for _, index in sides]) for row in data.rows]
    sums: list[str] = ["Sum = measured"]
    for _, index in sides:
        shares = [row[1 + index] for row in data.rows]
        present: list[Share] = [s for s in shares if isinstance(s, Share)]
        whole = data.totals[index]
        calls, macs = sum(s.calls for s in present), sum(s.macs for s in present)
        sums += [f"{calls}", compact(macs / 1e6), "n/a" if whole is None else compact(whole.value), "100 %"]
    rows.append((*sums, ""))
    numeric = (False, *([True] * (4 * len(sides))), False)
    return ReportTable(
        "energy_table", "Kernels, summed by operation and resolution", tuple(columns), tuple(rows), numeric
    )


def _table_row(row: EnergyRow, data: EnergyData, sides: Sequence[int]) -> tuple[str, ...]:
    cells = [row.label]
    for index in sides:
        share: Share | None = row[1 + index]
        whole = data.totals[index]
        if share is None:
            cells += ["–", "–", "–", "–"]
            continue
        counted = share.calls > 0
        cells += [
            str(share.calls) if counted else "–",
            compact(share.macs / 1e6) if counted else "–",
            compact(share.cost.value),
            percent(share.cost.value / whole.value) if whole is not None and whole.value else "n/a",
        ]
    source = {s.source for s in (row.before, row.after) if s is not None and s.source}
    extra = ", extrapolated" if any(s is not None and s.extrapolated for s in (row.before, row.after)) else ""
    return (*cells, ", ".join(sorted(source)) + extra)
