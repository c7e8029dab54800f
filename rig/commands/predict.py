"""``rig predict``: ONNX file → kernels → cost model → per-kernel table and network total; the network is not measured.

With ``--measure-missing`` the kernels that the cost model does not know are measured first, and it is fitted again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rig.commands.options import PredictOptions
from rig.configuration import described
from rig.cost_models import load_cost_model, price, require_known, shipped_warnings
from rig.errors import BadInputError
from rig.output import warning
from rig.profiles import load_profile, profile_names
from rig.store.store import Store
from rig.units import Quantity, parse_fps
from rig.wording import count, figure, label
from rig.workloads.executed_kernels import KernelList, executed_kernels

if TYPE_CHECKING:
    from power_models.kernels import KernelNode
    from power_models.network_cost import NetworkCost
    from rig.console import Console


def run(options: PredictOptions) -> dict[str, Any]:
    """Price the network; raises NoCostModelError, ModelError, UnsupportedOperatorError, BadInputError."""
    store, device = Store(), options.device
    require_known(store, device)
    fps = parse_fps(options.fps) if options.fps is not None else None
    model = load_cost_model(store, device)
    profile = load_profile(device) if device in profile_names() else None
    listed = executed_kernels(profile, model, store, options.model, options.shape, ask=not options.offline)
    nodes, measured = listed.nodes, None
    if options.measure_missing:
        from rig.commands import measure_missing

        measured = measure_missing.run(options, store, model, nodes)
        model = load_cost_model(store, device)
    cost = price(model, nodes, options.model)
    kernels = kernel_rows(nodes, cost, model.kind)
    return {
        "device": described(model.configuration, None, model.kind == "simulated"),
        "kind": "predicted",
        "basis": model.kind,
        "model": str(options.model),
        "fps": fps,
        "kernel_list": {"source": listed.source, "why": listed.why},
        "measured": measured,
        "run_id": measured and measured["run_id"],
        "network": network_row(nodes, cost, fps, model.kind),
        "overhead": {"latency_s": cost.overhead[0], "energy_active_j": cost.overhead[1]},
        "kernels": kernels,
        "warnings": [*shipped_warnings(model), *_warnings(kernels, cost, options, listed)],
        "next": _next(options, fps),
    }


def _next(options: PredictOptions, fps: float | None) -> str:
    """To measure it, where there is a device to measure on."""
    if options.device not in profile_names():
        return f"rig evaluate --device {options.device} TABLE"
    return f"rig measure {options.model} --device {options.device}" + (f" --fps {fps:g}" if fps else "")


def network_row(nodes: Sequence[KernelNode], cost: NetworkCost, fps: float | None, basis: str) -> dict[str, Any]:
    """The network's totals as quantities; power is missing where the device was calibrated without a power source."""
    power = _power(cost, fps)
    idle = cost.idle_power_w
    return {
        "latency_s": _quantity(cost.latency_s, basis).to_json(),
        "energy_active_j": _quantity(cost.energy_j, basis).to_json(),
        "power_w": _quantity(power, basis).to_json() if power else None,
        "idle_power_w": Quantity(*idle, kind=basis).to_json() if idle else None,
        "macs": sum(node.spec.macs for node in nodes),
        "kernels": len(nodes),
    }


def kernel_rows(nodes: Sequence[KernelNode], cost: NetworkCost, basis: str) -> list[dict[str, Any]]:
    """Equal kernels in one row, all their calls together (they err alike), in order of first execution."""
    positions: dict[Any, list[int]] = {}
    for index, node in enumerate(nodes):
        positions.setdefault(node.spec, []).append(index)
    costs, rows = cost.kernels, []
    for spec, indices in positions.items():
        first, calls = indices[0], len(indices)
        latency = (costs.latency_s[first], costs.latency_lo_s[first], costs.latency_hi_s[first])
        energy = (costs.energy_j[first], costs.energy_lo_j[first], costs.energy_hi_j[first])
        rows.append(
            {
                "name": nodes[first].name,
                "label": f"{spec.label} +{spec.fused}" if spec.fused else spec.label,
                "kind": spec.kind,
                "calls": calls,
                "macs": spec.macs * calls,
                "latency_s": _quantity(latency, basis).scaled(calls).to_json(),
                "energy_active_j": _quantity(energy, basis).scaled(calls).to_json(),
                "extrapolated": bool(costs.extrapolated[first]),
                "source": costs.chosen[first],
            }
        )
    return rows


def _power(cost: NetworkCost, fps: float | None) -> tuple[float, float, float] | None:
    if math.isnan(cost.energy_j[0]) or (cost.idle_power_w is None and fps is not None):
        return None
    if fps is not None and fps * cost.latency_s[0] > 1:
        highest = 1 / cost.latency_s[0]
        raise BadInputError(
            f"--fps {fps:g} cannot be kept: the network takes {1e3 * cost.latency_s[0]:.3g} ms a frame (predicted)",
            fix=f"--fps {highest:.2g} or less" if highest < 1 else f"--fps {int(highest)} or less",
        )
    return cost.power_w(fps)


def _quantity(bounds: tuple[float, float, float], basis: str) -> Quantity:
    value, low, high = (float(bound) for bound in bounds)
    return Quantity(value, low, high, kind="predicted", basis=basis)


def _warnings(
    kernels: Sequence[Mapping[str, Any]], cost: NetworkCost, options: PredictOptions, listed: KernelList
) -> list[dict[str, Any]]:
    found = []
    if not listed.expected:
        message = f"the kernels are those of fusion rules, not of the runtime's own graph: {listed.why}"
        fix = f"rig predict {options.model} --device {options.device}, with the device at hand"
        if listed.source == "rules" and options.device in profile_names():
            fix = f"rig calibrate --device {options.device} --fusion"
        found.append(warning("rule-derived-kernels", message, fix))
    outside = [row["label"] for row in kernels if row["extrapolated"]]
    if outside:
        shown = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
        again = f"rig predict {options.model} --device {options.device} --measure-missing"
        fix = f"rig calibrate --device {options.device} --around {options.model}" if options.measure_missing else again
        found.append(warning("extrapolated", f"outside what was measured, so less sure: {shown}", fix))
    if math.isnan(cost.energy_j[0]):
        message = f"{options.device} was calibrated without a power source: no power, no energy"
        found.append(warning("no-power", message, "rig devices says what is missing"))
    elif cost.idle_power_w is None:
        message = f"quiet power of {options.device} is unknown: energies are whole ones, power is known flat out only"
        found.append(warning("no-quiet-power", message, "fit it to a table with idle_power_w"))
    return found


def show(result: Mapping[str, Any], console: Console) -> None:
    """The per-kernel table, costliest first, then the network."""
    network, kernels = result["network"], result["kernels"]
    has_power = network["energy_active_j"]["value"] is not None
    by = "energy_active_j" if has_power else "latency_s"
    total = network[by]["value"]
    ranked = sorted(kernels, key=lambda row: -row[by]["value"])
    columns = ["KERNEL", "CALLS", "MMAC", "LATENCY", *(["ENERGY"] if has_power else []), "SHARE", "RANGE"]
    rows = [
        [
            row["label"],
            str(row["calls"]),
            f"{row['macs'] / 1e6:.2f}",
            figure(row["latency_s"], "s"),
            *([figure(row["energy_active_j"], "J")] if has_power else []),
            f"{100 * row[by]['value'] / total:.1f} %",
            "EXTRAPOLATED" if row["extrapolated"] else "in range",
        ]
        for row in ranked
    ]
    console.table(columns, rows, right=("CALLS", "MMAC", "LATENCY", "ENERGY", "SHARE"))
    console.line()
    measured = result["measured"]
    if measured and measured["kernels"]:
        what = ", ".join(row["label"] for row in measured["kernels"][:3])
        more = f" and {len(measured['kernels']) - 3} more" if len(measured["kernels"]) > 3 else ""
        console.line(f"Measured {what}{more}: stored in {measured['run_id']}, cost model fitted again")
    networks = "the network itself was not measured" if measured else "nothing measured"
    console.line(f"{label(result['kind'], result['basis'])}, {networks}; intervals are 95 %")
    at = f" at {result['fps']:g} fps" if result["fps"] else ", back to back"
    if has_power:
        quiet = network["idle_power_w"]
        of_which = f", of which quiet {figure(quiet, 'W')}" if quiet else ""
        console.line(f"Power    {figure(network['power_w'], 'W')}{at}{of_which}")
        what = "above quiet" if quiet else "in all"
        console.line(f"Energy   {figure(network['energy_active_j'], 'J')} an inference {what}")
    console.line(
        f"Latency  {figure(network['latency_s'], 's')}, {network['kernels']} kernels, {count(network['macs'], 'MAC')}"
    )
