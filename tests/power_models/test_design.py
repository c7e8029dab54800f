"""Which kernels to measure next: the process is a Gaussian posterior, and what it picks makes totals sure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from power_models.design import Surveyor, one_of_each, prior_of_rows, totals_of
from power_models.kernel_process import ErrorPrior, FeatureSpace, Points, covariance, learn_prior, variance

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import cost, kernels

PRIOR = ErrorPrior()


def seconds(specs) -> np.ndarray:
    return np.array([cost(spec)[0] for spec in specs])


@pytest.fixture(scope="module")
def totals():
    return totals_of([kernels(8, 10 + number) for number in range(12)], seconds)


def test_shares_of_a_network_add_up_to_one_and_count_equal_kernels() -> None:
    first, second = kernels(2, 3)
    found = totals_of([[first, first, second]], seconds)
    expected = np.array([2 * cost(first)[0], cost(second)[0]])
    assert found.shares[0] == pytest.approx(expected / expected.sum())


def test_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="no network"):
        totals_of([], seconds)


def test_what_is_left_unsure_is_the_posterior_variance(totals) -> None:
    measured, candidates = kernels(6, 99), kernels(9, 98)
    surveyor = Surveyor(PRIOR, totals, candidates, measured)
    for position in (4, 1, 7):
        surveyor.take(position)
    seen = [*measured, candidates[4], candidates[1], candidates[7]]
    space = FeatureSpace.of([*totals.kernels, *candidates, *measured])
    points, targets = space.points(seen), space.points(totals.kernels)
    inner = covariance(PRIOR, points, points) + PRIOR.noise**2 * np.eye(len(seen))
    between = covariance(PRIOR, targets, points)
    left = covariance(PRIOR, targets, targets) - between @ np.linalg.solve(inner, between.T)
    expected = np.sqrt(np.mean(np.diag(totals.shares @ left @ totals.shares.T)))
    assert surveyor.deviation == pytest.approx(expected, rel=1e-6)


def test_each_choice_is_the_best_single_one(totals) -> None:
    candidates = kernels(12, 97)
    first = Surveyor(PRIOR, totals, candidates).choose(1)
    alone = []
    for position in range(len(candidates)):
        surveyor = Surveyor(PRIOR, totals, candidates)
        surveyor.take(position)
        alone.append(surveyor.deviation)
    assert first.places[0] == int(np.argmin(alone))
    assert first.deviation[0] == pytest.approx(min(alone))


def test_chosen_kernels_leave_less_unsure_than_random_ones(totals) -> None:
    candidates = list(dict.fromkeys([*totals.kernels, *kernels(60, 50)]))
    chosen = Surveyor(PRIOR, totals, candidates).choose(10).deviation[-1]
    random = []
    for seed in range(5):
        surveyor = Surveyor(PRIOR, totals, candidates)
        for position in np.random.default_rng(seed).permutation(len(candidates))[:10]:
            surveyor.take(int(position))
        random.append(surveyor.deviation)
    assert chosen < 0.8 * min(random)


def test_more_is_chosen_than_there_is_gives_everything_once(totals) -> None:
    candidates = kernels(5, 96)
    assert sorted(Surveyor(PRIOR, totals, candidates).choose(50).places) == list(range(5))


def test_one_of_each_kind_that_nobody_measured_the_weightiest() -> None:
    specs = kernels(40, 95)
    weight = np.arange(len(specs), dtype=float)
    known = [specs[-1]]
    found = one_of_each(specs, weight, known)
    kinds = [specs[i].kind for i in found]
    assert len(kinds) == len(set(kinds)) == len({s.kind for s in specs} - {known[0].kind})
    for i in found:
        assert weight[i] == max(w for s, w in zip(specs, weight, strict=True) if s.kind == specs[i].kind)


def test_scales_follow_the_measurements() -> None:
    specs = kernels(60, 94)
    points = FeatureSpace.of(specs).points(specs)
    rng = np.random.default_rng(1)
    for truth in (ErrorPrior(level=0.05, slope=0.05, bend=0.01), ErrorPrior(level=0.9, slope=1.5, bend=0.6)):
        inner = covariance(truth._replace(common=0.0), points, points) + truth.noise**2 * np.eye(len(specs))
        target = np.linalg.cholesky(inner) @ rng.normal(size=len(specs))
        learned = learn_prior(points, None, target, PRIOR)
        assert (learned.bend < PRIOR.bend / 1.5) == (truth.bend < PRIOR.bend)
    assert prior_of_rows(specs[:2], np.zeros(2)) == PRIOR


def test_variance_is_the_diagonal() -> None:
    points = FeatureSpace.of(kernels(20, 1)).points(kernels(7, 2))
    assert variance(PRIOR, points) == pytest.approx(np.diag(covariance(PRIOR, points, points)))


def test_families_apart_share_the_common_level_only() -> None:
    points = Points(np.zeros((2, 3)), np.array([0, 1]))
    assert covariance(PRIOR, points, points)[0, 1] == pytest.approx(PRIOR.common**2)
