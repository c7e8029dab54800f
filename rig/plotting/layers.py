"""Section 5: what was removed? One dumbbell a layer in network order."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from matplotlib.axes import Axes

from rig.plotting.figure import ReportFigure, plural
from rig.plotting.numbers import percent
from rig.plotting.style import AFTER, BEFORE, PURPLE, SOFT_INK, VERMILLION, legend_above, shade
from rig.results import Layer

PER_FIGURE = 45


class LayersData(NamedTuple):
    """Layers of one figure in network order; ``ties``: (group, row numbers) of groups of several layers."""

    layers: tuple[Layer, ...]
    ties: tuple[tuple[str, tuple[int, ...]], ...]
    part: int
    parts: int


def layers_data(layers: list[Layer]) -> list[LayersData]:
    """Split long networks into equal parts that fit a page each."""
    if not layers:
        return []
    parts = -(-len(layers) // PER_FIGURE)
    size = -(-len(layers) // parts)
    pieces = [tuple(layers[i : i + size]) for i in range(0, len(layers), size)]
    return [LayersData(piece, _ties(piece), n, len(pieces)) for n, piece in enumerate(pieces, start=1)]


def _ties(layers: tuple[Layer, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    groups: dict[str, list[int]] = {}
    for row, layer in enumerate(layers):
        if layer.group is not None:
            groups.setdefault(str(layer.group), []).append(row)
    return tuple((group, tuple(rows)) for group, rows in groups.items() if len(rows) > 1)


def draw_layers(data: LayersData, ax: Axes) -> Axes:
    """Width before (grey) and after (blue) joined by a line; ties dotted; removed crossed out; not prunable named."""
    rows = range(len(data.layers))
    kept = [(row, layer) for row, layer in zip(rows, data.layers, strict=True) if not layer.removed]
    gone = [(row, layer) for row, layer in zip(rows, data.layers, strict=True) if layer.removed]
    reach = max(layer.before for layer in data.layers)
    for row, layer in zip(rows, data.layers, strict=True):
        ax.plot(
            [layer.after if not layer.removed else 0, layer.before],
            [row, row],
            color="#CCCCCC" if not layer.removed else VERMILLION,
            linewidth=2.0 if not layer.removed else 1.0,
            linestyle="-" if not layer.removed else ":",
            zorder=1,
        )
    ax.plot(
        [la.before for la in data.layers],
        list(rows),
        "o",
        color=BEFORE,
        markeredgecolor=shade(BEFORE),
        label="before",
        zorder=2,
    )
    if kept:
        ax.plot(
            [la.after for _, la in kept],
            [r for r, _ in kept],
            "s",
            color=AFTER,
            markersize=4.5,
            label="after",
            zorder=3,
        )
    if gone:
        ax.plot(
            [0] * len(gone),
            [r for r, _ in gone],
            "x",
            color=VERMILLION,
            markeredgewidth=1.6,
            label="removed",
            zorder=3,
            clip_on=False,
        )
    _draw_ties(data, ax)
    for row, layer in zip(rows, data.layers, strict=True):
        ax.text(layer.before + 0.025 * reach, row, layer_note(layer), va="center", color=SOFT_INK)
    ax.set_yticks(list(rows), [layer.name for layer in data.layers])
    ax.set_ylim(len(data.layers) - 0.4, -0.6)
    ax.set_xlim(-0.025 * reach, 1.32 * reach)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.grid(True)
    ax.set_xlabel("Output channels")
    legend_above(ax)
    return ax


def _draw_ties(data: LayersData, ax: Axes) -> None:
    """Neighbours of a group joined at their common width after."""
    named = False
    for _, members in data.ties:
        alive = [row for row in members if not data.layers[row].removed]
        for first, second in itertools.pairwise(alive):
            ends = [data.layers[first].after, data.layers[second].after]
            ax.plot(
                ends,
                [first, second],
                color=PURPLE,
                linestyle=(0, (1, 1.2)),
                linewidth=1.1,
                zorder=1.5,
                label=None if named else "tied (move together)",
            )
            named = True


def layer_note(layer: Layer) -> str:
    """What stands beside a layer: widths, removed, or why it cannot be pruned."""
    if layer.removed:
        return "removed"
    if not layer.prunable:
        return "not prunable" + (f": {layer.why}" if layer.why else "")
    if layer.after == layer.before:
        return f"{layer.before} kept"
    return f"{layer.before} → {layer.after}"


def layers_figure(data: LayersData) -> ReportFigure:
    """The dumbbells with caption, alt text and numbers."""
    prunable = [layer for layer in data.layers if layer.prunable]
    before = sum(layer.before for layer in prunable)
    after = sum(layer.after for layer in prunable if not layer.removed)
    removed = sum(layer.removed for layer in data.layers)
    share = f"{percent(1 - after / before)} of the prunable channels" if before else "nothing: no layer is prunable"
    part = f" (part {data.part} of {data.parts})" if data.parts > 1 else ""
    notes = "; ".join(f"{layer.name} {layer_note(layer)}" for layer in data.layers)
    return ReportFigure(
        key=f"layers_{data.part}",
        title=f"What was removed?{part}",
        caption=f"{share[0].upper()}{share[1:]} ({before} → {after}); {plural(removed, 'layer')} removed whole; "
        f"{plural(len(data.layers) - len(prunable), 'layer')} not prunable; "
        f"{plural(len(data.ties), 'channel group')} with several layers (dotted lines join them).",
        alt=f"Dumbbells of output channels before and after, in network order: {notes}.",
        columns=("layer", "group", "before", "after", "prunable", "removed", "why"),
        rows=tuple(
            (la.name, la.group, la.before, 0 if la.removed else la.after, la.prunable, la.removed, la.why)
            for la in data.layers
        ),
        draw=lambda figure: draw_layers(data, figure.subplots()),
        height_mm=26 + 4.4 * len(data.layers),
    )
