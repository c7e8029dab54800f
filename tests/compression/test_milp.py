"""The exact choice against brute force, on small random problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.compression.choosing import relaxation
from rig.compression.choosing.milp import NoChoiceError, Problem, least_cost, solve

EXACT = 1e-9


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Whole costs and limits that end in a half, so that no choice lies on a limit."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    rows = draw(st.integers(1, 2))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    every_pair = list(itertools.combinations(range(len(sizes)), 2))
    pairs = draw(st.lists(st.sampled_from(every_pair), unique=True)) if every_pair else []
    several = [p for p, n in enumerate(sizes) if n > 1]
    together = ()
    if len(several) > 1 and draw(st.booleans()):
        tied = draw(st.lists(st.sampled_from(several), min_size=2, max_size=3, unique=True))
        together = (tuple((p, sizes[p] - 1) for p in tied),)
    forbidden = tuple(tuple(int(random.integers(n)) for n in sizes) for _ in range(draw(st.integers(0, 2))))
    return Problem(
        losses=tuple(random.integers(0, 30, n).astype(float) for n in sizes),
        costs=tuple(random.integers(0, 6, (rows, n)).astype(float) for n in sizes),
        pairs={(p, q): random.integers(0, 6, (rows, sizes[p], sizes[q])).astype(float) for p, q in pairs},
        constant=random.integers(0, 3, rows).astype(float),
        limits=random.integers(1, 8 + 4 * len(sizes), rows) + 0.5,
        together=together,
        forbidden=forbidden,
    )


def choices(problem: Problem) -> list[tuple[int, ...]]:
    every = itertools.product(*(range(len(losses)) for losses in problem.losses))
    return [chosen for chosen in every if problem.allowed(chosen)]


def by_trying_all(problem: Problem) -> float | None:
    """The least loss within the limits; None where no choice is."""
    held = [problem.loss(c) for c in choices(problem) if (problem.cost(c) <= problem.limits).all()]
    return min(held, default=None)


@pytest.mark.parametrize("reduce", [True, False])
@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_no_choice_within_the_limits_loses_less(reduce: bool, problem: Problem) -> None:
    least = by_trying_all(problem)
    if least is None:
        with pytest.raises(NoChoiceError):
            solve(problem, EXACT, reduce=reduce)
        return
    found = solve(problem, EXACT, reduce=reduce)
    assert problem.holds(found.chosen)
    assert found.loss == problem.loss(found.chosen) == pytest.approx(least, abs=1e-6)
    assert found.bound == pytest.approx(least, abs=1e-4)


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_with_a_gap_the_bound_stays_below_every_choice(problem: Problem) -> None:
    least = by_trying_all(problem)
    if least is None:
        return
    found = solve(problem, gap=0.2)
    assert problem.holds(found.chosen)
    assert found.bound <= least + 1e-6 <= found.loss + 2e-6
    assert found.gap <= 0.2 + 1e-6


@given(problem=problems())
@settings(max_examples=30, deadline=None)
def test_what_is_reachable_is_the_least_of_the_largest_shares(problem: Problem) -> None:
    every = choices(problem)
    if not every:
        return
    found = least_cost(problem)
    shares = {c: float((problem.cost(c) / problem.limits).max()) for c in every}
    assert shares[found] <= min(shares.values()) * (1 + 1e-3) + 1e-6


def chained(seed: int = 0, parts: int = 30, options: int = 8) -> Problem:
    """A long chain with a hub, as a residual stage: products of widths, losses that fall with width."""
    random = np.random.default_rng(seed)
    widths = [np.arange(options, 0, -1.0) for _ in range(parts)]
    pairs = {(p, p + 1): random.uniform(0.5, 2.0) * np.outer(widths[p], widths[p + 1])[None] for p in range(parts - 1)}
    pairs.update({(0, p): random.uniform(0.5, 2.0) * np.outer(widths[0], widths[p])[None] for p in range(2, parts)})
    losses = tuple(np.append(0.0, np.cumsum(random.lognormal(0, 1, options - 1))) for _ in range(parts))
    whole = sum(pair[0, 0, 0] for pair in pairs.values())
    costs = tuple(np.zeros((1, options)) for _ in range(parts))
    return Problem(losses, costs, pairs, np.zeros(1), np.array([0.4 * whole]))


def test_a_large_problem_is_proven_to_its_gap_and_repeats() -> None:
    problem = chained()
    found = solve(problem, gap=0.005)
    assert found.gap <= 0.005
    assert problem.holds(found.chosen)
    assert solve(problem, gap=0.005) == found


def test_options_that_cannot_better_the_known_choice_are_taken_out() -> None:
    problem = chained(seed=1)
    left = relaxation.remaining(problem, 0.005)
    held = sum(int(flags.sum()) for flags in left.options)
    assert left.known is not None
    assert held < 0.5 * sum(len(losses) for losses in problem.losses)
    assert 0 < left.bound <= problem.loss(left.known)


def test_parts_that_all_touch_each_other_go_to_the_solver_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "WIDEST", 4)
    problem = chained(seed=2, parts=5, options=4)
    left = relaxation.remaining(problem, 0.005)
    assert left.known is not None
    assert problem.holds(left.known)
    assert all(flags.all() for flags in left.options)
    assert solve(problem, EXACT).loss == pytest.approx(by_trying_all(problem))


def test_pairs_that_are_sums_need_no_products() -> None:
    random = np.random.default_rng(5)
    a, b = random.uniform(size=(1, 4, 1)), random.uniform(size=(1, 1, 4))
    problem = Problem(
        losses=(np.arange(4.0), np.arange(4.0)),
        costs=(np.zeros((1, 4)), np.zeros((1, 4))),
        pairs={(0, 1): a + b},
        constant=np.zeros(1),
        limits=np.array([float(np.median(a + b))]),
    )
    assert solve(problem, EXACT).loss == pytest.approx(by_trying_all(problem))
