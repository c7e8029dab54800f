"""Cross-calibration of a power source against a better one: true = level + gain · (reading − pivot).

     reference W │        ╱            the line is kept at the pivot (the weighted mean of the readings), where the
                 │      ╱ ● ─ level    uncertainties of its height and of its slope are independent of each other;
                 │    ● │              offset = level − gain · pivot
                 └──────┴──── reading W
                      pivot

What the calibration leaves open: the scatter of the levels about the line, and the reference's own gain, which moves
every corrected watt by the same share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from device_agents.intervals import student_t_975
from rig.quality.stats import NORMAL_975, quadrature

MIN_LEVELS = 3  # a straight line and one level that checks it
MAX_CORRECTION = 0.5  # a gain beyond 1 ± this is another quantity, or a wrong unit


@dataclass(frozen=True)
class SensorCalibration:
    """How a source's reading becomes watts, and how sure that is.

    ``gain`` (W per W read), ``level_w`` at the reading ``pivot_w``; ``gain_se``, ``level_se_w``: standard errors of the
    fit; ``reference_gain_uncertainty``: relative, one standard deviation; ``levels``: how many were fitted, from
    ``lowest_w`` to ``highest_w`` read; ``residual_w``: standard deviation of the levels about the line.
    """

    gain: float
    level_w: float
    pivot_w: float
    gain_se: float
    level_se_w: float
    reference_gain_uncertainty: float
    levels: int
    lowest_w: float
    highest_w: float
    residual_w: float

    @property
    def offset_w(self) -> float:
        """What the corrected value is at a reading of zero."""
        return self.level_w - self.gain * self.pivot_w

    @property
    def gain_uncertainty(self) -> float:
        """Relative standard uncertainty of a corrected difference of watts: the fit's and the reference's."""
        return quadrature(self.gain_se / self.gain, self.reference_gain_uncertainty)

    def corrected_w(self, reading_w: Any) -> Any:
        """Watts for a reading, or for an array of readings."""
        return self.level_w + self.gain * (reading_w - self.pivot_w)

    def level_half_width_w(self, watts: float) -> float:
        """95 % half-width that the calibration gives a corrected power."""
        away_w = (watts - self.level_w) / self.gain
        fit_w = quadrature(self.level_se_w, self.gain_se * away_w)
        return quadrature(self._quantile * fit_w, NORMAL_975 * self.reference_gain_uncertainty * watts)

    def change_half_width_w(self, watts: float) -> float:
        """95 % half-width that the calibration gives a difference of two corrected powers: the offset cancels."""
        fit_w = self.gain_se * abs(watts) / self.gain
        return quadrature(self._quantile * fit_w, NORMAL_975 * self.reference_gain_uncertainty * watts)

    @property
    def _quantile(self) -> float:
        return student_t_975(self.levels - 2)

    def to_json(self) -> dict[str, Any]:
        """The fields as a plain dict, and the offset for a reader."""
        return {**asdict(self), "offset_w": self.offset_w}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SensorCalibration:
        """Read what ``to_json`` wrote; keys of a caller's own are left alone."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})


def fit_sensor(
    source_w: Sequence[float],
    reference_w: Sequence[float],
    reference_gain_uncertainty: float,
    source_se_w: Sequence[float] | None = None,
    reference_se_w: Sequence[float] | None = None,
) -> SensorCalibration:
    """Fit gain and offset of a source from mean powers of the same load levels, seen by the source and a reference.

    ``source_se_w``, ``reference_se_w``: standard errors of those means; without them the scatter about the line stands
    for both. With them the levels are weighted (effective variance: Orear, Am. J. Phys. 50, 912, 1982), and a scatter
    larger than they explain widens the result. Raises ValueError for fewer than 3 levels, levels that do not differ,
    values that are not finite, or a gain that no sensor error explains.
    """
    x, y = np.asarray(source_w, dtype=float), np.asarray(reference_w, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < MIN_LEVELS:
        raise ValueError(f"a calibration takes {MIN_LEVELS} or more pairs of levels, not {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a level of the calibration is not finite")
    if not (math.isfinite(reference_gain_uncertainty) and reference_gain_uncertainty >= 0.0):
        raise ValueError(f"the reference's gain uncertainty is {reference_gain_uncertainty!r}")
    known = source_se_w is not None or reference_se_w is not None
    source_se = np.asarray(source_se_w if source_se_w is not None else np.zeros_like(x), dtype=float)
    reference_se = np.asarray(reference_se_w if reference_se_w is not None else np.zeros_like(y), dtype=float)
    gain = 1.0
    for _ in range(5):  # the source's errors count by the gain, which settles at once
        variance = reference_se**2 + (gain * source_se) ** 2
        known = known and bool((variance > 0.0).all())
        weights = 1.0 / variance if known else np.ones_like(x)
        pivot, level = float(np.average(x, weights=weights)), float(np.average(y, weights=weights))
        spread = float(np.sum(weights * (x - pivot) ** 2))
        if spread <= 0.0 or float(np.ptp(x)) <= 1e-6 * float(np.abs(x).max()):
            raise ValueError(f"the levels do not differ: all read {pivot:.4g} W")
        gain = float(np.sum(weights * (x - pivot) * (y - level))) / spread
    if abs(gain - 1.0) > MAX_CORRECTION:
        raise ValueError(f"a gain of {gain:.3g} is no sensor's error: do both see the same load, in watts?")
    residuals = y - level - gain * (x - pivot)
    excess = float(np.sum(weights * residuals**2)) / (len(x) - 2)
    scale = math.sqrt(max(1.0, excess) if known else excess)
    return SensorCalibration(
        gain=gain,
        level_w=level,
        pivot_w=pivot,
        gain_se=scale / math.sqrt(spread),
        level_se_w=scale / math.sqrt(float(np.sum(weights))),
        reference_gain_uncertainty=float(reference_gain_uncertainty),
        levels=len(x),
        lowest_w=float(x.min()),
        highest_w=float(x.max()),
        residual_w=math.sqrt(float(np.sum(residuals**2)) / (len(x) - 2)),
    )
