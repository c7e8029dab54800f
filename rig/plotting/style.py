"""How every figure looks: type, widths, colours, marks of simulated data. Deterministic (Agg, fixed salt)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
BEFORE, AFTER = "#BBBBBB", BLUE
IDLE = "#E4E4E4"
INK, SOFT_INK, GRID = "#1A1A1A", "#555555", "#DDDDDD"
WIDE_MM, NARROW_MM = 170.0, 85.0
MM = 1.0 / 25.4
TEXT_PT = 8.0

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT_PT,
    "axes.titlesize": TEXT_PT,
    "axes.labelsize": TEXT_PT,
    "xtick.labelsize": TEXT_PT,
    "ytick.labelsize": TEXT_PT,
    "legend.fontsize": TEXT_PT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT_INK,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": SOFT_INK,
    "ytick.color": SOFT_INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "rig",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "path.simplify": True,
    "savefig.dpi": 200,
    "figure.dpi": 100,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The report's matplotlib settings, whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def marks(simulated: bool, colour: str) -> dict[str, Any]:
    """Marker fill: hollow where the data are simulated."""
    return {"markerfacecolor": "white" if simulated else colour, "markeredgecolor": colour, "markeredgewidth": 1.1}


def bar_style(simulated: bool, colour: str) -> dict[str, Any]:
    """Bar fill: hatched and dashed where the data are simulated."""
    if simulated:
        return {
            "facecolor": tint(colour, 0.35),
            "edgecolor": shade(colour),
            "hatch": "////",
            "linestyle": "--",
            "linewidth": 0.8,
        }
    return {"facecolor": colour, "edgecolor": shade(colour), "linewidth": 0.8}


def tint(colour: str, share: float) -> tuple[float, float, float]:
    """The colour mixed with white; ``share`` of the colour remains."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return (1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue))


def shade(colour: str) -> tuple[float, float, float]:
    """A darker edge for a fill."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return (0.7 * red, 0.7 * green, 0.7 * blue)


def word(simulated: bool) -> str:
    """What stands in a legend behind simulated data."""
    return " (SIMULATED)" if simulated else ""


def legend_above(ax: Axes, columns: int = 4, **options: Any) -> None:
    """A legend in a row above the axes, clear of the data."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.4, **options
    )


def interval_arms(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]
) -> list[list[float]]:
    """Arms for errorbar (2, n): zero length where there is no interval."""
    lower = [0.0 if low is None else max(0.0, v - low) for v, low in zip(values, lows, strict=True)]
    upper = [0.0 if high is None else max(0.0, high - v) for v, high in zip(values, highs, strict=True)]
    return [lower, upper]


def plain_log_ticks(ax: Axes) -> None:
    """Plain numbers on logarithmic axes; steps between the decades are labelled where an axis spans few."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        shown = "23456789" if high / low < 6 else "25" if high / low < 30 else ""
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _, shown=shown: f"{value:g}" if f"{value:e}"[0] in shown else "")
