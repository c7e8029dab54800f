"""Kernels to seconds and active joules, with 95 % intervals: fitted to measured rows of one configuration.

    rows ─► families (1×1, k×k, grouped, depthwise, fc, others) ─► candidates, chosen by cross-validation ─► intervals

A family with too few rows is carried by the model of all kernels with weights, shifted by its own rows, with wide
intervals. A kind that was never measured has no price at all: ``UnpricedKernel``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_agents.records import Configuration, KernelSpec
from power_models import model_files
from power_models.drift import Drift
from power_models.families import family_of, pool_of
from power_models.family_cost import FamilyModel
from power_models.features import Floats, KernelColumns, shape_features
from power_models.intervals import ErrorScale
from power_models.switches import routed

Bounds = tuple[float, float, float]
QUANTITIES = ("latency", "energy", "power")


class UnpricedKernel(ValueError):
    """A kernel of a kind or data type that was never measured; names it, and the kinds that were."""


class CannotFit(ValueError):
    """The rows hold nothing that a model can be fitted to; says of which device, and why."""


class MixedConfigurations(ValueError):
    """Rows of different configurations were put together; names the fields that differ."""


class KernelRow(NamedTuple):
    """One measured kernel: seconds, active joules (None without a power source) and their standard errors.

    ``source``: "chain" or "profile". ``group``: rows of one group (a network, a chain) are held out together.
    ``configuration``: where the row was measured, if the caller has it; ``fit`` refuses any other than its own.
    ``place``: the row's number in the order of measuring of its ``campaign``, where known (``drift``).
    """

    kernel: KernelSpec
    latency_s: float
    latency_se_s: float
    energy_active_j: float | None
    energy_se_j: float | None
    source: str
    group: str
    configuration: Configuration | None = None
    place: float | None = None
    campaign: str = ""


@dataclass(frozen=True)
class KernelCosts:
    """Costs of n kernels: arrays (n,), lo and hi a 95 % interval; energy is active energy, nan without a power source.

    ``extrapolated``: outside what was measured. ``chosen``: the model that priced it. ``families``: see ``family_of``.
    ``spreads``: a kernel's part in the half-width of a sum, in log cost, (down, up), of latency, energy and power
    (energy over latency). ``power_widths``: 95 % half-widths of a kernel's own active power, in log, (down, up); None
    where only its part in sums is known.
    """

    latency_s: Floats
    latency_lo_s: Floats
    latency_hi_s: Floats
    energy_j: Floats
    energy_lo_j: Floats
    energy_hi_j: Floats
    extrapolated: NDArray[np.bool_]
    chosen: list[str]
    families: list[str]
    spreads: Mapping[str, tuple[Floats, Floats]]
    power_widths: tuple[Floats, Floats] | None = None

    def __len__(self) -> int:
        return len(self.latency_s)

    def take(self, index: NDArray[np.intp]) -> KernelCosts:
        """The costs of ``index``, in its order."""
        table: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "spreads":
                table[item.name] = {name: (down[index], up[index]) for name, (down, up) in value.items()}
            elif item.name == "power_widths":
                table[item.name] = None if value is None else (value[0][index], value[1][index])
            else:
                table[item.name] = [value[i] for i in index.tolist()] if isinstance(value, list) else value[index]
        return KernelCosts(**table)


@dataclass(frozen=True)
class PricedFamily:
    """How one family is priced: by which model, shifted by how much (log), with which error scales.

    ``scales``: one ``ErrorScale`` each for latency, energy and power. ``kind_factor``: how much less sure the kinds
    are of which few rows exist, or which fit worse than the family.
    """

    model: str
    latency_shift: float
    energy_shift: float
    scales: Mapping[str, ErrorScale]
    kind_factor: Mapping[str, float]


@dataclass
class KernelCostModel:
    """Cost model of one configuration; made by ``fit`` or ``load``.

    ``kind``: what the rows were (measured, simulated, …). ``idle_power_w``: quiet power (value, lo, hi), or None.
    ``overhead``: per-inference (seconds, joules) on top of the kernels. ``report``: held-out errors a family.
    ``unusable``: rows that could not be used, with the reason. ``network_widths``: by quantity, the (down, up) factors
    on the intervals of networks that measured networks taught (``network_check``). ``layout_block``: channels in a
    block of the runtime's layout, as its graphs on the device showed (``kernel_graph``); None where none was read.
    ``drifts``: what each campaign added to its rows with time (never part of a price). ``switches``: family → the
    channel block outside of whose multiples the runtime uses another algorithm (``power_models.switches``).
    """

    # What is said of a kernel without a price, after "was", and what to do about it.
    NEVER: ClassVar[str] = "never measured"
    REMEDY: ClassVar[str] = "Calibrate the device with kernels of that kind."

    configuration: Configuration
    kind: str
    models: dict[str, FamilyModel]
    families: dict[str, PricedFamily]
    known_kinds: tuple[tuple[str, str], ...]
    idle_power_w: Bounds | None = None
    overhead: tuple[float, float] = (0.0, 0.0)
    report: dict[str, object] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    network_widths: dict[str, tuple[float, float]] = field(default_factory=dict)
    layout_block: int | None = None
    drifts: dict[str, Drift] = field(default_factory=dict)
    switches: dict[str, int] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        rows: Sequence[KernelRow],
        configuration: Configuration,
        kind: str,
        *,
        idle_power_w: Bounds | None = None,
        overhead: tuple[float, float] = (0.0, 0.0),
        folds: int = 5,
    ) -> KernelCostModel:
        """Fit to measured rows.

        Raises MixedConfigurations for a row of another configuration, ValueError without any usable row.
        """
        from power_models.fitting import fit_models

        return fit_models(cls, rows, configuration, kind, idle_power_w, overhead, folds)

    def predict(self, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None) -> KernelCosts:
        """Costs of kernels, in order; ``names`` (n,) are used in the error only.

        Raises UnpricedKernel for a kind or data type that was never measured.
        """
        kernels = list(kernels)
        self._check_priced(kernels, names)
        families = self._families_of(kernels)
        n = len(kernels)
        values = {name: np.full(n, np.nan) for name in ("latency", "energy")}
        down, up = ({name: np.full(n, np.nan) for name in QUANTITIES} for _ in range(2))
        spreads = {name: (np.full(n, np.nan), np.full(n, np.nan)) for name in QUANTITIES}
        extrapolated, chosen = np.zeros(n, bool), [""] * n
        columns = KernelColumns.of(kernels).make_tables()
        labels = np.array(families, dtype=str)
        for family in dict.fromkeys(families):
            index = np.flatnonzero(labels == family)
            priced = self.families[family]
            model, part = self.models[priced.model], columns.take(index)
            log_latency, log_energy, doubts = model.predict_doubted(part)
            values["latency"][index] = log_latency + priced.latency_shift
            values["energy"][index] = log_energy + priced.energy_shift
            features = shape_features(part, model.kinds)
            distance, outside = model.reach.distance(features), model.reach.outside(features)
            unseen = model.reach.unseen(part)
            of_kind = np.array([priced.kind_factor.get(name, 1.0) for name in part.kinds.tolist()])
            for quantity, scale in priced.scales.items():
                factor = of_kind * doubts[quantity]
                low, high = scale.half_widths(distance, outside, unseen, factor)
                down[quantity][index], up[quantity][index] = low, high
                low, high = scale.spreads(distance, outside, unseen, factor)
                spreads[quantity][0][index], spreads[quantity][1][index] = low, high
            extrapolated[index] = (outside > 0.05) | (unseen > 0)
            label = f"{priced.model}:{'+'.join(model.latency.names)}"
            for position in index.tolist():
                chosen[position] = label
        latency, energy = np.exp(values["latency"]), np.exp(values["energy"])
        return KernelCosts(
            latency,
            latency * np.exp(-down["latency"]),
            latency * np.exp(up["latency"]),
            energy,
            energy * np.exp(-down["energy"]),
            energy * np.exp(up["energy"]),
            extrapolated,
            chosen,
            families,
            spreads,
            (down["power"], up["power"]),
        )

    def _families_of(self, kernels: Sequence[KernelSpec]) -> list[str]:
        # A kind may be known in another form only (3×3 measured, 1×1 not): the pooled model carries it.
        found = []
        for spec in kernels:
            family = routed(family_of(spec), spec, self.switches)
            found.append(family if family in self.families else pool_of(family))
        return found

    def knows(self, spec: KernelSpec) -> bool:
        """Whether a kernel's kind and data type were measured, so that it has a price."""
        return (spec.kind, spec.dtype) in self.known_kinds

    def _check_priced(self, kernels: Sequence[KernelSpec], names: Sequence[str] | None) -> None:
        known = set(self.known_kinds)
        for i, spec in enumerate(kernels):
            if (spec.kind, spec.dtype) in known:
                continue
            node = f" (node {names[i]})" if names is not None else ""
            priced = ", ".join(sorted(f"{kind}/{dtype}" for kind, dtype in known))
            raise UnpricedKernel(
                f"no price for kernel {spec.label}{node} on {self.configuration.device}: {spec.kind}/{spec.dtype} was"
                f" {self.NEVER}; measured kinds: {priced}. {self.REMEDY}"
            )

    def save(self, folder: object) -> None:
        """Write ``model.json`` and ``arrays.npz`` into a folder (made if missing)."""
        model_files.write(self, folder)

    @classmethod
    def load(cls, folder: object) -> KernelCostModel:
        """Read what ``save`` wrote; raises ValueError for another format version or a damaged file."""
        return model_files.read(cls, folder)
