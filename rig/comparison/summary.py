"""From rows to what can be concluded: means a method, differences in pairs, the Pareto front of the means.

The front is drawn through means over seeds: through single seeds it would show the luckiest of many. Rows that are void
count in none of this.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rig.comparison.paired import (
    Difference,
    mean_of_repeats,
    mean_over_seeds,
    over_images,
    over_seeds,
    ratio_of_ratios,
)
from rig.comparison.rows import BASELINE, Key, Row, Target
from rig.units import Quantity

Group = tuple[tuple[str | None, str | None], str, Target | None, str]  # task and model, method, target, label


class Mean(NamedTuple):
    """A method at one target and of one model (of networks that were only measured: one network) over its seeds.

    ``cost_ratio``: geometric mean of the ratios to the baselines (``no_ratio``: why there is none); ``change``: of
    accuracy against them, in pairs.
    """

    method: str
    target: str | None
    label: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    cost: Quantity
    accuracy: Quantity | None
    cost_ratio: Quantity | None
    change: Difference | None
    model: str | None = None
    no_ratio: str | None = None


class Pair(NamedTuple):
    """Method ``after`` against ``before`` at one target, of one model: accuracy in pairs, cost through the baselines.

    ``no_ratio``: why there is no cost ratio.
    """

    target: str | None
    before: str
    after: str
    accuracy: Difference
    cost_ratio: Quantity | None
    model: str | None = None
    no_ratio: str | None = None


class Summary(NamedTuple):
    """``front``: labels of the means that no other mean beats in both cost and accuracy, cheapest first."""

    means: tuple[Mean, ...]
    pairs: tuple[Pair, ...]
    front: tuple[str, ...]


def summarize(rows: Sequence[Row]) -> Summary:
    """Means, pairs and front of the rows that count."""
    counting = [row for row in rows if row.void is None]
    several = len({row.subject for row in counting if row.subject != (None, None)}) > 1
    groups: dict[Group, list[Row]] = {}
    for row in counting:
        groups.setdefault((row.subject, row.method, row.limits, _label(row, several)), []).append(row)
    means = tuple(_mean(label, group, counting) for (*_, label), group in groups.items())
    return Summary(means, tuple(_pairs(groups)), pareto_front(means))


def _label(row: Row, several: bool = False) -> str:
    """What a group is called: a method and its target, of ``several`` models its model too; a measured network by name.

    A baseline by its model.
    """
    model = row.subject[1] if several else None
    if row.method == BASELINE:
        return f"{model or row.network} ({BASELINE})"
    if row.target is None:
        return f"{row.network} ({', '.join(row.runs)})"
    return f"{model}: {row.method}, {row.target}" if model else f"{row.method}, {row.target}"


def _mean(label: str, group: Sequence[Row], rows: Sequence[Row]) -> Mean:
    """Rows of one seed count as their mean, so that repeats of one training do not pass for seeds."""
    ratio, no_ratio = _mean_ratio(group)
    return Mean(
        group[0].method,
        group[0].target,
        label,
        tuple(sorted({row.seed for row in group if row.seed is not None})),
        tuple(dict.fromkeys(name for row in group for name in row.runs)),
        mean_over_seeds(_seed_means(group, lambda row: row.cost), within=True),
        mean_over_seeds(_seed_means(group, lambda row: row.accuracy))
        if all(row.accuracy is not None for row in group)
        else None,
        ratio,
        _change(group, rows),
        group[0].subject[1],
        no_ratio,
    )


def _seed_means(group: Sequence[Row], take: Callable[[Row], Quantity | None], logs: bool = False) -> list[Quantity]:
    """Of each seed the mean over its rows."""
    seeds: dict[int | None, list[Quantity]] = {}
    for row in group:
        found = take(row)
        if found is not None:
            seeds.setdefault(row.seed, []).append(found)
    return [mean_of_repeats(several, logs=logs) for several in seeds.values()]


def _mean_ratio(group: Sequence[Row]) -> tuple[Quantity | None, str | None]:
    """The mean ratio to the baselines, or why there is none."""
    ratios = [row.cost_ratio for row in group if row.cost_ratio is not None]
    if len(ratios) < len(group):
        return None, None  # a baseline, or a network that was only measured
    lacking = next((ratio.how for ratio in ratios if ratio.quantity is None), None)
    if lacking is not None:
        return None, lacking
    taken = _seed_means(group, lambda row: row.cost_ratio.quantity if row.cost_ratio else None, logs=True)
    return mean_over_seeds(taken, logs=True), None


def _change(group: Sequence[Row], rows: Sequence[Row]) -> Difference | None:
    """Of a method against the baselines its rows come from."""
    if group[0].method == BASELINE or group[0].target is None:
        return None
    if len({row.seed for row in group}) == 1:
        return _change_of_repeats(group)
    return paired_accuracy([row for row in rows if row.method == BASELINE], group)


def _change_of_repeats(group: Sequence[Row]) -> Difference | None:
    """Of rows of one seed."""
    changes = [row.change for row in group if row.change is not None]
    known = [change.quantity for change in changes if change.quantity is not None]
    if len(group) == 1 or not known or len(known) < len(group):
        return changes[0] if len(group) == len(changes) == 1 else None
    how = "; ".join(dict.fromkeys(change.how for change in changes))
    return Difference(mean_of_repeats(known), f"{how}; mean of {len(group)} runs of one seed", changes[0].seeds)


def _by_baseline(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row in rows:
        if row.baseline is not None and row.accuracy is not None:
            found.setdefault(row.baseline, []).append(row)
    return found


def paired_accuracy(before: Sequence[Row], after: Sequence[Row]) -> Difference:
    """Accuracy of the rows ``after`` minus ``before``, in pairs of one baseline (so of one seed).

    Over seeds where there are several; of one seed over its test images, where both runs kept their answers to the same
    images. Several rows of one seed count as their mean. Without an interval where one seed has several baselines: they
    share a seed, so they are not independent, yet differ, so they are not repeats.
    """
    sides = [_by_baseline(rows) for rows in (before, after)]
    common = sorted(set(sides[0]) & set(sides[1]))
    if not common:
        return Difference(None, "no seed and baseline in common")
    if len(common) == 1:
        one, other = (side[common[0]] for side in sides)
        if len(one) == len(other) == 1 and one[0].right and other[0].right and one[0].right[0] == other[0].right[0]:
            return over_images(one[0].right[1], other[0].right[1], common[0][2])
    means: list[dict[int, float]] = [_by_seed(common, side) for side in sides]
    found = over_seeds(*means)
    crowded = sorted(seed for seed in means[0] if sum(key[2] == seed for key in common) > 1)
    if not crowded or found.quantity is None:
        return found
    value = Quantity(found.quantity.value, n=found.quantity.n)
    named = f"seed{'s' if len(crowded) > 1 else ''} {', '.join(str(seed) for seed in crowded)}"
    return found._replace(quantity=value, how=f"{named} with several baselines: no interval")


def _by_seed(keys: Sequence[Key], side: Mapping[Key, Sequence[Row]]) -> dict[int, float]:
    """Of each seed the mean accuracy, every baseline alike."""
    seeds: dict[int, list[float]] = {}
    for key in keys:
        seeds.setdefault(key[2], []).append(_mean_accuracy(side[key]))
    return {seed: sum(found) / len(found) for seed, found in seeds.items()}


def _mean_accuracy(rows: Sequence[Row]) -> float:
    return sum(float(row.accuracy.value or 0.0) for row in rows if row.accuracy is not None) / len(rows)


def _pairs(groups: Mapping[Group, list[Row]]) -> list[Pair]:
    """Every two methods at one target, of one model."""
    methods = [(key, group) for key, group in groups.items() if key[1] != BASELINE and key[2] is not None]
    return [
        _pair(rows_a, rows_b)
        for (one, rows_a), (other, rows_b) in itertools.combinations(methods, 2)
        if (one[0], one[2]) == (other[0], other[2])
    ]


def _pair(before: Sequence[Row], after: Sequence[Row]) -> Pair:
    one, other = before[0], after[0]
    ratio, why = _cost_ratio(before, after)
    return Pair(
        one.target, one.method, other.method, paired_accuracy(before, after), ratio, model=one.subject[1], no_ratio=why
    )


def _cost_ratio(before: Sequence[Row], after: Sequence[Row]) -> tuple[Quantity | None, str | None]:
    """Cost of ``after`` over ``before``, each over the baseline measured in turn with it; mean over common seeds.

    With the reason where there is none: a seed whose ratio is missing is left out, as it would weigh on one side only.
    """
    sides = [_by_baseline(rows) for rows in (before, after)]
    found: dict[int, list[Quantity]] = {}
    reasons: list[str] = []
    for key in sorted(set(sides[0]) & set(sides[1])):
        ratios = [r.cost_ratio for side in sides for r in side[key] if r.cost_ratio is not None]
        reasons += [ratio.how for ratio in ratios if ratio.quantity is None]
        known = [[r.cost_ratio.quantity for r in side[key] if r.cost_ratio is not None] for side in sides]
        usable = [[q for q in several if q is not None] for several in known]
        if all(usable):
            found.setdefault(key[2], []).append(ratio_of_ratios(*(mean_of_repeats(q, logs=True) for q in usable)))
    if not found:
        return None, "; ".join(dict.fromkeys(reasons)) or "no seed and baseline in common"
    return mean_over_seeds([mean_of_repeats(several, logs=True) for several in found.values()], logs=True), None


def pareto_front(means: Sequence[Mean]) -> tuple[str, ...]:
    """Labels of the means of known accuracy that no other is both as cheap and as accurate as, cheapest first."""
    points = sorted(
        ((m.cost.value, -m.accuracy.value, m.label) for m in means if m.accuracy and m.accuracy.value is not None),
        key=lambda point: (point[0] or 0.0, point[1]),
    )
    front: list[str] = []
    best = 0.0
    for _, loss, label in points:
        if not front or loss < best:
            front.append(label)
            best = loss
    return tuple(front)
