"""Which kernels a calibration measures: a space-filling design plus the neighbourhood of the task's network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, log2

import numpy as np
from scipy.stats import qmc

from device_agents.records import WEIGHTED_KINDS, KernelSpec
from rig.errors import BadInputError
from rig.workloads.families import (
    DESIGN_VERSION,
    DIMENSIONS,
    FAMILIES,
    Family,
    families_of,
    log_between,
    rough_seconds,
)

KINDS = tuple(dict.fromkeys(family.kind for family in FAMILIES))

NEIGHBOURHOOD_SHARE = 0.4  # of a design, where a network is given
NARROWEST, WIDEST = 0.1, 1.5  # widths of the neighbourhood, relative to the network's
SHORTEST_S, LONGEST_S = 20e-6, 3.0  # of a kernel, roughly, on a small board
SHORT_KEPT = 0.15  # share of shorter ones that stay: they hardly count in a network, but must not be extrapolated
IMAGE_CHANNELS = 4  # an input of at most so many channels is an image: pruning never narrows it


def design(
    n: int,
    seed: int,
    around: Sequence[KernelSpec] = (),
    kinds: Sequence[str] = KINDS,
    dtype: str = "float32",
    longest_s: float = LONGEST_S,
    version: int = DESIGN_VERSION,
) -> list[KernelSpec]:
    """``n`` different kernels to measure, the same for the same arguments.

    A scrambled Sobol sequence a family, in the logarithms of sizes; each family has its share (``grid_families``).
    ``around``: the kernels of the task's network: they and their versions at 0.1 to 1.5 times the width take up to
    40 % of the design, and every kind among them is in it. Fewer than ``n`` come back only where the kinds asked for
    have not so many different kernels. ``longest_s``: of a kernel, roughly, on a small board.
    ``version``: of the families, for the design of an older run.
    Raises BadInputError for ``n`` < 1 or a kind without a family.
    """
    if n < 1:
        raise BadInputError(f"designing a grid of {n} kernels: at least one is needed", "ask for 1 or more")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise BadInputError(
            f"designing a grid: no family of kernels for {', '.join(unknown)}", f"known kinds: {', '.join(KINDS)}"
        )
    near = _neighbourhood(list(dict.fromkeys(around)), round(n * NEIGHBOURHOOD_SHARE), seed)
    wanted = set(kinds) | {spec.kind for spec in around}
    families = [family for family in families_of(version) if family.kind in wanted]
    chosen = dict.fromkeys(near)
    for family, quota in _quotas(families, n - len(chosen)):
        _extend(chosen, quota, _space_filling(family, seed, quota, dtype, longest_s))
    # Families with few different kernels leave room: the widest families fill it.
    for family in sorted(families, key=lambda f: -f.share):
        if len(chosen) < n:
            _extend(chosen, n - len(chosen), _space_filling(family, seed + 1, n, dtype, longest_s))
    return list(chosen)


def _quotas(families: Sequence[Family], n: int) -> list[tuple[Family, int]]:
    """``n`` shared out over the families by their shares; each gets one at least while they last."""
    total = sum(family.share for family in families)
    exact = [n * family.share / total for family in families]
    counts = [max(int(e), 1) if n >= len(families) else int(e) for e in exact]
    order = sorted(range(len(families)), key=lambda i: counts[i] - exact[i])
    while sum(counts) < n:
        counts[order[sum(counts) % len(order)]] += 1
    while sum(counts) > n:
        counts[counts.index(max(counts))] -= 1
    return list(zip(families, counts, strict=True))


def _extend(chosen: dict[KernelSpec, None], quota: int, candidates: Iterator[KernelSpec]) -> None:
    """Add up to ``quota`` candidates that are not there yet."""
    if quota < 1:
        return
    end = len(chosen) + quota
    for spec in candidates:
        chosen.setdefault(spec)
        if len(chosen) == end:
            return


def _points(name: str, seed: int, count: int) -> np.ndarray:
    """``count`` or more points of a scrambled Sobol sequence (n, DIMENSIONS), its scrambling tied to ``name``."""
    entropy = np.random.SeedSequence([seed, *name.encode()])
    sampler = qmc.Sobol(DIMENSIONS, scramble=True, seed=np.random.default_rng(entropy))
    return sampler.random_base2(max(ceil(log2(max(count, 1))), 4))


def _space_filling(family: Family, seed: int, quota: int, dtype: str, longest_s: float) -> Iterator[KernelSpec]:
    # Points outside the limits are left out, so more are drawn than wanted; the sequence fills space from any start.
    for point in _points(family.name, seed, 32 * quota):
        spec = family.draw([float(u) for u in point], dtype)
        if spec is None or rough_seconds(spec) > longest_s:
            continue
        if family.short or rough_seconds(spec) >= SHORTEST_S or point[-1] < SHORT_KEPT:
            yield spec


def _neighbourhood(network: Sequence[KernelSpec], count: int, seed: int) -> list[KernelSpec]:
    """The network's own kernels, kinds in turn, then versions of them at other widths."""
    if not network or count < 1:
        return []
    own = _kinds_in_turn(network)
    # Every kind is kept; of a long network half of the places go to widths that it does not have itself.
    kept = max(len({spec.kind for spec in network}), count // 2)
    chosen = dict.fromkeys(own[:kept])
    variants = max(count - len(chosen), 0)
    bases = _kinds_in_turn([spec for spec in network if spec.kind in WEIGHTED_KINDS] * 2 + list(network))
    points = _points("neighbourhood", seed, 8 * count)
    _extend(chosen, variants, (resized(bases[i % len(bases)], point) for i, point in enumerate(points)))
    return list(chosen)


def _kinds_in_turn(specs: Sequence[KernelSpec]) -> list[KernelSpec]:
    """The same kernels, so ordered that any first few hold every kind."""
    seen: dict[str, int] = {}
    ranked = []
    for spec in specs:
        seen[spec.kind] = seen.get(spec.kind, 0) + 1
        ranked.append((seen[spec.kind], spec))
    return [spec for _, spec in sorted(ranked, key=lambda pair: pair[0])]


def resized(spec: KernelSpec, point: Sequence[float]) -> KernelSpec:
    """``spec`` with its channels at 0.1 to 1.5 times; ``point`` holds the two positions in that range, in [0, 1].

    An image's channels stay; kernels that leave the channel count alone get one width for both sides.
    """
    first = _scaled(spec.in_channels, point[0])
    if spec.kind in ("conv", "fc"):
        if spec.groups > 1:
            per_group, out_per_group = spec.in_channels // spec.groups, spec.out_channels // spec.groups
            channels = spec.groups * _scaled(per_group, point[0])
            return spec._replace(in_channels=channels, out_channels=spec.groups * _scaled(out_per_group, point[1]))
        return spec._replace(in_channels=first, out_channels=_scaled(spec.out_channels, point[1]))
    if spec.kind == "depthwise":
        multiplier = spec.out_channels // spec.in_channels
        return spec._replace(in_channels=first, groups=first, out_channels=first * multiplier)
    if spec.kind == "slice" and spec.in_channels != spec.out_channels:
        return spec._replace(in_channels=first, out_channels=max(1, first * spec.out_channels // spec.in_channels))
    if spec.kind == "concat":
        first = max(first, spec.inputs)
    groups = first if spec.groups == spec.in_channels and spec.groups > 1 else spec.groups
    return spec._replace(in_channels=first, out_channels=first, groups=groups)


def _scaled(channels: int, u: float) -> int:
    if channels <= IMAGE_CHANNELS:
        return channels
    return log_between(float(u), max(channels * NARROWEST, 1.0), channels * WIDEST)
