"""Section 1: does the network fit the budget? Horizontal bars from zero, one panel a limit."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rig.plotting.figure import ReportFigure, listed
from rig.plotting.numbers import Interval, bare, compact, display_unit, interval
from rig.plotting.style import AFTER, BEFORE, IDLE, INK, SOFT_INK, VERMILLION, bar_style
from rig.results import BudgetLimit, Network, RunResult
from rig.units import Quantity


class BudgetBar(NamedTuple):
    """One network against one limit: stacked parts (name, value), the total with its interval and its text."""

    label: str
    parts: tuple[tuple[str, float], ...]
    total: Interval
    text: str
    simulated: bool
    before: bool


class BudgetPanel(NamedTuple):
    """One limit: bars in display unit ``unit``; ``target`` None where nothing was asked (a measure run)."""

    quantity: str
    unit: str
    target: float | None
    target_text: str
    bars: tuple[BudgetBar, ...]


NAMES = {
    "power": "Power",
    "energy": "Energy above quiet per inference",
    "latency": "Latency",
    "flops": "FLOPs (2 per MAC)",
    "params": "Parameters",
}
UNITS = {"power": "W", "energy": "J", "latency": "s", "flops": "FLOP", "params": "params"}


def budget_panels(result: RunResult) -> list[BudgetPanel]:
    """Bars for every limit of an optimize run; of a measure run the power, or the latency without a meter."""
    if result.baseline is not None and result.result is not None:
        networks = [("baseline", result.baseline, True), ("result", result.result, False)]
        return [_panel(limit.quantity, limit, networks) for limit in result.budget]
    if result.network is not None:
        quantity = "power" if result.network.power_w is not None else "latency"
        return [_panel(quantity, None, [(result.network.name, result.network, False)])]
    return []


def value_of(network: Network, quantity: str) -> Quantity | None:
    """The quantity that a limit bounds, of one network."""
    exact = {"flops": 2 * network.macs if network.macs is not None else None, "params": network.params}
    if quantity in exact:
        number = exact[quantity]
        return None if number is None else Quantity(float(number))
    return {"power": network.power_w, "energy": network.energy_active_j, "latency": network.latency_s}[quantity]


def _panel(quantity: str, limit: BudgetLimit | None, networks: list[tuple[str, Network, bool]]) -> BudgetPanel:
    unit = UNITS[quantity]
    quantities = [(label, network, before, value_of(network, quantity)) for label, network, before in networks]
    values = [q.value for *_, q in quantities if q is not None and q.value is not None]
    factor, shown = display_unit([*values, *([limit.limit] if limit else [])], unit)
    bars = tuple(_bar(*entry, quantity, factor) for entry in quantities if entry[3] is not None)  # type: ignore[arg-type]
    if limit is None:
        return BudgetPanel(quantity, shown, None, "", bars)
    rate = f" at {limit.fps:g} fps" if limit.fps else ""
    return BudgetPanel(quantity, shown, limit.limit / factor, f"target {limit.limit / factor:.4g} {shown}{rate}", bars)


def _bar(label: str, network: Network, before: bool, q: Quantity, quantity: str, factor: float) -> BudgetBar:
    whole = interval(q, factor)
    if whole is None:
        raise ValueError(f"{label}: no {quantity} to draw")
    idle = interval(network.idle_power_w, factor)
    if quantity == "power" and idle is not None:
        parts = (("quiet", idle.value), ("dynamic", whole.value - idle.value))
    else:
        parts = ((quantity, whole.value),)
    text = bare(q, UNITS[quantity]) if quantity != "params" else f"{q.value:,.0f}"
    return BudgetBar(label, parts, whole, text, q.simulated, before)


def draw_budget(panel: BudgetPanel, ax: Axes) -> Axes:
    """Baseline above result; quiet and dynamic stacked, 95 % whisker, dashed target."""
    reach = max([bar.total.hi or bar.total.value for bar in panel.bars] + [panel.target or 0.0])
    ax.set_xlim(0, reach * 1.3)
    for row, bar in enumerate(panel.bars):
        left = 0.0
        for name, value in bar.parts:
            colour = IDLE if name == "quiet" else BEFORE if bar.before else AFTER
            ax.barh(row, value, left=left, height=0.62, **bar_style(bar.simulated, colour))
            if value > 0.16 * reach and len(bar.parts) > 1:
                solid = name != "quiet" and not bar.before and not bar.simulated
                ax.text(
                    left + value / 2,
                    row,
                    f"{name} {compact(value)}",
                    ha="center",
                    va="center",
                    color="white" if solid else INK,
                    bbox=None
                    if solid
                    else {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
                )
            left += value
        end = bar.total.value
        if bar.total.lo is not None and bar.total.hi is not None:
            arms = [[max(0.0, end - bar.total.lo)], [max(0.0, bar.total.hi - end)]]
            ax.errorbar(end, row, xerr=arms, color=INK, capsize=3.5, linewidth=1.1)
            end = max(end, bar.total.hi)
        beyond = max(end, panel.target or 0.0) if panel.target and end > 0.75 * panel.target else end
        ax.text(beyond + 0.015 * reach, row, bar.text, va="center", fontweight="bold")
    if panel.target is not None:
        ax.axvline(panel.target, color=VERMILLION, linestyle=(0, (5, 3)), linewidth=1.4)
        ax.text(
            panel.target,
            1.02,
            panel.target_text,
            color=VERMILLION,
            ha="center",
            va="bottom",
            transform=ax.get_xaxis_transform(),
        )
    names = [f"{bar.label}\n(SIMULATED)" if bar.simulated else bar.label for bar in panel.bars]
    ax.set_yticks(range(len(panel.bars)), names)
    ax.set_ylim(len(panel.bars) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"{NAMES[panel.quantity]}, {panel.unit}" if panel.quantity != "params" else panel.unit)
    ax.spines["left"].set_color(SOFT_INK)
    return ax


def budget_figure(result: RunResult) -> ReportFigure | None:
    """The budget figure of a run, None where there is nothing to draw."""
    panels = [panel for panel in budget_panels(result) if panel.bars]
    if not panels:
        return None

    def draw(figure: FigureBase) -> None:
        heights = [len(panel.bars) for panel in panels]
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for panel, ax in zip(panels, axes[:, 0], strict=True):
            draw_budget(panel, ax)

    rows = tuple(
        (p.quantity, p.unit, p.target, bar.label, *bar.total, dict(bar.parts).get("quiet"), bar.simulated)
        for p in panels
        for bar in p.bars
    )
    mark = "SIMULATED. " if result.simulated else ""
    targets = any(panel.target is not None for panel in panels)
    return ReportFigure(
        key="budget",
        title="Does it fit the budget?" if targets else "How much does it take?",
        caption=mark + " ".join(_answer(panel) for panel in panels) + " Whiskers: 95 % intervals.",
        alt=f"{mark}Horizontal bars. " + " ".join(_described(panel) for panel in panels),
        columns=("quantity", "unit", "target", "network", "value", "lo", "hi", "quiet", "simulated"),
        rows=rows,
        draw=draw,
        height_mm=sum(11 + 10 * len(panel.bars) for panel in panels) + 4,
    )


def _answer(panel: BudgetPanel) -> str:
    """Whether the last bar is under the target, by its interval."""
    bar = panel.bars[-1]
    name = NAMES[panel.quantity]
    if panel.target is None:
        return f"{name} of {bar.label}: {bar.text}."
    high, low = bar.total.hi or bar.total.value, bar.total.lo or bar.total.value
    if high <= panel.target:
        return f"Yes: {name.lower()} of the result is {bar.text}, wholly under the {panel.target_text}."
    if low > panel.target:
        return f"No: {name.lower()} of the result is {bar.text}, wholly above the {panel.target_text}."
    return f"Undecided: {name.lower()} of the result is {bar.text}; the interval straddles the {panel.target_text}."


def _described(panel: BudgetPanel) -> str:
    bars = listed([f"{bar.label} {bar.text}{', SIMULATED' if bar.simulated else ''}" for bar in panel.bars])
    return f"{NAMES[panel.quantity]}: {bars}{'; ' + panel.target_text if panel.target is not None else ''}."
