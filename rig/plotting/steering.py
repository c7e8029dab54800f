"""Section 4: why this network? The controller over its steps, and the rounds on the device."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rig.plotting.budget import NAMES, UNITS
from rig.plotting.figure import ReportFigure, listed, plural
from rig.plotting.numbers import Interval, compact, display_unit, interval, percent
from rig.plotting.style import BLUE, GREEN, INK, PURPLE, SOFT_INK, VERMILLION, interval_arms, legend_above, marks, word
from rig.results import BudgetLimit, RunResult

LIMIT_ALIASES = {
    "energy": ("energy", "energy_active_j", "energy_j"),
    "power": ("power", "power_w"),
    "latency": ("latency", "latency_s"),
}


class RoundSeries(NamedTuple):
    """Predicted and measured values of one limit over the rounds, in ``unit``; None where there is none."""

    name: str
    unit: str
    target: float
    predicted: tuple[Interval | None, ...]
    measured: tuple[Interval | None, ...]


class RoundsData(NamedTuple):
    """Rounds on the device: one series a limit, accuracy on the validation split (%), width, verdict."""

    rounds: tuple[int, ...]
    series: tuple[RoundSeries, ...]
    accuracy_percent: tuple[float | None, ...]
    width: tuple[float | None, ...]
    verdicts: tuple[str, ...]
    simulated: bool


class ControllerData(NamedTuple):
    """Controller steps: cost of the network as it is and as relaxed, over the target; log strength; share alive."""

    steps: tuple[int, ...]
    true_ratio: tuple[float, ...]
    relaxed_ratio: tuple[float | None, ...]
    wanted_ratio: tuple[float, ...]
    log_strength: tuple[float, ...]
    alive_percent: tuple[float | None, ...]


def rounds_data(result: RunResult) -> RoundsData | None:
    """The rounds of an optimize run, None without any."""
    if not result.rounds:
        return None
    return RoundsData(
        tuple(r.round for r in result.rounds),
        tuple(_series(limit, result) for limit in result.budget),
        tuple(None if r.accuracy_val is None else 100 * r.accuracy_val for r in result.rounds),
        tuple(r.width for r in result.rounds),
        tuple(r.verdict for r in result.rounds),
        result.simulated,
    )


def _series(limit: BudgetLimit, result: RunResult) -> RoundSeries:
    names = LIMIT_ALIASES.get(limit.quantity, (limit.quantity,))
    found = [
        [next((side[n] for n in names if n in side), None) for side in (r.predicted, r.measured)] for r in result.rounds
    ]
    values = [q.value for pair in found for q in pair if q is not None and q.value is not None]
    factor, unit = display_unit([*values, limit.limit], UNITS[limit.quantity])
    predicted, measured = (tuple(interval(pair[side], factor) for pair in found) for side in (0, 1))
    return RoundSeries(limit.quantity, unit, limit.limit / factor, predicted, measured)


def controller_data(result: RunResult) -> ControllerData | None:
    """The controller's steps, None where no regularizer ran."""
    steps = result.controller
    if not steps:
        return None
    return ControllerData(
        tuple(s.step for s in steps),
        tuple(s.true_cost for s in steps),
        tuple(s.relaxed_cost for s in steps),
        tuple(s.target_cost for s in steps),
        tuple(s.log_strength for s in steps),
        tuple(None if s.alive_share is None else 100 * s.alive_share for s in steps),
    )


def draw_round_series(series: RoundSeries, rounds: tuple[int, ...], simulated: bool, ax: Axes) -> Axes:
    """Predicted (hollow diamonds) and measured (filled; hollow circles if simulated) with intervals, target dashed."""
    for values, shift, marker, colour, hollow, name in (
        (series.predicted, -0.06, "D", PURPLE, True, f"predicted{' from SIMULATED' if simulated else ''}"),
        (series.measured, 0.06, "o", BLUE, simulated, f"measured{word(simulated)}"),
    ):
        points = [(r + shift, v) for r, v in zip(rounds, values, strict=True) if v is not None]
        if not points:
            continue
        y = [v.value for _, v in points]
        arms = interval_arms(y, [v.lo for _, v in points], [v.hi for _, v in points])
        style = (0, (3, 1.5)) if hollow else "-"
        _, _, bars = ax.errorbar(
            [x for x, _ in points],
            y,
            yerr=arms,
            fmt=marker,
            ecolor=colour,
            capsize=3,
            label=name,
            **marks(hollow, colour),
        )
        for bar in bars:
            bar.set_linestyle(style)
    ax.axhline(
        series.target,
        color=VERMILLION,
        linestyle=(0, (5, 3)),
        linewidth=1.2,
        label=f"target {series.target:.4g} {series.unit}",
    )
    ax.margins(y=0.2)
    ax.set_ylabel(f"{series.name.capitalize()},\n{series.unit}")
    legend_above(ax)
    return ax


def draw_line(
    steps: tuple[int, ...], values: tuple[float | None, ...], label: str, colour: str, marker: str, ax: Axes
) -> Axes:
    """One quantity over steps or rounds; missing values leave a gap. Markers while there are few points."""
    points = [float("nan") if v is None else v for v in values]
    few = len(steps) <= 40
    ax.plot(steps, points, color=colour, marker=marker if few else None, markersize=4.5)
    ax.set_ylabel(label)
    ax.margins(y=0.2)
    return ax


def draw_controller_cost(data: ControllerData, ax: Axes) -> Axes:
    """Cost as a share of the budget: of the channels alive, as the regularizer sees it, and as wanted at each step."""
    ax.plot(data.steps, data.true_ratio, color=BLUE, label="cost of the network as it stands")
    relaxed = [float("nan") if v is None else v for v in data.relaxed_ratio]
    ax.plot(data.steps, relaxed, color=GREEN, linestyle="-.", label="cost as relaxed")
    ax.plot(data.steps, data.wanted_ratio, color=SOFT_INK, linestyle=":", label="cost wanted by now")
    ax.axhline(1.0, color=VERMILLION, linestyle=(0, (5, 3)), label="target")
    ax.set_ylim(0, max(1.15, 1.08 * max(data.true_ratio)))
    ax.set_ylabel("Cost ÷ target")
    legend_above(ax, columns=2)
    return ax


def controller_figure(data: ControllerData, simulated: bool) -> ReportFigure:
    """Small multiples sharing the step axis."""

    def draw(figure: FigureBase) -> None:
        has_alive = any(v is not None for v in data.alive_percent)
        axes = figure.subplots(
            3 if has_alive else 2, 1, sharex=True, height_ratios=[2.2, 1, 1][: 3 if has_alive else 2]
        )
        draw_controller_cost(data, axes[0])
        draw_line(data.steps, data.log_strength, "log strength", PURPLE, "D", axes[1])
        if has_alive:
            draw_line(data.steps, data.alive_percent, "Channels\nalive, %", INK, "s", axes[2])
            axes[2].set_ylim(0, 105)
        axes[-1].set_xlabel("Step of the controller")
        figure.align_ylabels(axes)

    mark = "SIMULATED cost model. " if simulated else ""
    reached = next((s for s, ratio in zip(data.steps, data.true_ratio, strict=True) if ratio <= 1.0), None)
    answer = (
        f"It reached the target at step {reached}"
        if reached is not None
        else f"It ended {percent(data.true_ratio[-1] - 1)} above the target"
    )
    return ReportFigure(
        key="controller",
        title="Did the controller drive the cost to the target?",
        caption=f"{mark}{answer}; last step: cost {percent(data.true_ratio[-1])} of the target"
        f"{'' if data.alive_percent[-1] is None else f', {data.alive_percent[-1]:.0f} % of the channels alive'}. "
        "Cost by the cost model (predicted), not measured.",
        alt=f"{mark}Lines over {plural(len(data.steps), 'step')}: cost over target from {data.true_ratio[0]:.2f} to "
        f"{data.true_ratio[-1]:.2f}; "
        f"log strength from {data.log_strength[0]:.2f} to {data.log_strength[-1]:.2f}.",
        columns=(
            "step",
            "true_cost_over_target",
            "relaxed_cost_over_target",
            "wanted_cost_over_target",
            "log_strength",
            "alive_percent",
        ),
        rows=tuple(zip(*data, strict=True)),
        draw=draw,
        height_mm=92,
    )


def rounds_figure(data: RoundsData) -> ReportFigure:
    """Small multiples sharing the round axis: every limit, accuracy, width."""
    has_width = any(w is not None for w in data.width)
    has_accuracy = any(a is not None for a in data.accuracy_percent)

    def draw(figure: FigureBase) -> None:
        small = has_width + has_accuracy
        axes = figure.subplots(
            len(data.series) + small,
            1,
            sharex=True,
            squeeze=False,
            height_ratios=[2.0] * len(data.series) + [1.0] * small,
        )[:, 0]
        for series, ax in zip(data.series, axes, strict=False):
            draw_round_series(series, data.rounds, data.simulated, ax)
        row = len(data.series)
        if has_accuracy:
            draw_line(data.rounds, data.accuracy_percent, "Validation\naccuracy, %", GREEN, "^", axes[row])
            row += 1
        if has_width:
            draw_line(data.rounds, data.width, "Width\nmultiplier", INK, "s", axes[row])
        axes[-1].set_xticks(data.rounds, [f"{r}\n{v}" for r, v in zip(data.rounds, data.verdicts, strict=True)])
        axes[-1].set_xlim(data.rounds[0] - 0.5, data.rounds[-1] + 0.5)
        axes[-1].set_xlabel("Round on the device, and its verdict")
        figure.align_ylabels(axes)

    rows = tuple(
        (
            data.rounds[i],
            s.name,
            s.unit,
            s.target,
            side,
            *(values[i] or (None, None, None)),
            data.accuracy_percent[i],
            data.width[i],
            data.verdicts[i],
        )
        for s in data.series
        for side, values in (("predicted", s.predicted), ("measured", s.measured))
        for i in range(len(data.rounds))
    )
    mark = "SIMULATED. " if data.simulated else ""
    told = listed([f"round {r} {v}" for r, v in zip(data.rounds, data.verdicts, strict=True)])
    series = "; ".join(
        f"{NAMES[s.name].lower()}, {s.unit}: "
        + ", ".join(_pair(p, m) for p, m in zip(s.predicted, s.measured, strict=True))
        for s in data.series
    )
    return ReportFigure(
        key="rounds",
        title="Why this network: what did each round on the device decide?",
        caption=f"{mark}{told[0].upper()}{told[1:]}. Hollow diamonds are predicted, "
        f"{'hollow circles simulated measurements' if data.simulated else 'filled circles measured'}; "
        "whiskers are 95 % intervals. Accuracy is of the validation split, which steers; the test set was used once, "
        "at the end. Axes of dots and lines do not start at zero.",
        alt=f"{mark}Over {plural(len(data.rounds), 'round')}: {series}. {told}.",
        columns=(
            "round",
            "limit",
            "unit",
            "target",
            "series",
            "value",
            "lo",
            "hi",
            "accuracy_val_percent",
            "width",
            "verdict",
        ),
        rows=rows,
        draw=draw,
        height_mm=48 * len(data.series) + 20 * (has_width + has_accuracy) + 8,
    )


def _pair(predicted: Interval | None, measured: Interval | None) -> str:
    shown = ["n/a" if v is None else compact(v.value) for v in (predicted, measured)]
    return f"predicted {shown[0]}, measured {shown[1]}"
