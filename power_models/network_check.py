"""What whole measured networks say of a cost model: how far its families are off, and how wide its intervals must be.

A network's total is the sum of its kernels, so a few measured networks bear on what all kernels of a family have in
common: an effect that the features do not know, met more often in networks than in the design. Linear in the log:

    log(measured / predicted) of a network = Σ (its share of family f) · c_f + its kernels' own errors

with the priors that the kernels' held-out errors give (``common_share``). The posterior means of c are added to the
families' shifts; each network's leave-one-out residual, over the half-width it was given, calibrates the intervals of
networks (split conformal, Vovk et al. 2005).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from power_models.features import Floats
from power_models.intervals import ONE_SIDED, conformal_quantile
from power_models.network_cost import ErrorParts, error_parts

if TYPE_CHECKING:
    from device_agents.records import KernelSpec
    from power_models.kernel_cost import KernelCostModel

FEWEST_NETWORKS = 8
NARROWEST = 0.5  # intervals are never made less than so many times as wide as the kernels alone say
MEASURED_SE = 0.01  # relative; what a network's own measurement may be off


class NetworkRow(NamedTuple):
    """A measured network: its kernels, seconds, active joules (None without a power source)."""

    name: str
    kernels: Sequence[KernelSpec]
    latency_s: float
    energy_active_j: float | None


class _Learned(NamedTuple):
    """Posterior mean of each family's common error, and the (down, up) factors of the intervals."""

    shifts: Mapping[str, float]
    widths: tuple[float, float]


def learn_from_networks(model: KernelCostModel, networks: Sequence[NetworkRow]) -> KernelCostModel:
    """The same model, shifted and with calibrated network intervals; itself where there are too few networks.

    ``networks`` must not be those whose kernels the model was fitted to. A network with a kind that was never
    measured is left out.
    """
    known = set(model.known_kinds)
    usable = [n for n in networks if n.kernels and all((k.kind, k.dtype) in known for k in n.kernels)]
    energies = [n for n in usable if n.energy_active_j is not None and n.energy_active_j > 0]
    shifted, widths = dict(model.families), dict(model.network_widths)
    for quantity, members in (("latency", usable), ("energy", energies), ("power", energies)):
        if len(members) < FEWEST_NETWORKS:
            continue
        parts = [error_parts(model, network.kernels)[quantity] for network in members]
        measured = np.array([_measured(network, quantity) for network in members])
        learned = _learn(parts, np.log(measured / np.array([p.value for p in parts])))
        widths[quantity] = learned.widths
        if quantity == "power":
            continue
        field = f"{quantity}_shift"
        for family, shift in learned.shifts.items():
            priced = shifted[family]
            shifted[family] = replace(priced, **{field: getattr(priced, field) + shift})
    return replace(model, families=shifted, network_widths=widths)


def _measured(network: NetworkRow, quantity: str) -> float:
    joules = network.energy_active_j or 0.0
    return {"latency": network.latency_s, "energy": joules, "power": joules / network.latency_s}[quantity]


def _learn(parts: Sequence[ErrorParts], errors: Floats) -> _Learned:
    """Bayesian linear regression of the networks' log errors (n,) on their shares of families."""
    families = sorted({family for one in parts for family in one.weight})
    prior = {f: float(np.median([one.prior[f] for one in parts if f in one.prior])) for f in families}
    effect = np.array([[one.weight.get(family, 0.0) * prior[family] for family in families] for one in parts])
    own = np.array([one.own for one in parts]) ** 2 + MEASURED_SE**2
    inverse = np.linalg.inv((effect.T / own) @ effect + np.eye(len(families)))
    gain = inverse @ (effect.T / own)
    fitted = effect @ gain
    left = (errors - fitted @ errors) / np.maximum(1.0 - np.diag(fitted), 1e-3)
    scores = left / np.array([[one.down, one.up] for one in parts]).T
    level = 0.5 * conformal_quantile(np.abs(scores).max(axis=0))
    sides = (conformal_quantile(sign * side, ONE_SIDED) for sign, side in zip((-1.0, 1.0), scores, strict=True))
    down, up = (max(side, level, NARROWEST) for side in sides)
    standard = dict(zip(families, (gain @ errors).tolist(), strict=True))
    return _Learned({family: prior[family] * standard[family] for family in families}, (down, up))
