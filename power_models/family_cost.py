"""The model of one family of kernels: candidates chosen by grouped cross-validation, and how far they can be trusted.

Latency is fitted first. Active energy is fitted *given* the latency (energy = watts·seconds + joules per unit of work,
so that energy and latency stay consistent) or directly; cross-validation, in which a held-out row has only its
predicted latency, decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats, KernelColumns, shape_features
from power_models.reach import Reach
from power_models.regressors import CANDIDATES, Regressor, make_regressor, under
from power_models.roofline import NonNegative, Roofline
from power_models.selection import (
    Choice,
    Index,
    Mode,
    Rows,
    Support,
    Task,
    choose,
    fit_candidates,
    joined_rows,
    judged,
)
from power_models.stacked import Stack
from power_models.tiles import size_features
from power_models.trees import HistogramTrees

LEAN = ("flops", "nonnegative", "roofline", "roofline_gp")  # where every candidate is not worth its fitting time
FADE = 1.0  # of the correction, for each e-fold outside the measured range


@dataclass
class Ensemble:
    """Fitted candidates averaged in log, held within ``bound`` of a physical anchor."""

    names: tuple[str, ...]
    given_latency: bool
    members: list[Regressor]
    anchor: NonNegative | Roofline
    bound: float

    def predict(self, columns: KernelColumns, latency_s: Floats | None, outside: Floats) -> Floats:
        """Log cost (n,); ``latency_s`` is used where the energy is modelled given it.

        Beyond the measured range (``outside``, e-folds) the correction to the anchor fades away.
        """
        known = columns.given(latency_s if self.given_latency else None)
        value: Floats = np.mean([member.predict(known) for member in self.members], axis=0)
        anchor = self.anchor.predict(known)
        result: Floats = anchor + np.clip(value - anchor, -self.bound, self.bound) * np.exp(-FADE * outside)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every learned number as plain arrays."""
        arrays: dict[str, NDArray[np.generic]] = {"bound": np.array([self.bound])}
        arrays |= {f"anchor.{name}": value for name, value in self.anchor.to_arrays().items()}
        for i, member in enumerate(self.members):
            arrays |= {f"{i}.{name}": value for name, value in member.to_arrays().items()}
        return arrays

    def to_json(self) -> dict[str, object]:
        """What is not numbers."""
        return {"names": list(self.names), "given_latency": self.given_latency}


@dataclass
class Doubt:
    """The expected |log error| of a kernel, by its sizes, its latency, and how far the learners are apart about it.

    ``held_out``: the estimates for the training rows (n,), each made without its fold; not saved.
    """

    trees: HistogramTrees
    held_out: Floats

    @staticmethod
    def features(columns: KernelColumns, log_latency: Floats, spreads: Sequence[Floats]) -> Floats:
        """What the size of an error may depend on (n, d)."""
        return np.column_stack([size_features(columns), log_latency, *spreads])

    @staticmethod
    def grown(features: Floats, target: Floats) -> HistogramTrees:
        """Shallow trees, with many rows a leaf: the size of errors is known far less well than a cost.

        ``target``: sizes of errors (n,), positive. Their gamma deviance wastes less of them than squares of logarithms.
        """
        trees = HistogramTrees(trees=100, rate=0.06, leaves=8, least=25, depth=4)
        return trees.fit(features, target, np.ones(len(target)), loss="gamma")

    def of(self, features: Floats) -> Floats:
        """Expected |log error| (n,)."""
        return np.asarray(np.exp(self.trees.predict(features)), dtype=np.float64)


@dataclass
class FamilyModel:
    """Latency and energy of one family, with the held-out errors from which intervals are made.

    ``doubts``: by quantity, where an error's size could be learned; ``scores``: by quantity, the candidates' held-out
    errors (mean |log|). Neither they nor ``held_out`` (latency, energy, power: log errors, nan where a row was not
    measured or could not be left out; distance) price anything.
    """

    name: str
    kinds: tuple[str, ...]
    rows: int
    latency: Ensemble | Stack
    energy: Ensemble | Stack | None
    reach: Reach
    held_out: dict[str, Floats] = field(default_factory=dict)
    doubts: dict[str, Doubt] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def predict(self, columns: KernelColumns) -> tuple[Floats, Floats]:
        """(log latency, log active energy) (n,); energy is nan where none was measured."""
        log_latency, log_energy, _ = self.predict_doubted(columns)
        return log_latency, log_energy

    def predict_doubted(self, columns: KernelColumns) -> tuple[Floats, Floats, dict[str, Floats]]:
        """``predict``, and by quantity a factor (n,) on the family's typical error.

        The factor is the kernel's own expected error, where that was learned, and more between measured sizes.
        """
        outside = self.reach.outside(shape_features(columns, self.kinds))
        log_latency, spread = _predicted(self.latency, columns, None, outside)
        log_energy, spread_energy = np.full(len(columns), np.nan), spread
        if self.energy is not None:
            log_energy, spread_energy = _predicted(self.energy, columns, np.exp(log_latency), outside)
        factors = {}
        for quantity in ("latency", "energy", "power"):
            factors[quantity] = self._between(quantity, columns)
            if quantity in self.doubts:
                spreads = {"latency": [spread], "power": [spread_energy]}.get(quantity, [spread, spread_energy])
                factors[quantity] *= self.doubts[quantity].of(Doubt.features(columns, log_latency, spreads))
        return log_latency, log_energy, factors

    def _between(self, quantity: str, columns: KernelColumns) -> Floats:
        parts = {"latency": (self.latency,), "power": (self.energy,)}.get(quantity, (self.latency, self.energy))
        widest = np.ones(len(columns))
        for part in parts:
            if isinstance(part, Stack):
                widest = np.maximum(widest, part.doubt(columns))
        return widest

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every learned number as plain arrays."""
        arrays = {f"reach.{name}": value for name, value in self.reach.to_arrays().items()}
        for quantity, own in (("latency", self.latency), ("energy", self.energy)):
            if own is not None:
                arrays |= {f"{quantity}.{name}": value for name, value in own.to_arrays().items()}
        for quantity, doubt in self.doubts.items():
            arrays |= {f"doubt.{quantity}.{name}": value for name, value in doubt.trees.to_arrays().items()}
        return arrays

    def to_json(self) -> dict[str, object]:
        """What is not numbers."""
        parts = {"latency": self.latency, "energy": self.energy}
        return {
            "kinds": list(self.kinds),
            "rows": self.rows,
            "fused": list(self.reach.fused),
            "doubts": list(self.doubts),
            "chosen": {quantity: None if own is None else own.to_json() for quantity, own in parts.items()},
        }

    @classmethod
    def restore(cls, name: str, about: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> FamilyModel:
        """Rebuild from ``to_json`` and ``to_arrays``."""
        kinds = tuple(str(kind) for kind in about["kinds"])  # type: ignore[attr-defined]
        chosen: Mapping[str, Mapping[str, object] | None] = about["chosen"]  # type: ignore[assignment]
        made = {quantity: _restore(kinds, own, under(arrays, quantity)) for quantity, own in chosen.items()}
        latency = made["latency"]
        if latency is None:
            raise ValueError(f"cost model: family {name} has no latency model; calibrate again")
        reach = Reach.from_arrays(under(arrays, "reach"), about["fused"])  # type: ignore[arg-type]
        doubts = {
            str(quantity): Doubt(HistogramTrees().from_arrays(under(arrays, f"doubt.{quantity}")), np.zeros(0))
            for quantity in about.get("doubts", ())  # type: ignore[attr-defined]
        }
        rows = int(about["rows"])  # type: ignore[call-overload]
        return cls(name, kinds, rows, latency, made["energy"], reach, doubts=doubts)


def _predicted(
    model: Ensemble | Stack, columns: KernelColumns, latency_s: Floats | None, outside: Floats
) -> tuple[Floats, Floats]:
    """Log cost (n,), and how far its learners are apart (n,), 0 where that means nothing."""
    if isinstance(model, Stack):
        return model.predict_apart(columns, latency_s, outside)
    return model.predict(columns, latency_s, outside), np.zeros(len(columns))


def _restore(
    kinds: tuple[str, ...], about: Mapping[str, object] | None, arrays: Mapping[str, NDArray[np.generic]]
) -> Ensemble | Stack | None:
    if about is None:
        return None
    if about.get("stack"):
        return Stack.restore(kinds, about, arrays)
    names = tuple(str(name) for name in about["names"])  # type: ignore[attr-defined]
    members = [
        make_regressor(n.partition("@")[0], kinds).from_arrays(under(arrays, str(i))) for i, n in enumerate(names)
    ]
    anchor_arrays = under(arrays, "anchor")
    anchor: NonNegative | Roofline = Roofline(kinds) if "power" in anchor_arrays else NonNegative(kinds)
    anchor.from_arrays(anchor_arrays)
    bound = float(np.asarray(arrays["bound"], dtype=np.float64)[0])
    return Ensemble(names, bool(about["given_latency"]), members, anchor, bound)


def fit_family(
    name: str, rows: Rows, folds: Sequence[Index], candidates: Sequence[str], support: Rows | None = None
) -> FamilyModel:
    """Fit one family by the best of ``candidates``.

    ``folds``: disjoint index arrays that cover the rows. ``support``: rows of related families, which candidates
    named ``…@pool`` are fitted to as well (never scored on).
    """
    columns = rows.columns
    kinds = tuple(sorted(set(columns.kinds.tolist())))
    timed = Task(columns, kinds, rows.log_latency, rows.latency_weight, folds)
    helped = None if support is None else (support.columns, support.log_latency, support.latency_weight)
    choice = choose(timed, [Mode(candidates, support=helped)])
    latency = _fit_ensemble(timed, choice, helped)
    told = np.where(judged(folds, len(columns)), choice.errors, np.nan)
    held_out = {"latency": told, "distance": held_out_distance(columns, kinds, folds)}
    scores = {"latency": choice.scores}
    energy = None
    there = np.flatnonzero(np.isfinite(rows.log_energy))
    if len(there) >= 2:
        part, own_folds = columns.take(there), restricted(folds, there, len(columns))
        task = Task(part, kinds, rows.log_energy[there], rows.energy_weight[there], own_folds)
        known, guessed = np.exp(rows.log_latency[there]), np.exp(rows.log_latency - choice.errors)[there]
        given, direct = _energy_support(support)
        lean = [name for name in candidates if name.split("@")[0] in LEAN]
        energy_choice = choose(task, [Mode(candidates, known, guessed, given), Mode(lean, support=direct)])
        if energy_choice.given_latency:
            task = task._replace(columns=part.given(known))
        energy = _fit_ensemble(task, energy_choice, given if energy_choice.given_latency else direct)
        held_out["energy"] = np.full(len(columns), np.nan)
        held_out["energy"][there] = np.where(judged(own_folds, len(there)), energy_choice.errors, np.nan)
        held_out["power"] = held_out["energy"] - held_out["latency"]
        scores["energy"] = energy_choice.scores
    return FamilyModel(name, kinds, len(columns), latency, energy, Reach.of(columns, kinds), held_out, scores=scores)


def _energy_support(support: Rows | None) -> tuple[Support | None, Support | None]:
    """Supporting rows with energy, with their latency given and without."""
    if support is None:
        return None, None
    there = np.flatnonzero(np.isfinite(support.log_energy))
    if not len(there):
        return None, None
    columns, target, weight = support.columns.take(there), support.log_energy[there], support.energy_weight[there]
    return (columns.given(np.exp(support.log_latency[there])), target, weight), (columns, target, weight)


def restricted(folds: Sequence[Index], there: Index, total: int) -> list[Index]:
    """The folds among the rows of ``there`` alone, as places in it; ``total``: how many rows there are."""
    position = np.full(total, -1)
    position[there] = np.arange(len(there))
    found = [position[fold][position[fold] >= 0] for fold in folds]
    return [fold for fold in found if len(fold)]


def _fit_ensemble(task: Task, choice: Choice, support: Support | None) -> Ensemble:
    own = (task.columns, task.target, task.weight)
    members = fit_candidates(choice.names, task.kinds, own, support)
    anchored = own if support is None else joined_rows(own, support)
    anchor: NonNegative | Roofline = next(
        (m for m in members.values() if isinstance(m, Roofline)), NonNegative(task.kinds)
    )
    if isinstance(anchor, NonNegative):
        enough = len(anchored[1]) >= CANDIDATES["roofline"][1]
        anchor = (Roofline(task.kinds) if enough else anchor).fit(*anchored)
    bound = float(np.abs(task.target - anchor.predict(task.columns)).max()) + 0.05
    return Ensemble(choice.names, choice.given_latency, [members[name] for name in choice.names], anchor, bound)


def held_out_distance(columns: KernelColumns, kinds: tuple[str, ...], folds: Sequence[Index]) -> Floats:
    """Distance of every row to the nearest one outside its fold (n,)."""
    features = shape_features(columns, kinds)
    distance = np.zeros(len(columns))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(columns)), fold)
        if len(rest):
            distance[fold] = Reach.of(columns.take(rest), kinds).distance(features[fold])
    return distance
