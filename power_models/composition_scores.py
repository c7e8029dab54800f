"""How far a composition missed its totals left out one at a time: what its intervals and its report are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from power_models.composition_cost import Index
from power_models.composition_solver import Solution, Totals
from power_models.features import Floats
from power_models.intervals import NORMAL_95, conformal_quantile

FEWEST_SCORES = 10
NARROWEST = 1.7  # no interval is made narrower than so many standard deviations


class Score(NamedTuple):
    """Log of measured over predicted (N,) with each total left out, its standard deviation, and its data type."""

    error: Floats
    sd: Floats
    dtype: Index


def left_out_scores(
    energy_active_j: Floats, whole: Score, watts: tuple[Solution, Totals] | None
) -> tuple[dict[str, Score], float]:
    """Left-out errors by quantity, those of latency being ``whole``; and the correlation of latency's and power's.

    ``energy_active_j`` (N,): nan where it was not measured.
    """
    found = {"latency": whole}
    if watts is None:
        return found, 0.0
    there = np.flatnonzero(np.isfinite(energy_active_j))
    latency = Score(whole.error[there], whole.sd[there], whole.dtype[there])
    power = found["power"] = Score(*watts[0].left_out(watts[1]), watts[1].dtype)
    together = 0.0
    if len(there) >= FEWEST_SCORES:
        one, two = (np.clip(score.error / score.sd, -3.0, 3.0) for score in (latency, power))
        together = float(np.mean(one * two) / np.sqrt(np.mean(one**2) * np.mean(two**2)))
    square = latency.sd**2 + power.sd**2 + 2 * together * latency.sd * power.sd
    found["energy"] = Score(latency.error + power.error, np.sqrt(square), power.dtype)
    return found, together


def width(score: Score) -> float:
    """How many standard deviations hold 95 % of the left-out totals; few of them can only widen."""
    found = conformal_quantile(np.abs(score.error) / score.sd)
    return max(found, NARROWEST if len(score.error) >= FEWEST_SCORES else NORMAL_95)


def report(dtypes: tuple[str, ...], scores: dict[str, Score]) -> dict[str, object]:
    """Errors of totals left out one at a time, by data type and quantity."""
    found: dict[str, object] = {}
    for d, dtype in enumerate(dtypes):
        own: dict[str, object] = {}
        for quantity, score in scores.items():
            size = np.abs(np.expm1(-score.error[score.dtype == d]))
            if not len(size):
                continue
            own["rows"] = len(size)
            own[quantity] = {
                "median_error": float(np.median(size)),
                "mean_error": float(size.mean()),
                "p90_error": float(np.quantile(size, 0.9)),
            }
        found[f"networks/{dtype}"] = own
    return found
