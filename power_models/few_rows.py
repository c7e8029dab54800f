"""How far a family of one or two rows is to be trusted: no row can be held out of it, so other families stand in.

    other families ─► as few of their rows ─► the fit that so few rows get ─► errors on their other rows ─► scale

A candidate fitted to a row predicts that row well whatever it knows of others: judged on its own rows, a family
of one or two would be the surest of all. What such a fit is worth is therefore tried where it can be told: on families
with rows enough, again and again with other rows. Errors within one try go together (all kernels are priced by the
same one or two rows), which is what sums of kernels need to know. Where there is no such family either, the scale is
``ALONE``, found in the same way on tables of other devices (benchmarks/few_rows.py, docs/figures.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from power_models.families import pool_of
from power_models.family_cost import fit_family
from power_models.features import Floats, shape_features
from power_models.intervals import SHARE_PRIOR, ErrorScale, fit_scale, sided_quantiles, sided_rms
from power_models.regressors import CANDIDATES
from power_models.selection import Rows

FEWEST_JUDGED = 3  # with fewer rows that were held out, a family's own errors say nothing of how large they are
FEWEST_TESTED = 4  # rows that a family needs beside those fitted, for a try to tell anything
TRIES = 12  # a family
MOST_TESTED = 40
MOST_SHARED = 0.95
QUANTITIES = ("latency", "energy", "power")
# Medians of what such fits show on 12 families of four measured GPU and CPU tables and the simulated board.
ALONE = ErrorScale(0.30, 0.34, 2.07, 3.51, 1.09, 1.78, 0.72)


def scales_of_few(families: Mapping[str, Rows], family: str, count: int) -> dict[str, ErrorScale]:
    """Error scales, by quantity, of a ``family`` that is fitted to ``count`` rows, as the other ``families`` tell them.

    Families priced like it tell them, with weights or without, if one has rows enough, else any that has. A quantity
    that none tells has the scale ``ALONE``.
    """
    others = {
        name: rows
        for name, rows in sorted(families.items())
        if family not in (name, pool_of(name)) and len(rows.columns) >= count + FEWEST_TESTED
    }
    alike = {name: rows for name, rows in others.items() if pool_of(name) == pool_of(family)}
    tries = [one for name, rows in (alike or others).items() for one in _tries(name, rows, count)]
    found = {}
    for quantity in QUANTITIES:
        errors = [(own[quantity][told], own["distance"][told]) for own in tries if (told := _told(own[quantity])).any()]
        found[quantity] = _scale(errors) if errors else ALONE
    return found


def _told(errors: Floats) -> np.ndarray:
    return np.asarray(np.isfinite(errors), dtype=np.bool_)


def _tries(name: str, rows: Rows, count: int) -> list[dict[str, Floats]]:
    """Log errors by quantity, and distances, of rows of a family that is fitted to ``count`` of them, a try each."""
    total = len(rows.columns)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(TRIES):
        order = rng.permutation(total)
        known, others = rows.take(order[:count]), rows.take(order[count : count + MOST_TESTED])
        # A kind that none of the rows is of would have no price at all.
        priced = np.flatnonzero(np.isin(others.columns.kinds, known.columns.kinds))
        others = others.take(priced)
        fitted = fit_family(name, known, [np.arange(count)], tuple(CANDIDATES))
        log_latency, log_energy = fitted.predict(others.columns)
        latency, energy = others.log_latency - log_latency, others.log_energy - log_energy
        distance = fitted.reach.distance(shape_features(others.columns, fitted.kinds))
        found.append({"latency": latency, "energy": energy, "power": energy - latency, "distance": distance})
    return found


def _scale(tries: Sequence[tuple[Floats, Floats]]) -> ErrorScale:
    errors, distance = (np.concatenate(parts) for parts in zip(*tries, strict=True))
    near, slope = fit_scale(errors, distance)
    scores = [own / (near + slope * away) for own, away in tries]
    together = np.concatenate(scores)
    down, up = sided_quantiles(together, together)
    rms_down, rms_up = sided_rms(together)
    common = np.concatenate([np.full(len(own), own.mean()) for own in scores])
    share = float((common**2).mean() / (together**2).mean())
    return ErrorScale(near, slope, up, down, rms_up, rms_down, float(np.sqrt(np.clip(share, SHARE_PRIOR, MOST_SHARED))))
