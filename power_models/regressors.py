"""The candidates: each maps kernel columns to the logarithm of a cost, and competes under cross-validation.

==============  =====================================================================================
flops           a line through the multiply-accumulates (elements, without weights): the reference
nonnegative     non-negative least squares on work and traffic terms, in relative error
roofline        the same terms as a smooth maximum of compute and traffic plus a launch constant
polynomial      degree-2 polynomial with special terms (NeuralPower, Cai et al. 2017), lasso, relative error
trees           gradient-boosted trees on log features
roofline_trees  roofline, and trees on the log of what it leaves
roofline_gp     roofline, and a Gaussian process on the log of what it leaves
nonnegative_gp  the same on the non-negative sum
==============  =====================================================================================

Contract: ``fit(columns, log_cost, weight)`` returns self; ``predict(columns)`` returns log cost (n,);
``to_arrays()`` and ``from_arrays(arrays)`` carry the whole state as plain arrays. scikit-learn and scipy are
imported only by ``fit``. ``kinds`` (given at construction) are the sorted kinds of the rows to come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats, KernelColumns, shape_features
from power_models.gaussian import GaussianResidual
from power_models.roofline import NonNegative, Roofline
from power_models.trees import BoostedTrees

Arrays = Mapping[str, NDArray[np.generic]]


class Regressor(Protocol):
    """What every candidate can do; see the module's contract."""

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> Regressor:
        """Fit to costs given as logarithms (n,), with a weight a row (n,)."""

    def predict(self, columns: KernelColumns) -> Floats:
        """Log cost (n,)."""

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The learned state as plain arrays."""

    def from_arrays(self, arrays: Arrays) -> Regressor:
        """Take over a learned state; returns self."""


class Flops:
    """cost = a + b·work, both non-negative: what is left when nothing but FLOPs is known."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.coefficients_: Floats = np.zeros(2)

    def _terms(self, columns: KernelColumns) -> Floats:
        work = np.where(columns.macs > 0, columns.macs, columns.out_elements * columns.window)
        return np.stack([np.ones(len(columns)), work], 1)

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> Flops:
        """See the module's contract."""
        from scipy.optimize import nnls

        scaled = self._terms(columns) * (np.sqrt(weight) / np.exp(log_cost))[:, None]
        size = scaled.max(axis=0)
        self.coefficients_ = nnls(scaled / size, np.sqrt(weight))[0] / size
        return self

    def predict(self, columns: KernelColumns) -> Floats:
        """See the module's contract."""
        result: Floats = np.log(np.maximum(self._terms(columns) @ self.coefficients_, 1e-30))
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """See the module's contract."""
        return {"coefficients": self.coefficients_}

    def from_arrays(self, arrays: Arrays) -> Flops:
        """See the module's contract."""
        self.coefficients_ = np.asarray(arrays["coefficients"], dtype=np.float64)
        return self


class Polynomial:
    """Sparse degree-2 polynomial of the layer's hyper-parameters with work and bytes as special terms.

    NeuralPower (Cai, Juan, Stamoulis, Marculescu, ACML 2017, arXiv 1710.05420) fits degree 2 or 3 by lasso with
    cross-validated strength; here the rows are scaled by 1/cost, so that the error minimized is the relative one.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.coefficients_: Floats = np.zeros(0)
        self.floor_ = 0.0

    def _terms(self, columns: KernelColumns) -> Floats:
        names = ("in_channels", "out_channels", "out_width", "kernel_h", "stride", "inputs")
        raw = [columns.number(name) for name in names] + [columns.area, columns.pixels]
        base = np.stack(raw, 1)
        first, second = np.triu_indices(base.shape[1])
        inner = columns.number("in_channels") / columns.number("groups")
        special = [columns.macs, columns.in_elements, columns.out_elements, columns.weight_bytes]
        special += [columns.out_elements * columns.window, columns.pixels * inner * columns.area]
        if columns.latency_s is not None:
            special.append(columns.latency_s)
        ones = np.ones((len(columns), 1))
        return np.hstack([ones, base, base[:, first] * base[:, second], np.stack(special, 1)])

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> Polynomial:
        """See the module's contract."""
        from sklearn.linear_model import LassoCV  # type: ignore[import-untyped, unused-ignore]

        cost = np.exp(log_cost)
        terms = self._terms(columns)
        scaled = terms * (np.sqrt(weight) / cost)[:, None]
        size = np.sqrt((scaled**2).mean(axis=0))
        size[size == 0] = 1.0
        lasso = LassoCV(alphas=np.logspace(-5, -1.5, 8), cv=4, fit_intercept=False, max_iter=1500, tol=1e-3)
        # Convergence to the last digit is not needed: strength is chosen on held-out rows.
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            lasso.fit(scaled / size, np.sqrt(weight))
        self.coefficients_ = np.asarray(lasso.coef_, dtype=np.float64) / size
        self.floor_ = float(cost.min())
        return self

    def predict(self, columns: KernelColumns) -> Floats:
        """See the module's contract; a polynomial can dip, so it is held at half the cheapest kernel seen."""
        result: Floats = np.log(np.maximum(self._terms(columns) @ self.coefficients_, 0.5 * self.floor_))
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """See the module's contract."""
        return {"coefficients": self.coefficients_, "floor": np.array([self.floor_])}

    def from_arrays(self, arrays: Arrays) -> Polynomial:
        """See the module's contract."""
        self.coefficients_ = np.asarray(arrays["coefficients"], dtype=np.float64)
        self.floor_ = float(np.asarray(arrays["floor"], dtype=np.float64)[0])
        return self


class Trees:
    """Boosted trees on the log cost itself."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.trees = BoostedTrees()

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> Trees:
        """See the module's contract."""
        self.trees.fit(shape_features(columns, self.kinds), log_cost, weight)
        return self

    def predict(self, columns: KernelColumns) -> Floats:
        """See the module's contract."""
        return self.trees.predict(shape_features(columns, self.kinds))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """See the module's contract."""
        return self.trees.to_arrays()

    def from_arrays(self, arrays: Arrays) -> Trees:
        """See the module's contract."""
        self.trees.from_arrays(arrays)
        return self


class Hybrid:
    """A physical model carries the scale; a bounded correction learns the log of what it leaves.

    ``fitted``: a roofline already fitted to the rows that ``fit`` will get.
    """

    def __init__(
        self, kinds: Sequence[str], residual: BoostedTrees | GaussianResidual, fitted: Roofline | None = None
    ) -> None:
        self.kinds = tuple(kinds)
        self.fitted = fitted
        self.base: Roofline | NonNegative = fitted or Roofline(kinds)
        self.residual = residual
        self.bound_ = 0.0

    def fit(self, columns: KernelColumns, log_cost: Floats, weight: Floats) -> Hybrid:
        """See the module's contract."""
        if self.fitted is None:
            self.base.fit(columns, log_cost, weight)
        left = log_cost - self.base.predict(columns)
        self.residual.fit(shape_features(columns, self.kinds), left, weight)
        self.bound_ = float(np.abs(left).max())
        return self

    def predict(self, columns: KernelColumns) -> Floats:
        """See the module's contract."""
        correction = self.residual.predict(shape_features(columns, self.kinds))
        result: Floats = self.base.predict(columns) + np.clip(correction, -self.bound_, self.bound_)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """See the module's contract."""
        arrays = {f"base.{name}": value for name, value in self.base.to_arrays().items()}
        arrays |= {f"residual.{name}": value for name, value in self.residual.to_arrays().items()}
        return arrays | {"bound": np.array([self.bound_])}

    def from_arrays(self, arrays: Arrays) -> Hybrid:
        """See the module's contract."""
        self.base.from_arrays(under(arrays, "base"))
        self.residual.from_arrays(under(arrays, "residual"))
        self.bound_ = float(np.asarray(arrays["bound"], dtype=np.float64)[0])
        return self


def under(arrays: Arrays, prefix: str) -> dict[str, NDArray[np.generic]]:
    """The arrays whose name starts with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in arrays.items() if name.startswith(prefix + ".")}


class RooflineTrees(Hybrid):
    """Roofline corrected by boosted trees."""

    def __init__(self, kinds: Sequence[str], fitted: Roofline | None = None) -> None:
        super().__init__(kinds, BoostedTrees(), fitted)


class RooflineGaussian(Hybrid):
    """Roofline corrected by a Gaussian process."""

    def __init__(self, kinds: Sequence[str], fitted: Roofline | None = None) -> None:
        super().__init__(kinds, GaussianResidual(), fitted)


class NonNegativeGaussian(Hybrid):
    """Non-negative least squares corrected by a Gaussian process."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__(kinds, GaussianResidual())
        self.base = NonNegative(kinds)


# name → (class, fewest rows with which it may compete)
CANDIDATES: dict[str, tuple[Callable[..., Regressor], int]] = {
    "flops": (Flops, 2),
    "nonnegative": (NonNegative, 4),
    "roofline": (Roofline, 8),
    "polynomial": (Polynomial, 24),
    "trees": (Trees, 150),
    "roofline_trees": (RooflineTrees, 24),
    "roofline_gp": (RooflineGaussian, 16),
    "nonnegative_gp": (NonNegativeGaussian, 16),
}
HYBRIDS = ("roofline_trees", "roofline_gp")


def make_regressor(name: str, kinds: Sequence[str], fitted: Roofline | None = None) -> Regressor:
    """A fresh candidate by name; a KeyError lists the known ones.

    ``fitted``: a roofline already fitted to the same rows, which the hybrids then need not fit again.
    """
    if name not in CANDIDATES:
        raise KeyError(f"no regressor {name!r}; known: {', '.join(sorted(CANDIDATES))}")
    make = CANDIDATES[name][0]
    return make(kinds, fitted) if name in HYBRIDS else make(kinds)
