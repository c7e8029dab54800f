"""The cost of one kernel in a composition: a physical sum of terms times the exponential of a smooth process.

    log cost = log( (compute^p + traffic^p)^(1/p) + other )  +  family  +  slopes · shape  +  process(shape)

Every unknown (log rates, log p, what a family has of its own, slopes, the process) is a coordinate of one Gaussian
vector z, so that cost is positive whatever z is, and what totals cannot tell apart stays as wide as the prior. The
process is Matérn-5/2 over the logarithms of the shape (Rasmussen and Williams 2006, ch. 4), carried by the columns of
an incomplete Cholesky decomposition; what these columns miss is added to the variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_models.composition_terms import COMPUTE, COORDINATES, LENGTH_GROUPS, OTHER, SLOPES, TRAFFIC, Shapes
from power_models.features import Floats

Index = NDArray[np.intp]

ROOT5 = float(np.sqrt(5.0))
TINY = 1e-100
OTHER_FAMILY = 0.2  # correlation of the process between families
OTHER_DTYPE = 0.5  # and between data types
FAMILY_COMMON = float(np.sqrt(2.0))  # what a family has of its own is more alike over data types than not
EXPONENT_START = float(np.log(1.5))
EXPONENT_RANGE = (0.0, 2.5)  # log p: from one after the other to as good as a maximum
SLOPE_REACH = 6.0  # e-folds from a family's middle; further out the slopes stay where they are


class Hyper(NamedTuple):
    """Prior scales: factor on the terms' spread; sd of families, slopes (a e-fold), process; its length scales."""

    terms: float
    family: float
    slopes: float
    process: float
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class Basis:
    """What the linear part of a log cost is made of, for m inducing kernels, F families, D data types.

    ``centre`` (D, F, SLOPES): where slopes are zero. ``points`` (m, q), ``point_family``, ``point_dtype`` (m,): the
    inducing kernels.
    """

    families: tuple[str, ...]
    dtypes: tuple[str, ...]
    hyper: Hyper
    centre: Floats
    points: Floats
    point_family: Index
    point_dtype: Index

    def places(self, shapes: Shapes) -> tuple[Index, Index]:
        """Index of each kernel's family (−1: never measured) and data type (−1 likewise), (n,) each."""
        return _position(shapes.families, self.families), _position(shapes.dtypes, self.dtypes)

    @cached_property
    def _inverse_root(self) -> Floats:
        """Inverse (m, m) of the lower Cholesky factor of the inducing kernels' covariance."""
        own = (self.points, self.point_family, self.point_dtype)
        matrix = covariance(*own, *own, self.hyper)
        # Inverted once: numpy has no triangular solver, and kernels that tell nothing new are not among these.
        return np.asarray(np.linalg.inv(np.linalg.cholesky(matrix)), dtype=np.float64)

    def columns(self, shapes: Shapes) -> tuple[Floats, Floats]:
        """Columns (n, f) that multiply the weights, and the variance (n,) that they miss."""
        family, dtype = self.places(shapes)
        flags = family_columns(family, dtype, len(self.families), len(self.dtypes))
        slopes = slope_columns(shapes.coordinates, family, dtype, self.centre)
        hyper = self.hyper
        near = covariance(shapes.coordinates, family, dtype, self.points, self.point_family, self.point_dtype, hyper)
        process = near @ self._inverse_root.T
        missed = np.maximum(hyper.process**2 - (process**2).sum(axis=1), 0.0)
        # A form or a data type that was never measured has a level of its own, of which nothing is known.
        missed += hyper.family**2 * (1.0 + FAMILY_COMMON**2) * ((family < 0) | (dtype < 0))
        return np.hstack([hyper.family * flags, hyper.slopes * slopes, process]), missed


def _position(names: NDArray[np.str_], known: tuple[str, ...]) -> Index:
    table = {name: i for i, name in enumerate(known)}
    return np.array([table.get(name, -1) for name in names.tolist()], dtype=np.intp)


def family_columns(family: Index, dtype: Index, families: int, dtypes: int) -> Floats:
    """Flags (n, F·(D+1)): of a family, and of a family in one data type."""
    flags = np.zeros((len(family), families * (dtypes + 1)))
    rows = np.flatnonzero(family >= 0)
    flags[rows, family[rows]] = FAMILY_COMMON if dtypes > 1 else 0.0
    rows = np.flatnonzero((family >= 0) & (dtype >= 0))
    flags[rows, families * (1 + dtype[rows]) + family[rows]] = 1.0
    return flags


def slope_columns(coordinates: Floats, family: Index, dtype: Index, centre: Floats) -> Floats:
    """Leading coordinates about the family's middle, (n, D·F·SLOPES): each in the columns of its data type and family.

    ``centre`` (D, F, SLOPES).
    """
    dtypes, families = centre.shape[:2]
    table = np.zeros((len(family), dtypes, families, SLOPES))
    rows = np.flatnonzero((family >= 0) & (dtype >= 0))
    away = coordinates[rows, :SLOPES] - centre[dtype[rows], family[rows]]
    table[rows, dtype[rows], family[rows]] = np.clip(away, -SLOPE_REACH, SLOPE_REACH)
    return table.reshape(len(family), -1)


def covariance(
    a: Floats, family_a: Index, dtype_a: Index, b: Floats, family_b: Index, dtype_b: Index, hyper: Hyper
) -> Floats:
    """Prior covariance (n, m) of the process between two sets of kernels."""
    scale = 1.0 / np.array(hyper.lengths)[list(LENGTH_GROUPS)]
    left, right = a * scale, b * scale
    square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2.0 * left @ right.T
    scaled = ROOT5 * np.sqrt(np.maximum(square, 0.0))
    smooth = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    result: Floats = hyper.process**2 * smooth * alike(family_a, dtype_a, family_b, dtype_b)
    return result


def alike(family_a: Index, dtype_a: Index, family_b: Index, dtype_b: Index) -> Floats:
    """Correlation (n, m) of the process for equal shapes: 1 within a family and data type."""
    families = np.where((family_a[:, None] == family_b[None, :]) & (family_a[:, None] >= 0), 1.0, OTHER_FAMILY)
    dtypes = np.where((dtype_a[:, None] == dtype_b[None, :]) & (dtype_a[:, None] >= 0), 1.0, OTHER_DTYPE)
    return families * dtypes


class Rates(NamedTuple):
    """Log rates of the terms (D, T) and log exponents (D,) of the rooflines."""

    terms: Floats
    exponents: Floats


def roofline(amounts: Floats, part: Index, dtype: Index, rates: Rates) -> tuple[Floats, Floats]:
    """Log cost (n,) of term amounts (n, T), and its derivatives (n, T + 1) by log rates and log exponent.

    The derivatives by the log rates sum to one: they are what each term contributes to the kernel. A kernel of an
    unknown data type (−1) has the first one's rates.
    """
    known = np.maximum(dtype, 0)
    cost = amounts * np.exp(rates.terms)[known]
    work = cost[:, part == COMPUTE].sum(axis=1) + TINY
    moved = cost[:, part == TRAFFIC].sum(axis=1) + TINY
    power = np.exp(np.clip(rates.exponents, *EXPONENT_RANGE))[known]
    peak = np.maximum(work, moved)
    a, b = work / peak, moved / peak
    total = a**power + b**power
    joined = peak * total ** (1 / power)
    whole = joined + cost[:, part == OTHER].sum(axis=1)
    slope = cost.copy()
    slope[:, part == COMPUTE] *= (a ** (power - 1) * total ** (1 / power - 1))[:, None]
    slope[:, part == TRAFFIC] *= (b ** (power - 1) * total ** (1 / power - 1))[:, None]
    logs = a**power * np.log(np.maximum(a, TINY)) + b**power * np.log(np.maximum(b, TINY))
    by_power = joined * (logs / (power * total) - np.log(total) / power**2) * power
    return np.log(whole), np.hstack([slope, by_power[:, None]]) / whole[:, None]


class Parts(NamedTuple):
    """Log costs of n kernels: value, derivatives by z (n, z), variance that z does not carry, share of each term."""

    value: Floats
    slope: Floats
    missed: Floats
    shares: Floats


@dataclass
class LogCost:
    """A fitted log cost; ``z`` is its posterior mean, ``told`` (r, z) the part of the prior that the totals took away.

    The posterior covariance of z is I − toldᵀ·told. Layout of z: rates of the terms and exponent by data type, overhead
    by data type, weights of the basis. ``mix``: z to log rates. ``noise`` (D,): sd of what totals scatter, log.
    """

    basis: Basis
    part: Index
    rates: Rates
    overhead: Floats  # log, by data type
    overhead_sd: float
    mix: Floats
    weights: Floats
    told: Floats
    noise: Floats

    @property
    def prior_terms(self) -> int:
        """How many coordinates of z belong to rates and exponents."""
        return len(self.mix)

    def parts(self, amounts: Floats, shapes: Shapes) -> Parts:
        """Log costs of kernels with term amounts (n, T)."""
        dtype = self.basis.places(shapes)[1]
        value, by_rate = roofline(amounts, self.part, dtype, self.rates)
        columns, missed = self.basis.columns(shapes)
        overhead = np.zeros((len(amounts), len(self.basis.dtypes)))
        slope = np.hstack([by_dtype(by_rate, dtype, len(self.basis.dtypes)) @ self.mix, overhead, columns])
        shares = by_rate[:, :-1] / by_rate[:, :-1].sum(axis=1, keepdims=True)
        return Parts(value + columns @ self.weights, slope, missed, shares)

    def overhead_slope(self, dtype: int) -> Floats:
        """Derivative (z,) of the log overhead of a data type."""
        slope = np.zeros(self.told.shape[1])
        slope[self.prior_terms + dtype] = self.overhead_sd
        return slope

    def variance(self, slope: Floats) -> Floats:
        """Posterior variance (n,) of linear combinations (n, z) of z."""
        result: Floats = np.maximum((slope**2).sum(axis=1) - ((slope @ self.told.T) ** 2).sum(axis=1), 0.0)
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every learned number as plain arrays."""
        basis = self.basis
        return {
            "centre": basis.centre,
            "points": basis.points,
            "point_family": basis.point_family,
            "point_dtype": basis.point_dtype,
            "part": self.part,
            "rates": self.rates.terms,
            "exponents": self.rates.exponents,
            "overhead": self.overhead,
            "mix": self.mix,
            "weights": self.weights,
            "told": self.told.astype(np.float32),
            "noise": self.noise,
        }

    def to_json(self) -> dict[str, Any]:
        """What is not an array."""
        basis = self.basis
        return {
            "families": list(basis.families),
            "dtypes": list(basis.dtypes),
            "hyper": basis.hyper._asdict(),
            "overhead_sd": self.overhead_sd,
        }

    @classmethod
    def restore(cls, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> LogCost:
        """Read what ``to_json`` and ``to_arrays`` wrote; KeyError, TypeError, ValueError for anything else."""
        hyper = Hyper(**{**about["hyper"], "lengths": tuple(about["hyper"]["lengths"])})
        whole = {name: arrays[name].astype(np.intp) for name in ("point_family", "point_dtype", "part")}
        real = {name: arrays[name].astype(np.float64) for name in arrays if name not in whole}
        names = (tuple(about["families"]), tuple(about["dtypes"]))
        inducing = (whole["point_family"], whole["point_dtype"])
        if real["points"].shape[1:] != (len(COORDINATES),):
            raise ValueError(f"shapes of {real['points'].shape[1:]} coordinates, this program has {len(COORDINATES)}")
        rates = Rates(real["rates"], real["exponents"])
        about_overhead = (real["overhead"], float(about["overhead_sd"]))
        learned = (real["mix"], real["weights"], real["told"], real["noise"])
        basis = Basis(*names, hyper, real["centre"], real["points"], *inducing)
        return cls(basis, whole["part"], rates, *about_overhead, *learned)


def by_dtype(slope: Floats, dtype: Index, dtypes: int) -> Floats:
    """Derivatives (n, k) put into the block of each kernel's data type, (n, D·k)."""
    count, width = slope.shape
    table = np.zeros((count, dtypes, width))
    table[np.arange(count), np.maximum(dtype, 0)] = slope
    return table.reshape(count, dtypes * width)
