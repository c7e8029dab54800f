"""Single convolutions with the rail's watts (Jetson TX2): equal FLOPs, other watts; and what the watts follow.

The sensor was read about ten times just after an asynchronous launch, so kernels shorter than 10 ms under-read; the
study's figures are of the longer ones, and those of all kernels stand beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from measured_sets import Array, CostSet, subset
from pairs import equal_pairs
from resampling import draws_of, estimate, mean, spearman
from scales import one_parameter, random_fold_errors, two_parameters

LONG_S, VERY_LONG_S = 0.010, 0.100


def kernel_study(found: CostSet) -> dict[str, Any]:
    """Figures of the long kernels, and the same errors over all of them."""
    long = subset(found, found.latency_s >= LONG_S)
    draws = draws_of(long.label, np.arange(len(long)))
    return {
        "kernels": len(found),
        "long": len(long),
        "power_w": {
            "p5": float(np.quantile(long.power_w, 0.05)),
            "median": float(np.median(long.power_w)),
            "p95": float(np.quantile(long.power_w, 0.95)),
        },
        "spearman": {
            "macs energy": estimate(spearman(long.macs, long.energy_j), draws),
            "latency energy": estimate(spearman(long.latency_s, long.energy_j), draws),
            "macs power": estimate(spearman(long.macs, long.power_w), draws),
            "latency power": estimate(spearman(long.latency_s, long.power_w), draws),
        },
        "errors": {
            "long": _errors(long, draws),
            "all": _errors(found, draws_of(found.label, np.arange(len(found)))),
        },
        "equal_macs": {
            "energy": equal_pairs(long, long.macs, long.energy_j, draws),
            "power": equal_pairs(long, long.macs, long.power_w, draws),
        },
        "equal_macs_and_seconds": equal_pairs(long, long.macs, long.energy_j, draws, also=long.latency_s),
        "equal_seconds": equal_pairs(long, long.latency_s, long.energy_j, draws),
        "watts_explained": explained(long, draws),
        "very_long": very_long(found),
    }


def _errors(found: CostSet, draws: Array) -> dict[str, Any]:
    """Held-out percentage errors of joules by FLOPs and by seconds."""
    result = {}
    for proxy, x in (("macs", found.macs), ("latency", found.latency_s)):
        for scale, fit in (("one", one_parameter), ("two", two_parameters)):
            error = np.abs(random_fold_errors(fit, x, found.energy_j)).mean(axis=0)
            result[f"{proxy} {scale}"] = estimate(mean(error), draws)
    return result


def explained(found: CostSet, draws: Array) -> list[dict[str, Any]]:
    """Share of the variance of log watts that is explained out of fold, by what the fit may know (quadratic, logs)."""
    (kernels,) = zip(*found.kernels, strict=True)
    macs, seconds = np.log(found.macs), np.log(found.latency_s)
    size = np.log([k.kernel_h for k in kernels])
    channels = [np.log([k.in_channels for k in kernels]), np.log([k.out_channels for k in kernels])]
    image = np.log([k.out_height for k in kernels])
    steps = (
        ("FLOPs", [macs]),
        ("seconds", [seconds]),
        ("FLOPs and seconds (so FLOP/s)", [macs, seconds]),
        ("FLOPs, seconds and kernel size", [macs, seconds, size]),
        ("all of the geometry and seconds", [macs, seconds, size, *channels, image]),
    )
    target = np.log(found.power_w)
    return [{"known": name, "r2": _r2(np.column_stack(columns), target, draws)} for name, columns in steps]


def _r2(x: Array, y: Array, draws: Array) -> dict[str, float | None]:
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    products = [x[:, a] * x[:, b] for a in range(x.shape[1]) for b in range(a + 1)]
    design = np.column_stack([np.ones(len(y)), x, *products])
    fold = np.random.default_rng(0).permutation(len(y)) % 5
    error = np.empty(len(y))
    for one in range(5):
        out = fold == one
        beta, *_ = np.linalg.lstsq(design[~out], y[~out], rcond=None)
        error[out] = design[out] @ beta - y[out]

    def r2(w: Array) -> Array:
        total = w.sum(axis=1)
        middle = (w @ y) / total
        return np.asarray(1.0 - (w @ error**2) / (w @ y**2 - total * middle**2))

    return estimate(r2, draws)


def very_long(found: CostSet) -> dict[str, Any]:
    """Kernels of 100 ms and more, where the sensor's reads fall well inside the run: are their watts constant?"""
    chosen = subset(found, found.latency_s >= VERY_LONG_S)
    draws = draws_of(f"{found.label} very long", np.arange(len(chosen)))
    return {
        "kernels": len(chosen),
        "power_w": [float(q) for q in np.quantile(chosen.power_w, [0.05, 0.5, 0.95])],
        "seconds_error": _errors(chosen, draws)["latency one"],
        "equal_macs_and_seconds": equal_pairs(chosen, chosen.macs, chosen.energy_j, draws, also=chosen.latency_s),
    }
