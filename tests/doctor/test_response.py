"""Window, lag, quantum, update period and noise of sources made up from known truth."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rig.doctor.load import duty_levels, steps
from rig.doctor.load_curve import EXPONENTIAL, TIME_CONSTANTS, LoadCurve
from rig.doctor.readings import noise_w, quantum, updates
from rig.doctor.response import fit_step_response

QUIET_W, ACTIVE_W = 2.9, 2.4


def spans_of(count: int = 16, half_s: float = 0.4, seed: int = 1) -> list[tuple[float, float, float]]:
    now, spans = 50.0, []
    for on_s, off_s in steps(count, half_s, seed):
        spans.append((now, now + on_s, now + on_s + off_s))
        now += on_s + off_s
    return spans


def seen(
    spans: list[tuple[float, float, float]],
    window_s: float,
    lag_s: float,
    rate_hz: float,
    noise: float,
    step_w: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """What a source of that window and lag delivers."""
    times = np.arange(spans[0][0] - 0.5, spans[-1][2] + 1.0, 1.0 / rate_hz)
    share = LoadCurve(spans).share(times, window_s, lag_s + 0.5 * window_s)
    watts = QUIET_W + ACTIVE_W * share + noise * np.random.default_rng(3).standard_normal(len(times))
    return times, np.round(watts / step_w) * step_w if step_w else watts


@pytest.mark.parametrize(
    ("window_s", "lag_s", "rate_hz", "noise", "step_w"),
    [
        (0.010, 0.0, 100.0, 0.010, 0.00125),
        (0.050, 0.020, 100.0, 0.010, 0.0),
        (0.100, 0.0, 10.0, 0.010, 0.0),
        (0.200, 0.150, 50.0, 0.050, 0.4),
        (0.300, 0.0, 20.0, 0.100, 0.0),
    ],
)
def test_window_and_lag_are_found(window_s: float, lag_s: float, rate_hz: float, noise: float, step_w: float) -> None:
    half_s = max(0.3, 3.0 * (window_s + lag_s))
    spans = spans_of(half_s=half_s)
    times, watts = seen(spans, window_s, lag_s, rate_hz, noise, step_w)
    found = fit_step_response(spans, times, watts, 1.0 / rate_hz)
    assert found is not None
    assert found.seen
    room_s = 0.25 / rate_hz
    assert abs(found.window_s - window_s) <= max(2.0 * found.window_half_width_s, room_s)
    assert abs(found.lag_s - lag_s) <= max(2.0 * found.lag_half_width_s, room_s)
    assert abs(found.delay_s - lag_s - 0.5 * window_s) <= max(2.0 * found.delay_half_width_s, 0.5 * room_s)
    assert found.active_w == pytest.approx(ACTIVE_W, rel=0.03, abs=0.5 * step_w)
    assert found.quiet_w == pytest.approx(QUIET_W, abs=max(0.05, 0.5 * step_w))


def test_intervals_hold_the_truth() -> None:
    hits = np.zeros(2)
    for seed in range(20):
        spans = spans_of(count=10, half_s=0.4, seed=seed)
        times = np.arange(spans[0][0], spans[-1][2] + 0.5, 0.02) + 0.02 * random.Random(seed).random()
        share = LoadCurve(spans).share(times, 0.08, 0.06)
        watts = QUIET_W + ACTIVE_W * share + 0.05 * np.random.default_rng(seed).standard_normal(len(times))
        found = fit_step_response(spans, times, watts, 0.02)
        assert found is not None
        hits += [
            abs(found.window_s - 0.08) <= found.window_half_width_s,
            abs(found.delay_s - 0.06) <= found.delay_half_width_s,
        ]
    assert (hits >= 16).all(), hits


def test_a_source_of_another_device_does_not_see_the_load() -> None:
    spans = spans_of()
    times = np.arange(spans[0][0], spans[-1][2], 0.01)
    watts = 5.0 + 0.1 * np.random.default_rng(0).standard_normal(len(times))
    found = fit_step_response(spans, times, watts, 0.01)
    assert found is not None
    assert not found.seen
    assert fit_step_response(spans, times, np.full(len(times), 5.0), 0.01) is None
    assert fit_step_response(spans, times[:5], watts[:5], 0.01) is None


def test_a_drifting_level_is_no_response() -> None:
    spans = spans_of()
    times, watts = seen(spans, 0.05, 0.0, 100.0, 0.01)
    found = fit_step_response(spans, times, watts + 0.05 * (times - times[0]), 0.01)
    assert found is not None
    assert found.slope_w_per_s == pytest.approx(0.05, rel=0.1)
    assert found.window_s == pytest.approx(0.05, abs=0.005)


def test_update_period_of_held_values() -> None:
    polls = np.arange(0.0, 20.0, 0.01)
    values = np.floor(polls / 0.1) * 0.37 % 1.0
    found = updates(polls, values)
    assert found.held
    assert found.period_s == pytest.approx(0.1, rel=0.02)
    every = updates(polls, np.random.default_rng(1).standard_normal(len(polls)))
    assert (every.held, every.period_s) == (False, pytest.approx(0.01))


def test_a_coarse_source_that_moves_with_the_load_only_does_not_tell_its_updates() -> None:
    spans = spans_of()
    times, watts = seen(spans, 0.01, 0.0, 100.0, 0.001, step_w=0.4)
    assert updates(times, watts).period_s is None
    assert updates(times, np.full(len(times), 3.0)).period_s is None


@pytest.mark.parametrize("step_w", [0.00125, 0.02, 0.4])
def test_the_quantum_is_found(step_w: float) -> None:
    _, watts = seen(spans_of(), 0.05, 0.0, 100.0, 0.01, step_w)
    assert quantum(watts) == pytest.approx(step_w, rel=0.01)


def test_values_without_a_quantum_have_none() -> None:
    _, watts = seen(spans_of(), 0.05, 0.0, 100.0, 0.01)
    assert quantum(watts) is None
    assert quantum(np.full(50, 3.2)) is None


def test_a_product_of_two_registers_has_its_usual_distance() -> None:
    draw = np.random.default_rng(5)
    volts, amperes = 5.0 + 0.004 * draw.integers(0, 2, 3000), 0.4 + 0.02 * draw.integers(0, 5, 3000)
    assert quantum(np.round(volts * amperes, 6)) is not None


def test_noise_leaves_out_edges_slopes_and_the_step() -> None:
    spans = spans_of(half_s=0.5)
    times, watts = seen(spans, 0.05, 0.0, 100.0, 0.03, step_w=0.02)
    load = LoadCurve(spans)
    quiet = load.stretches(on=False, settle_s=0.04, delay_s=0.025)
    assert noise_w(times, watts + 0.1 * (times - times[0]), quiet, 0.02) == pytest.approx(0.03, rel=0.1)
    assert noise_w(times, watts, quiet[:0], None) is None


def test_steps_are_jittered_and_the_same_each_time() -> None:
    pattern = steps(50, 1.0, seed=2)
    assert pattern == steps(50, 1.0, seed=2)
    assert all(0.6 <= length <= 1.4 for pair in pattern for length in pair)
    assert np.std([length for pair in pattern for length in pair]) > 0.15


def test_levels_come_up_and_go_down_again() -> None:
    pairs, counts = duty_levels(5, 2.0, 0.1)
    assert counts == [10] * 10
    assert pairs[0] == (0.0, 0.1)
    assert pairs[45] == pytest.approx((0.1, 0.0))
    assert pairs == pairs[::-1]


def forgetting(
    spans: list[tuple[float, float, float]], time_constant_s: float, rate_hz: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """What a source delivers that forgets exponentially, worked out by small steps and not by the fit's own formula."""
    fine = np.arange(spans[0][0] - 0.5, spans[-1][2] + 1.0, 2e-5)
    edges = np.asarray([time for span in spans for time in span[:2]])
    on = np.searchsorted(edges, fine, side="right") % 2
    kept, level, levels = np.exp(-2e-5 / time_constant_s), 0.0, np.empty(len(fine))
    for i, load in enumerate(on.tolist()):
        level = load + (level - load) * kept
        levels[i] = level
    every = round(1.0 / rate_hz / 2e-5)
    watts = QUIET_W + ACTIVE_W * levels[::every]
    return fine[::every], watts + noise * np.random.default_rng(7).standard_normal(len(watts))


@pytest.mark.parametrize(("time_constant_s", "rate_hz"), [(0.02, 100.0), (0.1, 20.0)])
def test_a_source_that_forgets_exponentially_is_recognized(time_constant_s: float, rate_hz: float) -> None:
    spans = spans_of(count=10, half_s=max(0.3, 8.0 * time_constant_s))
    times, watts = forgetting(spans, time_constant_s, rate_hz, 0.01)
    found = fit_step_response(spans, times, watts, 1.0 / rate_hz)
    assert found is not None
    assert (found.shape, found.shape_told) == (EXPONENTIAL, True)
    assert found.time_constant_s == pytest.approx(time_constant_s, rel=0.03)
    assert found.window_s == pytest.approx(TIME_CONSTANTS * time_constant_s, rel=0.03)
    assert found.delay_s == pytest.approx(time_constant_s, rel=0.05)
    assert abs(found.lag_s) <= 2.0 * found.lag_half_width_s + 1e-4
    assert found.risen(np.asarray([-1.0, found.lag_s + time_constant_s])) == pytest.approx([0.0, 0.632], abs=0.01)


def test_a_boxcar_stays_one_and_a_counter_is_nothing_else() -> None:
    spans = spans_of()
    times, watts = seen(spans, 0.1, 0.02, 50.0, 0.02)
    found = fit_step_response(spans, times, watts, 0.02)
    assert found is not None
    assert (found.shape, found.shape_told, found.time_constant_s) == ("boxcar", True, None)
    assert found.risen(np.asarray([0.0, found.lag_s + 0.05, 1.0])) == pytest.approx([0.0, 0.5, 1.0], abs=0.02)
    times, watts = forgetting(spans, 0.05, 50.0, 0.01)
    counted = fit_step_response(spans, times, watts, 0.02, shapes=("boxcar",))
    assert counted is not None
    assert counted.shape == "boxcar"


def test_a_source_too_slow_and_coarse_for_its_shape_says_so() -> None:
    spans = spans_of(count=8)
    times, watts = seen(spans, 0.05, 0.0, 10.0, 0.2, step_w=0.4)
    found = fit_step_response(spans, times, watts, 0.1, 0.4)
    assert found is not None
    assert (found.shape, found.shape_told) == ("boxcar", False)


def test_what_takes_power_away_for_moments_makes_no_window_longer() -> None:
    """Interruptions of the load hit samples that have seen most of a step more than those that have seen little."""
    errors = []
    for seed in range(6):
        spans = spans_of(count=16, half_s=0.2, seed=seed)
        draw = np.random.default_rng(seed)
        load, times = LoadCurve(spans), np.arange(spans[0][0], spans[-1][2], 0.02)
        watts = QUIET_W + ACTIVE_W * load.share(times, 0.019, 0.0165) + 0.007 * draw.standard_normal(len(times))
        # One sample in eight has lost up to a fifth of the load's own watts.
        lost = draw.random(len(times)) < 0.125
        watts -= lost * 0.2 * draw.random(len(times)) * (watts - QUIET_W)
        found = fit_step_response(spans, times, watts, 0.02)
        assert found is not None
        errors.append((found.window_s - 0.019) / 0.019)
    assert abs(float(np.mean(errors))) < 0.004
