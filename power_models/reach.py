"""Where the measured rows of a family lie: how far a kernel is from them, and whether it is outside their range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from power_models.families import fused_class
from power_models.features import Floats, KernelColumns, shape_features

RANGE_FEATURES = 15  # the leading shape features are sizes: outside their range is extrapolation
DISTANCES_AT_ONCE = 8_000_000  # between rows and measured rows


@dataclass
class Reach:
    """Where the measured rows lie: to tell distance and extrapolation."""

    centre: Floats
    inverse_scale: Floats
    points: Floats
    low: Floats
    high: Floats
    strides: Floats
    dilations: Floats
    fused: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: KernelColumns, kinds: Sequence[str]) -> Reach:
        """The reach of training rows."""
        features = shape_features(columns, kinds)
        spread = features.std(axis=0)
        inverse = np.where(spread > 1e-9, 1.0 / np.where(spread > 1e-9, spread, 1.0), 1.0)
        centre = features.mean(axis=0)
        sizes = features[:, :RANGE_FEATURES]
        return cls(
            centre,
            inverse,
            (features - centre) * inverse,
            sizes.min(axis=0),
            sizes.max(axis=0),
            np.unique(columns.number("stride")),
            np.unique(columns.number("dilation")),
            tuple(sorted({fused_class(text) for text in set(columns.fused.tolist())})),
        )

    def distance(self, features: Floats) -> Floats:
        """Root-mean-square standardized distance (n,) to the nearest measured row, at most 3."""
        points = np.clip((features - self.centre) * self.inverse_scale, -6, 6)
        length = (self.points**2).sum(1)
        at_once = max(1, DISTANCES_AT_ONCE // max(len(self.points), 1))
        nearest = np.zeros(len(points))
        for start in range(0, len(points), at_once):
            own = points[start : start + at_once]
            square = (own**2).sum(1)[:, None] + length[None, :] - 2 * own @ self.points.T
            nearest[start : start + at_once] = square.min(axis=1)
        distance: Floats = np.sqrt(np.maximum(nearest, 0.0) / features.shape[1])
        return np.minimum(distance, 3.0)

    def outside(self, features: Floats) -> Floats:
        """E-folds beyond the measured range of the sizes, of the worst one (n,)."""
        sizes = features[:, :RANGE_FEATURES]
        beyond = np.maximum(np.maximum(self.low - sizes, sizes - self.high), 0.0)
        result: Floats = beyond.max(axis=1)
        return np.where(result > 1e-6, result, 0.0)

    def unseen(self, columns: KernelColumns) -> Floats:
        """1 where stride, dilation or fused operators were never measured in this family (n,)."""
        known = np.isin(columns.number("stride"), self.strides) & np.isin(columns.number("dilation"), self.dilations)
        texts, inverse = np.unique(columns.fused, return_inverse=True)
        # Nothing fused at all is within what any fused form was measured with.
        seen = np.array([fused_class(text) in {"", *self.fused} for text in texts], dtype=bool)[inverse]
        result: Floats = (~(known & seen)).astype(float)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays (``fused`` goes to JSON)."""
        names = ("centre", "inverse_scale", "points", "low", "high", "strides", "dilations")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], fused: Sequence[str]) -> Reach:
        """Read what ``to_arrays`` wrote."""
        table = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
        return cls(**table, fused=tuple(fused))
