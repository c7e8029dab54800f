"""Section 6: can I trust the prediction? Held-out subjects only, predicted against measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rig.plotting.figure import ReportFigure, ReportTable, plural
from rig.plotting.numbers import Interval, interval, percent, quantile, wilson
from rig.plotting.style import (
    BLUE,
    GREEN,
    INK,
    VERMILLION,
    bar_style,
    interval_arms,
    legend_above,
    marks,
    plain_log_ticks,
    word,
)
from rig.results import Validation

QUANTITIES = {"latency_s": ("Latency", "ms"), "energy_active_j": ("Energy above quiet", "mJ")}
EDGE = 0.30  # errors beyond ±30 % are counted in the outer bins


class Point(NamedTuple):
    """One held-out subject in display units."""

    name: str
    what: str
    kind: str
    measured: Interval
    predicted: Interval
    extrapolated: bool
    simulated: bool

    @property
    def error(self) -> float:
        """Signed relative error of the prediction."""
        return self.predicted.value / self.measured.value - 1.0

    @property
    def covered(self) -> bool | None:
        """Whether the predicted interval holds the measured value; None without an interval."""
        if self.predicted.lo is None or self.predicted.hi is None:
            return None
        return self.predicted.lo <= self.measured.value <= self.predicted.hi


class PredictionData(NamedTuple):
    """All held-out points of one quantity (``Latency`` in ms or ``Energy above quiet`` in mJ)."""

    quantity: str
    unit: str
    points: tuple[Point, ...]


class ErrorSummary(NamedTuple):
    """Absolute relative error (median, 90 % quantile), median signed error, and coverage of the 95 % intervals."""

    n: int
    median: float
    p90: float
    bias: float
    covered: int
    bounded: int


def prediction_data(validation: Sequence[Validation]) -> list[PredictionData]:
    """Points by quantity; raises ValueError where a measured value is not positive."""
    out = []
    for name, (shown, unit) in QUANTITIES.items():
        points = tuple(_point(v) for v in validation if v.quantity == name)
        if points:
            out.append(PredictionData(shown, unit, points))
    return out


def _point(v: Validation) -> Point:
    measured, predicted = interval(v.measured, 1e-3), interval(v.predicted, 1e-3)
    if measured is None or predicted is None or measured.value <= 0:
        raise ValueError(f"validation of {v.name}: {v.quantity} must be measured, positive and predicted")
    kind = v.kind or (v.name.split()[0] if v.what == "kernel" else "network")
    return Point(v.name, v.what, kind, measured, predicted, v.extrapolated, v.measured.simulated)


def summarize(points: Sequence[Point]) -> ErrorSummary:
    """Median, P90, bias and coverage of some points."""
    errors = [p.error for p in points]
    known = [p.covered for p in points if p.covered is not None]
    return ErrorSummary(
        len(points),
        quantile([abs(e) for e in errors], 0.5),
        quantile([abs(e) for e in errors], 0.9),
        quantile(errors, 0.5),
        sum(known),
        len(known),
    )


def draw_scatter(data: PredictionData, ax: Axes) -> Axes:
    """Predicted against measured, log–log, equality dashed; circles kernels, squares networks."""
    simulated = any(p.simulated for p in data.points)
    styles = (
        ("kernel", False, "o", BLUE, "kernel"),
        ("network", False, "s", GREEN, "network"),
        (None, True, "^", VERMILLION, "extrapolated"),
    )
    for what, extrapolated, marker, colour, label in styles:
        points = [p for p in data.points if p.extrapolated == extrapolated and what in (None, p.what)]
        if not points:
            continue
        x, y = [p.measured.value for p in points], [p.predicted.value for p in points]
        ax.errorbar(
            x,
            y,
            xerr=interval_arms(x, [p.measured.lo for p in points], [p.measured.hi for p in points]),
            yerr=interval_arms(y, [p.predicted.lo for p in points], [p.predicted.hi for p in points]),
            fmt=marker,
            markersize=4,
            ecolor=colour,
            elinewidth=0.6,
            alpha=0.85,
            label=label + word(simulated),
            **marks(simulated, colour),
        )
    values = [v for p in data.points for v in (p.measured.value, p.predicted.value) if v > 0]
    low, high = min(values) / 1.6, max(values) * 1.6
    ax.plot([low, high], [low, high], color=INK, linestyle=(0, (5, 3)), linewidth=0.9, zorder=0)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), box_aspect=1)
    ax.set_xlabel(f"Measured {data.quantity.lower()}, {data.unit}")
    ax.set_ylabel(f"Predicted, {data.unit}")
    plain_log_ticks(ax)
    ax.legend(loc="upper left", borderaxespad=0.2)  # far from equality, so free of points
    return ax


def error_bins(
    points: Sequence[Point], edge: float = EDGE, count: int = 24
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(edges, counts) of the signed errors; what lies beyond ±edge is counted in the outer bins."""
    width = 2 * edge / count
    counts = [0] * count
    for p in points:
        counts[min(count - 1, max(0, math.floor((p.error + edge) / width)))] += 1
    return tuple(-edge + i * width for i in range(count + 1)), tuple(counts)


def draw_errors(data: PredictionData, ax: Axes) -> Axes:
    """Histogram of the signed error with its median."""
    largest = max(abs(p.error) for p in data.points)
    edge = next((e for e in (0.06, 0.12, EDGE) if largest <= e), EDGE)
    edges, counts = error_bins(data.points, edge)
    simulated = any(p.simulated for p in data.points)
    ax.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", **bar_style(simulated, BLUE))
    summary = summarize(data.points)
    ax.axvline(0, color=INK, linewidth=0.9)
    ax.axvline(
        summary.bias,
        color=VERMILLION,
        linestyle=(0, (5, 3)),
        label=f"median {100 * summary.bias:+.1f} %".replace("-", "−"),
    )
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}".replace("-", "−").replace("+0", "0"))
    beyond = sum(abs(p.error) > edge for p in data.points)
    ax.set_xlabel("Predicted ÷ measured − 1, %" + (f" ({beyond} beyond the edge in the outer bins)" if beyond else ""))
    ax.set_ylabel("Subjects" + word(simulated))
    ax.yaxis.get_major_locator().set_params(integer=True)
    legend_above(ax, columns=1)
    return ax


def prediction_figure(panels: list[PredictionData]) -> ReportFigure:
    """Scatter above, histogram beneath, one column a quantity."""

    def draw(figure: FigureBase) -> None:
        axes = figure.subplots(2, max(2, len(panels)), squeeze=False, height_ratios=[2.4, 1.0])
        for column, data in enumerate(panels):
            draw_scatter(data, axes[0][column])
            draw_errors(data, axes[1][column])
        for column in range(len(panels), axes.shape[1]):
            axes[0][column].set_axis_off()
            axes[1][column].set_axis_off()

    simulated = any(p.simulated for data in panels for p in data.points)
    mark = "SIMULATED. " if simulated else ""
    rows = tuple(
        (
            data.quantity,
            data.unit,
            p.name,
            p.what,
            p.kind,
            *p.measured,
            *p.predicted,
            p.error,
            p.covered,
            p.extrapolated,
            p.simulated,
        )
        for data in panels
        for p in data.points
    )
    return ReportFigure(
        key="prediction",
        title="Can I trust the prediction?",
        caption=mark
        + " ".join(_answer(data) for data in panels)
        + " Only subjects held out of the fit. Whiskers are 95 % intervals of both; the dashed line is equality.",
        alt=f"{mark}Predicted against measured on logarithmic axes with histograms of the signed error. "
        + " ".join(_answer(data) for data in panels),
        columns=(
            "quantity",
            "unit",
            "name",
            "what",
            "kind",
            "measured",
            "measured_lo",
            "measured_hi",
            "predicted",
            "predicted_lo",
            "predicted_hi",
            "relative_error",
            "covered",
            "extrapolated",
            "simulated",
        ),
        rows=rows,
        draw=draw,
        height_mm=138,
    )


def _answer(data: PredictionData) -> str:
    s = summarize(data.points)
    extra = sum(p.extrapolated for p in data.points)
    return (
        f"{data.quantity}: of {plural(s.n, 'subject')} the median error is {percent(s.median, 1)}, "
        f"nine in ten are within {percent(s.p90, 1)}; {coverage_text(s)}"
        f"{f'; {extra} extrapolated (triangles)' if extra else ''}."
    )


def coverage_text(s: ErrorSummary) -> str:
    """Coverage with its own interval (Wilson)."""
    if not s.bounded:
        return "no intervals to check"
    low, high = wilson(s.covered, s.bounded)
    return f"95 % intervals cover {percent(s.covered / s.bounded)} [{percent(low)}, {percent(high)}]"


def error_table(panels: list[PredictionData]) -> ReportTable:
    """Errors by kind of kernel and for whole networks."""
    rows = []
    mark = " (SIMULATED)" if any(p.simulated for data in panels for p in data.points) else ""
    for data in panels:
        groups: dict[str, list[Point]] = {}
        for point in data.points:
            groups.setdefault(point.kind if point.what == "kernel" else "whole networks", []).append(point)
        ordered = sorted(groups.items(), key=lambda item: (item[0] == "whole networks", -len(item[1]), item[0]))
        for name, points in [*ordered, ("all", list(data.points))]:
            s = summarize(points)
            low, high = wilson(s.covered, s.bounded)
            cover = f"{percent(s.covered / s.bounded)} [{percent(low)}, {percent(high)}]" if s.bounded else "n/a"
            bias = f"{100 * s.bias:+.1f} %".replace("-", "−")
            rows.append((data.quantity + mark, name, str(s.n), percent(s.median, 1), percent(s.p90, 1), bias, cover))
    columns = (
        "Quantity",
        "Held out",
        "n",
        "Median |error|",
        "P90 |error|",
        "Median signed",
        "Coverage of 95 % intervals",
    )
    return ReportTable(
        "error_table", "Held-out error by kind", columns, tuple(rows), (False, False, True, True, True, True, True)
    )
