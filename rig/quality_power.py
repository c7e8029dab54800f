"""A power trace on the runtime's clock: mean power over a window, and what is wrong with the trace.

sample i was taken at times_s[i] and is the mean over the sensor's averaging window before it:

     |<- window ->|                    its centre is half a window earlier; each sample stands for the time nearer
-----+------c-----t---------> time     to its centre than to any other, so that energy is a sum and not a guess

Where the source was characterized (``rig doctor``) its measured window, delay, step and noise stand in the place of the
declared ones; where it was calibrated (``rig calibrate-sensor``) its watts are corrected here, once, for everybody.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rig.quality_stats import NORMAL_975, quadrature
from rig.sensor_calibration import SensorCalibration

MIN_SAMPLES = 5  # a window mean of fewer samples is no mean
GAP_PERIODS = 5.0  # a hole in the trace longer than this many sample periods
STALE_PROBABILITY = 1e-6
MIN_STALE_RUN = 8
CHI_SQUARED_95 = 3.841458820694124  # one degree of freedom


class UnusableTrace(Exception):
    """The trace cannot give power: the message says what was seen and what to change."""


class PowerCurve:
    """Power over time on the runtime's clock, from a record's ``trace``, ``sensor`` and ``clock``.

    ``window_s``: averaging window; ``delay_s``: from its centre to the time stamp; ``period_s``: median spacing of the
    samples; ``update_s``: of those that are new (a source may repeat values); ``step_w``, ``noise_w``: of one sample;
    ``gain``: relative standard uncertainty; ``shift_s``: 95 % uncertainty of a sample's time (clock mapping and delay).
    Raises UnusableTrace (too few samples, time going backwards).
    """

    def __init__(self, trace: dict[str, Any], sensor: dict[str, Any] | None, clock: dict[str, Any] | None) -> None:
        sensor, clock = sensor or {}, clock or {}
        known = sensor.get("characterization") or {}
        fitted = (sensor.get("calibration") or {}).get("fit")
        self._calibration = SensorCalibration.from_json(fitted) if fitted else None
        stamps = np.asarray(trace["times_s"], dtype=float)
        self.power_w = np.asarray(trace["power_w"], dtype=float)
        if len(stamps) < MIN_SAMPLES:
            raise UnusableTrace(f"the power trace has {len(stamps)} samples")
        steps = np.diff(stamps)
        if steps.min() <= 0.0:
            where = int(np.argmin(steps))
            raise UnusableTrace(
                f"clock step: the sensor's time went back by {-steps[where]:.3g} s at sample {where + 1}"
            )
        if not np.isfinite(self.power_w).all():
            raise UnusableTrace(f"{int((~np.isfinite(self.power_w)).sum())} power samples are not finite")
        self.step_w = _either(known.get("step_w"), sensor.get("step_w"))
        self.noise_w = _either(known.get("noise_w"), sensor.get("noise_w"))
        self.gain = float(sensor.get("gain_uncertainty") or 0.0)
        self.shift_s = quadrature(_either(clock.get("uncertainty_s")), _either(known.get("delay_half_width_s")))
        if self._calibration is not None:
            self.power_w = self._calibration.corrected_w(self.power_w)
            self.gain = self._calibration.gain_uncertainty
        self.times_s = on_runtime_clock(stamps, clock)
        self.period_s = float(np.median(np.diff(self.times_s)))
        self.update_s = max(self.period_s, _either(known.get("update_period_s")))
        counter = trace.get("energy_counter_j")
        self.window_s = 0.0 if counter is not None else _either(known.get("window_s"), sensor.get("window_s"))
        self.delay_s = _either(known.get("delay_s"), 0.5 * self.window_s)
        centres = self.times_s - self.delay_s
        if counter is not None:
            self._edges_s = centres
            self._energy_j = self._corrected_j(np.asarray(counter, dtype=float) - counter[0])
        else:
            middle = 0.5 * (centres[1:] + centres[:-1])
            first, last = centres[0] - (middle[0] - centres[0]), centres[-1] + (centres[-1] - middle[-1])
            self._edges_s = np.concatenate([[first], middle, [last]])
            self._energy_j = np.concatenate([[0.0], np.cumsum(self.power_w * np.diff(self._edges_s))])

    def mean_w(self, t0_s: float, t1_s: float) -> float:
        """Mean power over a stretch of the runtime's clock; UnusableTrace where the trace does not reach over it."""
        first, last = float(self._edges_s[0]), float(self._edges_s[-1])
        slack = 0.5 * self.period_s
        if t1_s <= t0_s or t0_s < first - slack or t1_s > last + slack:
            raise UnusableTrace(
                f"the power trace covers {first:.3f} to {last:.3f} s, not {t0_s:.3f} to {t1_s:.3f} s of the measurement"
            )
        t0_s, t1_s = max(t0_s, first), min(t1_s, last)
        low, high = np.interp([t0_s, t1_s], self._edges_s, self._energy_j)
        return float(high - low) / (t1_s - t0_s)

    def samples(self, t0_s: float, t1_s: float) -> np.ndarray:
        """The samples whose centre lies within [t0_s, t1_s)."""
        centres = self.times_s - self.delay_s
        return self.power_w[(centres >= t0_s) & (centres < t1_s)]

    def averages(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Ends of what each sample averages over (runtime's clock), the means (W), and how long that is (s)."""
        if self.window_s > 0.0:
            return self.times_s - self.delay_s + 0.5 * self.window_s, self.power_w, self.window_s
        if len(self._edges_s) == len(self.times_s):  # an energy counter: means between two readings
            return self._edges_s[1:], np.diff(self._energy_j) / np.diff(self._edges_s), self.period_s
        return self.times_s + 0.5 * self.period_s, self.power_w, self.period_s

    def level_gain_half_width(self, watts: float) -> float:
        """95 % half-width that the source's gain (and its calibration's offset) gives a mean power."""
        if self._calibration is not None:
            return self._calibration.level_half_width_w(watts)
        return NORMAL_975 * self.gain * abs(watts)

    def change_gain_half_width(self, watts: float) -> float:
        """The same of a difference of two mean powers: an offset cancels."""
        if self._calibration is not None:
            return self._calibration.change_half_width_w(watts)
        return NORMAL_975 * self.gain * abs(watts)

    def _corrected_j(self, counter_j: np.ndarray) -> np.ndarray:
        """An energy counter from its first value on, corrected by the calibration."""
        if self._calibration is None:
            return counter_j
        calibration = self._calibration
        return calibration.gain * counter_j + calibration.offset_w * (self.times_s - self.times_s[0])

    def shifted_half_width(self, stretches: list[tuple[float, float]]) -> float:
        """How much the mean over the stretches moves (W) if the clocks' mapping is off by its uncertainty."""
        if self.shift_s == 0.0:
            return 0.0
        means = []
        for sign in (-1.0, 0.0, 1.0):
            shift = sign * self.shift_s
            try:
                means.append(float(np.mean([self.mean_w(a + shift, b + shift) for a, b in stretches])))
            except UnusableTrace:
                continue  # at the very ends of the trace only the other direction can be tried
        return max(means) - min(means) if len(means) < 3 else max(abs(m - means[1]) for m in means)

    def quantization_half_width(self, samples: np.ndarray) -> float:
        """95 % half-width of the error that the steps leave in a mean of samples (W): noise averages it away.

        Over all places between two steps where the true mean may lie. Fourier series of a rounded Gaussian's mean
        error, by harmonic k of the step q and standard deviation s: q/(pi k) exp(-2 (pi k s/q)^2). Source: Widrow and
        Kollar, Quantization Noise, on the characteristic function of the input.
        """
        if self.step_w == 0.0:
            return 0.0
        spread = self._dither_w(samples) / self.step_w
        k = np.arange(1.0, 60.0)
        share = np.exp(-np.minimum(2.0 * (math.pi * k * spread) ** 2, 700.0)) / (math.pi * k)
        error = np.abs(np.sin(np.outer(np.linspace(0.0, math.pi, 129), k)) @ (share * (-1.0) ** k))
        return self.step_w * min(0.475, float(np.quantile(error, 0.95)))

    def _dither_w(self, samples: np.ndarray) -> float:
        """Standard deviation behind rounded samples (W), at least: what seems to be noise may be one step to and fro.

        Where the samples scatter by less than a step, it is the smallest one that explains how often each level was
        read (likelihood within the 95 % bound of the best), since two levels alone are read with hardly any noise too.
        """
        spread = float(np.std(samples)) if len(samples) > 1 else 0.0
        if spread >= self.step_w:
            return math.sqrt(spread**2 - self.step_w**2 / 12.0)
        from scipy.special import ndtr  # only a coarse sensor needs it

        levels, counts = np.unique(np.round((samples - samples.min()) / self.step_w), return_counts=True)
        middle = float(np.average(levels, weights=counts))
        spreads = np.geomspace(0.02, 1.1, 33)
        means = middle + np.linspace(-0.5, 0.5, 41)
        above = ndtr((levels + 0.5 - means[:, None]) / spreads[:, None, None])
        below = ndtr((levels - 0.5 - means[:, None]) / spreads[:, None, None])
        fit = (np.log(np.maximum(above - below, 1e-12)) @ counts).max(axis=1)
        independent = max(1.0, self.window_s / self.period_s)  # samples that share an averaging window are alike
        explaining = spreads[fit >= fit.max() - 0.5 * CHI_SQUARED_95 * independent]
        return max(float(explaining[0]) * self.step_w if explaining[0] > spreads[0] else 0.0, self.noise_w)

    def problem(self, t0_s: float, t1_s: float) -> str | None:
        """What is wrong with the trace between two times: a gap, or one value repeated for too long to be true."""
        inside = (self.times_s >= t0_s) & (self.times_s <= t1_s)
        times, power = self.times_s[inside], self.power_w[inside]
        if len(times) < 2:
            return f"the power trace has {len(times)} samples in the {t1_s - t0_s:.3g} s of the measurement"
        gaps = np.diff(times)
        if gaps.max() > GAP_PERIODS * self.period_s:
            return f"stale sensor: no sample for {gaps.max():.3g} s (usual spacing {self.period_s:.3g} s)"
        run = _longest_run(power)
        if self._is_stale(run, len(power)):
            seconds = run * self.period_s
            return f"stale sensor: the same value {run} times in a row ({seconds:.3g} s), noise {self.noise_w:.2g} W"
        return None

    def _is_stale(self, run: int, n: int) -> bool:
        """Whether equal values repeat too often for the sensor's noise; without known noise, only a frozen trace is."""
        # Samples that share an averaging window, or lie between two updates, are alike.
        overlap = max(1.0, self.window_s / self.period_s, self.update_s / self.period_s)
        if self.noise_w <= 0.5 * self.step_w or self.noise_w == 0.0:
            return run == n and n >= 4 * MIN_STALE_RUN * overlap
        same = min(0.9, self.step_w / (2.0 * math.sqrt(math.pi) * self.noise_w)) or 1e-3
        independent = run / overlap
        return independent >= MIN_STALE_RUN and n * same ** (independent - 1.0) < STALE_PROBABILITY


def _either(*values: float | None) -> float:
    """The first that is known, else zero."""
    return next((float(value) for value in values if value is not None), 0.0)


def on_runtime_clock(stamps: np.ndarray, clock: dict[str, Any]) -> np.ndarray:
    """Sensor time stamps on the runtime's clock: sensor = runtime + offset + drift (runtime - reference)."""
    offset, drift = float(clock.get("offset_s") or 0.0), float(clock.get("drift") or 0.0)
    reference = float(clock.get("reference_s") or 0.0)
    return (stamps - offset + drift * reference) / (1.0 + drift)


def _longest_run(values: np.ndarray) -> int:
    changes = np.flatnonzero(np.diff(values) != 0.0)
    ends = np.concatenate([changes, [len(values) - 1]])
    return int(np.diff(np.concatenate([[-1], ends])).max())
