"""Intervals from errors on held-out kernels: cross-conformal, scaled by how far a kernel lies from the measured ones.

The scores are |log(measured/predicted)| of rows that the fold's model never saw, divided by a scale that grows with
the distance to the nearest training row; the interval is the finite-sample quantile of the scores times the scale
(Vovk 2015, cross-conformal; Papadopoulos et al. 2011, normalized scores). Beyond the measured range the width grows
with every e-fold outside, because no held-out row can vouch for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats

LEVEL = 0.95
WIDER_PER_E_FOLD = 0.12  # added half-width (log) for each e-fold beyond the measured range
WIDER_IF_UNSEEN = 0.20  # for a stride, dilation or fused operator that no row has
SHARE_ROWS = 15
TRUSTED_ROWS = 20  # a family's own quantile weighs n / (n + TRUSTED_ROWS) against the pooled one


@dataclass(frozen=True)
class ErrorScale:
    """Typical |log error| of a kernel: ``near + slope·distance``; ``quantile`` scales it to a 95 % half-width.

    ``share`` in [0, 1]: the part of the error (in standard deviations) that kernels of a family have in common.
    """

    near: float
    slope: float
    quantile: float
    share: float = 0.5

    def typical(self, distance: Floats) -> Floats:
        """Typical |log error| (n,)."""
        result: Floats = self.near + self.slope * distance
        return result

    def half_width(self, distance: Floats, outside: Floats, unseen: Floats) -> Floats:
        """95 % half-width in log cost (n,); ``outside`` in e-folds, ``unseen`` 0 or 1."""
        return self.quantile * self.typical(distance) + WIDER_PER_E_FOLD * outside + WIDER_IF_UNSEEN * unseen


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
        return 0.33**0.5
    cut = np.clip(scores, -3 * np.std(scores), 3 * np.std(scores))
    power = float((cut**2).mean())
    correlation = float((cut[:, None] * cut[neighbours]).mean()) / power if power > 0 else 0.0
    n = float(len(scores))
    drawn: float = (n * correlation + SHARE_ROWS * 0.33) / (n + SHARE_ROWS)
    return float(np.sqrt(np.clip(drawn, 0.01, 0.95)))


def conformal_quantile(scores: Floats, level: float = LEVEL) -> float:
    """The finite-sample quantile of non-negative scores; of too few rows, the largest score stretched."""
    n = len(scores)
    rank = int(np.ceil((n + 1) * level))
    ordered = np.sort(scores)
    if rank <= n:
        return float(ordered[rank - 1])
    return float(ordered[-1] * (1.0 + 2.0 / n))


def blended_quantile(own: Floats, pooled: Floats) -> float:
    """A family's quantile drawn towards the one of all families, the more so the fewer rows it has."""
    trust = len(own) / (len(own) + TRUSTED_ROWS)
    return float(conformal_quantile(own) ** trust * conformal_quantile(pooled) ** (1 - trust))
