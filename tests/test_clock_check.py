"""The edges of the load in the trace: found to a fraction of a sample; a clock that they contradict is said."""

import numpy as np
import pytest
from synthetic_records import synthetic_record

from rig.quality.clock_check import edge_lag
from rig.quality.power import PowerCurve
from rig.quality.verdict import assess


def late(record, seconds):
    """The trace stamped later by so much than the clocks' map knows."""
    trace = record["trace"]
    return {**record, "trace": {**trace, "times_s": [t + seconds for t in trace["times_s"]]}}


def lag_of(record):
    return edge_lag(record["phases"], PowerCurve(record["trace"], record["sensor"], record["clock"]))


@pytest.mark.parametrize(
    "sensor", [{}, {"rate_hz": 20.0, "sensor_window_s": 0.2}, {"rate_hz": 5.0, "sensor_window_s": 0.5}]
)
@pytest.mark.parametrize("lag_s", [0.0, 0.004, -0.03])
def test_the_lag_is_found_within_its_uncertainty(sensor, lag_s):
    found = []
    for seed in range(20):
        lag = lag_of(late(synthetic_record(seed=seed, quiet_s=4.0, **sensor), lag_s))
        assert lag.edges == 2
        found.append((lag.lag_s - lag_s, lag.uncertainty_s))
    errors, bounds = np.asarray(found).T
    assert np.mean(np.abs(errors) <= bounds + 5e-4) >= 0.85  # the clocks of the records themselves are 0.5 ms uncertain
    assert np.median(np.abs(errors)) < 0.15 / sensor.get("rate_hz", 100.0)  # a fraction of a sample
    assert np.median(bounds) < 1.0 / sensor.get("rate_hz", 100.0)


def test_a_true_clock_is_left_alone():
    warned = sum(any("edges" in w for w in assess(synthetic_record(seed=s)).warnings) for s in range(60))
    assert warned <= 2


def test_a_clock_that_the_load_contradicts_is_said_and_widens_the_budget():
    record = synthetic_record(quiet_drift_w=0.1)
    told, plain = assess(late(record, 0.08)), assess(record)
    assert told.ok
    (warning,) = [w for w in told.warnings if "edges" in w]
    assert "+80" in warning
    assert told.budget["energy_active_j"]["clock"] >= plain.budget["energy_active_j"]["clock"]
    curve_shift = told.budget["idle_power_w"]["clock"]
    assert curve_shift >= plain.budget["idle_power_w"]["clock"]


def test_another_meters_trace_is_refused():
    m = assess(late(synthetic_record(quiet_s=3.0), -0.4))
    assert m.verdict == "rejected"
    assert "edges" in m.reason
    assert m.energy_j is None


def test_a_source_stamped_by_the_device_itself_is_not_looked_at():
    record = late(synthetic_record(), 0.08)
    record["trace"]["clock"] = "boottime"
    assert not any("edges" in w for w in assess(record).warnings)


def test_a_load_that_cannot_be_seen_says_nothing():
    assert lag_of(synthetic_record(active_j=1e-6, noise_w=0.05)) is None
    record = synthetic_record()
    record["phases"] = [phase for phase in record["phases"] if phase["name"].startswith("quiet")]
    assert lag_of(record) is None


def test_an_energy_counters_edges_are_found():
    record = synthetic_record(noise_w=0.0, step_w=0.0)
    trace = record["trace"]
    times, watts = np.asarray(trace["times_s"]), np.asarray(trace["power_w"])
    trace["energy_counter_j"] = np.concatenate([[0.0], np.cumsum(watts[1:] * np.diff(times))]).tolist()
    assert abs(lag_of(late(record, 0.05)).lag_s - 0.05) < 0.005
