"""Section 2, the picture: power over time with what was used and what was not, temperature and clock, window means."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rig.plotting.figure import ReportFigure, listed, plural
from rig.plotting.numbers import compact
from rig.plotting.style import BLUE, GREEN, INK, PURPLE, SOFT_INK, VERMILLION, legend_above, marks, tint, word
from rig.plotting.trace_data import TraceData
from rig.units import Quantity

GAP = 0.25  # of a span: the pause between windows that need not be shown


def draw_trace(data: TraceData, ax: Axes) -> Axes:
    """Envelope and mean over time; used windows shaded, the rest hatched with its reason, quiet power dashed."""
    simulated = word(data.simulated)
    _shade_spans(data, ax)
    if data.envelope:
        times, low, high = zip(*data.envelope, strict=True)
        if data.quantity == "power":
            ax.fill_between(
                times, low, high, color=tint(BLUE, 0.4), linewidth=0, label=f"minimum to maximum{simulated}"
            )
        else:
            ax.vlines(times, low, high, color=tint(BLUE, 0.5), linewidth=2.5, label=f"minimum to maximum{simulated}")
    if data.mean:
        times, mean = zip(*data.mean, strict=True)
        style = "--" if data.simulated else "-"
        name = f"{data.bin_s:g} s mean" if data.quantity == "power" else "mean of a phase"
        dots = {} if data.quantity == "power" else {"marker": "o", **marks(data.simulated, BLUE)}
        ax.plot(
            times,
            mean,
            color=BLUE,
            linestyle=(0, (4, 1)) if style == "--" else "-",
            linewidth=1.0,
            label=name + simulated,
            **dots,
        )
    if data.idle_level is not None:
        ax.axhline(
            data.idle_level,
            color=INK,
            linestyle=(0, (5, 3)),
            linewidth=1.0,
            label=f"quiet {compact(data.idle_level)} W",
        )
    ax.set_ylim(0, ax.get_ylim()[1] * 1.02)
    ax.set_xlim(data.spans[0].t0_s, 1.01 * data.spans[-1].t1_s)
    ax.set_ylabel(f"{data.quantity.capitalize()}, {data.unit}")
    legend_above(ax, columns=2)
    return ax


def _shade_spans(data: TraceData, ax: Axes) -> None:
    """Adjacent spans of one sort are one patch, so that a reason is written once."""
    duration = data.spans[-1].t1_s - data.spans[0].t0_s
    shaded = False
    for t0, t1, used, idle, reason in merged_spans(data):
        if used:
            ax.axvspan(t0, t1, color=tint(GREEN, 0.18), linewidth=0, label=None if shaded else "windows used")
            shaded = True
            continue
        if not idle:
            ax.axvspan(t0, t1, facecolor="none", edgecolor="#999999", hatch="///", linewidth=0)
        wide = (t1 - t0) > 0.022 * len(reason) * duration
        place = {"ha": "center"} if wide else {"ha": "center", "rotation": 90}
        ax.text(
            0.5 * (t0 + t1),
            0.03,
            reason,
            transform=ax.get_xaxis_transform(),
            va="bottom",
            color=SOFT_INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.9},
            **place,
        )


def merged_spans(data: TraceData) -> list[tuple[float, float, bool, bool, str]]:
    """Neighbouring spans with the same use and reason put together."""
    out: list[tuple[float, float, bool, bool, str]] = []
    for span in data.spans:
        close = bool(out) and span.t0_s - out[-1][1] < GAP * (span.t1_s - span.t0_s) + 1e-6
        if close and out[-1][2:] == (span.used, span.idle, span.reason):
            out[-1] = (out[-1][0], span.t1_s, *out[-1][2:])
        else:
            out.append(tuple(span))
    return out


def draw_temperature(data: TraceData, ax: Axes) -> Axes:
    """Temperature at the end of each phase."""
    points = [(s.time_s, s.temp_c) for s in data.states if s.temp_c is not None]
    ax.plot(*zip(*points, strict=True), color=VERMILLION, marker="s", markersize=3.5, **_small(data, VERMILLION))
    ax.set_ylabel("°C", rotation=0, ha="right", va="center")
    ax.margins(y=0.25)
    return ax


def draw_clock(data: TraceData, ax: Axes) -> Axes:
    """Clock frequency of each phase, from zero."""
    points = [(s.time_s, s.freq_mhz) for s in data.states if s.freq_mhz is not None]
    ax.plot(*zip(*points, strict=True), color=PURPLE, marker="D", markersize=3.5, **_small(data, PURPLE))
    ax.set_ylabel("MHz", rotation=0, ha="right", va="center")
    ax.set_ylim(0, 1.25 * max(f for _, f in points))
    return ax


def _small(data: TraceData, colour: str) -> dict[str, object]:
    return {**marks(data.simulated, colour), "linestyle": (0, (4, 2)) if data.simulated else "-", "linewidth": 1.0}


def draw_windows(data: TraceData, ax: Axes) -> Axes:
    """Mean of each measured window in order, with the mean of all and its 95 % interval."""
    order = range(1, len(data.windows) + 1)
    mean = data.window_mean
    if mean.lo is not None and mean.hi is not None:
        ax.axhspan(mean.lo, mean.hi, color="#EEEEEE", linewidth=0, label="95 % interval")
    ax.axhline(mean.value, color=SOFT_INK, linewidth=0.9, label=f"mean of the windows {window_text(data)}")
    ax.plot(order, data.windows, "o", label=f"window{word(data.simulated)}", **marks(data.simulated, BLUE))
    ax.set_xlabel("Window, in order")
    ax.set_ylabel(f"Mean {data.quantity}, {data.unit}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.margins(x=0.04, y=0.2)
    legend_above(ax, columns=3)
    return ax


def window_text(data: TraceData) -> str:
    """Mean of the windows with digits after its uncertainty."""
    mean = data.window_mean
    return Quantity(mean.value, mean.lo, mean.hi).format(data.unit if data.unit == "W" else "") + (
        "" if data.unit == "W" else f" {data.unit}"
    )


def drift_text(data: TraceData) -> str:
    """Change between the first and the second half of the windows, in per cent of the mean."""
    half = len(data.windows) // 2
    if half == 0 or data.window_mean.value == 0:
        return "too few windows to judge drift"
    first, second = data.windows[:half], data.windows[-half:]
    drift = (math.fsum(second) - math.fsum(first)) / half / data.window_mean.value
    return f"drift between first and second half {100 * drift:+.2f} %".replace("-", "−")


def trace_figure(data: TraceData, role: str) -> ReportFigure:
    """Trace with temperature and clock beneath; ``role`` says whose measurement it is (baseline, result)."""
    has_temp = any(s.temp_c is not None for s in data.states)
    has_clock = any(s.freq_mhz is not None for s in data.states)
    extra = [draw for draw, present in ((draw_temperature, has_temp), (draw_clock, has_clock)) if present]

    def draw(figure: FigureBase) -> None:
        axes = figure.subplots(1 + len(extra), 1, sharex=True, squeeze=False, height_ratios=[4.2] + [1.0] * len(extra))[
            :, 0
        ]
        draw_trace(data, axes[0])
        for panel, ax in zip(extra, axes[1:], strict=True):
            panel(data, ax)
        axes[-1].set_xlabel("Time, s")

    rows = [("mean", t, v, None, None) for t, v in data.mean] + [
        ("envelope", t, None, a, b) for t, a, b in data.envelope
    ]
    rows += [
        ("excluded" if not s.used and not s.idle else "quiet" if s.idle else "window", s.t0_s, None, None, None)
        for s in data.spans
    ]
    excluded = sorted({s.reason for s in data.spans if not s.used and not s.idle})
    used = sum(s.used for s in data.spans)
    mark = "SIMULATED. " if data.simulated else ""
    missing = [n for n, present in (("temperature", has_temp), ("clock", has_clock)) if not present]
    caption = (
        f"{mark}{_answer(data, excluded)} {data.note + ' ' if data.note else ''}Source: {data.source}; "
        f"measurement {data.measurement_id}."
        f"{' Not reported by this device: ' + listed(missing) + '.' if missing else ''}"
    )
    return ReportFigure(
        key=f"trace_{role.replace(' ', '_')}",
        title=f"Was the {role} measured in a steady state?",
        caption=caption,
        alt=f"{mark}{data.quantity.capitalize()} over {data.spans[-1].t1_s:.0f} s: "
        f"mean of the windows {window_text(data) if data.windows else 'not available'}"
        f"{f', quiet {compact(data.idle_level)} W' if data.idle_level is not None else ''}; "
        f"{plural(used, 'window')} shaded; "
        f"excluded: {listed(excluded) or 'none'}.",
        columns=("series", "time_s", f"mean_{_suffix(data)}", f"low_{_suffix(data)}", f"high_{_suffix(data)}"),
        rows=tuple(rows),
        draw=draw,
        height_mm=62 + 16 * len(extra),
    )


def windows_figure(data: TraceData, role: str) -> ReportFigure:
    """Window means in order."""
    mark = "SIMULATED. " if data.simulated else ""
    text = window_text(data)
    return ReportFigure(
        key=f"windows_{role.replace(' ', '_')}",
        title=f"Do the windows of the {role} agree?",
        caption=f"{mark}{plural(len(data.windows), 'window')}: {text}; {drift_text(data)}. "
        "The vertical axis does not start at zero: "
        "dots, not bars. Every window counts once here and the interval is sampling alone; the tables weigh by "
        "inferences and add calibration and clock.",
        alt=f"{mark}Dots: mean {data.quantity} of {plural(len(data.windows), 'window')} in order, mean {text}.",
        columns=("window", f"mean_{_suffix(data)}"),
        rows=tuple(enumerate(data.windows, start=1)),
        draw=lambda figure: draw_windows(data, figure.subplots()),
        height_mm=45,
    )


def _suffix(data: TraceData) -> str:
    return "w" if data.unit == "W" else "ms"


def _answer(data: TraceData, excluded: list[str]) -> str:
    """Yes, no, or with care, and why."""
    used = sum(span.used for span in data.spans)
    if data.rejected is not None:
        return f"No: the measurement was rejected ({data.rejected}); nothing of it is used."
    beyond_warmup = [reason for reason in excluded if reason != "warm-up"]
    answer = "Yes" if used >= 3 and not beyond_warmup else "With care"
    left_out = f"; not used: {listed(excluded)}" if excluded else ", none excluded"
    return f"{answer}: {plural(used, 'window')} used{left_out}; {drift_text(data)}."
