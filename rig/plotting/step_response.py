"""The step response of a power source: all edges of a known load laid over each other, and the fit through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rig.doctor.source import Finding
from rig.plotting.figure import ReportFigure, plural
from rig.plotting.style import BLUE, INK, SOFT_INK, VERMILLION, legend_above, marks, word
from rig.units import Quantity

REACHES_SHOWN = 2.0  # how far after an edge, in lags and windows of the source
BEFORE_SHARE = 0.35  # of that, before the edge
MOST_POINTS = 4000


@dataclass(frozen=True)
class EdgeSamples:
    """Samples around the edges of one direction: seconds since the edge, watts."""

    since_s: np.ndarray
    power_w: np.ndarray
    edges: int


def around_edges(finding: Finding, rising: bool) -> EdgeSamples:
    """Every sample near an edge, as far as no other edge reaches it."""
    response, trace = finding.response, finding.trace
    if response is None or trace is None:
        return EdgeSamples(np.empty(0), np.empty(0), 0)
    after_s, before_s = shown_s(finding)
    edges = [span[0] if rising else span[1] for span in finding.spans]
    others = sorted(edge for span in finding.spans for edge in span[:2])
    since, watts = [], []
    for edge in edges:
        nearest_s = min((other - edge for other in others if other > edge), default=after_s)
        earlier_s = min((edge - other for other in others if other < edge), default=before_s + after_s)
        # What an earlier edge still moves is left out.
        low_s = max(-before_s, min(0.0, after_s - earlier_s))
        inside = (trace.times_s >= edge + low_s) & (trace.times_s < edge + min(after_s, nearest_s))
        since.append(trace.times_s[inside] - edge)
        watts.append(trace.power_w[inside])
    return EdgeSamples(np.concatenate(since)[:MOST_POINTS], np.concatenate(watts)[:MOST_POINTS], len(edges))


def shown_s(finding: Finding) -> tuple[float, float]:
    """Seconds after and before an edge that are drawn."""
    response = finding.response
    reach_s = (response.window_s + max(response.lag_s, 0.0)) if response is not None else 0.0
    after_s = REACHES_SHOWN * max(reach_s, 2.0 * (finding.spacing_s or 0.01))
    return after_s, BEFORE_SHARE * after_s


def draw_edge(finding: Finding, rising: bool, ax: Axes) -> Axes:
    """Samples around one direction's edges, the fit, and where window and lag lie."""
    response = finding.response
    if response is None:
        return ax
    simulated = finding.kind == "simulated"
    samples = around_edges(finding, rising)
    after_s, before_s = shown_s(finding)
    scale, unit = (1e3, "ms") if after_s < 2.0 else (1.0, "s")
    ax.plot(
        scale * samples.since_s,
        samples.power_w,
        "o",
        markersize=2.5,
        label=f"samples{word(simulated)}",
        **{**marks(simulated, BLUE), "markeredgewidth": 0.6},
    )
    t = np.linspace(-before_s, after_s, 400)
    share = response.risen(t)
    fitted_w = response.quiet_w + response.active_w * (share if rising else 1.0 - share)
    ax.plot(scale * t, fitted_w, color=VERMILLION, label="fit", linestyle="--" if simulated else "-")
    ax.axvline(0.0, color=INK, linewidth=0.9)
    ax.axvspan(
        scale * response.lag_s,
        scale * (response.lag_s + response.window_s),
        color="#EEEEEE",
        linewidth=0,
        label="window",
    )
    ax.set_xlabel(f"Time since the load went {'on' if rising else 'off'}, {unit}")
    ax.set_xlim(-scale * before_s, scale * after_s)
    ax.margins(y=0.08)
    return ax


def draw_step_response(finding: Finding, figure: FigureBase) -> None:
    """Load on at the left, load off at the right, one scale of watts."""
    left, right = figure.subplots(1, 2, sharey=True)
    draw_edge(finding, True, left)
    draw_edge(finding, False, right)
    left.set_ylabel("Power, W")
    legend_above(left, columns=3)
    if finding.kind == "simulated":
        right.text(
            1.0, 1.02, "SIMULATED", transform=right.transAxes, ha="right", va="bottom", color=SOFT_INK, weight="bold"
        )


def step_response_figure(finding: Finding, device: str) -> ReportFigure:
    """The figure of one source. Raises ValueError where it has no step response."""
    response = finding.response
    if response is None:
        raise ValueError(f"power source {finding.name} has no step response")
    simulated = "SIMULATED: " if finding.kind == "simulated" else ""
    window = Quantity.around(response.window_s, response.window_half_width_s).format("s")
    if response.time_constant_s is not None:
        window += f" (99 % of what it forgets exponentially, time constant {response.time_constant_s:.3g} s)"
    lag = Quantity.around(response.lag_s, response.lag_half_width_s).format("s")
    caption = (
        f"{simulated}{finding.name} of {device} averages over {window} and stamps its samples {lag} later; fitted to "
        f"{plural(len(finding.spans), 'step')} of a load of {response.active_w:.3g} W."
    )
    rows = tuple(
        (direction, float(since), float(watts))
        for direction, rising in (("on", True), ("off", False))
        for since, watts in zip(*_columns(around_edges(finding, rising)), strict=True)
    )
    return ReportFigure(
        key=f"step-response-{finding.name}",
        title=f"How does {finding.name} of {device} follow a load?{' SIMULATED' if simulated else ''}",
        caption=caption,
        alt=f"Step response of power source {finding.name}. {caption}",
        columns=("edge", "since_s", "power_w"),
        rows=rows,
        draw=lambda figure: draw_step_response(finding, figure),
        height_mm=70.0,
    )


def _columns(samples: EdgeSamples) -> tuple[Any, Any]:
    return samples.since_s.tolist(), samples.power_w.tolist()
