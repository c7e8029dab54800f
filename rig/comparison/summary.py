"""From rows to what can be concluded: means a method, differences in pairs, the Pareto front of the means.

The front is drawn through means over seeds: through single seeds it would show the luckiest of many. Rows that are void
count in none of this.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from rig.comparison.paired import Difference, mean_over_seeds, over_images, over_seeds, ratio_of_ratios
from rig.comparison.rows import BASELINE, Key, Row
from rig.units import Quantity


class Mean(NamedTuple):
    """A method at one target (of networks that were only measured: one network) over its seeds.

    ``cost_ratio``: geometric mean of the ratios to the baselines; ``change``: of accuracy against them, in pairs.
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


class Pair(NamedTuple):
    """Method ``after`` against ``before`` at one target: accuracy in pairs, cost through the baselines."""

    target: str | None
    before: str
    after: str
    accuracy: Difference
    cost_ratio: Quantity | None


class Summary(NamedTuple):
    """``front``: labels of the means that no other mean beats in both cost and accuracy, cheapest first."""

    means: tuple[Mean, ...]
    pairs: tuple[Pair, ...]
    front: tuple[str, ...]


def summarize(rows: Sequence[Row]) -> Summary:
    """Means, pairs and front of the rows that count."""
    counting = [row for row in rows if row.void is None]
    groups: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in counting:
        groups.setdefault((row.method, row.target, _label(row)), []).append(row)
    means = tuple(_mean(label, group, counting) for (*_, label), group in groups.items())
    return Summary(means, tuple(_pairs(groups)), pareto_front(means))


def _label(row: Row) -> str:
    """What a group is called: a method and its target; a baseline by its model, a measured network by its name."""
    if row.method == BASELINE:
        return f"{row.network} ({BASELINE})"
    if row.target is None:
        return f"{row.network} ({', '.join(row.runs)})"
    return f"{row.method}, {row.target}"


def _mean(label: str, group: Sequence[Row], rows: Sequence[Row]) -> Mean:
    known = [row.accuracy for row in group if row.accuracy is not None]
    ratios = [row.cost_ratio.quantity for row in group if row.cost_ratio and row.cost_ratio.quantity]
    seeds = tuple(sorted({row.seed for row in group if row.seed is not None}))
    runs = tuple(dict.fromkeys(name for row in group for name in row.runs))
    return Mean(
        group[0].method,
        group[0].target,
        label,
        seeds,
        runs,
        mean_over_seeds([row.cost for row in group], within=True),
        mean_over_seeds(known) if known and len(known) == len(group) else None,
        mean_over_seeds(ratios, logs=True) if ratios and len(ratios) == len(group) else None,
        _change(group, rows),
    )


def _change(group: Sequence[Row], rows: Sequence[Row]) -> Difference | None:
    """Of a method against the baselines its rows come from."""
    if group[0].method == BASELINE or group[0].target is None:
        return None
    if len({row.seed for row in group}) == 1:
        return group[0].change if len(group) == 1 else None
    return paired_accuracy([row for row in rows if row.method == BASELINE], group)


def _by_seed(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row in rows:
        if row.baseline is not None and row.accuracy is not None:
            found.setdefault(row.baseline, []).append(row)
    return found


def paired_accuracy(before: Sequence[Row], after: Sequence[Row]) -> Difference:
    """Accuracy of the rows ``after`` minus ``before``, in pairs of one baseline (so of one seed).

    Over seeds where there are several; of one seed over its test images, where both runs kept their answers to the same
    images. Several rows of one seed count as their mean.
    """
    sides = [_by_seed(rows) for rows in (before, after)]
    common = sorted(set(sides[0]) & set(sides[1]))
    if not common:
        return Difference(None, "no seed and baseline in common")
    if len(common) == 1:
        one, other = (side[common[0]] for side in sides)
        if len(one) == len(other) == 1 and one[0].right and other[0].right and one[0].right[0] == other[0].right[0]:
            return over_images(one[0].right[1], other[0].right[1], common[0][2])
    means = [{number: _mean_accuracy(side[key]) for number, key in enumerate(common)} for side in sides]
    return over_seeds(*means)._replace(seeds=tuple(key[2] for key in common))


def _mean_accuracy(rows: Sequence[Row]) -> float:
    return sum(float(row.accuracy.value or 0.0) for row in rows if row.accuracy is not None) / len(rows)


def _pairs(groups: dict[tuple[str, str | None, str], list[Row]]) -> list[Pair]:
    """Every two methods at one target."""
    methods = [(key, group) for key, group in groups.items() if key[0] != BASELINE and key[1] is not None]
    return [
        Pair(one[1], one[0], other[0], paired_accuracy(rows_a, rows_b), _cost_ratio(rows_a, rows_b))
        for (one, rows_a), (other, rows_b) in itertools.combinations(methods, 2)
        if one[1] == other[1]
    ]


def _cost_ratio(before: Sequence[Row], after: Sequence[Row]) -> Quantity | None:
    """Cost of ``after`` over ``before``, each over the baseline measured in turn with it; mean over common seeds."""
    sides = [_by_seed(rows) for rows in (before, after)]
    found = []
    for key in sorted(set(sides[0]) & set(sides[1])):
        ratios = [[r.cost_ratio.quantity for r in side[key] if r.cost_ratio] for side in sides]
        known = [[q for q in several if q is not None and q.value] for several in ratios]
        if all(known):
            found.append(ratio_of_ratios(*(mean_over_seeds(several, logs=True) for several in known)))
    return mean_over_seeds(found, logs=True) if found else None


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
