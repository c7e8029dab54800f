"""Kernel costs recovered from whole networks: a board behind a wall meter gives totals, and a price is wanted a kernel.

    networks (+ kernels) ─► terms, shapes ─► log cost: physical sum × smooth process ─► kernels, networks, intervals

Seconds are fitted to the totals first. Then watts: a network's active power is the mean of its kernels' watts, weighted
by their seconds, so that kernels of equal seconds may differ in joules, and E = P·T holds for kernels and networks. A
network's interval is that of the sum, with the covariances of its kernels; a kernel that totals cannot tell from others
keeps the width of the prior. A second opinion (``composition_opinion``) is averaged into the seconds.

With ``base``, the model of another board, that board's kernel costs take the place of the physical terms: what is
learned is how much faster or slower each of them is here. Kinds that only the other board's networks had are priced by
it, times what all kinds have in common. There is no second opinion then: it would know this board's few rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.composition_cost import LogCost, Parts
from power_models.composition_opinion import SecondOpinion, disagreement
from power_models.composition_terms import Shapes, term_amounts
from power_models.families import family_of
from power_models.features import Floats, KernelColumns
from power_models.intervals import NORMAL_95
from power_models.kernel_cost import Bounds, KernelCostModel, KernelCosts
from power_models.network_cost import NetworkCost

OUTSIDE = 0.05  # e-folds beyond the measured shapes of a family from which on a kernel is extrapolated


@dataclass(kw_only=True)
class CompositionModel(KernelCostModel):
    """Cost model of one configuration, fitted to totals of networks; its ``models`` and ``families`` are empty.

    ``seconds``: log latency of a kernel, before a second ``opinion`` (None: there is none) is averaged into it;
    ``watts``: its log active power (None without energies). ``reach``: by family
    and data type, the lowest and highest coordinates of the measured networks' kernels. ``widths``: by quantity, how
    many standard deviations hold 95 % (from the totals left out one at a time). ``together``: correlation of the
    left-out errors of latency and power.
    """

    NEVER: ClassVar[str] = "in no measured network"
    REMEDY: ClassVar[str] = "Measure networks that have it, or start from the model of a board that knows it."

    seconds: LogCost
    watts: LogCost | None
    reach: dict[str, tuple[list[float], list[float]]]
    widths: dict[str, float]
    together: float
    base: CompositionModel | None = None
    opinion: SecondOpinion | None = None

    def overhead_of(self, dtype: int) -> tuple[float, float]:
        """Seconds and active joules of an inference beside its kernels."""
        seconds = (1.0 - self._weight(dtype)) * float(np.exp(self.seconds.overhead[dtype]))
        return seconds, seconds * float(np.exp(self.watts.overhead[dtype])) if self.watts else float("nan")

    def _weight(self, dtype: int) -> float:
        """Of the second opinion, for the data type at a place."""
        return 0.0 if self.opinion is None else self.opinion.weight(self.seconds.basis.dtypes[dtype])

    def term_costs(self, kernels: Sequence[KernelSpec], columns: KernelColumns, shapes: Shapes) -> Floats:
        """Amounts (n, terms) that the rates of ``seconds`` multiply: physical terms, or parts of the base's cost."""
        if self.base is None:
            return term_amounts(columns, shapes.families)
        return base_terms(self.base, kernels, columns, shapes)

    def parts(
        self, kernels: Sequence[KernelSpec], columns: KernelColumns, shapes: Shapes
    ) -> tuple[Parts, Parts | None]:
        """Log seconds and log watts of kernels, with their derivatives."""
        seconds = self.seconds.parts(self.term_costs(kernels, columns, shapes), shapes)
        if self.watts is None:
            return seconds, None
        known = self.base.parts(kernels, columns, shapes)[1] if self.base is not None else None
        return seconds, self.watts.parts(watt_amounts(seconds.shares, known), shapes)

    def predict(self, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None) -> KernelCosts:
        """Costs of kernels, in order; ``names`` (n,) are used in the error only.

        Raises UnpricedKernel for a kind or data type that was never measured.
        """
        self._check_priced(kernels, names)
        columns = KernelColumns.of(kernels)
        shapes = Shapes.of(kernels, columns)
        return self._costs(kernels, columns, shapes, *self.parts(kernels, columns, shapes))

    def _costs(
        self,
        kernels: Sequence[KernelSpec],
        columns: KernelColumns,
        shapes: Shapes,
        seconds: Parts,
        watts: Parts | None,
    ) -> KernelCosts:
        place = np.maximum(self.seconds.basis.places(shapes)[1], 0)
        noise = self.seconds.noise[place]
        variance = self.seconds.variance(seconds.slope) + seconds.missed + noise**2
        latency = np.exp(seconds.value)
        if self.opinion is not None:
            latency, apart = self.opinion.mean(kernels, columns, shapes.dtypes, latency)
            variance = variance + apart
        sd = {"latency": np.sqrt(variance)}
        energy = np.full(len(kernels), np.nan)
        sd["power"] = sd["energy"] = energy
        if watts is not None and self.watts is not None:
            noise = self.watts.noise[place]
            sd["power"] = np.sqrt(self.watts.variance(watts.slope) + watts.missed + noise**2)
            sd["energy"] = self._joined(sd["latency"], sd["power"])
            energy = latency * np.exp(watts.value)
        half = {quantity: self.widths.get(quantity, NORMAL_95) * one for quantity, one in sd.items()}
        families = [family_of(spec) for spec in kernels]
        return KernelCosts(
            latency,
            latency * np.exp(-half["latency"]),
            latency * np.exp(half["latency"]),
            energy,
            energy * np.exp(-half["energy"]),
            energy * np.exp(half["energy"]),
            self._extrapolated(families, shapes),
            ["composition" if self.base is None else "composition on another board's"] * len(kernels),
            families,
            {quantity: (one, one) for quantity, one in half.items()},
        )

    def price_network(self, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None) -> NetworkCost:
        """Price one inference of a network given as its kernels in execution order.

        Raises UnpricedKernel for a kind never measured, ValueError for an empty network.
        """
        if not kernels:
            raise ValueError("price of a network: it has no kernels")
        unique = list(dict.fromkeys(kernels))
        position = {spec: i for i, spec in enumerate(unique)}
        repeat = np.array([position[spec] for spec in kernels])
        self._check_priced(kernels, names)
        columns = KernelColumns.of(unique)
        shapes = Shapes.of(unique, columns)
        seconds, watts = self.parts(unique, columns, shapes)
        costs = self._costs(unique, columns, shapes, seconds, watts)
        counts = np.bincount(repeat, minlength=len(unique)).astype(np.float64)
        dtype = int(np.maximum(self.seconds.basis.places(shapes)[1], 0)[0])
        overhead = self.overhead_of(dtype)
        # Covariances are the composition's, of its own seconds; how far the second opinion is from these is added.
        alone = float(np.exp(self.seconds.overhead[dtype]))
        before, latency_sd = self._total(self.seconds, seconds, counts * np.exp(seconds.value), alone, dtype)
        latency = float((counts * costs.latency_s).sum() + overhead[0])
        apart = disagreement(np.array([before]), np.array([latency]), self._weight(dtype))
        latency_sd = float(np.hypot(latency_sd, np.sqrt(apart[0])))
        energy, power_sd = float("nan"), float("nan")
        if watts is not None and self.watts is not None:
            energy, power_sd = self._total(self.watts, watts, counts * costs.energy_j, overhead[1], dtype)

        def bounds(quantity: str, value: float, sd: float) -> Bounds:
            half = self.widths.get(quantity, NORMAL_95) * sd
            return value, value * float(np.exp(-half)), value * float(np.exp(half))

        return NetworkCost(
            costs.take(repeat),
            bounds("latency", latency, latency_sd),
            bounds("energy", energy, float(self._joined(latency_sd, power_sd))),
            self.idle_power_w,
            bounds("power", energy / latency, power_sd),
            overhead,
        )

    def _total(self, cost: LogCost, parts: Parts, each: Floats, overhead: float, dtype: int) -> tuple[float, float]:
        """A sum of kernels and the standard deviation of its log, what totals scatter included."""
        total = float(each.sum() + overhead)
        shares = each / total
        slope = shares @ parts.slope + overhead / total * cost.overhead_slope(dtype)
        variance = cost.variance(slope[None, :])[0] + shares**2 @ parts.missed + cost.noise[dtype] ** 2
        return total, float(np.sqrt(variance))

    def _joined(self, latency_sd: Floats | float, power_sd: Floats | float) -> Floats:
        """Standard deviation of log energy = log latency + log power, with their correlation."""
        square = np.square(latency_sd) + np.square(power_sd) + 2 * self.together * np.multiply(latency_sd, power_sd)
        result: Floats = np.sqrt(np.maximum(square, 0.0))
        return result

    def _extrapolated(self, families: Sequence[str], shapes: Shapes) -> NDArray[np.bool_]:
        found = np.ones(len(families), dtype=bool)
        names = np.array(families, dtype=str)
        for family in dict.fromkeys(families):
            if family in self.reach:
                low, high = (np.array(side) for side in self.reach[family])
                rows = np.flatnonzero(names == family)
                points = shapes.coordinates[rows]
                found[rows] = ((points < low - OUTSIDE) | (points > high + OUTSIDE)).any(axis=1)
        return found

    def save(self, folder: object) -> None:
        """Write ``model.json`` and ``arrays.npz`` into a folder (made if missing), a base into its folder ``base``."""
        from power_models import composition_files

        composition_files.write(self, folder)


def base_terms(base: CompositionModel, kernels: Sequence[KernelSpec], columns: KernelColumns, shapes: Shapes) -> Floats:
    """The base's seconds of each kernel, split into the contributions of its terms (n, terms)."""
    parts = base.seconds.parts(base.term_costs(kernels, columns, shapes), shapes)
    result: Floats = np.exp(parts.value)[:, None] * parts.shares
    return result


def watt_amounts(shares: Floats, known: Parts | None) -> Floats:
    """What the watts' rates multiply (n, terms): each term's share of the seconds, times the base's watts if known."""
    return shares if known is None else shares * np.exp(known.value)[:, None]
