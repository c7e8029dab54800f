"""The marginal view: what one more multiply-accumulate costs depends on where it is.

joules_per_mac   per-kind costs recovered from whole networks by non-negative least squares over columns of work
                 (MACs by kind, bytes, kernels); joules of a kind's kernels over their MACs, bytes included
elasticity       no model: networks that differ in width alone, or in image size alone; slope of log joules over
                 log MACs within such groups. 1 means that joules follow FLOPs; 0.7 that halving FLOPs saves 38 %
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from measured_sets import Array, CostSet, codes
from resampling import LARGE, draws_of, estimate, stated
from scales import non_negative_coefficients

from device_agents.records import KernelSpec

KINDS = ("1×1 convolution", "k×k convolution", "depthwise", "fully connected")
WORK = (*KINDS, "activation bytes", "weight bytes", "kernels")
DRAWS_NNLS = 400
LEAST_SPREAD = 1.1  # a group spans at least this factor of MACs


def kind_of(kernel: KernelSpec) -> str | None:
    """The kind of a kernel with weights, None for one without."""
    if kernel.kind == "fc":
        return "fully connected"
    if kernel.kind == "depthwise":
        return "depthwise"
    if kernel.kind == "conv":
        return "1×1 convolution" if kernel.kernel_h * kernel.kernel_w == 1 else "k×k convolution"
    return None


def work_of(kernels: Sequence[KernelSpec]) -> Array:
    """The columns ``WORK`` of a list of kernels."""
    macs = dict.fromkeys(KINDS, 0)
    for kernel in kernels:
        kind = kind_of(kernel)
        if kind is not None:
            macs[kind] += kernel.macs
    activations = sum(k.input_bytes + k.output_bytes for k in kernels)
    return np.array([*macs.values(), activations, sum(k.weight_bytes for k in kernels), len(kernels)], dtype=np.float64)


def work_matrix(found: CostSet) -> Array:
    """Work of every network (n, columns); columns that the set does not have are left out."""
    return np.array([work_of(kernels) for kernels in found.kernels])


def joules_per_mac(found: CostSet) -> dict[str, Any]:
    """Recovered nanojoules a MAC by kind, over the set's own kernels, with intervals over architectures."""
    work, cost = work_matrix(found), found.steered_j
    used = work.max(axis=0) > 0
    of_kind = {
        kind: np.sum([work_of([k for k in kernels if kind_of(k) == kind]) for kernels in found.kernels], axis=0)
        for kind in KINDS
    }
    without = np.sum([work_of([k for k in kernels if kind_of(k) is None]) for kernels in found.kernels], axis=0)
    draws = draws_of(
        f"{found.label} layers", found.architecture, DRAWS_NNLS if len(found) <= LARGE else DRAWS_NNLS // 4
    )

    def betas(w: Array) -> Array:
        full = np.zeros((len(w), len(WORK)))
        for row, weights in enumerate(w):
            full[row, used] = non_negative_coefficients(work[:, used], cost, weights)
        return full

    sample, drawn = betas(np.ones((1, len(found)))), betas(draws)

    def pick(of: Callable[[Array], Array]) -> dict[str, float | None]:
        return stated(float(of(sample)[0]), of(drawn))

    result: dict[str, Any] = {"kinds": {}}
    base = KINDS[0] if of_kind[KINDS[0]][0] > 0 else KINDS[1]
    for place, kind in enumerate(KINDS):
        macs = of_kind[kind][place]
        if macs <= 0:
            continue
        result["kinds"][kind] = {
            "nj_per_mac": pick(lambda b, kind=kind, macs=macs: 1e9 * (b @ of_kind[kind]) / macs),
            "over_base": pick(lambda b, kind=kind, macs=macs: _over(b, of_kind, kind, macs, base)),
            "share_of_macs": float(macs / found.macs.sum()),
            "share_of_joules": pick(lambda b, kind=kind: (b @ of_kind[kind]) / (b @ work.sum(axis=0))),
        }
    result["base"] = base
    result["share_without_macs"] = pick(lambda b: (b @ without) / (b @ work.sum(axis=0)))
    return result


def _over(b: Array, of_kind: dict[str, Array], kind: str, macs: float, base: str) -> Array:
    reference = (b @ of_kind[base]) / of_kind[base][KINDS.index(base)]
    return np.asarray((b @ of_kind[kind]) / macs / np.where(reference > 0, reference, np.nan))


def elasticity(
    found: CostSet, key: Callable[[Sequence[KernelSpec]], Hashable], quantity: Array
) -> dict[str, Any] | None:
    """Slope of log ``quantity`` over log MACs within groups of equal ``key``; None without such groups.

    ``saved``: the share of the quantity that goes when half of the MACs go. Intervals over groups.
    """
    groups = codes([key(kernels) for kernels in found.kernels])
    members = [np.flatnonzero(groups == g) for g in range(int(groups.max()) + 1)]
    members = [m for m in members if len(m) >= 2 and np.ptp(np.log(found.macs[m])) >= np.log(LEAST_SPREAD)]
    if len(members) < 2:
        return None
    x, y = np.log(found.macs), np.log(quantity)
    across = np.array([np.sum((x[m] - x[m].mean()) ** 2) for m in members])
    along = np.array([np.sum((x[m] - x[m].mean()) * (y[m] - y[m].mean())) for m in members])
    draws = draws_of(f"{found.label} groups", np.arange(len(members)))

    def slope(w: Array) -> Array:
        return np.asarray((w @ along) / (w @ across))

    each = along / across
    return {
        "groups": len(members),
        "networks": int(sum(len(m) for m in members)),
        "slope": estimate(slope, draws),
        "saved": estimate(lambda w: 1.0 - 0.5 ** slope(w), draws),
        "slopes": [float(each.min()), float(each.max())],
    }
