"""Measured rows of a simulated board: straight from its physics plus noise, or through the agent as ``rig`` would."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from device_agents.records import KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelRow
from power_models.kernels import kernel_graph
from power_models.network_check import NetworkRow
from rig.collect.collector import Context, collect, read_campaign
from rig.collect.rows import MeasuredNetwork
from rig.connection.session import Session
from rig.profiles import load_profile
from rig.store.store import Store
from rig.workloads.context_networks import ContextDesign, context_designs

LATENCY_NOISE, ENERGY_NOISE = 0.015, 0.02  # relative; what a campaign stops at


class Campaign(NamedTuple):
    """Measured rows, what a call costs beside its kernels (seconds, active joules), and networks measured whole."""

    rows: list[KernelRow]
    overhead: tuple[float, float]
    networks: list[NetworkRow]


def direct_rows(name: str, board: BoardModel, kernels: list[KernelSpec], seed: int, networks: int = 0) -> Campaign:
    """SIMULATED rows: the board's own cost with lognormal noise; nothing of the agent, sensor or chains is in them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, spec in enumerate(kernels):
        latency_s, energy_j = board.kernel_cost(spec)
        latency_s *= float(np.exp(rng.normal(0.0, LATENCY_NOISE)))
        energy_j *= float(np.exp(rng.normal(0.0, ENERGY_NOISE)))
        errors = (LATENCY_NOISE * latency_s, ENERGY_NOISE * energy_j)
        rows.append(KernelRow(spec, latency_s, errors[0], energy_j, errors[1], "chain", f"{name}-{i}"))
    whole = []
    for design in context_designs(networks, seed):
        specs = [node.spec for node in kernel_graph(design.model(), "virtual")]
        latency_s, energy_j = board.inference_cost(specs)
        latency_s *= float(np.exp(rng.normal(0.0, LATENCY_NOISE)))
        energy_j *= float(np.exp(rng.normal(0.0, ENERGY_NOISE)))
        whole.append(NetworkRow(design.name, specs, latency_s, energy_j))
    return Campaign(rows, board.inference_cost([]), whole)


def real_rows(name: str, kernels: list[KernelSpec], seed: int, networks: int = 0) -> Campaign:
    """SIMULATED rows the way ``rig calibrate`` gets them: agent, virtual sensor, chains, quality, store."""
    profile = load_profile("virtual-pi4")
    base, _, surprise = name.partition("+")
    options = {**profile.runtime.options, "seed": seed, "surprise": bool(surprise)}
    if base != "nominal":
        options["perturb"] = int(base)
    profile = profile.model_copy(update={"runtime": profile.runtime.model_copy(update={"options": options})})
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        run = store.new_run("calibrate", profile.name, argv=["study", name], request={"board": name, "seed": seed})
        with Session(profile, "cost-model study") as session:
            contexts = [
                Context(design.name, _written(design, Path(folder))) for design in context_designs(networks, seed)
            ]
            collect(session, run, kernels, profile.plan.to_plan(), runtime="virtual", contexts=contexts, seed=seed)
        found = read_campaign(run)
        whole = [_network_row(network) for network in found.networks]
    for problem in found.problems:
        print(f"{name}: no row for {problem.subject}: {problem.reason}", flush=True)
    return Campaign(found.rows, found.overhead, whole)


def _written(design: ContextDesign, folder: Path) -> Path:
    path = folder / f"{design.name}.onnx"
    path.write_bytes(design.model().SerializeToString())
    return path


def _network_row(network: MeasuredNetwork) -> NetworkRow:
    kernels = [node.spec for node in kernel_graph(network.path, "virtual")]
    energy = network.measurement.energy_active_j
    latency_s = float(network.measurement.latency_s.value or 0.0)
    return NetworkRow(network.name, kernels, latency_s, None if energy is None else energy.value)
