"""Kernels as columns of numbers: geometry, then physical quantities, then what the regressors see.

A batch of ``KernelSpec`` becomes one ``KernelColumns`` (one array a field), and everything after that is array
arithmetic, so that a table of ten thousand kernels costs about as much as one. Two views are made of it:

* ``physical_terms``: non-negative work and traffic terms (multiply-accumulates, padded to candidate channel blocks;
  bytes; bytes that miss a cache of a candidate size). A cost is a non-negative combination of them.
* ``shape_features``: logarithms and alignment wastes, about of order one, for trees and Gaussian processes.

The blocks and cache sizes are *candidates*: the fit chooses, nothing here knows a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from device_agents.records import DTYPE_BYTES, WEIGHTED_KINDS, KernelSpec
from power_models.families import CLAMPS

Floats = NDArray[np.float64]

CHANNEL_BLOCKS = (4, 8, 16, 32)
CACHE_BYTES = (2**15, 2**16, 2**17, 2**18, 2**19, 2**20, 2**21, 2**22, 2**23)
CACHE_SHARPNESS = 2.0
PANEL_BYTES = (2**13, 2**15, 2**17)  # what the inner loop of a matrix product wants to keep at hand
WINDOWED = ("max_pool", "avg_pool")  # of the kinds without weights, those that read a whole window an output

_SIZES = ("batch", "in_channels", "in_height", "in_width", "out_channels", "out_height", "out_width")
_NUMBERS = (*_SIZES, "kernel_h", "kernel_w", "stride", "padding", "dilation", "groups", "inputs")
_POSITIONS = tuple(KernelSpec._fields.index(name) for name in _NUMBERS)
_TABLES = ("work_table", "traffic_table", "shape_table")
_VIEW = KernelSpec("view", 1, 1, 1, 1, 1, 1, 1)  # what stands for every view: it moves nothing, whatever its shape


@dataclass(frozen=True)
class KernelColumns:
    """n kernels, one array a field.

    ``numbers`` (n, 14) holds the integer fields in the order of ``_NUMBERS``; ``kinds`` (n,) and ``fused`` (n,) hold
    strings; ``element_bytes`` (n,). ``latency_s`` (n,) is set where energy is modelled given the latency.
    """

    numbers: Floats
    kinds: NDArray[np.str_]
    fused: NDArray[np.str_]
    element_bytes: Floats
    latency_s: Floats | None = None

    @classmethod
    def of(cls, specs: Sequence[KernelSpec]) -> KernelColumns:
        """Columns of a sequence of kernels (a KeyError names a data type without a size)."""
        specs = [_VIEW._replace(dtype=spec.dtype) if spec.kind == "view" else spec for spec in specs]
        table = list(zip(*specs, strict=True)) if specs else [()] * len(KernelSpec._fields)
        numbers = np.array([table[p] for p in _POSITIONS], dtype=np.float64).T.reshape(len(specs), len(_NUMBERS))
        field = KernelSpec._fields.index
        sizes = np.array([DTYPE_BYTES[name] for name in table[field("dtype")]], dtype=np.float64)
        return cls(numbers, np.array(table[field("kind")], str), np.array(table[field("fused")], str), sizes)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: NDArray[np.intp]) -> KernelColumns:
        """The rows of ``index``; feature tables already made are sliced, not made again."""
        latency_s = None if self.latency_s is None else self.latency_s[index]
        taken = KernelColumns(
            self.numbers[index], self.kinds[index], self.fused[index], self.element_bytes[index], latency_s
        )
        for name in _TABLES:
            if name in self.__dict__:
                taken.__dict__[name] = self.__dict__[name][index]
        return taken

    def joined(self, other: KernelColumns) -> KernelColumns:
        """These rows and then those of ``other``; latency is kept where both know it."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("numbers", "kinds", "fused", "element_bytes")]
        numbers, kinds, fused, sizes = (np.concatenate(pair) for pair in pairs)
        latency_s = None
        if self.latency_s is not None and other.latency_s is not None:
            latency_s = np.concatenate([self.latency_s, other.latency_s])
        joined = KernelColumns(numbers, kinds, fused, sizes, latency_s)
        for name in _TABLES:
            if name in self.__dict__ and name in other.__dict__:
                joined.__dict__[name] = np.concatenate([self.__dict__[name], other.__dict__[name]])
        return joined

    def make_tables(self) -> KernelColumns:
        """Make the feature tables now, so that every ``take`` shares them; returns self."""
        for name in _TABLES:
            getattr(self, name)
        return self

    def given(self, latency_s: Floats | None) -> KernelColumns:
        """The same kernels with their latency known (n,), or unknown."""
        same = replace(self, latency_s=latency_s)
        same.__dict__.update({name: self.__dict__[name] for name in _TABLES if name in self.__dict__})
        return same

    def number(self, name: str) -> Floats:
        """One integer field as floats (n,)."""
        column: Floats = self.numbers[:, _NUMBERS.index(name)]
        return column

    @cached_property
    def weighted(self) -> NDArray[np.bool_]:
        """Which kernels have weights (n,)."""
        return np.isin(self.kinds, WEIGHTED_KINDS)

    @cached_property
    def area(self) -> Floats:
        """Kernel height × width."""
        return self.number("kernel_h") * self.number("kernel_w")

    @cached_property
    def window(self) -> Floats:
        """Input positions read for one output: the kernel's area, 1 for kinds that slide no window."""
        windowed = self.weighted | np.isin(self.kinds, WINDOWED)
        return np.where(windowed, self.area, 1.0)

    @cached_property
    def pixels(self) -> Floats:
        """Output positions, batch included."""
        return self.number("batch") * self.number("out_height") * self.number("out_width")

    @cached_property
    def macs(self) -> Floats:
        """Multiply-accumulates, 0 without weights."""
        per_output = self.area * self.number("in_channels") / self.number("groups")
        return np.where(self.weighted, self.pixels * self.number("out_channels") * per_output, 0.0)

    @cached_property
    def inside(self) -> Floats:
        """The share of a window's taps that fall on the input and not on its padding (mean over the outputs)."""
        return self._taps[0]

    @cached_property
    def weights_touched(self) -> Floats:
        """Bytes of weights whose taps fall on the input for some output: on a single pixel one tap of nine does."""
        return self.weight_bytes * self._taps[1]

    @cached_property
    def _taps(self) -> tuple[Floats, Floats]:
        rows = _taps_counted(self, "height", self.number("kernel_h"))
        columns = _taps_counted(self, "width", self.number("kernel_w"))
        return rows[0] * columns[0], rows[1] * columns[1]

    @cached_property
    def patch_elements(self) -> Floats:
        """Elements gathered into patches before a matrix product (im2col); 0 where the map is used as it lies."""
        depth = self.area * self.number("in_channels")
        return np.where(self._gathered, self.pixels * depth, 0.0)

    @cached_property
    def patch_gathers(self) -> Floats:
        """Contiguous runs copied for the patches, with channels innermost: one a tap, output position and group."""
        return np.where(self._gathered, self.pixels * self.area * self.number("groups"), 0.0)

    @cached_property
    def _gathered(self) -> NDArray[np.bool_]:
        gathered: NDArray[np.bool_] = (self.kinds == "conv") & ((self.area > 1) | (self.number("stride") > 1))
        return gathered

    @cached_property
    def in_elements(self) -> Floats:
        """Activation elements read, second inputs included."""
        plain = self.number("batch") * self.number("in_channels") * self.number("in_height") * self.number("in_width")
        copies = np.where(np.isin(self.kinds, ("add", "mul")), self.number("inputs"), 1.0)
        fused_add = self.has_fused("add") & self.weighted
        return plain * copies + fused_add * self.out_elements

    @cached_property
    def out_elements(self) -> Floats:
        """Activation elements written."""
        return self.pixels * self.number("out_channels")

    @cached_property
    def weight_bytes(self) -> Floats:
        """Bytes of weights and 4-byte biases."""
        count = self.number("out_channels") * self.area * self.number("in_channels") / self.number("groups")
        return np.where(self.weighted, count * self.element_bytes + 4 * self.number("out_channels"), 0.0)

    @cached_property
    def bytes_moved(self) -> Floats:
        """Bytes read and written once each: inputs, outputs, weights."""
        return (self.in_elements + self.out_elements) * self.element_bytes + self.weight_bytes

    @cached_property
    def work_table(self) -> Floats:
        """Work terms that hold for every kind (n, a); see ``physical_terms``."""
        return np.stack(_work_terms(self), 1)

    @cached_property
    def traffic_table(self) -> Floats:
        """Traffic terms (n, b); see ``physical_terms``."""
        return np.stack(_traffic_terms(self), 1)

    @cached_property
    def shape_table(self) -> Floats:
        """Shape features that hold for every kind (n, d); see ``shape_features``."""
        return np.stack(_shapes(self), 1)

    def has_fused(self, name: str) -> NDArray[np.bool_]:
        """Which kernels absorbed an operator of that name (n,)."""
        known, inverse = np.unique(self.fused, return_inverse=True)
        flags = np.array([name in text.split("+") for text in known], dtype=bool)
        return flags[inverse] if len(known) else np.zeros(0, bool)

    @cached_property
    def costly_activation(self) -> NDArray[np.bool_]:
        """Which kernels absorbed an activation that is more than a clamp (n,)."""
        known, inverse = np.unique(self.fused, return_inverse=True)
        flags = np.array([bool(set(text.split("+")) - {"", "add", *CLAMPS}) for text in known], dtype=bool)
        return flags[inverse] if len(known) else np.zeros(0, bool)

    @cached_property
    def clamped(self) -> NDArray[np.bool_]:
        """Which kernels absorbed a clamp (n,)."""
        result: NDArray[np.bool_] = np.any([self.has_fused(name) for name in CLAMPS], axis=0)
        return result


def _taps_counted(columns: KernelColumns, axis: str, taps: Floats) -> tuple[Floats, Floats]:
    """Along one axis, (n,) each: the mean share of the taps on the input, and the share on it for at least one output.

    Runtimes that walk the window skip the other taps, a matrix product does not.
    """
    size, outputs = columns.number(f"in_{axis}"), columns.number(f"out_{axis}")
    stride, padding, dilation = (columns.number(name) for name in ("stride", "padding", "dilation"))
    inside, touched = np.ones(len(columns)), np.ones(len(columns))
    rows = np.flatnonzero((padding > 0) & (columns.window > 1))
    if not len(rows):
        return inside, touched
    size, outputs, stride, padding, dilation = (a[rows] for a in (size, outputs, stride, padding, dilation))
    count, ever = np.zeros(len(rows)), np.zeros(len(rows))
    for tap in range(int(taps[rows].max())):
        at = padding - tap * dilation  # output o reads input o·stride − at
        first = np.maximum(np.ceil(at / stride), 0.0)
        last = np.minimum(np.floor((size - 1 + at) / stride), outputs - 1)
        hits = np.where(tap < taps[rows], np.maximum(last - first + 1, 0.0), 0.0)
        count += hits
        ever += hits > 0
    inside[rows] = np.maximum(count / (outputs * taps[rows]), 1e-3)
    touched[rows] = np.maximum(ever / taps[rows], 1e-3)
    return inside, touched


def padded(values: Floats, block: int) -> Floats:
    """``values`` rounded up to whole blocks."""
    return np.ceil(values / block) * block


def waste(values: Floats, block: int) -> Floats:
    """How much more work whole blocks are than ``values`` (natural log of the ratio, 0 where aligned)."""
    return np.log(padded(values, block) / values)


def evenness(values: Floats) -> Floats:
    """How many times 2 divides integers, at most 6: alignment beyond whole blocks."""
    whole = values.astype(np.int64)
    result: Floats = np.log2(np.minimum(whole & -whole, 64).astype(np.float64))
    return result


def physical_terms(columns: KernelColumns, kinds: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """(compute (n, a), traffic (n, b), other (n, c)): non-negative terms that a cost is a combination of.

    ``kinds`` are the kinds of the training rows (sorted), so that pooled kernels get one per-element term each.
    """
    compute = columns.work_table
    if len(kinds) > 1:
        compute = np.hstack([compute, np.stack(_terms_per_kind(columns, kinds), 1)])
    other = np.ones((len(columns), 2 if columns.latency_s is None else 3))
    # A grouped convolution may be as many calls as it has groups; a depthwise one is a kernel of its own.
    other[:, 1] = np.where(columns.kinds == "conv", columns.number("groups") - 1.0, 0.0)
    if columns.latency_s is not None:
        other[:, 2] = columns.latency_s
    return compute, columns.traffic_table, other


def _traffic_terms(columns: KernelColumns) -> list[Floats]:
    """Bytes by tensor, and bytes of kernels or weights too large for a cache of each candidate size."""
    moved, weights, size = columns.bytes_moved, columns.weight_bytes, columns.element_bytes
    terms = [columns.in_elements * size, columns.out_elements * size, weights]
    maps, patches = moved - weights, columns.patch_elements * size
    terms += [maps * _beyond(maps, limit) for limit in CACHE_BYTES]
    terms += [weights * _beyond(weights, limit) for limit in CACHE_BYTES[::3]]
    touched = columns.weights_touched
    terms += [touched, *(touched * _beyond(touched, limit) for limit in CACHE_BYTES[::3])]
    terms += [patches * _beyond(patches, limit) for limit in CACHE_BYTES[1:]]
    return terms


def _beyond(size_bytes: Floats, limit: float) -> Floats:
    """The share of an array that a cache of ``limit`` bytes cannot hold; real caches let go gradually."""
    result: Floats = 1.0 / (1.0 + (limit / np.maximum(size_bytes, 1.0)) ** CACHE_SHARPNESS)
    return result


def _work_terms(columns: KernelColumns) -> list[Floats]:
    """Work terms of a matrix product (pixels × outputs × reduction) with whole blocks, and its per-element edges."""
    pixels, out, macs = columns.pixels, columns.number("out_channels"), columns.macs
    inner = columns.number("in_channels") / columns.number("groups")
    per_group = out / columns.number("groups")
    terms = [macs]
    for block in CHANNEL_BLOCKS:
        wide = padded(per_group, block) / per_group
        deep = padded(inner, block) / inner
        terms += [macs * wide, macs * deep, macs * wide * deep]
    inside = columns.macs * columns.inside
    terms += [inside] + [inside * padded(per_group, block) / per_group for block in CHANNEL_BLOCKS]
    for block in (4, 8):
        terms.append(macs * padded(columns.number("out_width"), block) / columns.number("out_width"))
    terms.append(columns.out_elements)
    terms.append(columns.out_elements * columns.window)
    terms.append(np.where(columns.weighted, pixels * inner * columns.area * columns.number("groups"), 0.0))
    terms.append(columns.patch_elements)
    terms.append(columns.patch_gathers)
    panel = inner * columns.area * 8 * columns.element_bytes
    terms += [macs * _beyond(panel, limit) for limit in PANEL_BYTES]
    terms.append(columns.in_elements)
    terms.append(columns.out_elements * columns.clamped)
    terms.append(columns.out_elements * columns.costly_activation)
    terms.append(columns.out_elements * (columns.has_fused("add") & columns.weighted))
    return terms


def _terms_per_kind(columns: KernelColumns, kinds: Sequence[str]) -> list[Floats]:
    terms: list[Floats] = []
    for kind in kinds:
        own = columns.kinds == kind
        if kind in WEIGHTED_KINDS:
            terms.append(columns.macs * own)
        else:
            terms += [columns.in_elements * own, columns.out_elements * columns.window * own]
    return terms


def shape_features(columns: KernelColumns, kinds: Sequence[str]) -> Floats:
    """Features (n, d) of order one: log sizes, alignment wastes, flags; one flag a kind where kinds are pooled."""
    if len(kinds) < 2:
        return columns.shape_table
    flags = [(columns.kinds == kind).astype(float) for kind in kinds]
    return np.hstack([columns.shape_table, np.stack(flags, 1)])


def _shapes(columns: KernelColumns) -> list[Floats]:
    number = columns.number
    inner = number("in_channels") / number("groups")
    per_group = number("out_channels") / number("groups")
    moved = columns.bytes_moved
    work = np.where(columns.macs > 0, columns.macs, columns.out_elements * columns.window)
    features = [
        np.log(inner),
        np.log(per_group),
        np.log(number("groups")),
        np.log(columns.pixels),
        np.log(columns.window),
        np.log(number("stride")),
        np.log(number("dilation")),
        np.log(work),
        np.log(moved),
        np.log(work / moved),
        np.log1p(columns.weight_bytes),
        np.log(inner * columns.window),
        np.log1p(columns.patch_elements),
        np.log(number("in_height") * number("in_width")),
        np.log(number("kernel_h") / number("kernel_w")),
        columns.clamped.astype(float),
        columns.costly_activation.astype(float),
        columns.has_fused("add").astype(float),
        number("inputs"),
    ]
    features += [evenness(number(name)) for name in ("in_channels", "out_channels")]
    for block in CHANNEL_BLOCKS:
        features += [waste(inner, block), waste(per_group, block)]
    features += [waste(number("out_width"), block) for block in (4, 8)]
    features += [waste(columns.pixels, block) for block in (4, 8)]
    features.append(np.log(columns.inside))
    return features
