"""How close the virtual board is to the real Raspberry Pi 4: errors in sample and cross-validated, with a figure.

python experiments/virtual-board/study.py          # prints, and writes results.json, results.png and README.md's table
python experiments/virtual-board/study.py --no-cross-validation   # the committed constants only (a second)
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fit import DTYPES, Problem, columns_of, predict
from measured import MeasuredNetwork, read_networks
from start import start_constants

from device_agents.virtual_board.physics import BoardModel
from device_agents.virtual_board.work import BlockSizes

HERE = Path(__file__).resolve().parent
FOLDS = 5
# Marks in README.md between which the table is replaced.
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Errors:
    """Relative errors of one set of networks (arrays of the same order as ``names``) and the predicted busy watts."""

    names: list[str]
    latency: np.ndarray
    energy: np.ndarray
    active: np.ndarray
    busy_w: np.ndarray


@dataclass(frozen=True)
class Summary:
    """Mean absolute errors in percent, the worst of the three with its network, and the range of busy watts."""

    count: int
    latency_percent: float
    energy_percent: float
    active_percent: float
    worst_percent: float
    worst_network: str
    busy_low_w: float
    busy_high_w: float


def errors_of(networks: list[MeasuredNetwork], constants: dict) -> Errors:
    """Compare a board with the measurements of one dtype's networks."""
    (dtype,) = {network.dtype for network in networks}
    columns = columns_of(networks, BlockSizes(**constants["blocks"][dtype]))
    latency_s, active_j = predict(columns, constants["dtypes"][dtype], constants["invoke_s"], constants["invoke_w"])
    energy_j = active_j + constants["quiet_w"] * latency_s
    return Errors(
        [network.name for network in networks],
        latency_s / columns.latency_s - 1.0,
        energy_j / np.array([network.energy_j for network in networks]) - 1.0,
        active_j / columns.active_j - 1.0,
        energy_j / latency_s,
    )


def summarise(errors: Errors) -> Summary:
    """The study's figures of one set of errors."""
    all_three = np.abs(np.array([errors.latency, errors.energy, errors.active])) * 100.0
    worst = int(np.argmax(all_three.max(axis=0)))
    latency, energy, active = (float(x) for x in all_three.mean(axis=1))
    return Summary(
        len(errors.names),
        latency,
        energy,
        active,
        float(all_three[:, worst].max()),
        errors.names[worst],
        float(errors.busy_w.min()),
        float(errors.busy_w.max()),
    )


def in_sample(networks: list[MeasuredNetwork]) -> dict[str, Errors]:
    """The shipped constants, by dtype."""
    constants = BoardModel.load("pi4").constants
    return {dtype: errors_of([n for n in networks if n.dtype == dtype], constants) for dtype in DTYPES}


def cross_validated(networks: list[MeasuredNetwork], groups: list[str]) -> dict[str, Errors]:
    """Every group predicted by constants fitted without it, one start each; a quiet power of the rest's median."""
    parts: dict[str, list[Errors]] = {dtype: [] for dtype in DTYPES}
    for held_out in sorted(set(groups)):
        kept = [n for n, group in zip(networks, groups, strict=True) if group != held_out]
        left = [n for n, group in zip(networks, groups, strict=True) if group == held_out]
        constants = Problem(kept, start_constants(float(np.median([n.quiet_w for n in kept])))).solve(starts=1)
        for dtype in DTYPES:
            of_dtype = [n for n in left if n.dtype == dtype]
            if of_dtype:
                parts[dtype].append(errors_of(of_dtype, constants))
    return {dtype: _joined(found) for dtype, found in parts.items()}


def _joined(parts: list[Errors]) -> Errors:
    names = [name for part in parts for name in part.names]
    columns = [np.concatenate([getattr(p, f) for p in parts]) for f in ("latency", "energy", "active", "busy_w")]
    return Errors(names, *columns)


def architecture(network: MeasuredNetwork) -> str:
    """The network's name without its number format: both formats of one network go into the same fold."""
    for ending in ("-non-quantized", "-quantized", "_float", "_uint8"):
        if network.name.endswith(ending):
            return network.name[: -len(ending)]
    return network.name


def folds_of(networks: list[MeasuredNetwork]) -> list[str]:
    """Five random folds of architectures, fixed seed."""
    names = sorted({architecture(n) for n in networks})
    order = np.random.default_rng(0).permutation(len(names))
    fold = {name: str(int(place) % FOLDS) for name, place in zip(names, order, strict=True)}
    return [fold[architecture(n)] for n in networks]


def table(results: dict[str, dict[str, Summary]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| constants | dtype | networks | latency | energy | active energy | worst of the three | busy watts |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for how, by_dtype in results.items():
        for dtype, s in by_dtype.items():
            lines.append(
                f"| {how} | {dtype} | {s.count} | {s.latency_percent:.2f} % | {s.energy_percent:.2f} % "
                f"| {s.active_percent:.2f} % | {s.worst_percent:.1f} % ({s.worst_network}) "
                f"| {s.busy_low_w:.2f}–{s.busy_high_w:.2f} W |"
            )
    return "\n".join(lines)


def constant_power_reference(networks: list[MeasuredNetwork]) -> str:
    """What measured latency times the best constant power makes of the energy: the reference for energy figures."""
    parts = []
    for dtype in DTYPES:
        watts = np.array([n.energy_j / n.latency_s for n in networks if n.dtype == dtype])
        power_w = float(np.median(watts))
        parts.append(f"{100.0 * float(np.mean(np.abs(power_w / watts - 1.0))):.2f} % ({dtype}, {power_w:.2f} W)")
    return "Reference: measured latency × a constant power gives the energy within " + ", ".join(parts) + "."


def draw(networks: list[MeasuredNetwork], errors: dict[str, Errors], path: Path) -> None:
    """Simulated over measured: latency, active energy and busy watts of every network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.3))
    for dtype, marker, colour in (("float32", "o", "#1b6ca8"), ("int8", "^", "#d1495b")):
        chosen = [n for n in networks if n.dtype == dtype]
        latency_ms = np.array([n.latency_s for n in chosen]) * 1e3
        active_mj = np.array([n.active_j for n in chosen]) * 1e3
        watts = np.array([n.energy_j / n.latency_s for n in chosen])
        found = errors[dtype]
        style = {"marker": marker, "s": 22, "alpha": 0.75, "color": colour, "label": dtype, "linewidths": 0}
        axes[0].scatter(latency_ms, latency_ms * (1.0 + found.latency), **style)
        axes[1].scatter(active_mj, active_mj * (1.0 + found.active), **style)
        axes[2].scatter(watts, found.busy_w, **style)
    for axis, title in zip(
        axes, ("latency (ms)", "active energy per inference (mJ)", "power while running (W)"), strict=True
    ):
        low = min(axis.get_xlim()[0], axis.get_ylim()[0]) if title.endswith("(W)") else 1.5
        high = max(axis.get_xlim()[1], axis.get_ylim()[1])
        axis.plot([low, high], [low, high], color="#555555", linewidth=0.8, zorder=0)
        if not title.endswith("(W)"):
            axis.set_xscale("log")
            axis.set_yscale("log")
        axis.set_xlabel("measured on the Raspberry Pi 4")
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("simulated")
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    figure.suptitle("SIMULATED board virtual-pi4 (constants fitted to these networks) against the real board")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Compute, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-cross-validation", action="store_true")
    arguments = parser.parse_args()
    networks = read_networks()
    for network in networks:
        if network.quiet_replaced:
            print(f"{network.name}: its quiet power is off the median by over 0.5 W and was replaced by the median")
    errors = in_sample(networks)
    found = {"shipped, in sample": errors}
    if not arguments.no_cross_validation:
        found["5-fold by architecture"] = cross_validated(networks, folds_of(networks))
        found["one family left out"] = cross_validated(networks, [n.family for n in networks])
    results = {how: {dtype: summarise(e) for dtype, e in by.items()} for how, by in found.items()}
    text = table(results) + "\n\n" + constant_power_reference(networks)
    print(text)
    if arguments.no_cross_validation:
        return
    as_json = {how: {dtype: asdict(s) for dtype, s in by.items()} for how, by in results.items()}
    (HERE / "results.json").write_text(json.dumps({"kind": "simulated", **as_json}, indent=2) + "\n", encoding="utf-8")
    draw(networks, errors, HERE / "results.png")
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
