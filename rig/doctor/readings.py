"""What a trace tells by itself: how often the source has something new to say, its quantum, its noise.

value │      ┌──┐  ┌─          change │ n polls │ change │ n polls │ change
      │ ┌──┐ │  └──┘           equal distances between changes = the update period; values that only change
      └─┘  └─┘                 when the load does tell nothing about it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of the distances between two changes: so many must be alike before they are called the update period.
ALIKE_SHARE = 0.6
ALIKE_WITHIN = 0.25
LATTICE_SHARE = 0.98  # of the values must lie on the quantum's multiples
LATTICE_SLACK = 0.05  # of the quantum, how far off a multiple may be
REPEATED_SHARE = 0.5  # fewer distinct values than this share of the samples: the source repeats itself
LARGEST_ERROR = 0.475  # of a step: 95 % of all places between two steps are nearer
MIN_VALUES = 8
LINE_SAMPLES = 6


class Updates(NamedTuple):
    """How a source updates: ``period_s`` (None: cannot be told), and whether it repeats values between updates."""

    spacing_s: float
    period_s: float | None
    held: bool


def updates(times_s: np.ndarray, values: np.ndarray) -> Updates:
    """The update period from the distances between changes of the value (or of an energy counter)."""
    spacing_s = float(np.median(np.diff(times_s)))
    changed = np.flatnonzero(np.diff(values) != 0.0) + 1
    if len(changed) < MIN_VALUES:
        return Updates(spacing_s, None, False)
    apart = np.diff(changed)
    if float(np.mean(apart == 1)) >= ALIKE_SHARE:
        return Updates(spacing_s, spacing_s, False)
    # Values that are held: the usual distance, which polling can tell to one poll more or less.
    seconds = np.diff(times_s[changed])
    usual_s = float(np.median(seconds))
    alike = np.abs(seconds - usual_s) <= max(1.1 * spacing_s, ALIKE_WITHIN * usual_s)
    if usual_s < 1.7 * spacing_s or float(np.mean(alike)) < ALIKE_SHARE:
        return Updates(spacing_s, None, False)
    rounds = np.maximum(1.0, np.round(seconds / usual_s))
    return Updates(spacing_s, float(seconds.sum() / rounds.sum()), True)


def fresh(values: np.ndarray) -> np.ndarray:
    """Which samples differ from the one before."""
    return np.concatenate([[False], np.diff(values) != 0.0])


def quantum(values: np.ndarray) -> float | None:
    """The smallest repeated difference between distinct values; None where the values are finer than they repeat.

    First the step of which all values are whole multiples apart; where there is none (a product of two quantized
    registers) and values repeat nevertheless, the usual distance between neighbours.
    """
    distinct = np.unique(values)
    if len(distinct) < 2:
        return None
    apart = np.diff(distinct)
    tiny = 1e-9 * max(1.0, float(np.abs(distinct).max()))
    apart = apart[apart > tiny]
    step = _common_divisor(apart, tiny)
    if step is not None and _on_lattice(values, step):
        return step
    if len(distinct) < MIN_VALUES or len(distinct) > REPEATED_SHARE * len(values):
        return None
    return float(np.median(apart))


def _common_divisor(apart: np.ndarray, tiny: float) -> float | None:
    """The largest step of which the distances between neighbouring values are multiples, by Euclid's algorithm."""
    smallest = float(apart.min())
    step, floor = smallest, max(0.02 * smallest, tiny)
    for distance in np.unique(apart):
        rest = math.remainder(float(distance), step)
        while abs(rest) > max(LATTICE_SLACK * step, tiny):
            step, rest = abs(rest), math.remainder(step, abs(rest))
            if step < floor:
                return None
    # Mean over all distances: the smallest alone carries the rounding of two values.
    multiples = np.round(apart / step)
    return float(apart.sum() / multiples.sum())


def _on_lattice(values: np.ndarray, step: float) -> bool:
    distances = (values - float(np.sort(values)[len(values) // 2])) / step
    off = np.abs(distances - np.round(distances))
    return float(np.mean(off <= 2.0 * LATTICE_SLACK)) >= LATTICE_SHARE and len(np.unique(np.round(distances))) >= 2


def step_error_w(step_w: float, dither_w: float) -> float:
    """95 % half-width of what rounding to steps leaves of a mean under Gaussian noise.

    First harmonic of the rounding error (Widrow and Kollar, as in rig.quality.power), at most that of no noise at all.
    """
    if step_w <= 0.0:
        return 0.0
    turns = math.pi * dither_w / step_w
    return min(LARGEST_ERROR, 1.05 * math.exp(-2.0 * min(turns, 10.0) ** 2) / math.pi) * step_w


def noise_w(
    times_s: np.ndarray, power_w: np.ndarray, stretches: Sequence[tuple[float, float]], step_w: float | None
) -> float | None:
    """Standard deviation of one sample within stretches of constant load, the quantum's own share taken out.

    A straight line is taken out of each stretch first (of a short one its mean). None where there are too few samples.
    """
    squares, degrees = 0.0, 0
    for t0_s, t1_s in stretches:
        inside = (times_s >= t0_s) & (times_s < t1_s)
        t, w = times_s[inside] - t0_s, power_w[inside]
        if len(t) < 2:
            continue
        order = 1 if len(t) >= LINE_SAMPLES else 0
        line = np.polyval(np.polyfit(t - t.mean(), w, order), t - t.mean())
        squares += float(np.sum((w - line) ** 2))
        degrees += len(t) - 1 - order
    if degrees < MIN_VALUES:
        return None
    variance = squares / degrees
    return math.sqrt(max(variance - (step_w or 0.0) ** 2 / 12.0, 0.0))
