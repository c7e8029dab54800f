"""Paced frames: does the line through three frame rates hold the fourth, and are missed deadlines counted?"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
from boards import Bench, Board, bench, drawn_board, drawn_kernel, true_mean_latency_s
from intervals import Row, held, summary, truth_of

from device_agents.records import MeasurePlan
from rig.quality.stats import quadrature
from rig.quality.verdict import assess, paced_line

PACED_SHARES = (0.15, 0.3, 0.45, 0.6, 0.8)  # of the rate that the board can just keep


def paced_rows(board: Board, at: Bench) -> list[Row]:
    """Four rates in random order: the line through three of them against the fourth, and one rate too fast."""
    rng, model = random.Random(7919 + board.seed), board.model()
    kernels = [drawn_kernel(rng)] * 6
    latency_s = true_mean_latency_s(model, kernels)
    kernels = kernels * max(1, round(0.006 / latency_s))
    latency_s = true_mean_latency_s(model, kernels)
    shares = rng.sample(PACED_SHARES, 4)
    records = [at.measure(board, kernels, MeasurePlan(fps=share / latency_s, max_s=30.0)) for share in shares]
    found = [assess(record) for record in records]
    too_fast = at.measure(board, kernels, MeasurePlan(fps=1.25 / latency_s, max_s=10.0))
    windows = [phase for phase in too_fast["phases"] if phase["name"] == "window"]
    frames = sum(w["count"] for w in windows)
    overrun = {"missed": sum(w["missed"] for w in windows), "count": frames}
    if not all(m.ok for m in found):
        return [{"rejected": [m.reason for m in found if not m.ok], "overrun": overrun}]
    rows = []
    for i in range(4):
        line = paced_line([m for j, m in enumerate(found) if j != i])
        fps, seen = shares[i] / latency_s, found[i]
        predicted, same = line.power_at(fps), line.power_at(fps, with_gain=False)
        truth_w = truth_of(model, kernels, records[i])["power_w"]
        both = quadrature(float(same.half_width or 0.0), seen.half_width("power_w", without=("gain",)))
        measured_w = float(seen.power_w.value)
        rows.append(
            {
                "share": shares[i],
                "outside": shares[i] in (min(shares), max(shares)),
                "truth": held(float(predicted.value), float(predicted.half_width), truth_w),
                "measured": held(float(predicted.value), both, measured_w),
                "linear": line.linear,
                "missed": line.missed,
                "overrun": overrun,
            }
        )
    return rows


def studied_paced(boards: int) -> Row:
    """All boards: does the line through three rates hold the fourth; are missed deadlines counted."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as at:
        for seed in range(boards):
            rows += [{**row, "board": seed} for row in paced_rows(drawn_board(seed), at)]
    kept = [row for row in rows if "truth" in row]
    found: Row = {"boards": boards, "rejected": sum("rejected" in row for row in rows), "lines": len(kept)}
    for name in ("truth", "measured"):
        found[name] = summary([row[name] for row in kept])
        found[name + ", between the three"] = summary([row[name] for row in kept if not row["outside"]])
    found["linear"] = sum(row["linear"] for row in kept) / max(1, len(kept))
    overruns = {row["board"]: row["overrun"] for row in rows}.values()
    found["missed_when_too_fast"] = {
        "boards": len(overruns),
        "fewest_missed": min(one["missed"] for one in overruns),
        "share_of_frames": float(np.median([one["missed"] / one["count"] for one in overruns])),
    }
    found["rows"] = kept
    return found
