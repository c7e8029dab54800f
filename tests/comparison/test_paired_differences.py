"""Means and differences in pairs: exact values by hand, and intervals that cover what they say they cover."""

import math

import numpy as np
import pytest

from rig.comparison.answers import Answers, packed, read_answers, to_json, unpacked
from rig.comparison.paired import mean_of_repeats, mean_over_seeds, over_images, over_seeds, ratio_of_ratios
from rig.store.store import Store
from rig.units import Quantity

T_2 = 4.302652730  # Student's t, 97.5 %, two degrees of freedom


def test_differences_over_seeds_are_paired():
    found = over_seeds({0: 0.90, 1: 0.92, 2: 0.94, 9: 0.5}, {0: 0.91, 1: 0.93, 2: 0.96, 5: 0.1})
    half = T_2 * np.std([0.01, 0.01, 0.02], ddof=1) / math.sqrt(3)
    assert found.seeds == (0, 1, 2)
    assert found.how == "paired over 3 seeds"
    assert found.quantity.value == pytest.approx(0.04 / 3)
    assert found.quantity.half_width == pytest.approx(half, rel=1e-6)
    assert found.quantity.n == 3


def test_one_seed_has_a_difference_and_no_interval():
    found = over_seeds({3: 0.90}, {3: 0.88})
    assert found.quantity.value == pytest.approx(-0.02)
    assert found.quantity.lo is None
    assert "no interval" in found.how


def test_no_seed_in_common_is_said():
    assert over_seeds({0: 0.9}, {1: 0.9}).quantity is None


def test_images_are_paired_by_agresti_and_min():
    """n = 100, 8 gained, 3 lost: value 0.05; centre (8.5 − 3.5)/102, variance by hand."""
    before, after = np.zeros(100, bool), np.zeros(100, bool)
    before[:53], after[3:61] = True, True  # right by both: 50
    found = over_images(before, after, seed=4)
    assert (found.quantity.value, found.quantity.n, found.seeds) == (pytest.approx(0.05), 100, (4,))
    half = 1.959963984540054 * math.sqrt(12.0 - 25.0 / 102.0) / 102.0
    assert found.quantity.lo == pytest.approx(5.0 / 102.0 - half)
    assert found.quantity.hi == pytest.approx(5.0 / 102.0 + half)


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.03), (0.004, 0.001)])
def test_the_interval_over_images_covers(gained, lost):
    rng = np.random.default_rng(3)
    hits, trials, n = 0, 600, 1000
    for _ in range(trials):
        u = rng.random(n)
        before = (u >= gained) & (u < 0.9)
        after = (u < 0.9) & ~((u >= gained) & (u < gained + lost))
        q = over_images(before, after).quantity
        hits += q.lo <= gained - lost <= q.hi
    assert 0.93 <= hits / trials <= 0.99


def test_equal_answers_differ_by_nothing_with_an_interval_around_it():
    right = np.arange(500) % 7 != 0
    q = over_images(right, right).quantity
    assert q.value == 0.0
    assert -0.01 < q.lo < 0.0 < q.hi < 0.01


def test_answers_of_different_length_are_not_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        over_images(np.ones(3, bool), np.ones(4, bool))


def test_means_of_costs_and_ratios():
    costs = [Quantity(v, v - 0.1, v + 0.1, kind="simulated") for v in (1.0, 2.0, 3.0)]
    mean = mean_over_seeds(costs)
    assert (mean.value, mean.n, mean.kind) == (pytest.approx(2.0), 3, "simulated")
    assert mean.half_width == pytest.approx(T_2 / math.sqrt(3), rel=1e-6)
    assert mean_over_seeds(costs[:1]) is costs[0]
    near = [Quantity(v, v - 0.1, v + 0.1) for v in (1.0, 1.0, 1.0)]
    assert mean_over_seeds(near).half_width == 0.0
    assert mean_over_seeds(near, within=True).half_width == pytest.approx(0.1)
    ratio = mean_over_seeds([Quantity(0.25), Quantity(1.0)], logs=True)
    assert ratio.value == pytest.approx(0.5)
    assert ratio.lo < 0.5 < ratio.hi


def test_the_mean_of_repeats_keeps_their_own_interval():
    q = mean_of_repeats([Quantity(0.92, 0.91, 0.93, n=100), Quantity(0.94, 0.92, 0.95, n=100)])
    assert (q.lo, q.value, q.hi, q.n) == pytest.approx((0.915, 0.93, 0.94, 100))
    assert mean_of_repeats([Quantity(0.92, 0.91, 0.93), Quantity(0.92)]).lo is None
    ratio = mean_of_repeats([Quantity(0.25, 0.2, 0.3), Quantity(1.0, 0.8, 1.2)], logs=True)
    assert (ratio.lo, ratio.value, ratio.hi) == pytest.approx((0.4, 0.5, 0.6))
    assert mean_of_repeats([Quantity(0.25, -0.1, 0.6), Quantity(1.0, 0.8, 1.2)], logs=True).lo is None


@pytest.mark.parametrize("bad", [0.0, -0.1])
def test_ratios_not_above_zero_are_refused_by_name(bad):
    ratios = [Quantity(0.5), Quantity(bad)]
    for made in (lambda: mean_over_seeds(ratios, logs=True), lambda: ratio_of_ratios(*ratios)):
        with pytest.raises(ValueError, match="above zero"):
            made()


def test_a_ratio_through_two_baselines_adds_errors_in_quadrature():
    q = ratio_of_ratios(Quantity(0.5, 0.5 / 1.03, 0.5 * 1.03), Quantity(0.4, 0.4 / 1.04, 0.4 * 1.04))
    assert q.value == pytest.approx(0.8)
    assert math.log(q.hi / q.value) == pytest.approx(math.hypot(math.log(1.03), math.log(1.04)))
    assert ratio_of_ratios(Quantity(0.5), Quantity(0.4)).lo is None


def test_answers_come_back_from_a_run(tmp_path):
    right = np.random.default_rng(0).random(1003) < 0.9
    assert (unpacked(packed(right), 1003) == right).all()
    run = Store(tmp_path).new_run("optimize", "local")
    assert read_answers(run.path) is None
    run.write_json("artifacts/answers.json", to_json(Answers("abc", {"baseline": right, "result": ~right})))
    found = read_answers(run.path)
    assert found.images == "abc"
    assert (found.right["result"] == ~right).all()
