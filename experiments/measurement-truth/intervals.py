"""Intervals against the truth: what a perfect meter would have found, whether an interval holds it, and how many do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from boards import true_mean_latency_s, true_quiet_phase_w, true_window_quiet_w

from device_agents.records import KernelSpec
from device_agents.virtual_board.physics import BoardModel
from rig.quality.stats import NORMAL_975

Row = dict[str, Any]


def held(value: float, half: float, truth: float) -> Row:
    """One interval against the truth; relative to the truth."""
    return {"error": (value - truth) / truth, "half": half / truth, "held": abs(value - truth) <= half}


def truth_of(model: BoardModel, kernels: Sequence[KernelSpec], record: Mapping[str, Any]) -> dict[str, float]:
    """What a perfect meter would have found over endlessly many inferences at these temperatures."""
    latency_s, active_j = true_mean_latency_s(model, kernels), model.inference_cost(kernels)[1]
    quiet_w = true_window_quiet_w(model, record)
    quiet = [phase for phase in record["phases"] if phase["name"].startswith("quiet")]
    period_s = latency_s if record["fps"] is None else 1.0 / record["fps"]
    return {
        "latency_s": latency_s,
        "energy_active_j": active_j,
        "energy_j": active_j + quiet_w * period_s,
        "power_w": quiet_w + active_j / period_s,
        "idle_power_w": float(np.mean([true_quiet_phase_w(model, phase) for phase in quiet])),
    }


def summary(rows: Sequence[Row]) -> Row:
    """Share held with its own 95 % interval, errors and widths."""
    n, hits = len(rows), sum(row["held"] for row in rows)
    share = hits / n
    doubt = NORMAL_975 * math.sqrt(max(share * (1.0 - share), 0.25 / n) / n)
    errors = np.asarray([row["error"] for row in rows])
    return {
        "n": n,
        "held": share,
        "held_half_width": doubt,
        "bias": float(errors.mean()),
        "bias_median": float(np.median(errors)),
        "error_rms": float(np.sqrt((errors**2).mean())),
        "half_median": float(np.median([row["half"] for row in rows])),
    }


def by_windows(rows: Sequence[Row]) -> dict[str, Row]:
    """How much is held by how many windows there were: the rule stops early where the scatter looks small."""
    found = {}
    for low, high in ((1, 9), (10, 10), (11, 20), (21, 1000)):
        chosen = [row for row in rows if row["n"] is not None and low <= row["n"] <= high]
        if chosen:
            found[f"{low} to {high}"] = {key: summary(chosen)[key] for key in ("n", "held", "held_half_width")}
    return found
