"""Gain and offset of a source from levels: found, honest about what is not known, and refused where it is nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_records import synthetic_record

from rig.doctor.levels import Levels
from rig.plotting.trace_data import trace_data
from rig.quality.verdict import assess
from rig.sensors.calibration import SensorCalibration, fit_sensor

LEVELS_W = np.linspace(2.9, 5.6, 6)


def test_gain_and_offset_are_found_and_applied() -> None:
    readings = (LEVELS_W - 0.05) / 1.03
    fit = fit_sensor(readings, LEVELS_W, 0.001)
    assert fit.gain == pytest.approx(1.03)
    assert fit.offset_w == pytest.approx(0.05)
    assert fit.corrected_w(readings) == pytest.approx(LEVELS_W)
    assert fit.gain_uncertainty == pytest.approx(0.001)
    assert SensorCalibration.from_json(json.loads(json.dumps(fit.to_json()))) == fit


def test_intervals_hold_the_truth() -> None:
    draw = np.random.default_rng(1)
    hits = []
    for _ in range(300):
        gain, offset = 1.0 + 0.02 * draw.standard_normal(), 0.03 * draw.standard_normal()
        reference_gain = 1.0 + 0.001 * draw.standard_normal()
        readings = (LEVELS_W - offset) / gain + 0.002 * draw.standard_normal(len(LEVELS_W))
        reference = reference_gain * LEVELS_W + 0.001 * draw.standard_normal(len(LEVELS_W))
        fit = fit_sensor(readings, reference, 0.001)
        at = fit.corrected_w((4.0 - offset) / gain)
        change = fit.gain * 1.5 / gain
        hits.append([abs(at - 4.0) <= fit.level_half_width_w(at), abs(change - 1.5) <= fit.change_half_width_w(change)])
    assert (np.mean(hits, axis=0) >= 0.93).all(), np.mean(hits, axis=0)


def test_scatter_beyond_the_stated_errors_widens_the_result() -> None:
    bent = LEVELS_W + 0.1 * (LEVELS_W - 4.0) ** 2
    narrow = fit_sensor(LEVELS_W, LEVELS_W, 0.0, reference_se_w=[0.001] * 6)
    wide = fit_sensor(bent, LEVELS_W, 0.0, reference_se_w=[0.001] * 6)
    assert narrow.gain_se == pytest.approx(0.001 / np.sqrt(np.sum((LEVELS_W - LEVELS_W.mean()) ** 2)), rel=0.01)
    assert wide.gain_se > 10 * narrow.gain_se


def test_surer_levels_count_more() -> None:
    reference = LEVELS_W.copy()
    reference[-1] += 0.3
    error = [0.001] * 5 + [1.0]
    assert fit_sensor(LEVELS_W, reference, 0.0, reference_se_w=error).gain == pytest.approx(1.0, abs=0.001)
    assert fit_sensor(LEVELS_W, reference, 0.0, source_se_w=error).gain == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(
    ("source", "reference", "words"),
    [
        ([1.0, 2.0], [1.0, 2.0], "3 or more"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "3 or more"),
        ([3.0, 3.0, 3.0], [1.0, 2.0, 3.0], "do not differ"),
        ([1.0, 2.0, float("nan")], [1.0, 2.0, 3.0], "not finite"),
        ([1.0, 2.0, 3.0], [1000.0, 2000.0, 3000.0], "no sensor's error"),
    ],
)
def test_levels_that_give_no_line_are_refused(source: list[float], reference: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_sensor(source, reference, 0.001)


def test_a_calibrated_record_is_corrected_and_its_gain_part_shrinks() -> None:
    record = synthetic_record(gain=1.04, gain_uncertainty=0.02, windows=12)
    readings = 1.04 * LEVELS_W
    fit = fit_sensor(readings, LEVELS_W, 0.001, reference_se_w=[0.002] * 6)
    calibrated = {**record, "sensor": {**record["sensor"], "calibration": {"fit": fit.to_json()}}}
    before, after = assess(record), assess(calibrated)
    assert before.energy_active_j.value == pytest.approx(1.04 * 0.030, rel=0.01)
    assert after.energy_active_j.value == pytest.approx(0.030, rel=0.005)
    assert after.idle_power_w.value == pytest.approx(2.9, rel=0.003)
    for name in ("energy_j", "energy_active_j", "power_w", "idle_power_w"):
        assert after.budget[name]["gain"] < 0.35 * before.budget[name]["gain"], name
    assert after.power_w.lo <= 2.9 + 0.030 / 0.010 <= after.power_w.hi


def test_an_energy_counter_is_corrected_too() -> None:
    record = synthetic_record(gain=1.04, noise_w=0.0, step_w=0.0)
    times, watts = (np.asarray(record["trace"][name]) for name in ("times_s", "power_w"))
    record["trace"]["energy_counter_j"] = np.concatenate([[0.0], np.cumsum(watts[1:] * np.diff(times))]).tolist()
    fit = fit_sensor(1.04 * LEVELS_W + 0.1, LEVELS_W, 0.001)
    record["sensor"]["calibration"] = {"fit": fit.to_json()}
    counted = assess(record)
    assert counted.energy_active_j.value == pytest.approx(0.030, rel=0.01)
    assert counted.idle_power_w.value == pytest.approx(2.9 - 0.1 / 1.04, rel=0.005)


def test_the_step_is_corrected_with_the_watts() -> None:
    record = synthetic_record(gain=1.04, step_w=0.3, noise_w=0.3)
    fit = fit_sensor(1.25 * LEVELS_W, LEVELS_W, 0.001).to_json()
    calibrated = {**record, "sensor": {**record["sensor"], "calibration": {"fit": fit}}}
    plain, corrected = (assess(one).budget["power_w"]["quantization"] for one in (record, calibrated))
    assert corrected == pytest.approx(0.8 * plain, rel=0.05)


def test_the_picture_of_a_trace_shows_the_corrected_watts() -> None:
    record = synthetic_record(gain=1.04)
    fit = fit_sensor(1.04 * LEVELS_W, LEVELS_W, 0.001).to_json()
    calibrated = {**record, "sensor": {**record["sensor"], "calibration": {"fit": fit}}}
    drawn = trace_data(calibrated, calibrated["trace"])
    assert drawn.window_mean.value == pytest.approx(assess(calibrated).power_w.value, rel=0.005)
    assert drawn.window_mean.value == pytest.approx(2.9 + 0.030 / 0.010, rel=0.005)


def test_two_powers_that_are_rounded_the_same_way_at_every_level_leave_the_gain_open() -> None:
    """A load on and off by turns reads as two steps: a straight line of the wrong slope, without any scatter."""
    true_w = np.linspace(2.9, 5.42, 6)
    step_w, held, narrow = 0.3, [], []
    for offset_w in np.linspace(0.0, step_w, 25):
        low, high = (step_w * round((power + offset_w) / step_w) for power in (2.9, 5.42))
        read_w = np.linspace(low, high, 6)
        alone = Levels(read_w.tolist(), (true_w + offset_w).tolist(), [0.001] * 6, 0.001).fit()
        fitted = Levels(read_w.tolist(), (true_w + offset_w).tolist(), [0.001] * 6, 0.001, (0.1425, 0.1425)).fit()
        error = abs(fitted.gain - 1.0)
        held.append(error <= fitted.change_half_width_w(1.0))
        narrow.append(error <= alone.change_half_width_w(1.0))
        assert fitted.gain == alone.gain
        assert fitted.level_half_width_w(5.0) > alone.level_half_width_w(5.0)
    assert np.mean(held) >= 0.95
    assert np.mean(narrow) < 0.5, "the scatter alone says nothing of it"
