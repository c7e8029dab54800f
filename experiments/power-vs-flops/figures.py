"""The study's figures, each of which answers the question in its title; drawn of the tables given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from kernel_watts import LONG_S
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from measured_sets import CostSet
from precision import pairs_of

from rig.plotting.style import BLUE, GREEN, INK, MM, PURPLE, SOFT_INK, VERMILLION, WIDE_MM, drawing, plain_log_ticks

DPI = 125
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "#E69F00", "#56B4E9", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PRECISIONS = {"float32": ("o", BLUE), "int8": ("s", VERMILLION)}


def draw_all(results: dict[str, Any], networks: list[CostSet], kernels: list[CostSet], folder: Path) -> list[Path]:
    """Every figure that the tables given allow."""
    made = []
    with drawing():
        if networks:
            made += [
                _save(_joules(results, networks), folder / "joules.png"),
                _save(_watts(networks), folder / "watts.png"),
                _save(_decisions(results), folder / "decisions.png"),
            ]
            boards = precision_boards(networks)
            if boards:
                made.append(_save(_precision(boards), folder / "precision.png"))
        if kernels:
            made.append(_save(_kernels(kernels), folder / "kernels.png"))
    return made


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return path


def _grid(count: int, columns: int, height_mm: float, **options: Any) -> tuple[Any, list[Axes]]:
    rows = -(-count // columns)
    size = (WIDE_MM * MM, rows * height_mm * MM)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, list(axes.flat[:count])


def _joules(results: dict[str, Any], networks: list[CostSet]) -> Any:
    figure, axes = _grid(len(networks), min(3, len(networks)), 62.0)
    told: list[str] = []
    for ax, found in zip(axes, networks, strict=True):
        small = len(found) > 500
        for family in range(int(found.family.max()) + 1):
            of = found.family == family
            ax.plot(
                found.macs[of] / 1e6,
                found.steered_j[of] * 1e3,
                MARKERS[family % 7],
                color=COLOURS[family % 7],
                markersize=1.2 if small else 3.2,
                markeredgewidth=0,
                alpha=0.5 if small else 0.85,
                label=found.family_names[family],
            )
        if found.family_names != told:
            told = found.family_names
            ax.legend(loc="lower right", handlelength=0.8, markerscale=4.0 if small else 1.0, borderaxespad=0.0)
        _scale_line(ax, found)
        for pair in results["networks"][found.label]["equal_macs"].get("extremes", [])[:1]:
            ends = [pair["cheaper"], pair["dearer"]]
            x = float(np.mean([e["mmac"] for e in ends]))
            ax.plot([e["mmac"] for e in ends], [e["energy_mj"] for e in ends], "-", color=INK, linewidth=1.4)
            high = max(e["energy_mj"] for e in ends)
            ax.annotate(
                f"{pair['ratio']:.2f}×", (x, high), xytext=(-3, 3), textcoords="offset points", color=INK, ha="right"
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_log_ticks(ax)
        ax.set_title(found.label)
        ax.set_xlabel("MMAC")
        ax.set_ylabel("active energy (mJ)" if found.active_j is not None else "energy (mJ)")
    figure.suptitle("Do FLOPs tell joules? Line: best constant joules a MAC; bar: equal FLOPs, largest difference")
    return figure


def _scale_line(ax: Axes, found: CostSet) -> None:
    ratio = found.steered_j / found.macs
    order = np.argsort(ratio)
    reached = np.cumsum(1.0 / ratio[order])
    best = ratio[order][np.searchsorted(reached, reached[-1] / 2)]
    ends = np.array([found.macs.min(), found.macs.max()])
    ax.plot(ends / 1e6, best * ends * 1e3, "--", color=SOFT_INK, linewidth=0.8, zorder=0)


def _watts(networks: list[CostSet]) -> Any:
    boards = list(dict.fromkeys(found.board for found in networks))
    figure, axes = _grid(len(boards), len(boards), 62.0)
    for ax, board in zip(axes, boards, strict=True):
        for found in (f for f in networks if f.board == board):
            marker, colour = PRECISIONS.get(found.dtype, ("^", GREEN))
            size = 1.2 if len(found) > 500 else 3.2
            ax.plot(
                found.latency_s * 1e3,
                found.power_w,
                marker,
                color=colour,
                markersize=size,
                markeredgewidth=0,
                alpha=0.7,
                label=found.dtype,
            )
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_title(board)
        ax.set_xlabel("latency (ms)")
        ax.set_ylabel("power while running (W)")
        if len([f for f in networks if f.board == board]) > 1:
            ax.legend(loc="lower right", handlelength=1.0)
    figure.suptitle("Is energy just time? It is where these watts are constant")
    return figure


def precision_boards(networks: list[CostSet]) -> list[tuple[CostSet, CostSet]]:
    """(float32, int8) of every board that has both."""
    by_board: dict[str, dict[str, CostSet]] = {}
    for found in networks:
        by_board.setdefault(found.board, {})[found.dtype] = found
    return [(s["float32"], s["int8"]) for s in by_board.values() if {"float32", "int8"} <= set(s)]


def _precision(boards: list[tuple[CostSet, CostSet]]) -> Any:
    figure, axes = _grid(len(boards), len(boards), 48.0, sharex=True)
    for ax, (full, narrow) in zip(axes, boards, strict=True):
        pairs = pairs_of(full, narrow)
        a, b = [i for i, _ in pairs], [j for _, j in pairs]
        rows = [("watts", "power_w", VERMILLION), ("seconds", "latency_s", BLUE), ("active joules", "active_j", GREEN)]
        for height, (_, field, colour) in enumerate(rows):
            ratio = getattr(narrow, field)[b] / getattr(full, field)[a]
            spread = np.linspace(-0.25, 0.25, len(ratio))
            ax.plot(ratio, height + spread, "o", color=colour, markersize=2.5, markeredgewidth=0, alpha=0.7)
            ax.plot([np.median(ratio)] * 2, [height - 0.35, height + 0.35], "-", color=INK, linewidth=1.2)
        ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        ax.axvline(1.0, color=SOFT_INK, linewidth=0.7, linestyle=":")
        ax.set_title(full.board)
        ax.set_xlabel("int8 over float32, the same network")
    figure.suptitle("Does int8 cut watts, or joules? Each point a network; bar: median")
    return figure


def _decisions(results: dict[str, Any]) -> Any:
    labels = list(results["networks"])
    figure, axes = _grid(len(labels), min(3, len(labels)), 55.0, sharey=True)
    for ax, label in zip(axes, labels, strict=True):
        for proxy, colour, marker, shift, name in (
            ("macs", VERMILLION, "o", -0.09, "FLOPs"),
            ("latency", BLUE, "s", 0.09, "seconds"),
        ):
            bins = results["networks"][label]["decisions"][proxy]["bins"]
            places = [k for k, one in enumerate(bins) if one["pairs"]]
            shares = [bins[k]["wrong"] for k in places]
            middle = np.array([100 * s["value"] for s in shares])
            low = np.array([100 * (s["lo"] if s["lo"] is not None else s["value"]) for s in shares])
            high = np.array([100 * (s["hi"] if s["hi"] is not None else s["value"]) for s in shares])
            arms = [np.maximum(middle - low, 0), np.maximum(high - middle, 0)]
            x = np.array(places) + shift
            ax.errorbar(x, middle, arms, fmt=marker, color=colour, markersize=3.5, linewidth=1.0, label=name)
        ax.set_xticks(range(len(bins)), [_bin(one) for one in bins], rotation=35, ha="right")
        ax.axhline(50, color=SOFT_INK, linewidth=0.7, linestyle=":")
        ax.set_title(label)
        ax.set_ylim(-3, 103)
        ax.set_xlabel("how far apart the two are")
    axes[0].set_ylabel("wrong choices (%)")
    if len(axes) > 3:
        axes[3].set_ylabel("wrong choices (%)")
    axes[0].legend(loc="upper right", handlelength=1.0)
    figure.suptitle("How often is the network of fewer FLOPs (or seconds) the dearer one?")
    return figure


def _bin(one: dict[str, Any]) -> str:
    if one["to"] is None:
        return f"> {one['from']:g}×"
    return f"{one['from']:g}–{one['to']:g}×"


def _kernels(kernels: list[CostSet]) -> Any:
    figure, axes = _grid(len(kernels), len(kernels), 66.0)
    for ax, found in zip(axes, kernels, strict=True):
        size = np.array([k.kernel_h for (k,) in found.kernels])
        long = found.latency_s >= LONG_S
        for place, one in enumerate(np.unique(size)):
            of = long & (size == one)
            ax.plot(
                found.macs[of] / 1e6,
                found.power_w[of],
                MARKERS[place % 7],
                color=COLOURS[place % 7],
                markersize=1.8,
                markeredgewidth=0,
                alpha=0.6,
                label=f"{one}×{one}",
            )
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_title(f"{found.label}, kernels of 10 ms and more")
        ax.set_xlabel("MMAC")
        ax.set_ylabel("rail power (W)")
        ax.legend(loc="lower right", handlelength=0.8, markerscale=2.0)
    figure.suptitle("Do convolutions of equal FLOPs draw equal watts?")
    return figure


def draw_layers(recovered: dict[str, Any], path: Path) -> Path:
    """Joules a MAC along each network, with intervals (``recovered.json``)."""
    with drawing():
        figure, axes = _grid(len(recovered), min(2, len(recovered)), 55.0, sharey=True)
        for ax, (name, facts) in zip(axes, recovered.items(), strict=True):
            kinds = list(facts["kinds"])
            for place, kind in enumerate(kinds):
                chosen = [(i, one["nj_per_mac"]) for i, one in enumerate(facts["layers"]) if one["kind"] == kind]
                x = [i for i, _ in chosen]
                middle = np.array([q["value"] for _, q in chosen])
                arms = [middle - [q["lo"] for _, q in chosen], np.array([q["hi"] for _, q in chosen]) - middle]
                style = {"color": COLOURS[place], "markersize": 3.0, "linewidth": 0.8, "label": kind}
                ax.errorbar(x, middle, arms, fmt=MARKERS[place], **style)
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            board, dtype, network = name.split(", ", 2)
            ax.set_title(f"{board}, {dtype}\n{network}")
            ax.set_xlabel("layer, in order")
        for ax in axes[:: min(2, len(recovered))]:
            ax.set_ylabel("nJ a MAC")
        axes[0].set_ylim(top=70.0)
        axes[0].legend(loc="upper left", handlelength=0.8, ncols=2, columnspacing=0.8)
        figure.suptitle("Does a MAC cost the same in every layer? Recovered from whole networks, 95 % intervals")
        return _save(figure, path)
