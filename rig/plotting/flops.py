"""Section 7: do FLOPs suffice? Multiply-accumulates against energy (or time) of each kernel, one execution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from rig.plotting.figure import ReportFigure, plural
from rig.plotting.numbers import compact
from rig.plotting.style import BLUE, GREEN, INK, PURPLE, SOFT_INK, VERMILLION, legend_above, marks, plain_log_ticks
from rig.results import KernelShare, RunResult
from rig.units import Quantity

SAME_MACS = 0.02
PAIRS = 3
WORTH_SHOWING = 1.1  # a smaller ratio of costs is not pointed out
APART = 1.8  # pairs shown differ in MACs by at least this factor, so that their labels keep clear of each other
STYLE = {"conv": ("o", BLUE), "depthwise": ("s", VERMILLION), "fc": ("D", GREEN)}


class FlopsPoint(NamedTuple):
    """One kernel: millions of multiply-accumulates and its cost (mJ or ms) of one execution."""

    label: str
    kind: str
    mmac: float
    cost: float


class IsoPair(NamedTuple):
    """Two kernels of equal MACs (within 2 %), the dearer first, and the ratio of their costs."""

    dear: FlopsPoint
    cheap: FlopsPoint
    ratio: float


class FlopsData(NamedTuple):
    """Distinct kernels with weights, and the pairs to point out; ``source``: kinds of the costs."""

    quantity: str
    unit: str
    points: tuple[FlopsPoint, ...]
    pairs: tuple[IsoPair, ...]
    spread: float
    source: str
    hollow: bool
    simulated: bool


def flops_data(result: RunResult) -> FlopsData | None:
    """Kernels of both networks, one point a distinct label; None with fewer than two kernels with weights."""
    kernels = [k for k in (*result.kernels.before, *result.kernels.after) if k.macs > 0]
    powered = bool(kernels) and all(k.energy_active_j is not None for k in kernels)
    points: dict[str, FlopsPoint] = {}
    kinds = set()
    for kernel in kernels:
        cost = kernel.energy_active_j if powered else kernel.latency_s
        if cost is None or cost.value is None or cost.value <= 0:
            continue
        kinds.add(cost.label)
        points.setdefault(kernel.label, _point(kernel, cost))
    if len(points) < 2:
        return None
    ordered = tuple(sorted(points.values(), key=lambda p: (p.mmac, p.label)))
    per_mac = [p.cost / p.mmac for p in ordered]
    name, unit = ("energy above quiet", "mJ") if powered else ("latency", "ms")
    return FlopsData(
        name,
        unit,
        ordered,
        iso_pairs(ordered),
        max(per_mac) / min(per_mac),
        " and ".join(sorted(kinds)),
        kinds != {"MEASURED"},
        result.simulated,
    )


def _point(kernel: KernelShare, cost: Quantity) -> FlopsPoint:
    calls = max(kernel.calls, 1)
    return FlopsPoint(kernel.label, kernel.kind, kernel.macs / calls / 1e6, 1e3 * (cost.value or 0.0) / calls)


def iso_pairs(points: Sequence[FlopsPoint]) -> tuple[IsoPair, ...]:
    """The pairs of equal MACs whose costs differ most, each kernel in one pair, spread over the MAC axis."""
    candidates = []
    for i, a in enumerate(points):
        for b in points[i + 1 :]:
            if b.mmac > a.mmac * (1 + SAME_MACS):
                break
            dear, cheap = (a, b) if a.cost >= b.cost else (b, a)
            candidates.append(IsoPair(dear, cheap, dear.cost / cheap.cost))
    chosen: list[IsoPair] = []
    for pair in sorted(candidates, key=lambda p: (-p.ratio, p.dear.label, p.cheap.label)):
        clear = all(abs(math.log(pair.dear.mmac / c.dear.mmac)) >= math.log(APART) for c in chosen)
        if clear and pair.ratio >= WORTH_SHOWING:
            chosen.append(pair)
        if len(chosen) == PAIRS:
            break
    return tuple(sorted(chosen, key=lambda p: p.dear.mmac))


def draw_flops(data: FlopsData, ax: Axes) -> Axes:
    """Log–log dots by kind; pairs of equal MACs joined and labelled with the ratio of their costs."""
    for kind in sorted({p.kind for p in data.points}):
        marker, colour = STYLE.get(kind, ("^", PURPLE))
        points = [p for p in data.points if p.kind == kind]
        ax.plot(
            [p.mmac for p in points],
            [p.cost for p in points],
            marker,
            label=f"{kind} ({data.source})",
            **marks(data.hollow, colour),
        )
    for pair in data.pairs:
        x = math.sqrt(pair.dear.mmac * pair.cheap.mmac)
        ax.plot(
            [pair.dear.mmac, pair.cheap.mmac], [pair.dear.cost, pair.cheap.cost], color=INK, linewidth=1.3, zorder=1
        )
        ax.annotate(
            f"×{compact(pair.ratio)} at {compact(x)} MMAC",
            (pair.dear.mmac, pair.dear.cost),
            xytext=(-6, 9),
            textcoords="offset points",
            ha="right",
            va="bottom",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
            arrowprops={"arrowstyle": "-", "color": SOFT_INK, "linewidth": 0.6},
        )
    ax.set(xscale="log", yscale="log")
    ax.margins(x=0.12, y=0.15)
    plain_log_ticks(ax)
    ax.set_xlabel("Multiply-accumulates of one execution, MMAC (1 MAC = 2 FLOP)")
    ax.set_ylabel(f"{data.quantity.capitalize()}, {data.unit}")
    legend_above(ax, columns=2)
    return ax


def flops_figure(data: FlopsData) -> ReportFigure:
    """The scatter with caption, alt text and numbers."""
    noun = "Energy" if data.unit == "mJ" else "Time"
    if data.pairs:
        best = max(data.pairs, key=lambda p: p.ratio)
        answer = (
            f"No: {best.dear.label} takes ×{compact(best.ratio)} the {noun.lower()} of {best.cheap.label} "
            f"at the same MACs (within {100 * SAME_MACS:.0f} %)."
        )
        if best.ratio < 1.1:
            answer = f"Nearly, here: kernels of the same MACs differ by at most ×{compact(best.ratio)}."
    else:
        answer = "Not shown here: no two kernels have the same MACs within 2 %."
    pairs = "; ".join(f"{p.dear.label} and {p.cheap.label}, ratio {compact(p.ratio)}" for p in data.pairs)
    mark = "SIMULATED. " if data.simulated else ""
    paired = {label: i for i, p in enumerate(data.pairs, start=1) for label in (p.dear.label, p.cheap.label)}
    return ReportFigure(
        key="flops",
        title=f"Do FLOPs suffice to tell the {noun.lower()}?",
        caption=f"{mark}{answer} {noun} per MAC spans ×{compact(data.spread)} over "
        f"{plural(len(data.points), 'distinct kernel')}; costs are {data.source}. "
        "Kernels without weights (no MACs) are not drawn.",
        alt=f"{mark}Dots on logarithmic axes: {plural(len(data.points), 'kernel')}, {data.points[0].mmac:.3g} to "
        f"{data.points[-1].mmac:.3g} MMAC. Pairs of equal MACs: {pairs or 'none'}.",
        columns=("kernel", "kind", "mmac", f"cost_{data.unit.lower()}", "pair"),
        rows=tuple((p.label, p.kind, p.mmac, p.cost, paired.get(p.label)) for p in data.points),
        draw=lambda figure: draw_flops(data, figure.subplots()),
        height_mm=100,
        width_mm=150,
    )
