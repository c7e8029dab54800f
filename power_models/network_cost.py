"""Kernel costs to a network's latency, active energy and power, each with a 95 % interval.

A sum of kernels is surer than its kernels, but not by the square root of their number: errors of similar kernels go
together. Of each family a share of the error is common to all its kernels (estimated on held-out rows), equal kernels
err alike altogether, and families err independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_agents.records import KernelSpec
from power_models.features import Floats
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

        Raises ValueError where the network cannot keep the frame rate, or no quiet power is known.
        """
        if self.idle_power_w is None:
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
        return _add(self.idle_power_w, active)


def _add(a: Bounds, b: Bounds) -> Bounds:
    value = a[0] + b[0]
    down = float(np.hypot(a[0] - a[1], b[0] - b[1]))
    up = float(np.hypot(a[2] - a[0], b[2] - b[0]))
    return value, value - down, value + up


def price_network(
    model: KernelCostModel, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None
) -> NetworkCost:
    """Price one inference of a network given as its kernels in execution order.

    Raises UnpricedKernel for a kind never measured, ValueError for an empty network.
    """
    if not kernels:
        raise ValueError("price of a network: it has no kernels")
    unique = list(dict.fromkeys(kernels))
    position = {spec: i for i, spec in enumerate(unique)}
    repeat = np.array([position[spec] for spec in kernels])
    counts = np.bincount(repeat, minlength=len(unique)).astype(np.float64)
    first = None if names is None else [names[int(np.flatnonzero(repeat == i)[0])] for i in range(len(unique))]
    costs = model.predict(unique, first)
    latency = float(counts @ costs.latency_s) + model.overhead[0]
    energy = float(counts @ costs.energy_j) + model.overhead[1]
    shares = {q: _shares(model, costs.families, q) for q in ("latency", "energy", "power")}
    shares["energy"] = {family: max(share, shares["latency"][family]) for family, share in shares["energy"].items()}
    seconds, joules = counts * costs.latency_s, counts * costs.energy_j

    def bounds(value: float, parts: Floats, quantity: str) -> Bounds:
        down, up = costs.spreads[quantity]
        low = _joint_width(parts, down, costs.families, shares[quantity]) / value
        high = _joint_width(parts, up, costs.families, shares[quantity]) / value
        return value, float(value * np.exp(-low)), float(value * np.exp(high))

    watts = energy / latency
    return NetworkCost(
        costs.take(repeat),
        bounds(latency, seconds, "latency"),
        bounds(energy, joules, "energy"),
        model.idle_power_w,
        bounds(watts, joules * (watts / energy), "power"),
        model.overhead,
    )


def _shares(model: KernelCostModel, families: Sequence[str], quantity: str) -> dict[str, float]:
    scales = {family: model.families[family].scales.get(quantity) for family in set(families)}
    return {family: 1.0 if scale is None else scale.share for family, scale in scales.items()}


def _joint_width(parts: Floats, relative: Floats, families: Sequence[str], shares: dict[str, float]) -> float:
    """Half-width of the sum of ``parts`` (n distinct kernels), each with a relative half-width of its own."""
    square = 0.0
    labels = np.array(families)
    for family, share in shares.items():
        own = (parts * relative)[labels == family]
        square += (1 - share**2) * float((own**2).sum()) + share**2 * float(own.sum()) ** 2
    return float(np.sqrt(square))
