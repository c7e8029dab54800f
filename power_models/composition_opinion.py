"""A second opinion on a composition's seconds: non-negative prices of work, kind by kind, averaged in.

    seconds of a kernel = (1 − w) · composition + w · (MACs, bytes of maps, bytes of weights, 1) · prices of its kind

Both are sums over kernels, fitted to the same totals, and they err differently: the composition bends each kernel's
price by its shape, the prices a kind cannot bend and cannot run away either. The mean of two forecasts errs less than
both where they are about as good (Bates and Granger, "The combination of forecasts", 1969). It is linear, so that what
totals say of w holds for kernels, and a kind whose price came out as zero does not make a kernel free. w is the same
wherever it is used: fitted to fifty totals it would err more than it gains. It is zero for a data type of whose totals
the mean misses those left out by more than the composition does, by more than chance explains.

Watts stay the composition's, so that E = P·T holds for every kernel and joules follow the seconds. How far the two
opinions lie apart is added to the variance, as that of a mixture of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.features import Floats, KernelColumns

Index = NDArray[np.intp]

WEIGHT = 0.3
AMOUNTS = 4  # MACs, bytes of maps, bytes of weights, calls
DRAWN = 1e-4  # how much, of the totals, prices are drawn towards equal parts of a typical total: one answer, not many
LEFT_OUT_ALONE, FOLDS = 200, 10  # of more totals than these, a tenth is left out at once


def kind_of(spec: KernelSpec) -> str:
    """The kind, 1×1 and k×k convolutions apart: the one is a matrix product, the other gathers patches."""
    return "conv_1x1" if spec.kind == "conv" and spec.kernel_h * spec.kernel_w == 1 else spec.kind


def _group_of(spec: KernelSpec) -> str:
    return f"{spec.dtype}/{kind_of(spec)}"


def _amounts(columns: KernelColumns) -> Floats:
    """What the prices multiply (n, AMOUNTS)."""
    maps = (columns.in_elements + columns.out_elements) * columns.element_bytes
    return np.stack([columns.macs, maps, columns.weight_bytes, np.ones(len(columns))], 1)


@dataclass(frozen=True)
class SecondOpinion:
    """Seconds of kernels by the prices of their kind; ``prices`` (G, AMOUNTS) of the groups, data type and kind.

    ``weights``: by data type, the weight of this opinion in the mean; a data type that is not there has none.
    """

    groups: tuple[str, ...]
    prices: Floats
    weights: Mapping[str, float]

    def weight(self, dtype: str) -> float:
        """Of this opinion, for kernels of a data type."""
        return self.weights.get(dtype, 0.0)

    def mean(
        self, kernels: Sequence[KernelSpec], columns: KernelColumns, dtypes: NDArray[np.str_], seconds: Floats
    ) -> tuple[Floats, Floats]:
        """Mean (n,) of this opinion and ``seconds`` (n,), and the variance (n,) of its log for their disagreement.

        A kernel of a group that no total had keeps its seconds.
        """
        place = {group: i for i, group in enumerate(self.groups)}
        group = np.array([place.get(_group_of(spec), -1) for spec in kernels], dtype=np.intp)
        weight = np.array([self.weight(dtype) for dtype in dtypes.tolist()]) * (group >= 0)
        own = (_amounts(columns) * self.prices[np.maximum(group, 0)]).sum(axis=1) if self.groups else seconds
        mixed = (1.0 - weight) * seconds + weight * own
        return mixed, disagreement(seconds, mixed, weight)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"groups": list(self.groups), "prices": self.prices.tolist(), "weights": dict(self.weights)}

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> SecondOpinion:
        """Read what ``to_json`` wrote; KeyError, TypeError, ValueError for anything else."""
        prices = np.array(data["prices"], dtype=np.float64).reshape(len(data["groups"]), AMOUNTS)
        weights = {str(dtype): float(weight) for dtype, weight in data["weights"].items()}
        if not (prices >= 0).all() or not all(0 <= weight < 1 for weight in weights.values()):
            raise ValueError("a second opinion of negative prices, or of a weight that is no part of one")
        return cls(tuple(data["groups"]), prices, weights)


def disagreement(before: Floats, after: Floats, weight: Floats | float) -> Floats:
    """Variance (n,) of the log of a mean that moved a value, by ``weight`` of another: w·(1 − w)·(difference/mean)²."""
    part = np.asarray(weight, dtype=np.float64)
    factor = np.where(part > 0, (1.0 - part) / np.maximum(part, 1e-9), 0.0)
    result: Floats = factor * (1.0 - before / after) ** 2
    return result


def fit_opinion(
    kernels: Sequence[KernelSpec],
    columns: KernelColumns,
    counts: Any,
    dtype: Index,
    dtypes: Sequence[str],
    seconds: Floats,
    left_out: Floats,
) -> tuple[SecondOpinion, Floats]:
    """The opinion of N totals, ``counts`` (N, n) sparse of the kernels; and the means (N,) with each total left out.

    ``dtype`` (N,): place of a total's data type in ``dtypes``; ``seconds`` (N,) measured; ``left_out`` (N,): the
    composition's seconds with each total left out.
    """
    labels = [_group_of(spec) for spec in kernels]
    groups = sorted(set(labels))
    own = np.array([groups.index(label) for label in labels], dtype=np.intp)
    spread = np.zeros((len(labels), len(groups), AMOUNTS))
    spread[np.arange(len(labels)), own] = _amounts(columns)
    sums: Floats = counts @ spread.reshape(len(labels), -1)
    prices = np.zeros(len(groups) * AMOUNTS)
    means, weights = left_out.copy(), {}
    for place, name in enumerate(dtypes):
        rows = np.flatnonzero(dtype == place)
        used = np.flatnonzero(sums[rows].max(axis=0, initial=0.0) > 0)
        if len(rows) < max(len(used), 2):
            continue
        prices[used] = _prices(sums[np.ix_(rows, used)], seconds[rows])
        apart = _each_left_out(sums[np.ix_(rows, used)], seconds[rows])
        mean = np.where(np.isnan(apart), left_out[rows], (1.0 - WEIGHT) * left_out[rows] + WEIGHT * apart)
        worse = np.abs(mean / seconds[rows] - 1.0) - np.abs(left_out[rows] / seconds[rows] - 1.0)
        if worse.mean() <= worse.std(ddof=1) / np.sqrt(len(rows)):
            weights[name] = WEIGHT
            means[rows] = mean
    return SecondOpinion(tuple(groups), prices.reshape(-1, AMOUNTS), weights), means


def _prices(sums: Floats, seconds: Floats) -> Floats:
    """Non-negative prices (k,) of sums (N, k), each somewhere above zero, that minimize the relative error."""
    from scipy.optimize import nnls

    scaled = sums / seconds[:, None]
    size = scaled.mean(axis=0)
    drawn = np.sqrt(DRAWN * len(seconds))
    count = len(size)
    design = np.vstack([scaled / size, drawn * np.eye(count)])
    target = np.concatenate([np.ones(len(seconds)), np.full(count, drawn / count)])
    found: Floats = nnls(design, target, maxiter=50 * count)[0] / size
    return found


def _each_left_out(sums: Floats, seconds: Floats) -> Floats:
    """Seconds (N,) of each total by the prices of the others; nan where the others lack something that it has."""
    count = len(seconds)
    fold = np.arange(count) if count <= LEFT_OUT_ALONE else np.arange(count) % FOLDS
    found = np.full(count, np.nan)
    for one in range(int(fold.max()) + 1):
        rest, out = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        known = sums[rest].max(axis=0) > 0
        priced = out[~(sums[out][:, ~known] > 0).any(axis=1)]
        if len(priced):
            found[priced] = sums[priced][:, known] @ _prices(sums[rest][:, known], seconds[rest])
    return found
