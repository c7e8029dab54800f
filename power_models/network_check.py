"""What whole measured networks say of a cost model: how far its families are off, and how wide its intervals must be.

A network's total is the sum of its kernels, so a few measured networks bear on what all kernels of a family have in
common: an effect that the features do not know, met more often in networks than in the design. Linear in the log:

    log(measured / predicted) of a network = c + Σ (its share of family f) · c_f + its kernels' own errors

with the priors that the kernels' held-out errors give (``common_share``), and c common to all (on a host that others
share: how much slower than undisturbed an inference typically is). The posterior means are added to the families'
shifts; the networks' leave-one-out residuals over the half-widths they were given say by how much (root mean square,
each side) the intervals of networks are too narrow or too wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from power_models.features import Floats
from power_models.intervals import NORMAL_95, sided_rms
from power_models.network_cost import ErrorParts, error_parts

if TYPE_CHECKING:
    from device_agents.records import KernelSpec
    from power_models.kernel_cost import KernelCostModel

FEWEST_NETWORKS = 8
NARROWEST = 0.5  # intervals are never made less than so many times as wide as the kernels alone say
NOISE_STEPS = 4
COMMON_SD = 0.05  # prior of what all kernels have in common, log
MEASURED_SE = 0.01  # relative; what a network's own measurement may be off


class NetworkRow(NamedTuple):
    """A measured network: its kernels, seconds, active joules (None without a power source)."""

    name: str
    kernels: Sequence[KernelSpec]
    latency_s: float
    energy_active_j: float | None


class _Learned(NamedTuple):
    """Posterior means of what all kernels and each family's have in common, (down, up) factors of the intervals."""

    common: float
    shifts: Mapping[str, float]
    widths: tuple[float, float]


def learn_from_networks(
    model: KernelCostModel, networks: Sequence[NetworkRow], *, fitted: bool = False
) -> KernelCostModel:
    """The same model, shifted and with calibrated network intervals; itself where there are too few networks.

    ``fitted``: the model was fitted to kernels of these very networks, so that intervals are only ever widened. A
    network with a kind that was never measured is left out.
    """
    known = set(model.known_kinds)
    usable = [n for n in networks if n.kernels and all((k.kind, k.dtype) in known for k in n.kernels)]
    energies = [n for n in usable if n.energy_active_j is not None and n.energy_active_j > 0]
    parts_of = {id(network): error_parts(model, network.kernels) for network in usable}
    shifted, widths = dict(model.families), dict(model.network_widths)
    for quantity, members in (("latency", usable), ("energy", energies), ("power", energies)):
        # Kernels without energies (too few of them measured) give networks no price to compare with.
        members = [n for n in members if np.isfinite(parts_of[id(n)][quantity].value)]
        if len(members) < FEWEST_NETWORKS:
            continue
        parts = [parts_of[id(network)][quantity] for network in members]
        measured = np.array([_measured(network, quantity) for network in members])
        errors = np.log(measured / np.array([p.value for p in parts]))
        learned = _learn(parts, errors, 1.0 if fitted else NARROWEST)
        widths[quantity] = learned.widths
        if quantity == "power":
            continue
        field = f"{quantity}_shift"
        for family, priced in shifted.items():
            shift = learned.common + learned.shifts.get(family, 0.0)
            shifted[family] = replace(priced, **{field: getattr(priced, field) + shift})
    return replace(model, families=shifted, network_widths=widths)


def _measured(network: NetworkRow, quantity: str) -> float:
    joules = network.energy_active_j or 0.0
    return {"latency": network.latency_s, "energy": joules, "power": joules / network.latency_s}[quantity]


def _learn(parts: Sequence[ErrorParts], errors: Floats, narrowest: float) -> _Learned:
    """Bayesian linear regression of the networks' log errors (n,) on their shares of families."""
    families = sorted({family for one in parts for family in one.weight})
    prior = {f: float(np.median([one.prior[f] for one in parts if f in one.prior])) for f in families}
    shares = np.array([[one.weight.get(family, 0.0) for family in families] for one in parts])
    scales = np.array([COMMON_SD, *prior.values()])
    effect = np.hstack([shares.sum(axis=1, keepdims=True), shares]) * scales
    own = np.array([one.own for one in parts]) ** 2 + MEASURED_SE**2
    # Where networks scatter more than their kernels were said to, less is learned from each.
    for _ in range(NOISE_STEPS):
        gain = np.linalg.inv((effect.T / own) @ effect + np.eye(len(scales))) @ (effect.T / own)
        fitted = effect @ gain
        left = (errors - fitted @ errors) / np.maximum(1.0 - np.diag(fitted), 1e-3)
        own = own * max(1.0, float(np.mean(left**2 / own)))
    scores = left / np.where(left < 0, [one.down for one in parts], [one.up for one in parts])
    down, up = (max(NORMAL_95 * side, narrowest) for side in sided_rms(scores))
    common, *shifts = (scales * (gain @ errors)).tolist()
    return _Learned(common, dict(zip(families, shifts, strict=True)), (down, up))
