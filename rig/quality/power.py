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

from rig.quality.stale import Readings, frozen
from rig.quality.stats import NORMAL_975, quadrature
from rig.sensors.calibration import SensorCalibration

MIN_SAMPLES = 5  # a window mean of fewer samples is no mean
GAP_PERIODS = 5.0  # a hole in the trace longer than this many sample periods
TO_AND_FRO = 0.45  # of a step: less measured noise than that may be one step to and fro, and none elsewhere
UNDISTURBED = 0.9  # share of the samples that noise alone spreads over the steps of a coarse sensor
HALF_STEP = 0.475  # 95 % of what is anywhere within half a step
MANY_LEVELS = 40  # beyond, steps are so fine that noise between them need not be looked for
MOST_LEVELS = 20000


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
        if steps.min() == 0.0:
            raise UnusableTrace(f"stale sensor: {int((steps == 0.0).sum())} samples repeat the time stamp before them")
        if steps.min() < 0.0:
            where = int(np.argmin(steps))
            raise UnusableTrace(
                f"clock step: the sensor's time went back by {-steps[where]:.3g} s at sample {where + 1}"
            )
        if not np.isfinite(self.power_w).all():
            raise UnusableTrace(f"{int((~np.isfinite(self.power_w)).sum())} power samples are not finite")
        self.step_w = _either(known.get("step_w"), sensor.get("step_w"))
        self.noise_w = _either(known.get("noise_w"), sensor.get("noise_w"))
        if self.noise_w <= TO_AND_FRO * self.step_w:
            self.noise_w = min(self.noise_w, _either(sensor.get("noise_w")))
        self.gain = float(sensor.get("gain_uncertainty") or 0.0)
        self.shift_s = quadrature(_either(clock.get("uncertainty_s")), _either(known.get("delay_half_width_s")))
        if self._calibration is not None:
            self.power_w = self._calibration.corrected_w(self.power_w)
            self.step_w, self.noise_w = (self._calibration.gain * value for value in (self.step_w, self.noise_w))
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

        The least of three bounds: by the noise that the sensor is known to have, by the noise that explains how often
        each level was read, and by how far levels stand out from their neighbours (a level read alone is off by
        anything up to half a step; levels read as often as their neighbours together are not off at all).
        """
        if self.step_w == 0.0:
            return 0.0
        if not len(samples) or float(np.ptp(samples)) > MOST_LEVELS * self.step_w:
            return HALF_STEP * self.step_w  # nothing beside what spreads over so many
        levels = np.round((samples - samples.min()) / self.step_w).astype(int)
        shares = np.bincount(levels) / len(levels)
        around = np.concatenate([[0.0], shares, [0.0]])
        alone = float(np.linalg.norm(np.maximum(shares - around[:-2] - around[2:], 0.0)))
        noise = max(
            self.noise_w / self.step_w, 0.0 if len(shares) > MANY_LEVELS else self._dither_steps(shares, levels)
        )
        return self.step_w * min(HALF_STEP * alone, _rounding_error(noise))

    def _dither_steps(self, shares: np.ndarray, levels: np.ndarray) -> float:
        """Standard deviation of the noise behind rounded samples, in steps; 0 where none explains what was read.

        The smallest one with which nine tenths of the samples can be normally distributed: two levels alone are read
        with hardly any noise too, and a load that is interrupted now and then reaches further levels without noise.
        """
        from scipy.special import ndtr  # only a coarse sensor needs it

        spreads = np.geomspace(0.02, 1.1, 33)
        means = float(levels.mean()) + np.linspace(-0.5, 0.5, 41)
        edges = (np.arange(-1, len(shares) + 1) + 0.5 - means[:, None]) / spreads[:, None, None]
        expected = UNDISTURBED * np.diff(ndtr(edges), axis=2)
        independent = len(levels) / max(1.0, self.window_s / self.period_s)  # those that share a window are alike
        chance = 2.0 * np.sqrt(expected * (1.0 - expected) / independent)
        explains = (expected - np.append(shares, 0.0) <= chance).all(axis=2).any(axis=1)
        first = int(np.argmax(explains))
        return float(spreads[first]) if first else 0.0

    def problem(
        self, t0_s: float, t1_s: float, load: tuple[float, float] | None = None, duty: float = 1.0
    ) -> str | None:
        """What is wrong with the trace between two times: a gap, or one value repeated for too long to be true.

        ``load``: from when to when the load ran, which a source that does not stand still has seen; ``duty``: share of
        that time in which it was busy.
        """
        inside = (self.times_s >= t0_s) & (self.times_s <= t1_s)
        times, power = self.times_s[inside], self.power_w[inside]
        if len(times) < 2:
            return f"the power trace has {len(times)} samples in the {t1_s - t0_s:.3g} s of the measurement"
        gaps = np.diff(times)
        if gaps.max() > GAP_PERIODS * self.period_s:
            return f"stale sensor: no sample for {gaps.max():.3g} s (usual spacing {self.period_s:.3g} s)"
        # Samples that share an averaging window, or lie between two updates, are alike.
        overlap = max(1.0, self.window_s / self.period_s, self.update_s / self.period_s)
        reach_s = self.window_s + self.update_s + self.shift_s
        readings = Readings(times - self.delay_s, power, self.step_w, self.noise_w, overlap, reach_s)
        return frozen(readings, load, duty)


def _rounding_error(spread: float) -> float:
    """95 % of the error of a rounded mean, in steps, over all places between two steps where the mean may lie.

    Fourier series of a rounded Gaussian's mean error, by harmonic k, for a standard deviation of ``spread`` steps:
    exp(-2 (pi k spread)^2) / (pi k). Source: Widrow and Kollar, Quantization Noise, on the characteristic function of
    the input.
    """
    if spread >= 2.0:
        return 0.0
    k = np.arange(1.0, 60.0)
    share = np.exp(-np.minimum(2.0 * (math.pi * k * spread) ** 2, 700.0)) / (math.pi * k)
    error = np.abs(np.sin(np.outer(np.linspace(0.0, math.pi, 129), k)) @ (share * (-1.0) ** k))
    return min(HALF_STEP, float(np.quantile(error, 0.95)))


def _either(*values: float | None) -> float:
    """The first that is known, else zero."""
    return next((float(value) for value in values if value is not None), 0.0)


def on_runtime_clock(stamps: np.ndarray, clock: dict[str, Any]) -> np.ndarray:
    """Sensor time stamps on the runtime's clock: sensor = runtime + offset + drift (runtime - reference)."""
    offset, drift = float(clock.get("offset_s") or 0.0), float(clock.get("drift") or 0.0)
    reference = float(clock.get("reference_s") or 0.0)
    return (stamps - offset + drift * reference) / (1.0 + drift)
