"""How far predictions are off, by the networks that were measured so far: what the next choice is corrected by.

Every network that was measured says so once more, and a single one of five readings of power may be off by 3 % of its
active part. So all count, by how sure each is: its own interval, and how far its cost is from the last one's, because a
model is off by something else there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rig.units import Quantity

DRIFT = 0.3  # of the way in cost between two networks, that a model's error may change by
LEAST = 1e-3  # relative: no reading is surer than that


class Reading(NamedTuple):
    """Shares of a limit that one network uses: by the model, and as measured."""

    predicted: float
    measured: Quantity


def ratio(readings: Sequence[Reading]) -> float:
    """Predicted over measured at the last reading's cost, by all that are positive; by the last where it is not.

    A reading without an interval (parameters, FLOPs) is exact.
    """
    last = readings[-1]
    known = [r for r in readings if r.predicted > 0 and (r.measured.value or 0.0) > 0]
    if last not in known:
        return last.predicted / max(last.measured.value or 0.0, 1e-9)
    weights, logs = [], []
    for reading in known:
        away = DRIFT * math.log(reading.predicted / last.predicted)
        weights.append(1.0 / (max(reading.measured.relative or 0.0, LEAST) ** 2 + away**2))
        logs.append(math.log(reading.predicted / float(reading.measured.value or 0.0)))
    return math.exp(float(np.average(logs, weights=weights)))


def next_ratio(readings: Sequence[Reading], met: bool) -> float:
    """``ratio`` for the choice after the last reading; no more than what that one alone says where it was not ``met``.

    The intervals of absolute power are mostly the meter's gain, the same in all rounds, so that older readings weigh as
    much as the last: what was over by them all would be chosen over again.
    """
    found = ratio(readings)
    return found if met else min(found, ratio(readings[-1:]))
