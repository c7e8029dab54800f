"""Which candidate prices a family: fitted to all folds but one, judged on that one; the best, or the best two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats, KernelColumns
from power_models.regressors import CANDIDATES, Regressor, make_regressor
from power_models.roofline import Roofline

Index = NDArray[np.intp]

BLEND_GAIN = 0.97  # two candidates are averaged where that lowers the held-out error by 3 %
FEWEST_FITTED = 2  # rows that a candidate is fitted to, where there are more than these

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

    def take(self, index: Index) -> Rows:
        """The rows of ``index``."""
        return Rows(self.columns.take(index), *(array[index] for array in self[1:]))


class Task(NamedTuple):
    """Rows of a family, the log cost to be fitted (n,), weights (n,), and disjoint folds that cover the rows."""

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


def choose(task: Task, modes: Sequence[Mode]) -> Choice:
    """Cross-validate every candidate that has rows enough, in each mode."""
    errors: dict[tuple[str, bool], Floats] = {}
    for mode in modes:
        names = [name for name in mode.candidates if _may_compete(name, len(task.columns), mode.support)]
        found = held_out_errors(task, mode, names or ["flops"])
        errors |= {(name, mode.fitted_with is not None): own for name, own in found.items()}
    return best_choice(errors)


def _may_compete(name: str, rows: int, support: Support | None) -> bool:
    base, _, pool = name.partition("@")
    if pool and support is None:
        return False
    return rows + (len(support[1]) if pool and support is not None else 0) >= CANDIDATES[base][1]


def held_out_errors(task: Task, mode: Mode, names: Sequence[str]) -> dict[str, Floats]:
    """log(measured/predicted) (n,) of every row by candidates that were fitted without its fold, by name."""
    errors = {name: np.zeros(len(task.target)) for name in names}
    everything = np.arange(len(task.target))
    fit_on, predict_on = task.columns.given(mode.fitted_with), task.columns.given(mode.predicted_with)
    for fold in task.folds:
        rest = np.setdiff1d(everything, fold)
        if len(rest) < FEWEST_FITTED:  # then a row has a hand in its own prediction (see ``judged``)
            rest = everything
        own = (fit_on.take(rest), task.target[rest], task.weight[rest])
        models = fit_candidates(names, task.kinds, own, mode.support)
        test = predict_on.take(fold)
        for name, model in models.items():
            errors[name][fold] = task.target[fold] - model.predict(test)
    return errors


def judged(folds: Sequence[Index], count: int) -> NDArray[np.bool_]:
    """Which of ``count`` rows are judged by a fit without them: those whose fold leaves enough others to fit to."""
    told = np.zeros(count, dtype=np.bool_)
    for fold in folds:
        told[fold] = count - len(fold) >= FEWEST_FITTED
    return told


def fit_candidates(
    names: Sequence[str], kinds: tuple[str, ...], own: Support, support: Support | None
) -> dict[str, Regressor]:
    """Each candidate fitted to ``own`` rows, or to own and supporting ones (``…@pool``); rooflines are shared."""
    fitted: dict[str, Regressor] = {}
    for pool in ("", "pool"):
        members = [name for name in names if name.partition("@")[2] == pool]
        if not members:
            continue
        columns, target, weight = own if not pool or support is None else joined_rows(own, support)
        shared = Roofline(kinds).fit(columns, target, weight) if len(target) >= CANDIDATES["roofline"][1] else None
        for name in members:
            base = name.partition("@")[0]
            if base == "roofline" and shared is not None:
                fitted[name] = shared
            else:
                fitted[name] = make_regressor(base, kinds, shared).fit(columns, target, weight)
    return fitted


def joined_rows(own: Support, support: Support) -> Support:
    """The own rows and then the supporting ones."""
    return own[0].joined(support[0]), np.concatenate([own[1], support[1]]), np.concatenate([own[2], support[2]])


def score(errors: Floats) -> float:
    """What candidates compete by: mean |log error|, each row capped at 1 so that no single row decides."""
    return float(np.minimum(np.abs(errors), 1.0).mean())


def best_choice(errors: Mapping[tuple[str, bool], Floats]) -> Choice:
    """The candidate, or the pair of candidates, with the smallest held-out error; keys: (name, given latency)."""
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
