"""Ways to choose the next kernels to measure, all against one interface: ``next(measured, count) -> kernels``.

=============  =======================================================================================================
ours           the kernels that make the totals of the search space's networks surest (``power_models.design``)
random         kernels of the search space's networks, drawn as often as they occur there
grid           kernels of ``rig.workloads.grid.design`` in random order: the whole range of image networks
sobol          the space-filling (Sobol) grid with 40 % of it around the seed network: what ``rig calibrate`` did before
nn-meter       nn-Meter (Zhang et al., MobiSys 2021, section 4.3, and its published builder): sampled from the marginal
               distributions of a model zoo's configurations; then data with large held-out errors get neighbours with
               channels at 0.5 to 1.2 times and everything else the same
nn-meter-near  the same, given our search space for its zoo: more than the paper has
=============  =======================================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from device_agents.records import WEIGHTED_KINDS, KernelSpec
from power_models.design import Surveyor, one_of_each, prior_of_rows, totals_of
from power_models.kernel_cost import KernelRow
from power_models.kernels import KernelNode, kernel_graph
from power_models.selection import score as capped_mean
from rig.workloads.families import rough_seconds
from rig.workloads.grid import design

LARGE_ERROR = 0.1  # nn-Meter's threshold
NEIGHBOURS = 4  # of each datum with a large error (its builder: 5 to 10, for thousands of data)
LOWEST, HIGHEST = 0.5, 1.2  # channels of neighbours (its builder; the paper's text has 0.4 for the lower)
FIRST = 24  # data before errors are looked at
ZOO = ("resnet50", "squeezenet", "vgg19", "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "shufflenet")

CrossValidate = Callable[[Sequence[KernelRow]], np.ndarray]  # rows → |log error| of each, held out
Price = Callable[[Sequence[KernelSpec]], np.ndarray]


class Ours:
    """I-optimal for the totals of drawn networks."""

    def __init__(self, networks: Sequence[Sequence[KernelSpec]], seed: int, pool: int = 1200) -> None:
        self.networks = networks
        distinct = list(dict.fromkeys(k for network in networks for k in network))
        self.pool = random.Random(seed).sample(distinct, min(pool, len(distinct)))

    def next(self, measured: Sequence[KernelRow], count: int, price: Price | None = None) -> list[KernelSpec]:
        """See the module."""
        kernels = [row.kernel for row in measured]
        known = price if price is not None else lambda specs: np.array([rough_seconds(spec) for spec in specs])
        totals = totals_of(self.networks, known)
        prior = (
            prior_of_rows(kernels, np.log([row.latency_s for row in measured]))
            if measured
            else prior_of_rows([], np.zeros(0))
        )
        taken = set(kernels)
        candidates = [kernel for kernel in self.pool if kernel not in taken]
        place = {kernel: i for i, kernel in enumerate(totals.kernels)}
        weight = np.array([totals.shares[:, place[kernel]].sum() for kernel in candidates])
        surveyor = Surveyor(prior, totals, candidates, kernels)
        return [candidates[i] for i in surveyor.choose(count, one_of_each(candidates, weight, kernels)).places]


class Listed:
    """A fixed order."""

    def __init__(self, kernels: Sequence[KernelSpec]) -> None:
        self.kernels = list(dict.fromkeys(kernels))

    def next(self, measured: Sequence[KernelRow], count: int, price: Price | None = None) -> list[KernelSpec]:
        """See the module."""
        taken = {row.kernel for row in measured}
        return [kernel for kernel in self.kernels if kernel not in taken][:count]


def random_of(networks: Sequence[Sequence[KernelSpec]], seed: int) -> Listed:
    """The kernels of networks in random order."""
    kernels = [kernel for network in networks for kernel in network]
    random.Random(f"random-{seed}").shuffle(kernels)
    return Listed(_kinds_first(kernels))


def grid_of(kinds: Sequence[str], seed: int, count: int) -> Listed:
    """The general grid in random order, of the kinds that the networks have."""
    kernels = design(2 * count, 900 + seed, kinds=kinds)
    random.Random(f"grid-{seed}").shuffle(kernels)
    return Listed(_kinds_first(kernels))


class Sobol:
    """A design of as many kernels as will be measured in the end: made anew for each number, as a user would."""

    def __init__(self, kinds: Sequence[str], around: Sequence[KernelSpec], seed: int) -> None:
        self.kinds, self.around, self.seed = kinds, around, seed

    def whole(self, count: int) -> list[KernelSpec]:
        """The design of ``count`` kernels."""
        return design(count, 300 + self.seed, self.around, kinds=self.kinds)


class NnMeter:
    """Prior samples, then neighbours of what was predicted worst."""

    def __init__(self, zoo: Sequence[KernelSpec], seed: int, errors: CrossValidate, joint: bool) -> None:
        self.random = random.Random(f"nn-meter-{seed}-{joint}")
        self.errors, self.joint = errors, joint
        self.by_kind: dict[str, list[KernelSpec]] = {}
        for spec in zoo:
            self.by_kind.setdefault(spec.kind, []).append(spec)
        self.kinds = [spec.kind for spec in zoo]

    def next(self, measured: Sequence[KernelRow], count: int, price: Price | None = None) -> list[KernelSpec]:
        """See the module."""
        taken = {row.kernel for row in measured}
        found: dict[KernelSpec, None] = {}
        if len(measured) >= FIRST:
            errors = self.errors(measured)
            for i in np.argsort(-errors):
                if errors[i] <= LARGE_ERROR or len(found) >= count:
                    break
                for _ in range(NEIGHBOURS):
                    near = self._near(measured[i].kernel)
                    if near not in taken and len(found) < count:
                        found.setdefault(near)
        missing = [kind for kind in self.by_kind if kind not in {k.kind for k in [*taken, *found]}]
        attempts = 0
        while len(found) < count and attempts < 100 * count:
            attempts += 1
            kind = missing.pop() if missing else self.random.choice(self.kinds)
            spec = self._sampled(kind)
            if spec is not None and spec not in taken:
                found.setdefault(spec)
        return list(found)

    def _sampled(self, kind: str) -> KernelSpec | None:
        zoo = self.by_kind[kind]
        if self.joint:
            return self.random.choice(zoo)
        side, first, last, shape = (self.random.choice(zoo) for _ in range(4))
        return _reshaped(shape, side.in_height, first.in_channels, last.out_channels)

    def _near(self, spec: KernelSpec) -> KernelSpec:
        def about(channels: int) -> int:
            return max(1, self.random.randint(int(channels * LOWEST), max(int(channels * HIGHEST), 1)))

        found = _reshaped(spec, spec.in_height, about(spec.in_channels), about(spec.out_channels))
        return found or spec


def _reshaped(spec: KernelSpec, side: int, channels: int, out: int) -> KernelSpec | None:
    """The kernel with another map and other channels; None where its window does not fit."""
    if spec.kind == "fc" or (spec.in_height, spec.in_width) == (1, 1):
        side_out = 1
        height = 1
    else:
        height = side
        side_out = (side + 2 * spec.padding - spec.kernel_h) // spec.stride + 1
    if spec.kind == "global_avg_pool":
        spec = spec._replace(kernel_h=height, kernel_w=height)
        side_out = 1
    if side_out < 1:
        return None
    same = spec.in_channels == spec.out_channels and spec.kind not in WEIGHTED_KINDS
    if spec.kind == "depthwise":
        return spec._replace(
            in_channels=channels, out_channels=channels, groups=channels, in_height=height, in_width=height,
            out_height=side_out, out_width=side_out,
        )  # fmt: skip
    if spec.groups > 1 and spec.kind == "conv":
        channels, out = (max(1, round(c / spec.groups)) * spec.groups for c in (channels, out))
    groups = channels if spec.groups > 1 and spec.kind != "conv" else spec.groups
    return spec._replace(
        in_channels=channels, out_channels=channels if same else out, groups=groups, in_height=height, in_width=height,
        out_height=side_out, out_width=side_out,
    )  # fmt: skip


def zoo_kernels(kinds: Sequence[str]) -> list[KernelSpec]:
    """The kernels of published networks (the onnx wheel's), of these kinds."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    nodes: list[KernelNode] = []
    for name in ZOO:
        nodes += kernel_graph(folder / f"light_{name}.onnx", "virtual")
    return [node.spec for node in nodes if node.spec.kind in set(kinds)]


def _kinds_first(kernels: Sequence[KernelSpec]) -> list[KernelSpec]:
    """One of each kind first, so that everything has a price; then in order."""
    first = list({kernel.kind: kernel for kernel in reversed(kernels)}.values())
    return [*first, *(kernel for kernel in kernels if kernel not in first)]


__all__ = ["Listed", "NnMeter", "Ours", "Sobol", "capped_mean", "grid_of", "random_of", "zoo_kernels"]
