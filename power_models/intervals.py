"""Intervals from errors on held-out kernels: cross-conformal, scaled by how far a kernel lies from the measured ones.

The scores are |log(measured/predicted)| of rows that the fold's model never saw, divided by a scale that grows with
the distance to the nearest training row; the interval is the finite-sample quantile of the scores times the scale
(Vovk 2015, cross-conformal; Papadopoulos et al. 2011, normalized scores). Beyond the measured range the width grows
with every e-fold outside, because no held-out row can vouch for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats

LEVEL = 0.95
NORMAL_95 = 1.96
ONE_SIDED = 0.5 * (1 + LEVEL)
WIDER_PER_E_FOLD = 0.12  # added half-width (log) for each e-fold beyond the measured range
WIDER_IF_UNSEEN = 0.20  # for a stride, dilation or fused operator that no row has
SHARE_ROWS, SHARE_PRIOR = 15, 0.33  # so many rows' worth of belief in this correlation
MOST_UNSURE = math.log(20.0)  # half-width (log) at most: "a factor of 20 either way" says "not known"
TRUSTED_ROWS = 20  # a family's own quantile weighs n / (n + TRUSTED_ROWS) against the pooled one


@dataclass(frozen=True)
class ErrorScale:
    """Typical |log error| of a kernel: ``near + slope·distance``; ``up`` and ``down`` scale it to 95 % half-widths.

    The two differ where errors are lopsided: an effect that the features do not know slows some kernels and speeds
    none. ``rms_up`` and ``rms_down``, one-sided root mean squares of the scores, are what sums of kernels need: there
    the rare large error counts by its size. ``share`` in [0, 1]: the part of the error (in standard deviations) that
    kernels of a family have in common.
    """

    near: float
    slope: float
    up: float
    down: float
    rms_up: float
    rms_down: float
    share: float

    def half_widths(
        self, distance: Floats, outside: Floats, unseen: Floats, factor: Floats | float = 1.0
    ) -> tuple[Floats, Floats]:
        """95 % half-widths in log cost, (down, up), (n,) each.

        ``outside`` in e-folds, ``unseen`` 0 or 1, ``factor``: how much less sure the kernel's kind is than its family.
        """
        typical = self.near + self.slope * distance
        wider = WIDER_PER_E_FOLD * outside + WIDER_IF_UNSEEN * unseen
        return _bounded(factor * (self.down * typical + wider)), _bounded(factor * (self.up * typical + wider))

    def spreads(
        self, distance: Floats, outside: Floats, unseen: Floats, factor: Floats | float = 1.0
    ) -> tuple[Floats, Floats]:
        """The kernel's part in the half-width of a sum, (down, up), (n,) each."""
        typical = NORMAL_95 * (self.near + self.slope * distance)
        wider = WIDER_PER_E_FOLD * outside + WIDER_IF_UNSEEN * unseen
        return _bounded(factor * (self.rms_down * typical + wider)), _bounded(factor * (self.rms_up * typical + wider))


def _bounded(half_width: Floats) -> Floats:
    return np.minimum(half_width, MOST_UNSURE)


def fit_scale(errors: Floats, distance: Floats) -> tuple[float, float]:
    """(near, slope) of |errors| against distance, both non-negative and ``near`` at least a third of the mean."""
    from scipy.optimize import nnls

    size = np.abs(errors)
    cap = 6.0 * np.median(size) + 1e-9  # one wild row must not tilt the line
    size = np.minimum(size, cap)
    mean = float(size.mean()) + 1e-6
    if len(size) < 8:
        return mean, 0.0
    design = np.stack([np.ones_like(distance), distance], 1)
    root = 1.0 / np.sqrt(0.2 * mean + size)
    near, slope = nnls(design * root[:, None], size * root)[0]
    if near < mean / 3:
        near = mean / 3
        slope = max(0.0, float(((size - near) * distance).sum() / max((distance**2).sum(), 1e-12)))
    return float(near), float(slope)


def common_share(scores: Floats, neighbours: NDArray[np.intp]) -> float:
    """Correlation (its root, in [0, 1]) of signed held-out scores (n,) with those of each row's nearest rows (n, k).

    Kernels of one network resemble each other about as much as neighbours in the design do. The measuring noise is
    in the scores and independent, so the estimate errs neither way by it; few rows draw it towards a third.
    """
    if not neighbours.size:
        return math.sqrt(SHARE_PRIOR)
    cut = np.clip(scores, -3 * np.std(scores), 3 * np.std(scores))
    power = float((cut**2).mean())
    correlation = float((cut[:, None] * cut[neighbours]).mean()) / power if power > 0 else 0.0
    drawn = (len(scores) * correlation + SHARE_ROWS * SHARE_PRIOR) / (len(scores) + SHARE_ROWS)
    return math.sqrt(min(max(drawn, 0.01), 0.95))


def conformal_quantile(scores: Floats, level: float = LEVEL) -> float:
    """The finite-sample quantile of scores; of too few rows, the largest score stretched."""
    n = len(scores)
    rank = int(np.ceil((n + 1) * level))
    ordered = np.sort(scores)
    if rank <= n:
        return float(ordered[rank - 1])
    return float(ordered[-1] * (1.0 + 2.0 / n))


def sided_quantiles(own: Floats, pooled: Floats) -> tuple[float, float]:
    """(down, up) quantiles of signed scores, log(measured/predicted) over its scale.

    A family's own are drawn towards those of all families, the more so the fewer rows it has; neither side is taken
    for less than half of the symmetric quantile.
    """
    trust = len(own) / (len(own) + TRUSTED_ROWS)
    sides = []
    for sign in (-1.0, 1.0):
        one, all_of_them = (
            max(conformal_quantile(sign * s, ONE_SIDED), 0.5 * conformal_quantile(np.abs(s))) for s in (own, pooled)
        )
        sides.append(float(one**trust * all_of_them ** (1 - trust)))
    return sides[0], sides[1]


def sided_rms(scores: Floats) -> tuple[float, float]:
    """(down, up) one-sided root mean squares of signed scores (n,); equal for symmetric ones.

    Neither is taken for less than two thirds of the two-sided one.
    """
    n = len(scores)
    both = float(np.sqrt((scores**2).mean()))
    sides = [float(np.sqrt(2.0 * (np.maximum(sign * scores, 0.0) ** 2).mean())) for sign in (-1.0, 1.0)]
    few = 1.0 + 2.0 / n
    return max(sides[0], both * 2 / 3) * few, max(sides[1], both * 2 / 3) * few
