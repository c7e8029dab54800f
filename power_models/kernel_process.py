"""What is unknown of kernels' log costs, as a Gaussian process: where was measured says how sure the others are.

A log cost is a level common to all, plus a level, a slope in every shape feature and a smooth bend of its family's own
(a linear and a Matérn-3/2 kernel; Rasmussen and Williams 2006, ch. 4). Observations are weighted sums of kernels: one
kernel, or a network by its kernels' shares of the cost (to first order, its log total is off by the mean, so weighted,
of what its kernels are off).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.families import family_of
from power_models.features import Floats, KernelColumns, shape_features

ROOT3 = float(np.sqrt(3.0))
MOST_TUNED = 160  # observations that the prior's scales are learned from
FEWEST_TUNED = 4
TUNING_STEPS = 120
TUNED = ("level", "slope", "bend", "reach", "noise")


class ErrorPrior(NamedTuple):
    """Standard deviations (log cost) of what is unknown of a kernel before it is measured.

    ``common``: the device's speed; ``level``: of a family; ``slope``: what its features change together; ``bend``: what
    no power law explains, over ``reach`` (in standard deviations of the features, root mean square); ``noise``: of a
    measurement, and of what no feature knows.
    """

    common: float = 1.0
    level: float = 0.4
    slope: float = 0.8
    bend: float = 0.15
    reach: float = 0.7
    noise: float = 0.02


class Points(NamedTuple):
    """Kernels as the process sees them: features (n, d), numbers of their families (n,)."""

    table: Floats
    families: NDArray[np.intp]


class FeatureSpace:
    """Shape features standardized over reference kernels, so that distances are root mean squares."""

    def __init__(self, centre: Floats, inverse: Floats, families: Sequence[str]) -> None:
        self.centre = centre
        self.inverse = inverse
        self.families = list(families)

    @classmethod
    def of(cls, reference: Sequence[KernelSpec]) -> FeatureSpace:
        """The space in which ``reference`` has unit variance along every feature that varies."""
        table = shape_features(KernelColumns.of(reference), ())
        spread = table.std(axis=0)
        used = spread > 1e-9
        inverse = np.where(used, 1.0 / np.where(used, spread, 1.0), 0.0) / np.sqrt(max(int(used.sum()), 1))
        return cls(table.mean(axis=0), inverse, sorted({family_of(kernel) for kernel in reference}))

    def points(self, kernels: Sequence[KernelSpec]) -> Points:
        """Kernels in this space; each family that it does not know is one of its own."""
        table = (shape_features(KernelColumns.of(kernels), ()) - self.centre) * self.inverse
        number = {name: i for i, name in enumerate(self.families)}
        labels = [family_of(kernel) for kernel in kernels]
        for label in labels:
            number.setdefault(label, len(number))
        return Points(table, np.array([number[label] for label in labels], dtype=np.intp))


class _Parts(NamedTuple):
    """What covariances between two sets of points are made of, whatever the scales."""

    same: NDArray[np.bool_]
    inner: Floats
    distance: Floats


def _parts(a: Points, b: Points) -> _Parts:
    inner = a.table @ b.table.T
    square = (a.table**2).sum(1)[:, None] + (b.table**2).sum(1)[None, :] - 2 * inner
    return _Parts(a.families[:, None] == b.families[None, :], inner, np.sqrt(np.maximum(square, 0.0)))


def _joined(prior: ErrorPrior, parts: _Parts) -> Floats:
    scaled = (ROOT3 / prior.reach) * parts.distance
    own = prior.level**2 + prior.slope**2 * parts.inner + prior.bend**2 * (1.0 + scaled) * np.exp(-scaled)
    result: Floats = prior.common**2 + own * parts.same
    return result


def covariance(prior: ErrorPrior, a: Points, b: Points) -> Floats:
    """Prior covariance of log costs (len(a), len(b))."""
    return _joined(prior, _parts(a, b))


def variance(prior: ErrorPrior, a: Points) -> Floats:
    """Prior variance of log costs (len(a),)."""
    result: Floats = prior.common**2 + prior.level**2 + prior.slope**2 * (a.table**2).sum(1) + prior.bend**2
    return result


def learn_prior(
    points: Points, shares: Floats | None, target: Floats, start: ErrorPrior, centred: bool = True
) -> ErrorPrior:
    """The scales under which observations (n,) are likeliest, drawn towards ``start`` (log-normal, one e-fold).

    ``shares`` (n, kernels): what each observation is the weighted sum of; None where each is one kernel. ``centred``:
    their median is taken off first, so that the common level need not explain it.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
    from scipy.optimize import minimize

    if len(target) < FEWEST_TUNED:
        return start
    chosen = np.random.default_rng(0).permutation(len(target))[:MOST_TUNED]
    if shares is None:
        points, weights = Points(points.table[chosen], points.families[chosen]), None
    else:
        weights = shares[chosen]
    goal = target[chosen] - (np.median(target[chosen]) if centred else 0.0)
    parts, eye = _parts(points, points), np.eye(len(goal))
    origin = np.log([getattr(start, name) for name in TUNED])

    def prior_at(x: Floats) -> ErrorPrior:
        return start._replace(**dict(zip(TUNED, np.exp(np.clip(x, -6.0, 2.0)).tolist(), strict=True)))

    def objective(x: Floats) -> float:
        prior = prior_at(x)
        inner = _joined(prior, parts)
        if weights is not None:
            inner = weights @ inner @ weights.T
        try:
            factor = cho_factor(inner + (prior.noise**2 + 1e-9) * eye, lower=True)
        except LinAlgError:
            return 1e12
        fit = 0.5 * float(goal @ cho_solve(factor, goal)) + float(np.log(np.diag(factor[0])).sum())
        return fit + 0.5 * float(((x - origin) ** 2).sum())

    limits = {"maxfev": TUNING_STEPS, "xatol": 0.05, "fatol": 0.1}
    found = minimize(objective, origin, method="Nelder-Mead", options=limits)
    return prior_at(found.x)
