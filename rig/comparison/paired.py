"""Means over seeds and differences in pairs, each with its 95 % interval and a word on what the interval is of.

Over seeds: Student's t on the per-seed differences; it tells how far another set of seeds might move the mean (test
images held fixed). Within one seed: two networks answer the same images, so only images that one got right and the
other wrong count, as in McNemar's test; the interval of the difference of shares is Agresti and Min's (2005, Statistics
in Medicine 24, "Simple improved confidence intervals for comparing matched proportions"): Wald's with half an image
added to each cell. It tells how far other test images might move the difference (this training held fixed).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from device_agents.intervals import student_t_975
from rig.comparison.answers import Right
from rig.quality.stats import NORMAL_975
from rig.units import Quantity

ROUNDING = 1e-12


class Difference(NamedTuple):
    """A difference or ratio in pairs; ``how``: what the interval is of, or why there is none; ``seeds`` that paired."""

    quantity: Quantity | None
    how: str
    seeds: tuple[int, ...] = ()


def mean_over_seeds(values: Sequence[Quantity], *, logs: bool = False, within: bool = False) -> Quantity:
    """The mean of one quantity over seeds, its interval by Student's t; of a single seed the quantity as it is.

    ``logs``: the geometric mean, for ratios; raises ValueError where one is not above zero.
    ``within``: no narrower than the values' own intervals are on average (a meter's gain error is the same in all of
    them, so their scatter does not show it).
    """
    if len(values) == 1:
        return values[0]
    numbers = [float(q.value if q.value is not None else math.nan) for q in values]
    one = values[0]
    if logs:
        _above_zero(values)
        middle, half = _student([math.log(number) for number in numbers])
        ends = [math.exp(x) for x in (middle, middle - half, middle + half)]
        return Quantity(*ends, n=len(values), kind=one.kind, basis=one.basis)
    middle, half = _student(numbers)
    if within:
        half = max(half, float(np.mean([q.half_width or 0.0 for q in values])))
    return Quantity.around(middle, half, n=len(values), kind=one.kind, basis=one.basis)


def mean_of_repeats(values: Sequence[Quantity], *, logs: bool = False) -> Quantity:
    """The mean of one quantity over repeats of one seed, as sure as one of them is: repeats are not independent.

    A training that repeats exactly has no scatter, so the interval is the mean of the values' own; none where one has
    none. ``logs``: as ``mean_over_seeds``.
    """
    if len(values) == 1:
        return values[0]
    if logs:
        _above_zero(values)
    made, back = (math.log, math.exp) if logs else (float, float)
    ends = [[getattr(q, name) for q in values] for name in ("value", "lo", "hi")]
    usable = all(x is not None and (x > 0 or not logs) for several in ends for x in several)
    found = [back(float(np.mean([made(x) for x in several]))) for several in (ends if usable else ends[:1])]
    one = values[0]
    return Quantity(*found, n=one.n if {q.n for q in values} == {one.n} else None, kind=one.kind, basis=one.basis)


def _above_zero(ratios: Sequence[Quantity]) -> None:
    if not all(q.value is not None and q.value > 0 for q in ratios):
        raise ValueError("a ratio needs values above zero")


def _student(values: Sequence[float]) -> tuple[float, float]:
    """(mean, 95 % half-width) of at least two values."""
    n, middle = len(values), float(np.mean(values))
    spread = float(np.std(values, ddof=1))
    if spread <= ROUNDING * abs(middle):  # equal but for the last bit
        spread = 0.0
    return middle, student_t_975(n - 1) * spread / math.sqrt(n)


def over_seeds(before: Mapping[int, float], after: Mapping[int, float]) -> Difference:
    """After minus before, paired by seed; without an interval where only one seed has both."""
    seeds = tuple(sorted(set(before) & set(after)))
    if not seeds:
        return Difference(None, "no seed in common")
    differences = [after[seed] - before[seed] for seed in seeds]
    if len(seeds) == 1:
        return Difference(Quantity(differences[0], n=1), "one seed, no answers to pair: no interval", seeds)
    middle, half = _student(differences)
    return Difference(Quantity.around(middle, half, n=len(seeds)), f"paired over {len(seeds)} seeds", seeds)


def over_images(before: Right, after: Right, seed: int | None = None) -> Difference:
    """Share of images right after minus before, of one training each, paired image by image (see the module).

    Raises ValueError where the two are not answers to the same number of images.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"{len(before)} and {len(after)} answers cannot be paired")
    n = len(before)
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    # Half an image more in each of the four cells.
    m, b, c = n + 2.0, gained + 0.5, lost + 0.5
    middle = (b - c) / m
    half = NORMAL_975 * math.sqrt(max(0.0, (b + c) - (b - c) ** 2 / m)) / m
    value = (gained - lost) / n
    found = Quantity(value, min(middle - half, value), max(middle + half, value), n=n)
    return Difference(found, f"one seed, paired over {n} test images", () if seed is None else (seed,))


def ratio_of_ratios(before: Quantity, after: Quantity) -> Quantity:
    """After over before of two ratios to one baseline, each measured in turn with it; relative errors in quadrature."""
    _above_zero((before, after))
    middle = math.log(float(after.value or 0.0) / float(before.value or 1.0))
    halves = [_log_half_width(q) for q in (before, after)]
    if None in halves:
        return Quantity(math.exp(middle), kind=after.kind, basis=after.basis)
    half = math.hypot(*(h for h in halves if h is not None))
    ends = [math.exp(x) for x in (middle, middle - half, middle + half)]
    return Quantity(*ends, kind=after.kind, basis=after.basis)


def _log_half_width(ratio: Quantity) -> float | None:
    if ratio.lo is None or ratio.hi is None or ratio.lo <= 0:
        return None
    return 0.5 * math.log(ratio.hi / ratio.lo)
