"""Measured rows of a simulated board: straight from its physics plus noise, or through the agent as ``rig`` would."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from device_agents.records import KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelRow
from rig.collect import collect, read_campaign
from rig.profiles import load_profile
from rig.session import Session
from rig.store import Store

LATENCY_NOISE, ENERGY_NOISE = 0.015, 0.02  # relative; what a campaign stops at


class Campaign(NamedTuple):
    """Measured rows, and what a call costs beside its kernels (seconds, active joules)."""

    rows: list[KernelRow]
    overhead: tuple[float, float]


def direct_rows(name: str, board: BoardModel, kernels: list[KernelSpec], seed: int) -> Campaign:
    """SIMULATED rows: the board's own cost with lognormal noise; nothing of the agent, sensor or chains is in them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, spec in enumerate(kernels):
        latency_s, energy_j = board.kernel_cost(spec)
        latency_s *= float(np.exp(rng.normal(0.0, LATENCY_NOISE)))
        energy_j *= float(np.exp(rng.normal(0.0, ENERGY_NOISE)))
        errors = (LATENCY_NOISE * latency_s, ENERGY_NOISE * energy_j)
        rows.append(KernelRow(spec, latency_s, errors[0], energy_j, errors[1], "chain", f"{name}-{i}"))
    return Campaign(rows, board.inference_cost([]))


def real_rows(name: str, kernels: list[KernelSpec], seed: int) -> Campaign:
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
            collect(session, run, kernels, profile.plan.to_plan(), runtime="virtual", seed=seed)
        found = read_campaign(run)
    for problem in found.problems:
        print(f"{name}: no row for {problem.subject}: {problem.reason}", flush=True)
    return Campaign(found.rows, found.overhead)
