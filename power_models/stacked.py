"""The price of a family with hundreds or thousands of rows: a physical anchor and several learners of what it leaves.

    log cost = anchor + Σ weight·member      members: a Gaussian process (``process``) and boosted trees (``trees``)

Two sets of weights: one learned on random folds, for kernels whose every size was measured, and one on whole levels of
a size left out, for kernels between the measured sizes, where trees are flat and a smooth process is not. What lies
beyond the measured range falls back to the anchor, where that is physical; where it is a constant (watts), trees that
stay at their last value are the better guess, and nothing fades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats, KernelColumns
from power_models.process import Process
from power_models.roofline import Roofline
from power_models.tiles import size_features, tile_features
from power_models.trees import HistogramTrees

FADE = 1.0  # of the correction to a physical anchor, for each e-fold outside the measured range
DIMENSIONS = ("in_channels", "out_channels", "in_height", "in_width", "kernel_h", "kernel_w", "stride", "batch")
LEAST_SPREAD = 1e-4
SEEN, BETWEEN = 0.02, 0.10  # log distance to the nearest measured size: up to the first it counts as measured


def stack_features(columns: KernelColumns, kinds: tuple[str, ...]) -> tuple[Floats, Floats]:
    """(coarse (n, a), fine (n, b)): smooth sizes, and all else; with the latency known also what follows from it."""
    coarse = size_features(columns)
    if columns.latency_s is not None:
        log_latency = np.log(columns.latency_s)
        work = np.log(np.where(columns.macs > 0, columns.macs, columns.out_elements * columns.window))
        coarse = np.column_stack([coarse, log_latency, work - log_latency])
    return coarse, tile_features(columns, kinds)


def apart(corrections: Floats) -> Floats:
    """Logarithm of the spread of the members' corrections (m, n): where learners disagree, both are likely wrong."""
    result: Floats = np.log(np.ptp(corrections, axis=0) + LEAST_SPREAD)
    return result


class Levels:
    """The sizes that were measured, a sorted array a dimension (natural logarithms)."""

    def __init__(self, levels: Sequence[Floats]) -> None:
        self.levels = list(levels)

    @classmethod
    def of(cls, columns: KernelColumns) -> Levels:
        """Those of training rows."""
        return cls([np.unique(np.log(columns.number(name))) for name in DIMENSIONS])

    def between(self, columns: KernelColumns) -> Floats:
        """0 where every size of a kernel was measured, 1 where one of them is well away from all measured ones (n,)."""
        gap = np.zeros(len(columns))
        for name, levels in zip(DIMENSIONS, self.levels, strict=True):
            values = np.log(columns.number(name))
            right = np.clip(np.searchsorted(levels, values), 0, len(levels) - 1)
            nearest = np.minimum(np.abs(values - levels[right]), np.abs(values - levels[np.maximum(right - 1, 0)]))
            gap = np.maximum(gap, nearest)
        return np.clip((gap - SEEN) / (BETWEEN - SEEN), 0.0, 1.0)


@dataclass
class Stack:
    """Fitted members and their weights (2, m): for measured sizes, and between them.

    ``of_power``: the members price watts, and the energy is that times the latency. ``anchor``: None stands for the
    constant ``level``. ``widening``: how much larger errors are between the measured sizes.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    of_power: bool
    members: list[Process | HistogramTrees]
    weights: Floats
    anchor: Roofline | None
    level: float
    bound: float
    levels: Levels
    widening: float

    @property
    def given_latency(self) -> bool:
        """Whether the price builds on the predicted latency."""
        return self.of_power

    def predict(self, columns: KernelColumns, latency_s: Floats | None, outside: Floats) -> Floats:
        """Log cost (n,); ``latency_s`` is used by a stack of power. ``outside``: e-folds beyond the measured range."""
        return self.predict_apart(columns, latency_s, outside)[0]

    def predict_apart(self, columns: KernelColumns, latency_s: Floats | None, outside: Floats) -> tuple[Floats, Floats]:
        """Log cost (n,) and how far the members are apart about it (n,), see ``apart``."""
        known = columns.given(latency_s if self.of_power else None)
        features = np.hstack(stack_features(known, self.kinds))
        corrections = np.stack([member.predict(features) for member in self.members])
        gate = self.levels.between(columns)
        weights = self.weights[0][:, None] * (1 - gate) + self.weights[1][:, None] * gate
        correction = np.clip((weights * corrections).sum(axis=0), -self.bound, self.bound)
        if self.anchor is not None:
            correction = correction * np.exp(-FADE * outside)
        value: Floats = self.anchored(known) + correction
        if self.of_power and latency_s is not None:
            value = value + np.log(latency_s)
        return value, apart(corrections)

    def anchored(self, columns: KernelColumns) -> Floats:
        """The anchor's log cost (n,)."""
        return np.full(len(columns), self.level) if self.anchor is None else self.anchor.predict(columns)

    def doubt(self, columns: KernelColumns) -> Floats:
        """How much less sure a kernel is for lying between the measured sizes (n,), 1 where it does not."""
        return np.asarray(self.widening ** self.levels.between(columns), dtype=np.float64)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every learned number as plain arrays."""
        arrays: dict[str, NDArray[np.generic]] = {
            "weights": self.weights,
            "numbers": np.array([self.level, self.bound, self.widening]),
        }
        arrays |= {f"levels.{i}": values for i, values in enumerate(self.levels.levels)}
        if self.anchor is not None:
            arrays |= {f"anchor.{name}": value for name, value in self.anchor.to_arrays().items()}
        for i, member in enumerate(self.members):
            arrays |= {f"{i}.{name}": value for name, value in member.to_arrays().items()}
        return arrays

    def to_json(self) -> dict[str, object]:
        """What is not numbers."""
        return {"names": list(self.names), "stack": True, "of_power": self.of_power}

    @classmethod
    def restore(
        cls, kinds: tuple[str, ...], about: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]
    ) -> Stack:
        """Rebuild from ``to_json`` and ``to_arrays``."""
        from power_models.regressors import under

        names = tuple(str(name) for name in about["names"])  # type: ignore[attr-defined]
        members: list[Process | HistogramTrees] = []
        for i, name in enumerate(names):
            own = under(arrays, str(i))
            members.append(Process(0).from_arrays(own) if name == "process" else HistogramTrees().from_arrays(own))
        anchor_arrays = under(arrays, "anchor")
        level, bound, widening = (float(value) for value in np.asarray(arrays["numbers"], dtype=np.float64))
        levels = Levels([np.asarray(arrays[f"levels.{i}"], dtype=np.float64) for i in range(len(DIMENSIONS))])
        return cls(
            names,
            kinds,
            bool(about["of_power"]),
            members,
            np.asarray(arrays["weights"], dtype=np.float64),
            Roofline(kinds).from_arrays(anchor_arrays) if anchor_arrays else None,
            level,
            bound,
            levels,
            widening,
        )
