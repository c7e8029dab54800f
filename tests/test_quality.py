"""Quality: intervals cover the truth, every budget part answers to its cause, every rejection has its reason."""

import copy
import math

import numpy as np
import pytest
from synthetic_records import synthetic_record

from rig.quality.power import PowerCurve
from rig.quality.stats import batch_means, quantile
from rig.quality.verdict import assess, compare, difference_chain, paced_line


def test_a_clean_record_gives_back_its_truth():
    m = assess(synthetic_record(windows=60))
    assert (m.verdict, m.reason) == ("ok", None)
    assert m.latency_s.value == pytest.approx(0.010, rel=0.005)
    assert m.idle_power_w.value == pytest.approx(2.9, abs=0.005)
    assert m.energy_active_j.value == pytest.approx(0.030, rel=0.01)
    assert m.power_w.value == pytest.approx(2.9 + 3.0, rel=0.005)
    assert m.energy_j.value == pytest.approx(0.059, rel=0.005)
    assert m.latency_median_s.value == pytest.approx(0.010, rel=0.005)
    assert m.latency_p99_s.value > m.latency_median_s.value
    assert m.latency_p99_s.lo < m.latency_p99_s.value < m.latency_p99_s.hi
    assert m.energy_j.kind == "simulated"
    assert m.energy_j.n == 60
    assert set(m.budget["energy_active_j"]) == {"sampling", "quantization", "gain", "clock", "idle", "drift"}
    assert m.energy_j.half_width == pytest.approx(m.half_width("energy_j"))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_batch_means_cover_on_autocorrelated_samples(phi):
    """AR(1) samples, ten windows of 100: the 95 % interval covers the true mean in 92 to 98 of 100 cases."""
    rng = np.random.default_rng(7)
    trials, windows, length = 1500, 10, 100
    noise = rng.standard_normal((trials, windows * length)) * math.sqrt(1.0 - phi * phi)
    series = np.empty_like(noise)
    series[:, 0] = rng.standard_normal(trials)
    for i in range(1, noise.shape[1]):
        series[:, i] = phi * series[:, i - 1] + noise[:, i]
    means = series.reshape(trials, windows, length).mean(axis=2)
    intervals = [batch_means(row) for row in means]
    covered = np.mean([abs(i.mean) <= i.half_width for i in intervals])
    print(f"coverage at phi={phi}: {covered:.3f}")
    assert 0.92 <= covered <= 0.98


def test_intervals_of_whole_records_cover_the_truth():
    """Energy, active energy and quiet power over 200 simulated measurements, gain drawn anew for each."""
    rng = np.random.default_rng(3)
    hits = {"energy_j": 0, "energy_active_j": 0, "idle_power_w": 0, "latency_s": 0}
    trials = 200
    for seed in range(trials):
        gain = 1.0 + 0.003 * rng.standard_normal()
        m = assess(synthetic_record(seed=seed, gain=gain))
        truth = {"energy_j": 0.059, "energy_active_j": 0.030, "idle_power_w": 2.9, "latency_s": 0.010}
        for name in hits:
            quantity = getattr(m, name)
            hits[name] += quantity.lo <= truth[name] <= quantity.hi
    shares = {name: count / trials for name, count in hits.items()}
    print(shares)
    assert all(0.90 <= share <= 1.0 for share in shares.values()), shares


def test_fewer_windows_widen_the_interval():
    few, many = assess(synthetic_record(windows=4)), assess(synthetic_record(windows=40))
    assert few.latency_s.half_width > 2 * many.latency_s.half_width
    assert any("4 windows instead of 10" in warning for warning in few.warnings)


def test_a_clock_offset_does_not_matter_once_it_is_mapped():
    here, there = (
        assess(synthetic_record(offset_s=0.0, drift=0.0)),
        assess(synthetic_record(offset_s=-3000.0, drift=9e-5)),
    )
    assert there.energy_active_j.value == pytest.approx(here.energy_active_j.value, rel=2e-3)
    unmapped = synthetic_record(offset_s=0.3)
    unmapped["clock"]["offset_s"] = 0.0
    assert "edges" in assess(unmapped).reason


def test_budget_parts_answer_to_their_causes():
    plain = assess(synthetic_record()).budget["energy_active_j"]
    gain = assess(synthetic_record(gain_uncertainty=0.03)).budget["energy_active_j"]
    assert gain["gain"] == pytest.approx(1.96 * 0.03 * 0.030, rel=0.02)
    drift = assess(synthetic_record(quiet_drift_w=0.2)).budget["energy_active_j"]
    assert drift["drift"] == pytest.approx(0.1 * 0.010, rel=0.1)
    assert drift["drift"] > 10 * plain["drift"]
    coarse = assess(synthetic_record(step_w=0.4, noise_w=0.02)).budget["power_w"]
    assert coarse["quantization"] > 0.05
    assert plain["quantization"] < 1e-6
    clock = assess(synthetic_record(clock_uncertainty_s=0.2)).budget["power_w"]
    assert clock["clock"] > 0.0
    noisy = assess(synthetic_record(noise_w=0.5)).budget["energy_active_j"]
    assert noisy["idle"] > 5 * plain["idle"]


@pytest.mark.parametrize("dither", [0.0, 0.1, 0.2, 0.35, 0.5])
def test_the_quantization_part_holds_the_error_of_a_rounded_mean(dither):
    """A step of 0.4 W at all phases between two steps: the part covers 95 % of the errors, and is not far too wide."""
    step, rng, errors, parts = 0.4, np.random.default_rng(int(100 * dither)), [], []
    for mean in rng.uniform(3.0, 6.0, 300):
        samples = np.round((mean + dither * step * rng.standard_normal(1000)) / step) * step
        trace = {"times_s": list(range(1000)), "power_w": samples.tolist()}
        curve = PowerCurve(trace, {"step_w": step, "noise_w": 0.5 * dither * step, "window_s": 1.0}, None)
        errors.append(abs(samples.mean() - mean))
        parts.append(math.hypot(curve.quantization_half_width(samples), 1.96 * samples.std() / math.sqrt(1000)))
    covered = np.mean(np.asarray(errors) <= parts)
    print(f"dither {dither}: {covered:.3f}, part {np.median(parts):.3f}, errors {np.quantile(errors, 0.95):.3f} W")
    assert covered >= 0.90
    assert np.median(parts) <= 0.5 * step


def test_what_limits_an_interval_is_named_with_what_would_reach_it():
    coarse = assess(synthetic_record(step_w=0.5, noise_w=0.01, gain_uncertainty=0.0))
    (said,) = [w for w in coarse.warnings if w.startswith("energy_j")]
    assert "quantization" in said
    assert "this source cannot reach it" in said
    assert "(now 0.5 W)" in said
    gain = assess(synthetic_record(gain_uncertainty=0.05))
    (said,) = [w for w in gain.warnings if w.startswith("energy_j")]
    assert "±9.8 % reached, ±2 % was wanted" in said
    assert "rig calibrate-sensor" in said
    assert "meter of 1 % or better" in said
    noisy = synthetic_record(window_sd=0.05, windows=30, plan={"rel_ci": 0.01})
    noisy["stopped"] = "max_s"
    said = next(w for w in assess(noisy).warnings if w.startswith("latency_s"))
    assert "limited by sampling in the time given" in said
    assert "plan.max_s" in said
    assert not [w for w in assess(synthetic_record(windows=30)).warnings if "wanted" in w]


def test_readings_that_the_sampler_missed_are_said():
    record = synthetic_record()
    record["sampling"] = {"samples": 1000, "missed": 7, "latest_s": 0.08}
    assert any("missed 7 of 1007 readings" in w for w in assess(record).warnings)


def test_paced_record():
    m = assess(synthetic_record(fps=30))
    assert m.verdict == "ok"
    assert m.power_w.value == pytest.approx(2.9 + 30 * 0.030, rel=0.005)
    assert m.energy_active_j.value == pytest.approx(0.030, rel=0.02)
    assert m.energy_j.value == pytest.approx(m.power_w.value / 30, rel=0.005)
    assert m.latency_s.value == pytest.approx(0.010, rel=0.005)


def test_windows_too_short_for_the_sensor_are_joined_or_refused():
    slow = {"rate_hz": 10.0, "sensor_window_s": 1.0, "quiet_s": 4.0}
    joined = assess(synthetic_record(windows=20, **slow))
    assert joined.verdict == "ok", joined.reason
    assert joined.energy_j.n == 10
    assert joined.energy_active_j.value == pytest.approx(0.030, rel=0.02)
    refused = assess(synthetic_record(windows=5, **slow))
    assert "too few windows for this sensor" in refused.reason
    assert "plan.window_s" in refused.reason
    assert refused.latency_s.value is not None
    assert refused.energy_j is None
    assert "plan.quiet_s" in assess(synthetic_record(windows=20, **{**slow, "quiet_s": 1.2})).reason


def test_without_a_power_source_there_is_latency_only():
    m = assess(synthetic_record(trace=False))
    assert m.verdict == "ok"
    assert m.energy_j is None
    assert m.without_gain("energy_j") is None


def changed(change, **fields):
    record = synthetic_record(**fields)
    change(record)
    return record


def freeze(record):
    power = record["trace"]["power_w"]
    power[300:400] = [power[300]] * 100


def gap(record):
    for column in ("times_s", "power_w"):
        del record["trace"][column][400:460]


def step_back(record):
    times = record["trace"]["times_s"]
    record["trace"]["times_s"] = times[:600] + [t - 3.0 for t in times[600:]]


def lost_end(record):
    for column in ("times_s", "power_w"):
        del record["trace"][column][-400:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["phases"][6].update(throttled=["soft limit"]), "throttled: soft limit set in phase 7"),
        (lambda r: r["phases"][-2].update(temp_c=86.5), "too hot: 86.5"),
        (freeze, "same value 100 times"),
        (gap, "no sample for 0.6"),
        (step_back, "clock step"),
        (lost_end, "trace covers"),
        (lambda r: r.update(trace=None), "virtual was asked for and its trace is missing"),
        (lambda r: r.update(trace=None, trace_problem="permission denied"), "permission denied"),
        (lambda r: r["clock"].update(drift=0.05), "clock step"),
        (lambda r: r["clock"].update(uncertainty_s=0.4), "clock is known to ± 0.4 s only"),
        (lambda r: r["phases"].pop(0) and r["phases"].pop(), "no quiet phase"),
        (lambda r: r.update(phases=r["phases"][:4] + r["phases"][-1:]), "too few windows"),
        (lambda r: r.update(phases=r["phases"][:2]), "no window"),
        (lambda r: r["trace"].update(times_s=[], power_w=[]), "0 samples"),
        (lambda r: r["trace"]["power_w"].__setitem__(50, float("nan")), "not finite"),
    ],
)
def test_rejections_say_why(change, reason):
    m = assess(changed(change))
    assert m.verdict == "rejected"
    assert reason in m.reason


def test_latency_that_still_drifts_is_rejected_and_noise_is_not():
    drifting = assess(synthetic_record(latency_slope=0.005))
    assert "still drifting" in drifting.reason
    noisy = [assess(synthetic_record(seed=s, window_sd=0.03)) for s in range(40)]
    assert sum(m.ok for m in noisy) >= 38


def test_flags_set_before_are_a_warning():
    record = synthetic_record()
    for phase in record["phases"]:
        phase["throttled"] = ["undervoltage has occurred"]
    m = assess(record)
    assert m.ok
    assert "already set" in m.warnings[0]


def test_a_coarse_sensor_may_repeat_values():
    m = assess(synthetic_record(step_w=0.5, noise_w=0.01))
    assert m.ok, m.reason
    frozen = assess(changed(lambda r: r["trace"].update(power_w=[3.0] * len(r["trace"]["power_w"])), noise_w=0.0))
    assert "same value" in frozen.reason


def test_an_energy_counter_is_preferred():
    record = synthetic_record(noise_w=0.0, step_w=0.0)
    trace = record["trace"]
    times, watts = np.asarray(trace["times_s"]), np.asarray(trace["power_w"])
    trace["energy_counter_j"] = np.concatenate([[5.0], 5.0 + np.cumsum(watts[1:] * np.diff(times))]).tolist()
    trace["power_w"] = [0.0] * len(watts)
    record["sensor"]["noise_w"] = 0.1
    m = assess({**record, "sensor": {**record["sensor"], "noise_w": None}})
    assert m.energy_active_j is None or m.energy_active_j.value == pytest.approx(0.030, rel=0.01)


def test_the_ratio_of_interleaved_pairs_leaves_the_gain_out():
    a = [synthetic_record(f"a{i}", seed=i, gain=1.05, gain_uncertainty=0.05) for i in range(6)]
    b = [synthetic_record(f"b{i}", seed=50 + i, gain=1.05, gain_uncertainty=0.05, active_j=0.015) for i in range(6)]
    ratio = compare(a, b)
    assert ratio.lo <= 0.5 <= ratio.hi
    assert ratio.half_width < 0.005
    assert (ratio.n, ratio.kind) == (6, "simulated")
    alone = compare(a[:1], b[:1])
    assert alone.lo <= 0.5 <= alone.hi
    assert compare(a, a, "latency_s").value == pytest.approx(1.0)


def test_comparing_refuses_rejected_unequal_and_missing():
    good, bad = synthetic_record(), changed(gap)
    with pytest.raises(ValueError, match="rejected: stale sensor"):
        compare([good], [bad])
    with pytest.raises(ValueError, match="one for each round"):
        compare([good, good], [good])
    with pytest.raises(ValueError, match="has no energy_active_j"):
        compare([good], [synthetic_record(trace=False)])


def test_ratio_intervals_cover():
    hits = 0
    for seed in range(60):
        a = [synthetic_record(seed=1000 * seed + i, windows=6) for i in range(4)]
        b = [synthetic_record(seed=1000 * seed + 500 + i, windows=6, active_j=0.02) for i in range(4)]
        ratio = compare(a, b)
        hits += ratio.lo <= 2 / 3 <= ratio.hi
    assert hits >= 53


def test_the_paced_line():
    ms = [assess(synthetic_record(f"p{fps}", fps=fps, seed=fps)) for fps in (10, 30, 50, 70)]
    line = paced_line(ms)
    assert line.linear
    assert line.idle_power_w.lo <= 2.9 <= line.idle_power_w.hi
    assert line.energy_active_j.lo <= 0.030 <= line.energy_active_j.hi
    assert abs(line.idle_excess_w) < 0.02
    assert line.missed == 0
    predicted = line.power_at(40)
    assert predicted.lo <= 2.9 + 40 * 0.030 <= predicted.hi
    assert predicted.half_width > line.power_at(40, with_gain=False).half_width
    ends = [line.power_at(fps, with_gain=False).half_width for fps in (0, 40, 200)]
    assert ends[1] < min(ends[0], ends[2])


def test_the_line_through_three_rates_predicts_the_fourth():
    hits = same = 0
    for seed in range(60):
        gain = 1.0 + 0.003 * np.random.default_rng(seed).standard_normal()
        ms = [
            assess(synthetic_record(fps=fps, seed=10 * seed + i, gain=gain)) for i, fps in enumerate((10, 30, 50, 70))
        ]
        left_out = ms.pop(seed % 4)
        line = paced_line(ms)
        truth, seen = line.power_at(left_out.fps), line.power_at(left_out.fps, with_gain=False)
        hits += truth.lo <= 2.9 + 0.030 * left_out.fps <= truth.hi
        half = math.hypot(seen.half_width, left_out.half_width("power_w", without=("gain",)))
        same += abs(seen.value - left_out.power_w.value) <= half
    print(f"truth held {hits} of 60, measured {same} of 60")
    assert hits >= 54
    assert same >= 54


def test_missed_deadlines_are_counted_over_the_line():
    ms = [assess(synthetic_record(fps=fps, seed=fps)) for fps in (10, 30, 50)]
    records = [synthetic_record(fps=fps, seed=fps) for fps in (10, 30, 50)]
    records[2]["phases"][4]["missed"] = 3
    assert paced_line(ms).missed == 0
    assert paced_line([assess(record) for record in records]).missed == 3


def test_a_bent_paced_line_is_not_linear():
    bent = {10: 0.050, 30: 0.036, 50: 0.030, 70: 0.030}
    ms = [assess(synthetic_record(f"p{fps}", fps=fps, active_j=e)) for fps, e in bent.items()]
    assert not paced_line(ms).linear
    with pytest.raises(ValueError, match="three frame rates"):
        paced_line(ms[:2])
    with pytest.raises(ValueError, match="not paced"):
        paced_line([*ms, assess(synthetic_record())])


def chain(k, seed, kernel_s=0.002, kernel_j=0.006, overhead_s=0.0003, overhead_j=0.0005, bend=0.0):
    record = synthetic_record(
        f"k{k}",
        seed=seed,
        latency_s=overhead_s + k * kernel_s * (1 + bend * k),
        active_j=overhead_j + k * kernel_j * (1 + bend * k),
    )
    return assess(record)


def test_chains_are_differenced():
    result = difference_chain(chain(2, 1), chain(8, 2), 2, 8, chain(5, 3), 5)
    assert result.problem is None
    assert abs(result.latency_s - 0.002) < 3 * result.latency_se_s
    assert abs(result.energy_active_j - 0.006) < 3 * result.energy_se_j
    assert result.latency_se_s < 0.01 * 0.002
    assert abs(result.overhead_s - 0.0003) < 3 * result.overhead_se_s


def test_a_chain_that_is_not_linear_is_reported():
    result = difference_chain(chain(2, 1, bend=0.08), chain(8, 2, bend=0.08), 2, 8, chain(5, 3, bend=0.08), 5)
    assert "not linear" in result.problem
    folded = difference_chain(chain(2, 1), chain(2, 2, kernel_s=0.0019), 2, 8)
    assert "not slower" in folded.problem
    with pytest.raises(ValueError, match="differenced"):
        difference_chain(chain(2, 1), chain(8, 2), 8, 2)


def test_quantiles_without_enough_samples_have_no_interval():
    value, lo, hi = quantile(np.arange(50.0), 0.99, 50.0)
    assert value == pytest.approx(48.51)
    assert lo is None
    assert hi is None


def test_assessing_changes_nothing_in_the_record():
    record = synthetic_record()
    before = copy.deepcopy(record)
    assess(record).to_json()
    assert record == before


def test_disturbed_windows_are_left_out_of_a_latency_without_power():
    record = synthetic_record(windows=20)
    record["trace"] = record["sensor"] = record["clock"] = None
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    for number, window in enumerate(windows):
        slow = number % 2 == 1
        window.update(pulse_s=4e-4 if slow else 2.6e-4, pulse_fast_s=2.6e-4)
        if slow:
            window["latency_mean_s"] *= 1.5
            window["latency_s"] = [1.5 * value for value in window["latency_s"]]
    m = assess(record)
    assert m.latency_s.value == pytest.approx(0.010, rel=0.01)
    assert m.disturbed_share == 0.0
    assert any("10 of 20 windows left out" in warning for warning in m.warnings)


def test_where_nearly_every_window_is_disturbed_all_are_used_and_said_to_be():
    record = synthetic_record(windows=10)
    record["trace"] = record["sensor"] = record["clock"] = None
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    for number, window in enumerate(windows):
        window.update(pulse_s=4e-4 if number else 2.6e-4, pulse_fast_s=2.6e-4)
    m = assess(record)
    assert m.latency_s.n == 10
    assert m.disturbed_share == pytest.approx(0.9)
    assert any("on the core" in warning for warning in m.warnings)


def test_readings_that_were_missed_are_a_warning_except_of_a_counter():
    record = synthetic_record()
    record["sampling"] = {"samples": 1600, "missed": 7, "latest_s": 0.02}
    assert any("sampler missed 7 of 1607 readings" in warning for warning in assess(record).warnings)
    record["sensor"]["counts_energy"] = True
    assert not any("sampler missed" in warning for warning in assess(record).warnings)
