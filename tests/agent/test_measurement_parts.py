"""Intervals, clocks, pacing: the arithmetic under a measurement."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from device_agents.clocks import Exchange, fit_clock
from device_agents.intervals import half_width, has_no_slope, relative_half_width, student_t_975, thin
from device_agents.runtimes.onnx_runtime import parse_profile
from device_agents.timing import run_back_to_back, run_paced, wait


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 30, 100, 999])
def test_student_t_is_scipys(degrees: int) -> None:
    assert student_t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def test_student_t_refuses_no_degrees_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        student_t_975(0)


def test_half_width_covers_the_mean_of_independent_windows() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(1000):
        means = [rng.gauss(1.0, 0.05) for _ in range(10)]
        covered += abs(sum(means) / 10 - 1.0) <= half_width(means)
    assert 0.93 <= covered / 1000 <= 0.975


def interrupted_windows(rng: random.Random, count: int) -> list[float]:
    """Windows of a second with two interruptions each on average, of 8 ms each on average: 1.016 in the long run."""
    means = []
    for _ in range(count):
        passed_s, lost_s = rng.expovariate(2.0), 0.0
        while passed_s < 1.0:
            lost_s += min(rng.expovariate(125.0), 0.09)
            passed_s += rng.expovariate(2.0)
        means.append(1.0 + lost_s + rng.gauss(0.0, 0.001))
    return means


def test_fewer_stop_at_the_first_look_because_few_interruptions_fell_into_it() -> None:
    """Ten windows with a narrow interval are often ten with few interruptions, whose mean is too low."""
    rng = random.Random(3)
    wrong = {True: 0, False: 0}
    for _ in range(1500):
        means = interrupted_windows(rng, 10)
        mean = sum(means) / len(means)
        for looked in wrong:
            half = half_width(means, looked)
            wrong[looked] += half <= 0.01 * mean and abs(mean - 1.016) > half
    print({looked: count / 1500 for looked, count in wrong.items()})
    assert wrong[False] > 0.06 * 1500, "this is what it is for"
    assert wrong[True] < 0.04 * 1500


def test_what_is_stopped_as_precise_is_held() -> None:
    """The whole rule, looks at every window from the tenth on."""
    rng = random.Random(5)
    held = 0
    for _ in range(300):
        means = interrupted_windows(rng, 60)
        n = next((n for n in range(10, 60) if (relative_half_width(means[:n]) or 1.0) <= 0.01), 60)
        mean = sum(means[:n]) / n
        held += abs(mean - 1.016) <= half_width(means[:n], looked=True)
    print(held / 300)
    assert 0.92 <= held / 300 <= 0.98


def test_later_looks_are_no_stricter() -> None:
    means = [1.0 + 0.01 * (i % 3) for i in range(30)]
    assert half_width(means, looked=True) == half_width(means)
    assert half_width(means[:10], looked=True) == pytest.approx(1.25 * half_width(means[:10]))
    assert half_width(means[:15], looked=True) == pytest.approx(1.125 * half_width(means[:15]))
    assert half_width(means[:5], looked=True) == pytest.approx(1.25 * half_width(means[:5]))


def test_half_width_is_wider_for_correlated_windows() -> None:
    rng = random.Random(1)
    drifting, value = [], 0.0
    for _ in range(200):
        value = 0.9 * value + rng.gauss(0.0, 0.01)
        drifting.append(1.0 + value)
    shuffled = list(drifting)
    rng.shuffle(shuffled)
    assert (relative_half_width(drifting) or 0) > 2 * (relative_half_width(shuffled) or 1)


def test_half_width_needs_three_windows() -> None:
    assert relative_half_width([1.0, 1.1]) is None
    assert relative_half_width([2.0, 2.0, 2.0]) == 0.0


def test_level_and_sloping_series() -> None:
    rng = random.Random(2)
    assert has_no_slope([1.0 + rng.gauss(0, 0.01) for _ in range(5)], 0.02)
    assert not has_no_slope([1.2, 1.15, 1.1, 1.05, 1.0], 0.02)
    assert not has_no_slope([1.0, 3.0, 0.5, 2.0, 1.0], 0.01)


def test_thin_keeps_order_and_ends() -> None:
    assert thin(range(10), 20) == list(range(10))
    assert thin(range(10), 5) == [0, 2, 4, 6, 8]


def test_clock_fit_recovers_offset_and_drift_within_its_uncertainty() -> None:
    rng = random.Random(3)
    exchanges = []
    for i in range(40):
        sent = i * 5.0
        out, back = rng.uniform(0.0002, 0.002), rng.uniform(0.0002, 0.002)
        there = [t + 1.5 + 40e-6 * t for t in (sent + out, sent + out + 0.0001)]
        exchanges.append(Exchange(sent, there[0], there[1], sent + out + 0.0001 + back))
    clock = fit_clock(exchanges)
    for t_s in (0.0, 100.0, 200.0):
        assert clock.there_s(t_s) == pytest.approx(t_s + 1.5 + 40e-6 * t_s, abs=2 * clock.uncertainty_s)
    assert clock.drift == pytest.approx(40e-6, rel=0.3)


def test_clock_fit_does_not_invent_drift_from_one_moment() -> None:
    clock = fit_clock([Exchange(0.0, 10.001, 10.001, 0.002), Exchange(0.01, 10.0111, 10.0111, 0.012)])
    assert clock.drift == 0.0
    assert 0.0009 < clock.uncertainty_s < 0.0011


def exchanged(rng: random.Random, at_s: float, out_s: float, back_s: float, drift: float = 0.0) -> Exchange:
    """One exchange with a clock that is 1.5 s ahead and runs off by ``drift``."""
    there = [t + 1.5 + drift * t for t in (at_s + out_s, at_s + out_s + 1e-4)]
    return Exchange(at_s, there[0], there[1], at_s + out_s + 1e-4 + back_s)


@pytest.mark.parametrize("jittered", ["out", "back", "both"])
def test_jitter_of_one_way_does_not_spoil_the_other(jittered: str) -> None:
    """Up to 20 ms, drawn anew for each message: within 2 ms in 95 of 100 cases, and within the bound in all."""
    rng = random.Random(5)
    errors = []
    for _ in range(200):
        exchanges = []
        for begin_s in (0.0, 40.0):
            at_s = begin_s
            for _ in range(40):
                out = 3e-4 + (rng.uniform(0.0, 0.02) if jittered != "back" else 0.0)
                back = 3e-4 + (rng.uniform(0.0, 0.02) if jittered != "out" else 0.0)
                exchanges.append(exchanged(rng, at_s, out, back, 50e-6))
                at_s = exchanges[-1].back_s
        clock = fit_clock(exchanges)
        worst = max(abs(clock.there_s(t) - (t + 1.5 + 50e-6 * t)) for t in (0.0, 20.0, 40.0))
        assert worst <= clock.uncertainty_s
        errors.append(worst)
    assert sorted(errors)[int(0.95 * len(errors))] < 2e-3


def test_a_way_that_always_takes_longer_is_within_the_bound() -> None:
    rng = random.Random(6)
    clock = fit_clock([exchanged(rng, t, 0.0203, 3e-4 + rng.uniform(0.0, 1e-3)) for t in range(20)])
    assert abs(clock.there_s(10.0) - 11.5) <= clock.uncertainty_s < 0.011


def test_a_clock_that_is_slewed_widens_the_uncertainty() -> None:
    rng = random.Random(7)
    exchanges = [exchanged(rng, float(t), 1e-4, 1e-4)._replace() for t in range(100)]
    bent = [
        e._replace(received_s=e.received_s + b, replied_s=e.replied_s + b)
        for e in exchanges
        for b in [2e-3 * math.sin(e.sent_s / 15.0)]
    ]
    clock = fit_clock(bent)
    for e in bent:
        assert abs(clock.there_s(e.sent_s) - (e.sent_s + 1.5 + 2e-3 * math.sin(e.sent_s / 15.0))) <= clock.uncertainty_s
    assert clock.uncertainty_s < 8e-3


def test_a_clock_that_stepped_between_the_exchanges_is_refused_or_runs_off_impossibly() -> None:
    rng = random.Random(8)
    before = [exchanged(rng, float(t), 1e-4, 1e-4) for t in range(10)]
    after = [e._replace(received_s=e.received_s + 3600.0, replied_s=e.replied_s + 3600.0) for e in before[5:]]
    with pytest.raises(ValueError, match="stepped"):
        fit_clock(before[:5] + after)


def test_a_stepped_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="stepped"):
        fit_clock([Exchange(10.0, 5.0, 5.1, 3.0)])


class SteppingEngine:
    """An engine on a clock of its own: the fake is the engine's hardware, not the timing."""

    def __init__(self, latencies_s: list[float]) -> None:
        self.t_s = 0.0
        self.latencies_s = latencies_s
        self.started_s: list[float] = []

    def now_s(self) -> float:
        return self.t_s

    def infer(self) -> None:
        self.started_s.append(self.t_s)
        self.t_s += self.latencies_s[(len(self.started_s) - 1) % len(self.latencies_s)]

    def wait_until(self, t_s: float) -> None:
        self.t_s = max(self.t_s, t_s)


def test_back_to_back_ends_with_the_last_inference() -> None:
    phase = run_back_to_back(SteppingEngine([0.3]), 1.0)
    assert phase["count"] == 4
    assert phase["t1_s"] == pytest.approx(1.2)
    assert phase["latency_mean_s"] == pytest.approx(0.3)


def test_back_to_back_infers_at_least_once() -> None:
    assert run_back_to_back(SteppingEngine([5.0]), 0.001)["count"] == 1


def test_paced_frames_start_on_absolute_deadlines() -> None:
    engine = SteppingEngine([0.01, 0.03])
    phase = run_paced(engine, 1.0, 10.0)
    assert engine.started_s == pytest.approx([0.1 * i for i in range(10)])
    assert (phase["count"], phase["missed"], phase["t1_s"]) == (10, 0, pytest.approx(1.0))


def test_one_late_frame_is_one_miss_and_does_not_shift_the_rest() -> None:
    engine = SteppingEngine([0.01, 0.15, 0.01, 0.01])
    phase = run_paced(engine, 0.4, 10.0)
    assert engine.started_s == pytest.approx([0.0, 0.1, 0.25, 0.3])
    assert (phase["count"], phase["missed"]) == (4, 1)


def test_too_slow_for_the_rate_drops_frames_and_counts_them() -> None:
    phase = run_paced(SteppingEngine([0.25]), 1.0, 10.0)
    assert phase["missed"] >= 6
    assert phase["t1_s"] < 1.3


def test_wait_is_a_phase_without_inferences() -> None:
    phase = wait(SteppingEngine([1.0]), 2.0)
    assert (phase["count"], phase["latency_mean_s"], phase["t1_s"]) == (0, None, 2.0)


def test_profile_events_become_nodes_without_the_discarded_runs() -> None:
    def event(name: str, microseconds: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": "Conv"}}

    events = [{"cat": "Session", "name": "model_run", "dur": 9}]
    events += [event("a", 900), event("b", 90), event("a", 10), event("b", 5), event("a", 20), event("b", 5)]
    nodes = parse_profile(events, discarded=1)
    assert [node["name"] for node in nodes] == ["a", "b"]
    assert math.isclose(nodes[0]["latency_mean_s"], 15e-6)
    assert nodes[0]["count"] == 2
