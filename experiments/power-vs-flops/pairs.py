"""Two networks, one choice: which is cheaper? By FLOPs, by seconds, and as measured.

    equal_pairs   pairs that a proxy cannot tell apart (within 5 %): by what factor does the measured cost differ?
    decisions     all pairs: how often does the proxy name the dearer one, by how far the proxy says they are apart,
                  and what does the wrong choice cost in joules?

Two resolutions of one architecture make no pair: that the smaller image is cheaper needs no study.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from measured_sets import Array, CostSet
from resampling import estimate, pair_sums, quantile, stated

EQUAL = 1.05
BINS = ((1.0, 1.05), (1.05, 1.25), (1.25, 1.5), (1.5, 2.0), (2.0, 4.0), (4.0, np.inf))
CLOSE = 1.25
SHOWN = 3


def equal_pairs(found: CostSet, proxy: Array, cost: Array, draws: Array, also: Array | None = None) -> dict[str, Any]:
    """Ratio (dearer over cheaper) of the measured cost in pairs whose ``proxy`` is equal within 5 %.

    ``also``: a second proxy that must be equal too.
    """
    i, j = _close(found, proxy, also)
    if not len(i):
        return {
            "pairs": 0,
            "networks": 0,
            **dict.fromkeys(("median", "p90", "largest", "beyond_20_percent")),
            "extremes": [],
        }
    ratio = np.maximum(cost[i], cost[j]) / np.minimum(cost[i], cost[j])
    most = np.argsort(-ratio, kind="stable")

    def differ(share: float) -> dict[str, float | None]:
        statistic = quantile(ratio, share)
        drawn = [statistic((row[i] * row[j])[None, :])[0] for row in draws if row[i] @ row[j] > 0]
        return stated(float(statistic(np.ones((1, len(i))))[0]), np.array(drawn))

    return {
        "pairs": len(i),
        "networks": len(np.unique(np.concatenate([i, j]))),
        "median": differ(0.5),
        "p90": differ(0.9),
        "largest": float(ratio[most[0]]),
        "beyond_20_percent": float(np.mean(ratio > 1.2)),
        "extremes": [_named(found, int(i[k]), int(j[k]), cost) for k in _distinct(most, i, j)],
    }


def _close(found: CostSet, proxy: Array, also: Array | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of pairs of different architecture whose proxy (and ``also``) differ by at most 5 %."""
    order = np.argsort(proxy, kind="stable")
    ends = np.searchsorted(proxy[order], proxy[order] * EQUAL, side="right")
    i = np.repeat(order, np.maximum(ends - np.arange(len(order)) - 1, 0))
    within = np.concatenate([np.arange(k + 1, end) for k, end in enumerate(ends)]) if len(order) else order
    j = order[within]
    kept = found.architecture[i] != found.architecture[j]
    if also is not None:
        kept &= np.maximum(also[i], also[j]) <= EQUAL * np.minimum(also[i], also[j])
    return i[kept], j[kept]


def _distinct(most: Any, i: Any, j: Any) -> list[int]:
    """The first pairs of the ranking that share no network."""
    seen: set[int] = set()
    kept: list[int] = []
    for k in most:
        if len(kept) == SHOWN:
            break
        if not {int(i[k]), int(j[k])} & seen:
            seen |= {int(i[k]), int(j[k])}
            kept.append(int(k))
    return kept


def _named(found: CostSet, a: int, b: int, cost: Array) -> dict[str, Any]:
    """A pair with its facts, the cheaper by ``cost`` first; board watts at the fastest rate that both can serve."""
    cheap, dear = (a, b) if cost[a] <= cost[b] else (b, a)
    facts: dict[str, Any] = {"ratio": float(cost[dear] / cost[cheap])}
    for role, k in (("cheaper", cheap), ("dearer", dear)):
        facts[role] = {
            "name": found.names[k],
            "mmac": float(found.macs[k] / 1e6),
            "latency_ms": float(found.latency_s[k] * 1e3),
            "power_w": float(found.power_w[k]),
            "energy_mj": float(found.steered_j[k] * 1e3),
        }
    if found.idle_power_w is not None and found.active_j is not None:
        fps = float(np.floor(1.0 / max(found.latency_s[a], found.latency_s[b])))
        facts["fps"] = fps
        for role, k in (("cheaper", cheap), ("dearer", dear)):
            facts[role]["power_at_fps_w"] = float(found.idle_power_w + fps * found.active_j[k])
    return facts


def decisions(found: CostSet, proxy: Array, cost: Array, draws: Array) -> dict[str, Any]:
    """How often the smaller proxy is the dearer network, by the ratio of the proxies, and what that costs."""
    light = np.float32
    ratio = (proxy[None, :] / proxy[:, None]).astype(np.float64)  # > 1: the row is chosen over the column
    other = found.architecture[:, None] != found.architecture[None, :]
    chosen = other & (ratio > 1.0)
    extra = np.maximum(cost[:, None] / cost[None, :] - 1.0, 0.0)  # of the chosen, over the other
    wrong = chosen & (extra > 0)

    def share(within: npt.NDArray[np.bool_]) -> dict[str, Any]:
        every, bad = (chosen & within).astype(light), (wrong & within).astype(light)
        count = int(every.sum())
        if not count:
            return {"pairs": 0, **dict.fromkeys(("wrong", "extra_when_wrong", "extra_worst"))}

        def statistic(w: Array) -> Array:
            total = pair_sums(every, w)
            return np.asarray(pair_sums(bad, w) / np.where(total > 0, total, np.nan))

        costly = extra[wrong & within]
        return {
            "pairs": count,
            "wrong": estimate(statistic, draws),
            "extra_when_wrong": float(np.mean(costly)) if len(costly) else 0.0,
            "extra_worst": float(np.max(costly)) if len(costly) else 0.0,
        }

    every = np.ones_like(chosen)
    same_family = found.family[:, None] == found.family[None, :]
    rows, columns = np.nonzero(wrong)
    result: dict[str, Any] = {
        "all": share(every),
        "close": share(ratio < CLOSE),
        "close_one_family": share((ratio < CLOSE) & same_family),
        "close_two_families": share((ratio < CLOSE) & ~same_family),
        "far": share(ratio >= 2.0),
        "bins": [
            {"from": lo, "to": hi if np.isfinite(hi) else None, **share((ratio >= lo) & (ratio < hi))}
            for lo, hi in BINS
        ],
    }
    if len(rows):
        k = int(np.argmax(extra[rows, columns]))
        result["worst"] = _named(found, int(rows[k]), int(columns[k]), cost)
        surest = int(np.argmax(ratio[rows, columns]))
        result["surest"] = {
            **_named(found, int(rows[surest]), int(columns[surest]), cost),
            "proxy_ratio": float(ratio[rows[surest], columns[surest]]),
        }
    result["regret_mj"] = _regret(chosen & (ratio < CLOSE), cost, draws)
    return result


def _regret(within: npt.NDArray[np.bool_], cost: Array, draws: Array) -> dict[str, float | None]:
    """Mean joules (mJ) lost a choice among close pairs, against always choosing the cheaper one."""
    lost = (np.where(within, np.maximum(cost[:, None] - cost[None, :], 0.0), 0.0) * 1e3).astype(np.float32)
    every = within.astype(np.float32)
    return estimate(
        lambda w: pair_sums(lost, w) / np.where(pair_sums(every, w) > 0, pair_sums(every, w), np.nan), draws
    )
