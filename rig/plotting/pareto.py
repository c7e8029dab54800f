"""Section 8: which method wins at this budget? Accuracy against measured cost: all seeds, means, and their front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from rig.comparison.rows import BASELINE, COST_NAMES, MEASURED_ONLY, UNITS, Row
from rig.comparison.summary import Mean, Summary
from rig.plotting.figure import ReportFigure, listed, plural
from rig.plotting.numbers import Interval, compact, display_unit, interval
from rig.plotting.style import (
    BEFORE,
    BLUE,
    GREEN,
    INK,
    PURPLE,
    SOFT_INK,
    VERMILLION,
    interval_arms,
    legend_above,
    marks,
    shade,
    word,
)
from rig.units import Quantity

# Marker, colour and line of the methods in the order they come; each differs in shape and line too (greyscale).
STYLES = (("o", BLUE, "-"), ("s", VERMILLION, "--"), ("D", GREEN, "-."), ("^", PURPLE, ":"), ("v", INK, "-"))
MORE_STYLES = (("P", SOFT_INK, "--"), ("X", BLUE, "-."), ("<", VERMILLION, ":"), (">", GREEN, "-"), ("h", PURPLE, "--"))


class ParetoPoint(NamedTuple):
    """One network (or, of ``seed`` None and ``runs`` several, a mean): cost in the display unit, accuracy in %."""

    method: str
    target: str | None
    runs: str
    seed: int | None
    cost: Interval
    accuracy: Interval
    void: bool = False


class ParetoData(NamedTuple):
    """``points``: all seeds; ``means``: with their intervals; ``front``: positions in ``means``, cheapest first.

    ``targets``: (label, cost in the display unit) of limits on the very cost shown; ``left_out``: runs of unknown
    accuracy.
    """

    cost: str
    unit: str
    points: tuple[ParetoPoint, ...]
    means: tuple[ParetoPoint, ...]
    front: tuple[int, ...]
    targets: tuple[tuple[str, float], ...]
    left_out: tuple[str, ...]
    simulated: bool


def pareto_data(rows: Sequence[Row], summary: Summary, cost: str, simulated: bool) -> ParetoData | None:
    """What the figure shows; None where no accuracy is known."""
    known = [row for row in rows if row.accuracy is not None]
    if not known:
        return None
    factor, unit = display_unit([row.cost.value for row in known if row.cost.value is not None], UNITS[cost])
    means = [mean for mean in summary.means if mean.accuracy is not None]
    labels = [mean.label for mean in means]
    return ParetoData(
        COST_NAMES[cost],
        unit,
        tuple(_point(row, factor) for row in known),
        tuple(_mean(mean, factor) for mean in means),
        tuple(labels.index(label) for label in summary.front),
        _targets(known, factor),
        tuple(", ".join(row.runs) for row in rows if row.accuracy is None),
        simulated,
    )


def _point(row: Row, factor: float) -> ParetoPoint:
    places = _placed(row.cost, factor), _placed(row.accuracy, 0.01)
    return ParetoPoint(row.method, row.target, ", ".join(row.runs), row.seed, *places, row.void is not None)


def _mean(mean: Mean, factor: float) -> ParetoPoint:
    seed = mean.seeds[0] if len(mean.seeds) == 1 else None
    places = _placed(mean.cost, factor), _placed(mean.accuracy, 0.01)
    return ParetoPoint(mean.method, mean.target, ", ".join(mean.runs), seed, *places)


def _placed(quantity: Quantity | None, factor: float) -> Interval:
    found = interval(quantity, factor)
    if found is None:
        raise ValueError("a point of the Pareto figure needs a cost and an accuracy")
    return found


def _targets(rows: Sequence[Row], factor: float) -> tuple[tuple[str, float], ...]:
    """The mean absolute limit of each target that bounds the cost shown (relative limits differ a little by run)."""
    limits: dict[str, list[float]] = {}
    for row in rows:
        if row.limit is not None and row.target is not None:
            limits.setdefault(row.target, []).append(row.limit.limit / factor)
    return tuple((target, sum(found) / len(found)) for target, found in limits.items())


def draw_pareto(data: ParetoData, ax: Axes) -> Axes:
    """Small marks: seeds. Large marks with whiskers: means, joined a method. Grey steps: the front."""
    _draw_front(data, ax)
    methods = list(dict.fromkeys(point.method for point in (*data.points, *data.means)))
    named = [method for method in methods if method != BASELINE]
    styles = dict(zip(named, (STYLES + MORE_STYLES) * (1 + len(named) // 10), strict=False))
    for method in methods:
        style = ("*", BEFORE, "none") if method == BASELINE else styles[method]
        _draw_method(data, method, style, ax)
    void = [point for point in data.points if point.void]
    if void:
        ax.plot(*_xy(void), "x", color=INK, markersize=7, markeredgewidth=1.2, label="void: unequal cost", zorder=5)
    for label, at in data.targets:
        ax.axvline(at, color=VERMILLION, linestyle=(0, (5, 3)), linewidth=1.0, zorder=0.5)
        ax.annotate(
            f"target {label}",
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2, -2),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top",
            color=VERMILLION,
        )
    ax.margins(x=0.12, y=0.15)
    ax.grid(True)
    ax.set_xlabel(f"Measured {data.cost}{word(data.simulated)}, {data.unit}")
    ax.set_ylabel("Test accuracy, %")
    legend_above(ax, columns=3)
    return ax


def _xy(points: Sequence[ParetoPoint]) -> tuple[list[float], list[float]]:
    return [point.cost.value for point in points], [point.accuracy.value for point in points]


def _draw_method(data: ParetoData, method: str, style: tuple[str, str, str], ax: Axes) -> None:
    marker, colour, line = style
    edge = colour if method != BASELINE else SOFT_INK
    seeds = [point for point in data.points if point.method == method]
    ax.plot(*_xy(seeds), marker, markersize=3.5, linestyle="none", zorder=4, **marks(True, edge))
    means = sorted((mean for mean in data.means if mean.method == method), key=lambda mean: mean.cost.value)
    if not means:
        return
    joined = line if method not in (BASELINE, MEASURED_ONLY) and len(means) > 1 else "none"
    x, y = _xy(means)
    _, _, bars = ax.errorbar(
        x,
        y,
        xerr=interval_arms(x, [m.cost.lo for m in means], [m.cost.hi for m in means]),
        yerr=interval_arms(y, [m.accuracy.lo for m in means], [m.accuracy.hi for m in means]),
        fmt=marker,
        linestyle=joined,
        color=edge,
        ecolor=shade(edge),
        elinewidth=0.9,
        capsize=2.5,
        markersize=7,
        zorder=3,
        label=f"{method}{word(data.simulated)}",
        **marks(data.simulated, edge),
    )
    for bar in bars:
        bar.set_linestyle((0, (3, 1.5)) if data.simulated else "-")


def _draw_front(data: ParetoData, ax: Axes) -> None:
    points = [data.means[place] for place in data.front]
    if len(points) < 2:
        return
    ax.step(
        *_xy(points),
        where="post",
        color=SOFT_INK,
        linewidth=2.4,
        alpha=0.35,
        zorder=1,
        label="Pareto front of the means",
    )


def pareto_figure(data: ParetoData) -> ReportFigure:
    """The figure with caption, alt text and numbers."""
    mark = "SIMULATED. " if data.simulated else ""
    front = [data.means[place] for place in data.front]
    told = [
        f"{_called(point)} ({compact(point.accuracy.value)} % at {compact(point.cost.value)} {data.unit})"
        for point in front
    ]
    means = [f"{_called(m)} {compact(m.accuracy.value)} at {compact(m.cost.value)}" for m in data.means]
    left_out = f" Without a known accuracy, so not shown: {listed(data.left_out)}." if data.left_out else ""
    crossed = " Crossed out: void." if any(point.void for point in data.points) else ""
    rows = tuple(
        (
            what,
            p.method,
            p.target,
            p.runs,
            p.seed,
            *p.cost,
            *p.accuracy,
            place in data.front if what == "mean" else None,
            p.void,
        )
        for what, several in (("seed", data.points), ("mean", data.means))
        for place, p in enumerate(several)
    )
    return ReportFigure(
        key="pareto",
        title="Which method wins at this budget?",
        caption=f"{mark}No other mean is both cheaper and more accurate than {listed(told)}. Small marks are single "
        f"seeds, large ones means; whiskers are 95 % intervals: over seeds where there are several, else of the test "
        f"images and of the measurement.{crossed}{left_out} Axes do not start at zero.",
        alt=f"{mark}Test accuracy in % against measured {data.cost} in {data.unit}: "
        f"{plural(len(data.points), 'network')}, {plural(len(data.means), 'mean')}; {'; '.join(means)}.",
        columns=(
            "what",
            "method",
            "target",
            "runs",
            "seed",
            f"cost_{data.unit}",
            "cost_lo",
            "cost_hi",
            "accuracy_percent",
            "accuracy_lo",
            "accuracy_hi",
            "on_front",
            "void",
        ),
        rows=rows,
        draw=lambda figure: draw_pareto(data, figure.subplots()),
        height_mm=105,
    )


def _called(point: ParetoPoint) -> str:
    if point.method == BASELINE or point.target is None:
        return f"{point.method} of {point.runs}"
    return f"{point.method} at {point.target}"
