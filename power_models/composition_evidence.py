"""The prior's scales from the totals themselves: the marginal likelihood of the linearized composition is maximized.

With few totals the scales are held by log-normal priors of their own. Kernels of nearly equal shape are put together
here, since the scales do not hang on small differences (the solver sees every kernel as it is).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from power_models.composition_cost import ROOT5, Hyper, alike
from power_models.composition_solver import Prior, Setting, Solution, Totals
from power_models.composition_terms import LENGTH_GROUPS, LENGTHS
from power_models.features import Floats

SPREADS = (0.5, 0.7, 0.7, 0.7, *[0.6] * LENGTHS)  # sd of the log scales; the noise has its own
NOISE_SPREAD = 0.8
TRUSTED_TOTALS = 500  # of fewer totals the scales stay nearer to their middles: by the root of the number
STEPS = 20
LAST = 4 + LENGTHS
LEAST_NOISE = 0.002  # no total is measured better
REACH = 4.0  # e-folds that a scale may move
CELL, SMALL_CELL = 0.5, 1.25  # e-folds within which shapes are put together; for kernels with a small share
SMALL_SHARE = 0.02
MOST_TOTALS = 500


class _Merged(NamedTuple):
    shares: Floats  # (N, m)
    squares: list[Floats]  # (m, m) squared distance by length group
    alike: Floats  # (m, m)


def tuned(setting: Setting, totals: Totals, prior: Prior, solution: Solution) -> tuple[Hyper, Floats]:
    """Scales and noise (by kind) of greatest evidence, from the linearization of ``solution``."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    count = len(totals.log_value)
    rows = np.arange(count)
    if count > MOST_TOTALS:
        rows = np.sort(np.random.default_rng(0).permutation(count)[:MOST_TOTALS])
    noise, kinds = totals.noise[rows], len(solution.cost.noise)
    target = (solution.residuals(totals) + solution.jacobian @ solution.z)[rows]
    fixed, parts = _covariances(solution, rows)
    merged = _merged(setting, solution.shares[rows])
    middle = np.log([*prior.hyper[:4], *prior.hyper.lengths, *[prior.noise] * kinds])
    trust = min(1.0, float(np.sqrt(count / TRUSTED_TOTALS)))
    spread = np.array([*(trust * one for one in SPREADS), *[NOISE_SPREAD] * kinds])
    identity = np.eye(len(rows))

    def objective(x: Floats) -> tuple[float, Floats]:
        scale = np.exp(x)
        inverse = scale[4:LAST] ** -2
        scaled = ROOT5 * np.sqrt(sum(s * i for s, i in zip(merged.squares, inverse, strict=True)))
        decay = np.exp(-scaled) * merged.alike
        process = scale[3] ** 2 * (merged.shares @ ((1 + scaled + scaled**2 / 3) * decay) @ merged.shares.T)
        scatter = (scale[LAST:] ** 2)[noise]
        whole = fixed + process + np.diag(scatter + 1e-12)
        for part, one in zip(parts, scale[:3], strict=True):
            whole = whole + one**2 * part
        factor = cho_factor(whole, lower=True)
        dual = cho_solve(factor, target)
        inner = cho_solve(factor, identity) - np.outer(dual, dual)
        away = (x - middle) / spread
        value = 0.5 * target @ dual + np.log(np.diag(factor[0])).sum() + 0.5 * (away**2).sum()
        slope = away / spread
        slope[:3] += [one**2 * (inner * part).sum() for part, one in zip(parts, scale[:3], strict=True)]
        slope[3] += (inner * process).sum()
        back = (merged.shares.T @ inner @ merged.shares) * (5 / 3 * scale[3] ** 2 * (1 + scaled) * decay)
        slope[4:LAST] += [0.5 * i * float((back * s).sum()) for s, i in zip(merged.squares, inverse, strict=True)]
        slope[LAST:] += np.bincount(noise, np.diag(inner) * scatter, kinds)
        return float(value), slope

    now = solution.cost.basis.hyper
    start = np.log([*now[:4], *now.lengths, *solution.cost.noise])
    lowest = middle - REACH
    lowest[LAST:] = np.maximum(lowest[LAST:], np.log(LEAST_NOISE))
    bounds = list(zip(lowest, middle + REACH, strict=True))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    best = [float(value) for value in np.exp(found.x)]
    return Hyper(best[0], best[1], best[2], best[3], tuple(best[4:LAST])), np.array(best[LAST:])


def _covariances(solution: Solution, rows: Any) -> tuple[Floats, list[Floats]]:
    """Covariance of totals that no scale moves (overheads), and those of terms, families, slopes at scale one."""
    cost, jacobian = solution.cost, solution.jacobian[rows]
    basis = cost.basis
    dtypes, families = len(basis.dtypes), len(basis.families)
    widths = [cost.prior_terms, dtypes, families * (dtypes + 1), basis.centre.size]
    terms, overhead, flags, slopes, _ = np.split(jacobian, np.cumsum(widths), axis=1)
    parts = [block @ block.T for block in (terms, flags, slopes)]
    scales = basis.hyper[:3]
    return overhead @ overhead.T, [part / one**2 for part, one in zip(parts, scales, strict=True)]


def _merged(setting: Setting, shares: Any) -> _Merged:
    from scipy import sparse

    largest = np.asarray(shares.max(axis=0).todense()).ravel()
    used = np.flatnonzero(largest > 0)
    points, family, dtype = setting.shapes.coordinates[used], setting.family[used], setting.dtype[used]
    large = largest[used] > SMALL_SHARE
    sizes = np.round(points[:, :3] / np.where(large, CELL, SMALL_CELL)[:, None])
    key = np.column_stack([sizes, np.round(1e3 * points[:, 3:]), large, family, dtype]).astype(np.int64)
    cells, place = np.unique(key, axis=0, return_inverse=True)
    gather = sparse.csr_matrix((np.ones(len(used)), (np.arange(len(used)), place.ravel())))
    weight = np.asarray(shares[:, used].sum(axis=0)).ravel()
    middle = (gather.T @ (points * weight[:, None])) / (gather.T @ weight)[:, None]
    groups = np.array(LENGTH_GROUPS)
    squares = [
        ((middle[:, None, groups == group] - middle[None, :, groups == group]) ** 2).sum(axis=2)
        for group in range(max(LENGTH_GROUPS) + 1)
    ]
    family, dtype = cells[:, -2], cells[:, -1]
    together = alike(family, dtype, family, dtype)
    return _Merged((shares[:, used] @ gather).toarray(), squares, together)
