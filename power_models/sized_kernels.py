"""Kernels whose channel counts follow the widths of channel groups, and what they count at those widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from device_agents.records import DTYPE_BYTES, WEIGHTED_KINDS, KernelSpec
from power_models.width_grids import Array, Counts

FOLLOWING_KINDS = ("depthwise", "max_pool", "avg_pool", "global_avg_pool", "lrn")  # groups = channels


class Channels(NamedTuple):
    """A channel count that is linear in group widths: ``constant + Σ factor · widths[group]``."""

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Mapping[str, int]) -> int:
        """The count at these widths; raises KeyError for a group without a width."""
        return self.constant + sum(factor * int(widths[group]) for group, factor in self.terms)

    def plus(self, other: Channels) -> Channels:
        """The sum of two counts (a concatenation)."""
        return Channels(self.constant + other.constant, self.terms + other.terms)

    def times(self, factor: int) -> Channels:
        """A multiple (a flattened image, a depth multiplier)."""
        return Channels(self.constant * factor, tuple((g, f * factor) for g, f in self.terms))


class SizedKernel(NamedTuple):
    """One kernel of a network whose channels follow the widths of groups."""

    name: str
    spec: KernelSpec
    channels_in: Channels
    channels_out: Channels

    def at(self, widths: Mapping[str, int]) -> KernelSpec:
        """The kernel at these widths."""
        return resized(self.spec, self.channels_in.at(widths), self.channels_out.at(widths))

    @property
    def groups(self) -> set[str]:
        """Names of the channel groups that it depends on."""
        return {group for group, _ in self.channels_in.terms + self.channels_out.terms}


def resized(spec: KernelSpec, channels_in: int, channels_out: int) -> KernelSpec:
    """The same kernel with other channel counts; convolution groups of depthwise kernels and pools follow."""
    groups = channels_in if spec.kind in FOLLOWING_KINDS and spec.groups > 1 else spec.groups
    return spec._replace(in_channels=channels_in, out_channels=channels_out, groups=max(groups, 1))


def all_resized(spec: KernelSpec, c_in: Counts, c_out: Counts) -> list[KernelSpec]:
    """``resized`` to every pair of counts (n,); made without ``_replace``, which is slow for ten thousands."""
    follows = spec.kind in FOLLOWING_KINDS and spec.groups > 1
    fields = list(spec)
    first, second, third = (KernelSpec._fields.index(n) for n in ("in_channels", "out_channels", "groups"))
    found = []
    for a, b in zip(c_in.tolist(), c_out.tolist(), strict=True):
        fields[first], fields[second] = a, b
        if follows:
            fields[third] = max(a, 1)
        found.append(KernelSpec._make(fields))
    return found


def work_of(spec: KernelSpec, specs: Sequence[KernelSpec]) -> tuple[Array, Array]:
    """MACs and parameters of the same kernel at many widths, (n,) each, as ``macs`` and ``parameters`` count them."""
    if spec.kind not in WEIGHTED_KINDS:
        nothing = np.zeros(len(specs))
        return nothing, nothing
    sizes = np.array([(one.in_channels, one.out_channels, max(one.groups, 1)) for one in specs], dtype=np.float64)
    c_in, c_out, groups = sizes.T
    area = spec.kernel_h * spec.kernel_w
    macs = spec.batch * spec.out_height * spec.out_width * c_out * np.floor(area * c_in / groups)
    return macs, np.floor(c_out * area * c_in / groups) + c_out


def parameters(spec: KernelSpec) -> int:
    """Weights and biases of a kernel, a count."""
    if not spec.weight_bytes:
        return 0
    return (spec.weight_bytes - 4 * spec.out_channels) // DTYPE_BYTES[spec.dtype] + spec.out_channels
