"""A campaign whose own cost grew while it went on: seconds that belong to a row's place in it, not to its kernel.

    measured seconds = kernel + slope_s · place        place: the row's number in the order of measuring

Two public tables of GPU kernels are like that (their host spent up to 0.4 ms more on the last kernel than on the
first), which no feature of a kernel explains, and which looks like structure that two devices have in common. The
drift is accepted only where taking it away makes held-out kernels clearly more predictable. A price is that of the
kernel alone; what a row of such a campaign shows is the price and its place's share. Each table is its own campaign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from power_models.features import Floats, KernelColumns
from power_models.roofline import Roofline
from power_models.selection import score
from power_models.tiles import size_features
from power_models.trees import HistogramTrees

if TYPE_CHECKING:
    from power_models.kernel_cost import KernelCosts, KernelRow

FEWEST_ROWS = 600  # in fewer rows a drift cannot be told from what the features do not know
MOST_ROWS = 3000
WORTH = 0.93  # of the held-out error without it: what a drift must reach to be believed
STEPS = (0.25, 0.5, 0.75)
REFINED = 0.12
SORTED_BY_SIZE, SORTED_BY_COST = 0.25, 0.75  # correlation of a row's place with its size, or with its cost
LEFT = 0.02  # of a row's seconds stays the kernel's, however large the drift


@dataclass(frozen=True)
class Drift:
    """Seconds that each place adds; the place that stands for an unknown one, and the last place.

    The typical place is the one with the least mean relative error. A slope of zero: a campaign that did not drift.
    """

    slope_s: float
    typical_place: float
    last_place: float

    def seconds(self, places: Floats) -> Floats:
        """What rows at these places (n,) cost on top of their kernels; nan stands for the typical place."""
        return self.slope_s * np.where(np.isfinite(places), places, self.typical_place)

    def as_measured(self, costs: KernelCosts, places: Floats) -> KernelCosts:
        """Costs as a campaign would show them at these places (n,); wider where the place is unknown (nan)."""
        extra, unknown = self.seconds(places), ~np.isfinite(places)
        down, up = costs.latency_s - costs.latency_lo_s, costs.latency_hi_s - costs.latency_s
        down = np.where(unknown, np.hypot(down, 0.95 * self.slope_s * self.typical_place), down)
        up = np.where(unknown, np.hypot(up, 0.95 * self.slope_s * (self.last_place - self.typical_place)), up)
        value = costs.latency_s + extra
        low = np.maximum(value - down, costs.latency_lo_s)
        return replace(costs, latency_s=value, latency_lo_s=low, latency_hi_s=value + up)


NONE = Drift(0.0, 0.0, 0.0)


def as_measured(
    drifts: Mapping[str, Drift], costs: KernelCosts, places: Floats, campaigns: Sequence[str]
) -> KernelCosts:
    """Costs as rows at these places (n,) of these campaigns (n) would show them.

    ``drifts``: by campaign, the one with the most rows first; a campaign that is not among them is taken for like that.
    """
    if not drifts:
        return costs
    first = next(iter(drifts.values()))
    own = [drifts.get(campaign, first) for campaign in campaigns]
    latency, low, high = costs.latency_s.copy(), costs.latency_lo_s.copy(), costs.latency_hi_s.copy()
    for drift in dict.fromkeys(own):
        index = np.flatnonzero([one == drift for one in own])
        shown = drift.as_measured(costs.take(index), places[index])
        latency[index], low[index], high[index] = shown.latency_s, shown.latency_lo_s, shown.latency_hi_s
    return replace(costs, latency_s=latency, latency_lo_s=low, latency_hi_s=high)


def without_drifts(rows: Sequence[KernelRow]) -> tuple[list[KernelRow], dict[str, Drift]]:
    """The rows without what their campaigns added with time, and each campaign's drift, the largest campaign first.

    Each campaign is looked through by itself (the lines of two tables have nothing to do with each other), and only
    where it measured no energy. Nothing is told where none drifted.
    """
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.campaign, []).append(i)
    kept = list(rows)
    drifts: dict[str, Drift] = {}
    for campaign, index in sorted(members.items(), key=lambda one: -len(one[1])):
        own = [rows[i] for i in index]
        drift = None if any(row.energy_active_j is not None for row in own) else _drift_of(own)
        drifts[campaign] = drift or NONE
        if drift is not None:
            places = np.array([drift.typical_place if row.place is None else row.place for row in own])
            alone = without(np.array([row.latency_s for row in own]), places, drift.slope_s)
            for i, latency_s in zip(index, alone.tolist(), strict=True):
                kept[i] = rows[i]._replace(latency_s=latency_s)
    return kept, drifts if any(one is not NONE for one in drifts.values()) else {}


def _drift_of(rows: Sequence[KernelRow]) -> Drift | None:
    places = np.array([np.nan if row.place is None else row.place for row in rows])
    latency_s = np.array([row.latency_s for row in rows])
    return find_drift(KernelColumns.of([row.kernel for row in rows]), latency_s, places)


def without(latency_s: Floats, places: Floats, slope_s: float) -> Floats:
    """Seconds (n,) of the kernels alone."""
    return np.maximum(latency_s - slope_s * places, LEFT * latency_s)


def find_drift(columns: KernelColumns, latency_s: Floats, places: Floats) -> Drift | None:
    """The drift of rows at known places (n,), or None: too few rows, rows in an order of size, or nothing is gained."""
    known = np.flatnonzero(np.isfinite(places))
    if len(known) < FEWEST_ROWS or _sorted(columns.take(known), latency_s[known], places[known]):
        return None
    last = float(places[known].max())
    known = np.random.default_rng(0).permutation(known)[:MOST_ROWS]
    columns, latency_s, places = columns.take(known), latency_s[known], places[known]
    late = places > 0.1 * last
    steepest_s = float(np.quantile(latency_s[late] / places[late], 0.002))  # hardly a row was quicker than its drift
    errors = {0.0: _held_out(columns, latency_s, places, 0.0)}
    for step in STEPS:
        errors[step * steepest_s] = _held_out(columns, latency_s, places, step * steepest_s)
    best = min(errors, key=errors.__getitem__)
    if best == 0.0:
        return None
    for step in (-REFINED, REFINED):
        errors[best + step * steepest_s] = _held_out(columns, latency_s, places, best + step * steepest_s)
    if min(errors.values()) > WORTH * errors[0.0]:
        return None
    return Drift(_lowest(errors), _weighted_median(places, 1.0 / latency_s), last)


def _sorted(columns: KernelColumns, latency_s: Floats, places: Floats) -> bool:
    """Whether the rows stand in an order of size or of cost: then their places say nothing of time."""
    order = np.argsort(np.argsort(places)).astype(np.float64)
    values = (columns.pixels, columns.number("in_channels"), columns.number("out_channels"), columns.bytes_moved)
    of_size = [_correlation(order, np.log(one)) for one in values]
    return max(np.abs(of_size)) > SORTED_BY_SIZE or _correlation(order, np.log(latency_s)) > SORTED_BY_COST


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _held_out(columns: KernelColumns, latency_s: Floats, places: Floats, slope_s: float) -> float:
    """Held-out error of a quick model of what a drift leaves, the drift put back."""
    count = len(latency_s)
    test, rest = np.arange(count) % 3 == 0, np.arange(count) % 3 > 0
    target = np.log(without(latency_s, places, slope_s))
    kinds = tuple(sorted(set(columns.kinds.tolist())))
    fitted = columns.take(np.flatnonzero(rest))
    anchor = Roofline(kinds).fit(fitted, target[rest], np.ones(int(rest.sum())))
    features = size_features(columns)
    left = target[rest] - anchor.predict(fitted)
    trees = HistogramTrees(trees=80).fit(features[rest], left, np.ones(len(left)))
    held = columns.take(np.flatnonzero(test))
    seconds = np.exp(anchor.predict(held) + trees.predict(features[test])) + slope_s * places[test]
    return score(np.log(latency_s[test] / seconds))


def _lowest(errors: dict[float, float]) -> float:
    """The bottom of a parabola through the three lowest points in a row, if it lies between them."""
    drifts = np.array(sorted(errors))
    values = np.array([errors[one] for one in drifts])
    at = int(np.clip(np.argmin(values), 1, len(drifts) - 2))
    bend, slope, _ = np.polyfit(drifts[at - 1 : at + 2] / drifts[at], values[at - 1 : at + 2], 2)
    if bend <= 0:
        return float(drifts[int(np.argmin(values))])
    return float(np.clip(-slope / (2 * bend) * drifts[at], drifts[at - 1], drifts[at + 1]))


def _weighted_median(values: Floats, weight: Floats) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][int(np.searchsorted(total, 0.5 * total[-1]))])
