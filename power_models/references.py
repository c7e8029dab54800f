"""The reference rows of every table of errors: what others do, fitted to the same rows and judged on the same folds.

Of kernels, each quantity fitted on its own:

=================  ====================================================================================================
flops_line         a + b·MACs, one line a data type
polynomial         NeuralPower (Cai et al., ACML 2017): sparse degree-2 polynomial with special terms, one a kind
forest             nn-Meter (Zhang et al., MobiSys 2021): a random forest a kind on its published features (height,
                   input and output channels, kernel size, stride, FLOPs, parameters), its published settings for a CPU
raw_forest         a random forest on the columns of the table, MACs and bytes, of the log cost
lookup             the measured kernels as a table: local linear interpolation, in logarithms, between the nearest
=================  ====================================================================================================

Of whole networks, sums over kernels whose coefficients are fitted to totals, but for the last:

=================  ====================================================================================================
flops_line         a + b·MACs
kind_sums          non-negative MACs, bytes and count of each kind (1×1 and k×k convolutions apart)
polynomial         the polynomial's terms summed over the kernels of each kind
lookup             a table a kind over log size, its cells fitted to totals (non-negative)
forest             a random forest on the network's sums: a black box, *not a kernel sum*, prices no kernel
=================  ====================================================================================================

``ConstantPower`` is the reference of energy and power: latency, predicted or measured, times one constant. A kind
that the training rows lack, or have too few of, has no prediction (nan). Contract: ``fit(rows, cost (n,))`` returns
self, ``predict(rows)`` the costs (n,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.composition_opinion import kind_of as _kind
from power_models.evaluation import Row
from power_models.features import Floats, KernelColumns
from power_models.regressors import Polynomial

FOREST_TREES = {"conv": 320, "depthwise": 240}  # nn-Meter's for TFLite on a CPU; 370 of any other kind
OTHER_TREES, FOREST_DEPTH, FOREST_FEATURES = 370, 70, 6
NETWORK_TREES = 120
LOOKUP_KNOTS = 5
LASSO_ROWS = 8  # whose strength is chosen by four folds
DIFFERENCES_AT_ONCE = 20_000_000  # of sizes, that a lookup makes between rows and measured rows
TINY = 1e-12


class Reference(Protocol):
    """What every reference can do; see the module's contract."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> Reference:
        """Fit to costs (n,), positive."""

    def predict(self, rows: Sequence[Row]) -> Floats:
        """Costs (n,), nan where there is none."""


def _columns(rows: Sequence[Row]) -> KernelColumns:
    return KernelColumns.of([row.kernels[0] for row in rows])


class FlopsLine:
    """a + b·MACs, both non-negative, minimizing the relative error."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> FlopsLine:
        """See the module's contract."""
        self.coefficients_ = _non_negative(self._terms(rows), cost)
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        value: Floats = self._terms(rows) @ self.coefficients_
        return value

    def _terms(self, rows: Sequence[Row]) -> Floats:
        return np.array([[1.0, row.macs] for row in rows], dtype=np.float64)


def _non_negative(terms: Floats, cost: Floats) -> Floats:
    """Non-negative coefficients that minimize the relative error."""
    from scipy.optimize import nnls

    scaled = terms / cost[:, None]
    size = scaled.max(axis=0)
    size[size <= 0] = 1.0
    found: Floats = nnls(scaled / size, np.ones(len(cost)), maxiter=50 * terms.shape[1])[0] / size
    return found


class KernelPolynomial:
    """NeuralPower's polynomial, as the cost models' own candidate has it."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> KernelPolynomial:
        """See the module's contract."""
        self.model_ = Polynomial(()).fit(_columns(rows), np.log(cost), np.ones(len(cost)))
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        value: Floats = np.exp(self.model_.predict(_columns(rows)))
        return value


class KernelForest:
    """nn-Meter's forest of one kind."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> KernelForest:
        """See the module's contract."""
        kind = rows[0].kernels[0].kind
        features = _forest_features(rows)
        self.forest_ = _forest(FOREST_TREES.get(kind, OTHER_TREES), min(FOREST_FEATURES, features.shape[1]))
        self.forest_.fit(features, cost)
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        return np.asarray(self.forest_.predict(_forest_features(rows)), dtype=np.float64)


def _forest(trees: int, features: int | float) -> Any:
    from sklearn.ensemble import RandomForestRegressor  # type: ignore[import-untyped, unused-ignore]

    return RandomForestRegressor(trees, max_depth=FOREST_DEPTH, max_features=features, random_state=10, n_jobs=1)


def _forest_features(rows: Sequence[Row]) -> Floats:
    columns = _columns(rows)
    names = ("in_height", "in_channels", "out_channels", "kernel_h", "stride")
    parameters = columns.weight_bytes / columns.element_bytes
    # A batch is no feature of nn-Meter's, which measures single images; without it batched tables would be guesswork.
    return np.stack([*(columns.number(n) for n in names), columns.macs, parameters, columns.number("batch")], 1)


class RawForest:
    """A forest on the numbers of the table's columns, MACs and bytes, of the log cost: what anybody would try first."""

    FIELDS = (
        "batch", "in_channels", "in_height", "in_width", "out_channels", "kernel_h", "kernel_w", "stride", "padding",
        "groups",
    )  # fmt: skip
    TREES = 100

    def fit(self, rows: Sequence[Row], cost: Floats) -> RawForest:
        """See the module's contract."""
        self.forest_ = _forest(self.TREES, 0.5).fit(self._features(rows), np.log(cost))
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        value: Floats = np.exp(self.forest_.predict(self._features(rows)))
        return value

    def _features(self, rows: Sequence[Row]) -> Floats:
        columns = _columns(rows)
        sizes = (columns.macs, columns.in_elements, columns.out_elements, columns.weight_bytes)
        return np.stack([*(columns.number(name) for name in self.FIELDS), *sizes], 1)


class KernelLookup:
    """Local linear interpolation of log cost between the nearest measured kernels, in logarithms of their sizes."""

    FIELDS = RawForest.FIELDS
    RIDGE = 1e-3

    def fit(self, rows: Sequence[Row], cost: Floats) -> KernelLookup:
        """See the module's contract."""
        logs = self._logs(rows)
        spread = logs.std(axis=0)
        # Of columns that move together (height and width, say) one is enough.
        varying = [int(i) for i in np.flatnonzero(spread > 1e-9)]  # rounding is no variation
        kept: list[int] = []
        for i in varying:
            if not any(abs(float(np.corrcoef(logs[:, i], logs[:, j])[0, 1])) > 0.9999 for j in kept):
                kept.append(i)
        self.kept_, self.spread_ = kept, spread[kept]
        self.points_, self.values_ = logs[:, kept] / self.spread_, np.log(cost)
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        points = self._logs(rows)[:, self.kept_] / self.spread_
        at_once = max(1, DIFFERENCES_AT_ONCE // max(self.points_.size, 1))
        parts = [self._interpolated(points[start : start + at_once]) for start in range(0, len(points), at_once)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _interpolated(self, points: Floats) -> Floats:
        size = len(self.kept_)
        near = min(max(2**size, size + 2), 32, len(self.values_))
        square = ((points[:, None, :] - self.points_[None, :, :]) ** 2).sum(axis=2)
        index = np.argpartition(square, near - 1, axis=1)[:, :near]
        distance = np.sqrt(np.take_along_axis(square, index, axis=1))
        weight = 1.0 / (distance + 1e-6) ** 2
        weight /= weight.sum(axis=1, keepdims=True)
        local, values = self.points_[index] - points[:, None, :], self.values_[index]
        terms = np.concatenate([np.ones((*local.shape[:2], 1)), local], axis=2)
        normal = np.einsum("nki,nk,nkj->nij", terms, weight, terms)
        penalty = np.full(size + 1, self.RIDGE)
        penalty[0] = 0.0
        right = np.einsum("nki,nk,nk->ni", terms, weight, values)
        found = np.linalg.solve(normal + np.diag(penalty) + TINY * np.eye(size + 1), right[..., None])[:, 0, 0]
        # A plane through few points may leap: no further than its neighbours differ among each other.
        low, high = values.min(axis=1), values.max(axis=1)
        value: Floats = np.exp(np.clip(found, 2 * low - high, 2 * high - low))
        return value

    def _logs(self, rows: Sequence[Row]) -> Floats:
        columns = _columns(rows)
        return np.stack([np.log1p(columns.number(name)) for name in self.FIELDS], 1)


class PerGroup:
    """One reference a group of rows (their data type, and with ``by_kind`` their kind too) of ``least`` rows."""

    def __init__(self, make: Callable[[], Reference], by_kind: bool, least: int = 2) -> None:
        self.make, self.by_kind, self.least = make, by_kind, least

    def fit(self, rows: Sequence[Row], cost: Floats) -> PerGroup:
        """See the module's contract."""
        self.members_: dict[tuple[str, ...], Reference] = {}
        for group, index in self._groups(rows).items():
            if len(index) >= self.least:
                self.members_[group] = self.make().fit([rows[i] for i in index], cost[index])
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        value = np.full(len(rows), np.nan)
        for group, index in self._groups(rows).items():
            if group in self.members_:
                value[index] = self.members_[group].predict([rows[i] for i in index])
        return value

    def _groups(self, rows: Sequence[Row]) -> dict[tuple[str, ...], NDArray[np.intp]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(rows):
            group = (row.dtype, row.kernels[0].kind) if self.by_kind else (row.dtype,)
            found.setdefault(group, []).append(i)
        return {group: np.array(index, dtype=np.intp) for group, index in found.items()}


class _Summed:
    """A network's cost as a sum over its kernels of terms that are known but for their coefficients."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> _Summed:
        """See the module's contract."""
        self.kinds_ = sorted({_kind(spec) for row in rows for spec in row.kernels})
        self._learn([spec for row in rows for spec in row.kernels])
        self.coefficients_ = self._solve(self._sums(rows), cost)
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        value: Floats = self._sums(rows) @ self.coefficients_
        known = [{_kind(spec) for spec in row.kernels} <= set(self.kinds_) for row in rows]
        return np.where(known, np.maximum(value, TINY), np.nan)

    def _learn(self, specs: Sequence[KernelSpec]) -> None:
        """What the terms need to know of the training kernels."""

    def _solve(self, terms: Floats, cost: Floats) -> Floats:
        return _non_negative(terms, cost)

    def _sums(self, rows: Sequence[Row]) -> Floats:
        specs = [spec for row in rows for spec in row.kernels]
        columns = KernelColumns.of(specs)
        kinds = np.array([_kind(spec) for spec in specs])
        terms = self._terms(columns, kinds)
        own = np.array([self.kinds_.index(kind) if kind in self.kinds_ else -1 for kind in kinds.tolist()])
        spread = np.hstack([terms * (own == i)[:, None] for i in range(len(self.kinds_))])
        starts = np.cumsum([0, *(len(row.kernels) for row in rows)])[:-1]
        sums: Floats = np.add.reduceat(spread, starts, axis=0)
        return sums

    def _terms(self, columns: KernelColumns, kinds: NDArray[np.str_]) -> Floats:
        raise NotImplementedError


class KindSums(_Summed):
    """Non-negative MACs, bytes and count of each kind."""

    def _terms(self, columns: KernelColumns, kinds: NDArray[np.str_]) -> Floats:
        return np.stack([columns.macs, columns.bytes_moved, np.ones(len(columns))], 1)


class NetworkPolynomial(_Summed):
    """NeuralPower's terms, summed over kernels: lasso, in relative error, its strength cross-validated."""

    FIELDS = ("in_channels", "out_channels", "out_width", "kernel_h", "stride")

    def _terms(self, columns: KernelColumns, kinds: NDArray[np.str_]) -> Floats:
        base = np.stack([columns.number(name) for name in self.FIELDS], 1)
        first, second = np.triu_indices(base.shape[1])
        special = [columns.macs, columns.in_elements, columns.out_elements, columns.weight_bytes]
        return np.hstack([np.ones((len(columns), 1)), base, base[:, first] * base[:, second], np.stack(special, 1)])

    def _solve(self, terms: Floats, cost: Floats) -> Floats:
        import warnings

        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped, unused-ignore]
        from sklearn.linear_model import LassoCV  # type: ignore[import-untyped, unused-ignore]

        scaled = terms / cost[:, None]
        size = np.sqrt((scaled**2).mean(axis=0))
        size[size <= 0] = 1.0
        lasso = LassoCV(alphas=np.logspace(-5, -1.5, 8), cv=4, fit_intercept=False, max_iter=1500, tol=1e-3)
        # Convergence to the last digit is not needed: strength is chosen on held-out rows.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            lasso.fit(scaled / size, np.ones(len(cost)))
        coefficients: Floats = np.asarray(lasso.coef_, dtype=np.float64) / size
        return coefficients


class NetworkLookup(_Summed):
    """A table a kind over the log of a kernel's work, linear between its cells, whose values are fitted to totals."""

    def _learn(self, specs: Sequence[KernelSpec]) -> None:
        columns = KernelColumns.of(specs)
        size, kinds = self._size(columns), np.array([_kind(spec) for spec in specs])
        self.knots_ = {}
        for kind in self.kinds_:
            own = size[kinds == kind]
            self.knots_[kind] = np.unique(np.quantile(own, np.linspace(0, 1, LOOKUP_KNOTS)))

    def _terms(self, columns: KernelColumns, kinds: NDArray[np.str_]) -> Floats:
        size = self._size(columns)
        terms = np.zeros((len(columns), LOOKUP_KNOTS))
        for kind, knots in self.knots_.items():
            own = np.flatnonzero(kinds == kind)
            for cell in range(len(knots)):
                # Cells hold the cost per unit of work, so that a kernel beyond the last one still scales.
                terms[own, cell] = np.interp(size[own], knots, np.eye(len(knots))[cell]) * np.exp(size[own])
        return terms

    def _size(self, columns: KernelColumns) -> Floats:
        value: Floats = np.log(np.where(columns.macs > 0, columns.macs, columns.bytes_moved))
        return value


class NetworkForest:
    """A forest on a network's sums a kind: a black box that prices no kernel."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> NetworkForest:
        """See the module's contract."""
        self.sums_ = KindSums()
        self.sums_.kinds_ = sorted({_kind(spec) for row in rows for spec in row.kernels})
        self.forest_ = _forest(NETWORK_TREES, 1.0 / 3.0).fit(self._features(rows), cost)
        return self

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See the module's contract."""
        return np.asarray(self.forest_.predict(self._features(rows)), dtype=np.float64)

    def _features(self, rows: Sequence[Row]) -> Floats:
        sums = self.sums_._sums(rows)
        features: Floats = np.hstack([sums, sums.reshape(len(rows), -1, 3).sum(axis=1)])
        return features


class ConstantPower:
    """Cost as seconds times one constant power a data type: the median of cost over latency of the training rows."""

    def fit(self, rows: Sequence[Row], cost: Floats) -> ConstantPower:
        """See the module's contract."""
        power = cost / np.array([row.latency_s for row in rows])
        dtypes = np.array([row.dtype for row in rows])
        self.power_w_ = {dtype: float(np.median(power[dtypes == dtype])) for dtype in np.unique(dtypes).tolist()}
        return self

    def predict(self, rows: Sequence[Row], latency_s: Floats) -> Floats:
        """Costs (n,) at latencies (n,), predicted or measured."""
        value: Floats = latency_s * np.array([self.power_w_.get(row.dtype, np.nan) for row in rows])
        return value


KERNEL_REFERENCES: dict[str, Callable[[], Reference]] = {
    "flops_line": lambda: PerGroup(FlopsLine, by_kind=False),
    "polynomial": lambda: PerGroup(KernelPolynomial, by_kind=True, least=LASSO_ROWS),
    "forest": lambda: PerGroup(KernelForest, by_kind=True),
    "raw_forest": lambda: PerGroup(RawForest, by_kind=True),
    "lookup": lambda: PerGroup(KernelLookup, by_kind=True),
}
NETWORK_REFERENCES: dict[str, Callable[[], Reference]] = {
    "flops_line": lambda: PerGroup(FlopsLine, by_kind=False),
    "kind_sums": lambda: PerGroup(KindSums, by_kind=False),
    "polynomial": lambda: PerGroup(NetworkPolynomial, by_kind=False, least=LASSO_ROWS),
    "lookup": lambda: PerGroup(NetworkLookup, by_kind=False),
    "forest": lambda: PerGroup(NetworkForest, by_kind=False),
}
BLACK_BOXES = ("forest",)  # of the references for networks: no sums of kernels
