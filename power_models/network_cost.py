"""Kernel costs to a network's latency, active energy and power, each with a 95 % interval.

A sum of kernels is surer than its kernels, but not by the square root of their number: errors of similar kernels go
together. Of each family a share of the error is common to all its kernels (estimated on held-out rows), equal kernels
err alike altogether, and families err independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.features import Floats
from power_models.intervals import NORMAL_95
from power_models.kernel_cost import Bounds, KernelCostModel, KernelCosts


@dataclass(frozen=True)
class NetworkCost:
    """Cost of one inference: (value, lo, hi) each; ``energy_j`` is active energy (nan without a power source)."""

    kernels: KernelCosts
    latency_s: Bounds
    energy_j: Bounds
    idle_power_w: Bounds | None
    active_power_w: Bounds
    overhead: tuple[float, float]

    def power_w(self, fps: float | None = None) -> Bounds:
        """Watts at a frame rate (P0 + fps·e, valid while fps·latency ≤ 1), or flat out (P0 + e/T).

        Raises ValueError where the network cannot keep the frame rate, where there is no energy, or for a rate where
        no quiet power is known. Flat out it need not be: the model's energies then are whole ones (a table that does
        not state its quiet power).
        """
        if self.idle_power_w is None and (fps is not None or not np.isfinite(self.energy_j[0])):
            raise ValueError("power of a network: the model has no quiet power; calibrate with a power source")
        if fps is None:
            active = self.active_power_w
        else:
            if not fps > 0:
                raise ValueError(f"power of a network: {fps!r} frames a second; give a positive rate")
            if fps * self.latency_s[0] > 1:
                raise ValueError(
                    f"power of a network: {fps:g} frames a second need a latency of {1e3 / fps:.3g} ms,"
                    f" and it is {1e3 * self.latency_s[0]:.3g} ms; lower the rate"
                )
            active = (fps * self.energy_j[0], fps * self.energy_j[1], fps * self.energy_j[2])
        return active if self.idle_power_w is None else _add(self.idle_power_w, active)


def whole_energy(latency_s: Bounds, energy_j: Bounds, active_power_w: Bounds, idle_power_w: Bounds | None) -> Bounds:
    """Energy of the whole board, E = e + P0·T, of a latency T and an active energy e that err together.

    How much they do is in the interval of the active power p = e/T: var(p) = var(e) + var(T) − 2·cov, in log.
    """
    if idle_power_w is None:
        return energy_j
    quiet = idle_power_w[0] * latency_s[0]
    value = energy_j[0] + quiet
    half = []
    for side in (1, 2):
        of_t, of_e, of_p = (abs(float(np.log(one[side] / one[0]))) for one in (latency_s, energy_j, active_power_w))
        together = float(np.clip(0.5 * (of_e**2 + of_t**2 - of_p**2), -of_e * of_t, of_e * of_t))
        squares = (energy_j[0] * of_e) ** 2 + (quiet * of_t) ** 2 + 2 * energy_j[0] * quiet * together
        of_idle = latency_s[0] * (idle_power_w[side] - idle_power_w[0])
        half.append(float(np.sqrt(squares + of_idle**2)) / value)
    return value, float(value * np.exp(-half[0])), float(value * np.exp(half[1]))


def _add(a: Bounds, b: Bounds) -> Bounds:
    value = a[0] + b[0]
    down = float(np.hypot(a[0] - a[1], b[0] - b[1]))
    up = float(np.hypot(a[2] - a[0], b[2] - b[0]))
    return value, value - down, value + up


class ErrorParts(NamedTuple):
    """A network's value and the parts of its error, in log cost.

    ``down`` and ``up``: 95 % half-widths; ``own``: standard deviation of what its kernels err independently;
    ``weight``: by family, its share of the network; ``prior``: the standard deviation of what its kernels err together.
    """

    value: float
    down: float
    up: float
    own: float
    weight: dict[str, float]
    prior: dict[str, float]


def price_network(
    model: KernelCostModel, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None
) -> NetworkCost:
    """Price one inference of a network given as its kernels in execution order.

    Raises UnpricedKernel for a kind never measured, ValueError for an empty network.
    """
    from power_models.composition import CompositionModel  # it needs this module

    if isinstance(model, CompositionModel):
        return model.price_network(kernels, names)
    costs, repeat, parts = _priced(model, kernels, names)

    def bounds(quantity: str) -> Bounds:
        one = parts[quantity]
        down, up = model.network_widths.get(quantity, (1.0, 1.0))
        return one.value, float(one.value * np.exp(-down * one.down)), float(one.value * np.exp(up * one.up))

    return NetworkCost(
        costs.take(repeat), bounds("latency"), bounds("energy"), model.idle_power_w, bounds("power"), model.overhead
    )


def error_parts(model: KernelCostModel, kernels: Sequence[KernelSpec]) -> dict[str, ErrorParts]:
    """Value and parts of the error of latency, energy and power (``network_widths`` not applied); raises as above."""
    return _priced(model, kernels, None)[2]


def _priced(
    model: KernelCostModel, kernels: Sequence[KernelSpec], names: Sequence[str] | None
) -> tuple[KernelCosts, NDArray[np.intp], dict[str, ErrorParts]]:
    """Costs of the distinct kernels, each kernel's place among them, and what the sums are and err."""
    if not kernels:
        raise ValueError("price of a network: it has no kernels")
    unique = list(dict.fromkeys(kernels))
    position = {spec: i for i, spec in enumerate(unique)}
    repeat = np.array([position[spec] for spec in kernels])
    counts = np.bincount(repeat, minlength=len(unique)).astype(np.float64)
    first = None if names is None else [names[int(np.flatnonzero(repeat == i)[0])] for i in range(len(unique))]
    costs = model.predict(unique, first)
    seconds, joules = counts * costs.latency_s, counts * costs.energy_j
    latency, energy = float(seconds.sum()) + model.overhead[0], float(joules.sum()) + model.overhead[1]
    shares = {q: _shares(model, costs.families, q) for q in ("latency", "energy", "power")}
    shares["energy"] = {family: max(share, shares["latency"][family]) for family, share in shares["energy"].items()}
    weights = {"latency": seconds / latency, "energy": joules / energy, "power": joules / energy}
    values = {"latency": latency, "energy": energy, "power": energy / latency}
    parts = {q: _parts(values[q], weights[q], costs.spreads[q], costs.families, shares[q]) for q in values}
    return costs, repeat, parts


def _shares(model: KernelCostModel, families: Sequence[str], quantity: str) -> dict[str, float]:
    scales = {family: model.families[family].scales.get(quantity) for family in set(families)}
    return {family: 1.0 if scale is None else scale.share for family, scale in scales.items()}


def _parts(
    value: float,
    weights: Floats,
    spreads: tuple[Floats, Floats],
    families: Sequence[str],
    shares: Mapping[str, float],
) -> ErrorParts:
    """Parts of the error of a sum of n distinct kernels: ``weights`` (n,) of the whole, ``spreads`` (down, up) each."""
    squares = [0.0, 0.0]
    own = 0.0
    weight: dict[str, float] = {}
    prior: dict[str, float] = {}
    labels = np.array(families)
    for family, share in shares.items():
        members = labels == family
        for side, spread in enumerate(spreads):
            part = (weights * spread)[members]
            squares[side] += (1 - share**2) * float((part**2).sum()) + share**2 * float(part.sum()) ** 2
        middle = 0.5 * (spreads[0] + spreads[1])[members] / NORMAL_95
        own += (1 - share**2) * float(((weights[members] * middle) ** 2).sum())
        weight[family] = float(weights[members].sum())
        prior[family] = share * float((weights[members] * middle).sum()) / max(weight[family], 1e-300)
    return ErrorParts(value, float(np.sqrt(squares[0])), float(np.sqrt(squares[1])), float(np.sqrt(own)), weight, prior)
