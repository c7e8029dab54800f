"""What a composition sees of a kernel: non-negative terms of work and traffic, and the coordinates of its shape.

A cost is ``(compute^p + traffic^p)^(1/p) + other``, each part a sum of terms times rates. With totals of networks
only, rates are few and shared: every term has a *parent* (multiply-accumulates, bytes, elements, calls), whose rate a
non-negative fit of the networks' sums tells, and starts at a fraction of it. The candidates (channel blocks, cache
sizes) know no device: the fit raises those that the totals ask for and lets the others fade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_agents.records import KernelSpec
from power_models.families import family_of
from power_models.features import Floats, KernelColumns, padded

Index = NDArray[np.intp]

PARENTS = ("macs", "bytes", "elements", "calls")
COMPUTE, TRAFFIC, OTHER = 0, 1, 2
MATRIX = ("conv_1x1", "conv_kxk", "fc")  # run as matrix products
WINDOW = ("conv_grouped", "depthwise")  # walk a window over each channel
COORDINATES = ("in_channels", "out_channels", "pixels", "window", "tile", "stride", "activation")
SLOPES = 5  # the leading coordinates may bend the cost as a power law
LENGTHS = 5
LENGTH_GROUPS = (0, 0, 1, 2, 4, 3, 3)  # which length scale each coordinate has


class Term(NamedTuple):
    """One term: its parent, the fraction of the parent's rate that it starts at, and its part of the roofline."""

    name: str
    parent: str
    fraction: float
    part: int


def _terms() -> tuple[Term, ...]:
    found = [Term(f"macs {family}", "macs", 1.0, COMPUTE) for family in (*MATRIX, *WINDOW)]
    found += [Term(f"whole blocks of {b} outputs", "macs", 0.3, COMPUTE) for b in (8, 32, 128)]
    found += [Term(f"whole blocks of {b} inputs", "macs", 0.3, COMPUTE) for b in (4, 16)]
    found += [Term(f"whole blocks of {b} pixels", "macs", 0.3, COMPUTE) for b in (8, 32, 128)]
    found += [Term("whole blocks of 8 channels", "macs", 0.3, COMPUTE), Term("patches", "bytes", 0.5, COMPUTE)]
    for group in ("matrix", "window", "elementwise"):
        found += [Term(f"{way} {group}", "bytes", 1.0, TRAFFIC) for way in ("read", "written")]
    found += [Term("weights", "bytes", 1.0, TRAFFIC), Term("weights fc", "bytes", 1.0, TRAFFIC)]
    found += [Term(f"maps beyond 2^{power}", "bytes", 0.3, TRAFFIC) for power in MAP_CACHES]
    found += [Term(f"weights beyond 2^{power}", "bytes", 0.3, TRAFFIC) for power in WEIGHT_CACHES]
    found += [Term("activation", "elements", 1.0, OTHER), Term("elements", "elements", 1.0, OTHER)]
    return (*found, Term("calls", "calls", 1.0, OTHER))


MAP_CACHES, WEIGHT_CACHES = (15, 17, 19, 21), (17, 19, 21)  # powers of two of bytes
TERMS = _terms()
PART_OF_TERM = np.array([term.part for term in TERMS])


class Shapes(NamedTuple):
    """n kernels as a composition sees them: coordinates (n, q), family names (n,), data types (n,)."""

    coordinates: Floats
    families: NDArray[np.str_]
    dtypes: NDArray[np.str_]

    @classmethod
    def of(cls, kernels: Sequence[KernelSpec], columns: KernelColumns) -> Shapes:
        """The shapes of kernels and their columns."""
        families = np.array([family_of(spec).partition("/")[0] for spec in kernels], dtype=str)
        return cls(_coordinates(columns, families), families, np.array([spec.dtype for spec in kernels], dtype=str))


def _coordinates(columns: KernelColumns, families: NDArray[np.str_]) -> Floats:
    number = columns.number
    dense = columns.weighted & (families != "depthwise")
    channels = np.log(number("in_channels"))
    inner = np.log(number("in_channels") / number("groups"))
    outer = np.log(number("out_channels") / number("groups"))
    return np.stack(
        [
            np.where(dense, inner, channels),
            np.where(dense, outer, channels),
            np.log(columns.pixels),
            np.where(families == "global_avg_pool", 0.0, np.log(columns.window)),
            np.where(columns.weighted & (families != "fc"), _tile_waste(columns), 0.0),
            2.0 * np.log(number("stride")),
            columns.costly_activation.astype(float),
        ],
        1,
    )


def _tile_waste(columns: KernelColumns) -> Floats:
    """Log of how much more output whole tiles of 16 × 8 are than the map: what transforms over tiles waste."""
    high, wide = columns.number("out_height"), columns.number("out_width")
    result: Floats = np.log(padded(wide, 16) * padded(high, 8) / (wide * high))
    return result


def parent_amounts(columns: KernelColumns) -> Floats:
    """What each parent counts (n, 4), in the order of ``PARENTS``."""
    elements = np.where(columns.weighted, 0.0, columns.out_elements * columns.window)
    elements = elements + columns.out_elements * columns.costly_activation
    return np.stack([columns.macs, columns.bytes_moved, elements, np.ones(len(columns))], 1)


def term_amounts(columns: KernelColumns, families: NDArray[np.str_]) -> Floats:
    """Amounts (n, terms) of every term, in the order of ``TERMS``."""
    number, macs, size = columns.number, columns.macs, columns.element_bytes
    inner, outer = number("in_channels") / number("groups"), number("out_channels") / number("groups")
    matrix, window = np.isin(families, MATRIX), np.isin(families, WINDOW)
    found = [macs * (families == family) for family in (*MATRIX, *WINDOW)]
    found += [macs * matrix * _waste(outer, block) for block in (8, 32, 128)]
    found += [macs * matrix * _waste(inner, block) for block in (4, 16)]
    found += [macs * matrix * _waste(columns.pixels, block) for block in (8, 32, 128)]
    found += [macs * window * _waste(number("out_channels"), 8), columns.patch_elements * size]
    read, written, weights = columns.in_elements * size, columns.out_elements * size, columns.weight_bytes
    for members in (matrix, window, ~(matrix | window)):
        found += [read * members, written * members]
    is_fc, maps = families == "fc", read + written
    found += [weights * ~is_fc, weights * is_fc]
    found += [maps * _beyond(maps, 2.0**power) for power in MAP_CACHES]
    found += [weights * _beyond(weights, 2.0**power) for power in WEIGHT_CACHES]
    found += [columns.out_elements * columns.costly_activation]
    found += [columns.out_elements * columns.window * ~columns.weighted, np.ones(len(columns))]
    return np.stack(found, 1)


def _waste(values: Floats, block: int) -> Floats:
    return padded(values, block) / values - 1.0


def _beyond(size_bytes: Floats, limit: float) -> Floats:
    result: Floats = 1.0 / (1.0 + (limit / np.maximum(size_bytes, 1.0)) ** 2)
    return result
