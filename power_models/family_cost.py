"""The model of one family of kernels: candidates chosen by grouped cross-validation, and how far they can be trusted.

Latency is fitted first. Active energy is fitted *given* the latency (energy = watts·seconds + joules per unit of work,
so that energy and latency stay consistent) or directly; cross-validation, in which a held-out row has only its
predicted latency, decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats, KernelColumns, fused_class, shape_features
from power_models.regressors import CANDIDATES, Regressor, make_regressor, under
from power_models.roofline import NonNegative, Roofline

Index = NDArray[np.intp]

RANGE_FEATURES = 15  # the leading shape features are sizes: outside their range is extrapolation
LEAN = ("flops", "nonnegative", "roofline", "roofline_gp")  # where every candidate is not worth its fitting time
FADE = 1.0  # of the correction, for each e-fold outside the measured range
BLEND_GAIN = 0.97  # two candidates are averaged where that lowers the held-out error by 3 %


Support = tuple[KernelColumns, Floats, Floats]  # rows, log cost, weight


class Rows(NamedTuple):
    """Measured rows of a family: log latency, log active energy (nan where unknown), weights, all (n,)."""

    columns: KernelColumns
    log_latency: Floats
    latency_weight: Floats
    log_energy: Floats
    energy_weight: Floats

    def joined(self, other: Rows) -> Rows:
        """These rows and then those of ``other``."""
        arrays = [np.concatenate([a, b]) for a, b in zip(self[1:], other[1:], strict=True)]
        return Rows(self.columns.joined(other.columns), *arrays)


class _Task(NamedTuple):
    columns: KernelColumns
    kinds: tuple[str, ...]
    target: Floats
    weight: Floats
    folds: Sequence[Index]


class Mode(NamedTuple):
    """Candidates, the latency (n,) they see when fitted and when predicting (None: not given), supporting rows."""

    candidates: Sequence[str]
    fitted_with: Floats | None = None
    predicted_with: Floats | None = None
    support: Support | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen for one quantity: candidates (averaged in log), whether given latency, errors held out (n,)."""

    names: tuple[str, ...]
    given_latency: bool
    errors: Floats
    scores: dict[str, float]


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


@dataclass
class Reach:
    """Where the measured rows lie: to tell distance and extrapolation."""

    centre: Floats
    inverse_scale: Floats
    points: Floats
    low: Floats
    high: Floats
    strides: Floats
    dilations: Floats
    fused: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: KernelColumns, kinds: Sequence[str]) -> Reach:
        """The reach of training rows."""
        features = shape_features(columns, kinds)
        spread = features.std(axis=0)
        inverse = np.where(spread > 1e-9, 1.0 / np.where(spread > 1e-9, spread, 1.0), 1.0)
        centre = features.mean(axis=0)
        sizes = features[:, :RANGE_FEATURES]
        return cls(
            centre,
            inverse,
            (features - centre) * inverse,
            sizes.min(axis=0),
            sizes.max(axis=0),
            np.unique(columns.number("stride")),
            np.unique(columns.number("dilation")),
            tuple(sorted({fused_class(text) for text in set(columns.fused.tolist())})),
        )

    def distance(self, features: Floats) -> Floats:
        """Root-mean-square standardized distance (n,) to the nearest measured row, at most 3."""
        points = np.clip((features - self.centre) * self.inverse_scale, -6, 6)
        square = (points**2).sum(1)[:, None] + (self.points**2).sum(1)[None, :] - 2 * points @ self.points.T
        nearest: Floats = np.sqrt(np.maximum(square.min(axis=1), 0.0) / features.shape[1])
        return np.minimum(nearest, 3.0)

    def outside(self, features: Floats) -> Floats:
        """E-folds beyond the measured range of the sizes, of the worst one (n,)."""
        sizes = features[:, :RANGE_FEATURES]
        beyond = np.maximum(np.maximum(self.low - sizes, sizes - self.high), 0.0)
        result: Floats = beyond.max(axis=1)
        return np.where(result > 1e-6, result, 0.0)

    def unseen(self, columns: KernelColumns) -> Floats:
        """1 where stride, dilation or fused operators were never measured in this family (n,)."""
        known = np.isin(columns.number("stride"), self.strides) & np.isin(columns.number("dilation"), self.dilations)
        texts, inverse = np.unique(columns.fused, return_inverse=True)
        # Nothing fused at all is within what any fused form was measured with.
        seen = np.array([fused_class(text) in {"", *self.fused} for text in texts], dtype=bool)[inverse]
        result: Floats = (~(known & seen)).astype(float)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays (``fused`` goes to JSON)."""
        names = ("centre", "inverse_scale", "points", "low", "high", "strides", "dilations")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], fused: Sequence[str]) -> Reach:
        """Read what ``to_arrays`` wrote."""
        table = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
        return cls(**table, fused=tuple(fused))


@dataclass
class FamilyModel:
    """Latency and energy of one family, with the held-out errors from which intervals are made."""

    name: str
    kinds: tuple[str, ...]
    rows: int
    latency: Ensemble
    energy: Ensemble | None
    reach: Reach
    held_out: dict[str, Floats] = field(default_factory=dict)  # latency, energy, power: log errors; distance

    def predict(self, columns: KernelColumns) -> tuple[Floats, Floats]:
        """(log latency, log active energy) (n,); energy is nan where none was measured."""
        outside = self.reach.outside(shape_features(columns, self.kinds))
        log_latency = self.latency.predict(columns, None, outside)
        if self.energy is None:
            return log_latency, np.full(len(columns), np.nan)
        return log_latency, self.energy.predict(columns, np.exp(log_latency), outside)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every learned number as plain arrays."""
        arrays = {f"reach.{name}": value for name, value in self.reach.to_arrays().items()}
        for quantity, ensemble in (("latency", self.latency), ("energy", self.energy)):
            if ensemble is None:
                continue
            arrays[f"{quantity}.bound"] = np.array([ensemble.bound])
            arrays |= {f"{quantity}.anchor.{name}": value for name, value in ensemble.anchor.to_arrays().items()}
            for i, member in enumerate(ensemble.members):
                arrays |= {f"{quantity}.{i}.{name}": value for name, value in member.to_arrays().items()}
        return arrays

    def to_json(self) -> dict[str, object]:
        """What is not numbers."""
        ensembles = {"latency": self.latency, "energy": self.energy}
        return {
            "kinds": list(self.kinds),
            "rows": self.rows,
            "fused": list(self.reach.fused),
            "chosen": {
                quantity: None if own is None else {"names": list(own.names), "given_latency": own.given_latency}
                for quantity, own in ensembles.items()
            },
        }

    @classmethod
    def restore(cls, name: str, about: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> FamilyModel:
        """Rebuild from ``to_json`` and ``to_arrays``."""
        kinds = tuple(str(kind) for kind in about["kinds"])  # type: ignore[attr-defined]
        chosen: Mapping[str, Mapping[str, object] | None] = about["chosen"]  # type: ignore[assignment]
        made = {quantity: _restore_ensemble(kinds, own, under(arrays, quantity)) for quantity, own in chosen.items()}
        latency = made["latency"]
        if latency is None:
            raise ValueError(f"cost model: family {name} has no latency model; calibrate again")
        reach = Reach.from_arrays(under(arrays, "reach"), about["fused"])  # type: ignore[arg-type]
        return cls(name, kinds, int(about["rows"]), latency, made["energy"], reach)  # type: ignore[call-overload]


def _restore_ensemble(
    kinds: tuple[str, ...], about: Mapping[str, object] | None, arrays: Mapping[str, NDArray[np.generic]]
) -> Ensemble | None:
    if about is None:
        return None
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
    timed = _Task(columns, kinds, rows.log_latency, rows.latency_weight, folds)
    helped = None if support is None else (support.columns, support.log_latency, support.latency_weight)
    choice = _choose(timed, [Mode(candidates, support=helped)])
    latency = _fit_ensemble(timed, choice, helped)
    held_out = {"latency": choice.errors, "distance": _held_out_distance(columns, kinds, folds)}
    energy = None
    there = np.flatnonzero(np.isfinite(rows.log_energy))
    if len(there) >= 2:
        part, own_folds = columns.take(there), _restrict(folds, there, len(columns))
        task = _Task(part, kinds, rows.log_energy[there], rows.energy_weight[there], own_folds)
        known, guessed = np.exp(rows.log_latency[there]), np.exp(rows.log_latency - choice.errors)[there]
        given, direct = _energy_support(support)
        lean = [name for name in candidates if name.split("@")[0] in LEAN]
        energy_choice = _choose(task, [Mode(candidates, known, guessed, given), Mode(lean, support=direct)])
        if energy_choice.given_latency:
            task = task._replace(columns=part.given(known))
        energy = _fit_ensemble(task, energy_choice, given if energy_choice.given_latency else direct)
        held_out["energy"] = np.full(len(columns), np.nan)
        held_out["energy"][there] = energy_choice.errors
        held_out["power"] = held_out["energy"] - held_out["latency"]
    return FamilyModel(name, kinds, len(columns), latency, energy, Reach.of(columns, kinds), held_out)


def _energy_support(support: Rows | None) -> tuple[Support | None, Support | None]:
    """Supporting rows with energy, with their latency given and without."""
    if support is None:
        return None, None
    there = np.flatnonzero(np.isfinite(support.log_energy))
    if not len(there):
        return None, None
    columns, target, weight = support.columns.take(there), support.log_energy[there], support.energy_weight[there]
    return (columns.given(np.exp(support.log_latency[there])), target, weight), (columns, target, weight)


def _restrict(folds: Sequence[Index], there: Index, total: int) -> list[Index]:
    position = np.full(total, -1)
    position[there] = np.arange(len(there))
    restricted = [position[fold][position[fold] >= 0] for fold in folds]
    return [fold for fold in restricted if len(fold)]


def _choose(task: _Task, modes: Sequence[Mode]) -> Choice:
    """Cross-validate every candidate that has rows enough, in each mode."""
    errors: dict[tuple[str, bool], Floats] = {}
    for mode in modes:
        names = [name for name in mode.candidates if _may_compete(name, len(task.columns), mode.support)]
        found = held_out_errors(task, mode, names or ["flops"])
        errors |= {(name, mode.fitted_with is not None): own for name, own in found.items()}
    return _best(errors)


def _may_compete(name: str, rows: int, support: Support | None) -> bool:
    base, _, pool = name.partition("@")
    if pool and support is None:
        return False
    return rows + (len(support[1]) if pool and support is not None else 0) >= CANDIDATES[base][1]


def held_out_errors(task: _Task, mode: Mode, names: Sequence[str]) -> dict[str, Floats]:
    """log(measured/predicted) (n,) of every row by candidates that were fitted without its fold, by name."""
    errors = {name: np.zeros(len(task.target)) for name in names}
    everything = np.arange(len(task.target))
    fit_on, predict_on = task.columns.given(mode.fitted_with), task.columns.given(mode.predicted_with)
    for fold in task.folds:
        rest = np.setdiff1d(everything, fold)
        if len(rest) < 2:
            rest = everything
        own = (fit_on.take(rest), task.target[rest], task.weight[rest])
        models = fit_candidates(names, task.kinds, own, mode.support)
        test = predict_on.take(fold)
        for name, model in models.items():
            errors[name][fold] = task.target[fold] - model.predict(test)
    return errors


def fit_candidates(
    names: Sequence[str], kinds: tuple[str, ...], own: Support, support: Support | None
) -> dict[str, Regressor]:
    """Each candidate fitted to ``own`` rows, or to own and supporting ones (``…@pool``); rooflines are shared."""
    fitted: dict[str, Regressor] = {}
    for pool in ("", "pool"):
        members = [name for name in names if name.partition("@")[2] == pool]
        if not members:
            continue
        columns, target, weight = own if not pool or support is None else _join(own, support)
        shared = Roofline(kinds).fit(columns, target, weight) if len(target) >= CANDIDATES["roofline"][1] else None
        for name in members:
            base = name.partition("@")[0]
            if base == "roofline" and shared is not None:
                fitted[name] = shared
            else:
                fitted[name] = make_regressor(base, kinds, shared).fit(columns, target, weight)
    return fitted


def _join(own: Support, support: Support) -> Support:
    return own[0].joined(support[0]), np.concatenate([own[1], support[1]]), np.concatenate([own[2], support[2]])


def score(errors: Floats) -> float:
    """What candidates compete by: mean |log error|, each row capped at 1 so that no single row decides."""
    return float(np.minimum(np.abs(errors), 1.0).mean())


def _best(errors: Mapping[tuple[str, bool], Floats]) -> Choice:
    ranked = sorted(errors, key=lambda key: score(errors[key]))
    first = ranked[0]
    scores = {f"{name}{'|latency' if given else ''}": score(errors[name, given]) for name, given in ranked}
    choice = Choice((first[0],), first[1], errors[first], scores)
    limit = BLEND_GAIN * score(choice.errors)
    for second in [key for key in ranked[1:4] if key[1] == first[1]]:
        mixed = (errors[first] + errors[second]) / 2
        if score(mixed) < limit:
            limit = score(mixed)
            choice = Choice((first[0], second[0]), first[1], mixed, scores)
    return choice


def _fit_ensemble(task: _Task, choice: Choice, support: Support | None) -> Ensemble:
    own = (task.columns, task.target, task.weight)
    members = fit_candidates(choice.names, task.kinds, own, support)
    anchored = own if support is None else _join(own, support)
    anchor: NonNegative | Roofline = next(
        (m for m in members.values() if isinstance(m, Roofline)), NonNegative(task.kinds)
    )
    if isinstance(anchor, NonNegative):
        enough = len(anchored[1]) >= CANDIDATES["roofline"][1]
        anchor = (Roofline(task.kinds) if enough else anchor).fit(*anchored)
    bound = float(np.abs(task.target - anchor.predict(task.columns)).max()) + 0.05
    return Ensemble(choice.names, choice.given_latency, list(members.values()), anchor, bound)


def _held_out_distance(columns: KernelColumns, kinds: tuple[str, ...], folds: Sequence[Index]) -> Floats:
    features = shape_features(columns, kinds)
    distance = np.zeros(len(columns))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(columns)), fold)
        if len(rest):
            distance[fold] = Reach.of(columns.take(rest), kinds).distance(features[fold])
    return distance
