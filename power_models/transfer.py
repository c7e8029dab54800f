"""A board's cost model from that of a similar board and few measurements of its own.

    log cost here = log cost there + level + level of the family + slopes + a small smooth bend   (kernel_process)

The scales of what differs are learned from the few measurements (a board that differs by one factor is known after
a few kernels, one that differs otherwise takes more), and so is how sure the result is. Measurements may be kernels or
whole networks. Where kernels were measured, a model fitted to them alone competes family by family on held-out rows: a
base that misleads is left out. Kernels of kinds that the base does not know come from that model too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models import model_files
from power_models.families import family_of
from power_models.features import Floats
from power_models.intervals import NORMAL_95
from power_models.kernel_cost import KernelCostModel, KernelCosts
from power_models.kernel_process import ErrorPrior, FeatureSpace, Points, covariance, variance

TRANSFERRED = "transferred "
OTHER = "other"  # families of which nothing was measured, neither there nor here
QUANTITIES = ("latency", "energy", "power")


@dataclass(frozen=True)
class Correction:
    """What a quantity (log) is off on the new board: posterior of the process given n observations.

    ``points``: the u kernels that were observed; ``dual`` (u,): mean = K(x, points)·dual; ``whitened`` (n, u): the
    variance falls by the squared length of whitened·K(points, x). ``width``: by how much held-out errors exceed the
    process's own deviations. ``shares``: by family, the part of the deviation that its kernels have in common.
    """

    prior: ErrorPrior
    space: FeatureSpace
    points: Points
    dual: Floats
    whitened: Floats
    width: float
    shares: Mapping[str, float]

    def at(self, kernels: Sequence[KernelSpec]) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of the log of new over base (n,), measuring noise and the unexplained included."""
        points = self.space.points(kernels)
        between = covariance(self.prior, points, self.points)
        left = variance(self.prior, points) - ((between @ self.whitened.T) ** 2).sum(1)
        return between @ self.dual, self.width * np.sqrt(np.maximum(left, 0.0) + self.prior.noise**2)


@dataclass
class TransferredModel(KernelCostModel):
    """A model whose kernels are priced by ``base`` and a correction, or by ``fresh``, a model of the new board's rows.

    ``sources``: by family, "base" or "fresh"; ``otherwise``: of families that could not be judged. In ``families``
    those of the base have ``TRANSFERRED`` before their names; their shifts are what measured networks taught on top.
    """

    base: KernelCostModel | None = None
    fresh: KernelCostModel | None = None
    corrections: dict[str, Correction] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    otherwise: str = "base"

    def predict(self, kernels: Sequence[KernelSpec], names: Sequence[str] | None = None) -> KernelCosts:
        """As ``KernelCostModel.predict``."""
        kernels = list(kernels)
        self._check_priced(kernels, names)
        sources = np.array([self._source(kernel) for kernel in kernels])
        parts: list[tuple[NDArray[np.intp], KernelCosts]] = []
        for source in dict.fromkeys(sources.tolist()):
            index = np.flatnonzero(sources == source)
            own = [kernels[i] for i in index]
            priced = self._of_base(own) if source == "base" else self._of_fresh(own)
            parts.append((index, priced))
        return _merged(len(kernels), parts)

    def _source(self, kernel: KernelSpec) -> str:
        key = (kernel.kind, kernel.dtype)
        able = [
            name for name, model in (("base", self.base), ("fresh", self.fresh)) if model and key in model.known_kinds
        ]
        wanted = self.sources.get(family_of(kernel), self.otherwise)
        return wanted if wanted in able else able[0]

    def _label(self, family: str) -> str:
        label = TRANSFERRED + family
        return label if label in self.families else TRANSFERRED + OTHER

    def _of_fresh(self, kernels: list[KernelSpec]) -> KernelCosts:
        assert self.fresh is not None
        return self._shifted(self.fresh.predict(kernels))

    def _of_base(self, kernels: list[KernelSpec]) -> KernelCosts:
        assert self.base is not None
        costs = self.base.predict(kernels)
        deviations = {}
        for quantity in QUANTITIES:
            if quantity in self.corrections:
                mean, deviation = self.corrections[quantity].at(kernels)
            else:
                # Nothing of it was measured here, and the base's joules are those of another board.
                mean = deviation = np.full(len(kernels), np.nan)
            # Outside what the base was fitted to, its own doubt comes on top.
            doubt = 0.5 * (costs.spreads[quantity][0] + costs.spreads[quantity][1])
            half = np.where(costs.extrapolated, np.hypot(NORMAL_95 * deviation, doubt), NORMAL_95 * deviation)
            deviations[quantity] = (mean, half)
        latency = costs.latency_s * np.exp(deviations["latency"][0])
        energy = costs.energy_j * np.exp(deviations["energy"][0])
        halves = {quantity: half for quantity, (_, half) in deviations.items()}
        priced = replace(
            costs,
            latency_s=latency,
            latency_lo_s=latency * np.exp(-halves["latency"]),
            latency_hi_s=latency * np.exp(halves["latency"]),
            energy_j=energy,
            energy_lo_j=energy * np.exp(-halves["energy"]),
            energy_hi_j=energy * np.exp(halves["energy"]),
            chosen=[f"transferred:{name}" for name in costs.chosen],
            families=[self._label(name) for name in costs.families],
            spreads={quantity: (half, half) for quantity, half in halves.items()},
        )
        return self._shifted(priced)

    def _shifted(self, costs: KernelCosts) -> KernelCosts:
        """With the shifts that measured networks taught (``network_check``), which are on top of everything."""
        latency = np.exp([self.families[family].latency_shift for family in costs.families])
        energy = np.exp([self.families[family].energy_shift for family in costs.families])
        names = ("latency_s", "latency_lo_s", "latency_hi_s"), ("energy_j", "energy_lo_j", "energy_hi_j")
        scaled = {
            name: getattr(costs, name) * by for own, by in zip(names, (latency, energy), strict=True) for name in own
        }
        return replace(costs, **scaled, power_widths=None)

    def save(self, folder: object) -> None:
        """Write the parts first, and last the files that make them a model."""
        target = Path(str(folder))
        arrays: dict[str, Any] = {}
        about: dict[str, Any] = {"sources": self.sources, "otherwise": self.otherwise, "corrections": {}}
        parts = {name: part for name, part in (("base", self.base), ("fresh", self.fresh)) if part is not None}
        for name, part in parts.items():
            part.save(target / name)
        for quantity, own in self.corrections.items():
            about["corrections"][quantity] = {
                "prior": list(own.prior),
                "families": own.space.families,
                "width": own.width,
                "shares": dict(own.shares),
            }
            values = (own.space.centre, own.space.inverse, *own.points, own.dual, own.whitened)
            arrays |= {f"{quantity}.{name}": value for name, value in zip(_ARRAYS, values, strict=True)}
        model_files.write_arrays(target / "transfer.npz", arrays)
        super_model = replace(self, report={**self.report, "parts": {"names": list(parts), **about}})
        model_files.write(super_model, target)


_ARRAYS = ("centre", "inverse", "table", "families", "dual", "whitened")


def restore(model: KernelCostModel, folder: Path) -> TransferredModel:
    """Rebuild what ``save`` wrote; ``model`` holds what every cost model has."""
    report = dict(model.report)
    about: Any = report.pop("parts")
    arrays = model_files.read_arrays(folder / "transfer.npz")
    parts = {name: KernelCostModel.load(folder / name) for name in about["names"]}
    corrections = {}
    for quantity, own in about["corrections"].items():
        centre, inverse, table, families, dual, whitened = (arrays[f"{quantity}.{name}"] for name in _ARRAYS)
        space, points = FeatureSpace(centre, inverse, own["families"]), Points(table, families)
        prior = ErrorPrior(*own["prior"])
        corrections[quantity] = Correction(prior, space, points, dual, whitened, own["width"], own["shares"])
    common = {item.name: getattr(model, item.name) for item in fields(KernelCostModel)} | {"report": report}
    return TransferredModel(
        **common,
        base=parts.get("base"),
        fresh=parts.get("fresh"),
        corrections=corrections,
        sources=dict(about["sources"]),
        otherwise=about["otherwise"],
    )


def _merged(n: int, parts: Sequence[tuple[NDArray[np.intp], KernelCosts]]) -> KernelCosts:
    """Costs of parts, put into their places."""
    if len(parts) == 1:
        return parts[0][1]

    def joined(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            out_list: list[Any] = [None] * n
            for (index, _), value in zip(parts, values, strict=True):
                for position, one in zip(index.tolist(), value, strict=True):
                    out_list[position] = one
            return out_list
        if isinstance(values[0], Mapping):
            return {name: joined([value[name] for value in values]) for name in values[0]}
        if isinstance(values[0], tuple):
            return tuple(joined([value[i] for value in values]) for i in range(len(values[0])))
        out = np.zeros(n, dtype=np.result_type(*values))
        for (index, _), value in zip(parts, values, strict=True):
            out[index] = value
        return out

    return KernelCosts(
        **{
            item.name: joined([getattr(costs, item.name) for _, costs in parts])
            for item in fields(KernelCosts)
            if item.name != "power_widths"
        }
    )
