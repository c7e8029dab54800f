"""The same networks at float32 and at int8 (and on two boards): FLOPs cannot tell them apart; watts and joules do."""

from __future__ import annotations

from typing import Any

import numpy as np
from measured_sets import Array, CostSet, codes, same_network
from resampling import draws_of, estimate, mean, pair_sums, quantile
from scales import one_parameter


def pairs_of(first: CostSet, second: CostSet) -> list[tuple[int, int]]:
    """Places of networks that both sets have."""
    place = {same_network(kernels): i for i, kernels in enumerate(first.kernels)}
    return [(place[key], j) for j, key in enumerate(map(same_network, second.kernels)) if key in place]


def precision_effect(full: CostSet, narrow: CostSet) -> dict[str, Any]:
    """int8 over float32 of the same networks: watts while running, seconds, joules, joules above quiet power."""
    pairs = pairs_of(full, narrow)
    a, b = np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])
    clusters = codes(list(full.architecture[a]))
    draws = draws_of(f"{full.board} precision", clusters)
    result: dict[str, Any] = {"networks": len(pairs), "architectures": int(clusters.max()) + 1}
    for name in ("power_w", "latency_s", "energy_j", "active_j"):
        ours, theirs = getattr(narrow, name), getattr(full, name)
        if ours is None or theirs is None:
            continue
        ratio = ours[b] / theirs[a]
        result[name] = {
            "median": estimate(quantile(ratio, 0.5), draws),
            "range": [float(ratio.min()), float(ratio.max())],
            "above_1": float(np.mean(ratio > 1.0)),
        }
    result["one_constant_power"] = _one_constant(full, narrow)
    return result


def _one_constant(full: CostSet, narrow: CostSet) -> dict[str, Any]:
    """Seconds × one power for both precisions together: error, and its sign at either."""
    latency = np.concatenate([full.latency_s, narrow.latency_s])
    energy = np.concatenate([full.energy_j, narrow.energy_j])
    clusters = np.concatenate([full.architecture, narrow.architecture + int(full.architecture.max()) + 1])
    error = one_parameter(latency[:, None], energy)(latency[:, None]) / energy - 1.0
    draws = draws_of(f"{full.board} both precisions", codes(list(clusters)))
    return {
        "mape": estimate(mean(np.abs(error)), draws),
        "bias_float32": float(np.mean(error[: len(full)])),
        "bias_int8": float(np.mean(error[len(full) :])),
    }


def boards_disagree(first: CostSet, second: CostSet, close: float = 1.25) -> dict[str, Any] | None:
    """Pairs of networks with MACs within 25 % of which one is cheaper on one board and the other on the other board.

    FLOPs give both boards the same answer, so in such a pair they are wrong on one of them. None without networks
    that both boards ran.
    """
    pairs = pairs_of(first, second)
    if not pairs:
        return None
    a, b = np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])
    macs, clusters = first.macs[a], codes(list(first.architecture[a]))
    ratio = np.maximum(macs[:, None], macs[None, :]) / np.minimum(macs[:, None], macs[None, :])
    within = (ratio < close) & (clusters[:, None] != clusters[None, :])
    flipped = within & (_order(first.steered_j[a]) != _order(second.steered_j[b]))
    every, bad = within.astype(np.float32), flipped.astype(np.float32)
    draws = draws_of(f"{first.label} boards", clusters)
    return {
        "networks": len(pairs),
        "pairs": int(every.sum()) // 2,
        "share": estimate(lambda w: pair_sums(bad, w) / np.maximum(pair_sums(every, w), 1e-9), draws),
    }


def _order(cost: Array) -> Any:
    return cost[:, None] > cost[None, :]
