"""The loop's answer: the same network compressed by FLOPs, and by joules (or seconds), measured on the same device.

    python experiments/power-vs-flops/loop.py list  --device virtual-pi4          # the pieces, and which are done
    python experiments/power-vs-flops/loop.py run   --device virtual-pi4 --seed 0 # every missing piece of a seed
    python experiments/power-vs-flops/loop.py run   --device local --seed 1 --resource latency --share 50   # one piece
    python experiments/power-vs-flops/loop.py run   --device local --networks-of virtual-pi4
    python experiments/power-vs-flops/study.py                                    # the README with what there is

A piece is one ``rig optimize`` run: a seed, what is limited, and to which share of the baseline's. It is resumed if it
was stopped and taken from the store if it is done. On virtual-pi4 the resources are FLOPs and active joules (costs
SIMULATED, accuracies real), on local FLOPs and seconds (all real). FLOPs ask nothing of a device, so ``--networks-of``
another one measures the networks that its FLOPs pieces made here, in place of compressing again. ``--variant quick``:
fewer epochs; ``tiny``: a small network on digits, to see that everything works. Results: ``loop-<variant>.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from experiments.shared.pieces import Results, Row
from experiments.shared.stored_runs import finished, optimized, run_of
from rig.commands.options import OptimizeOptions
from rig.errors import BadInputError, RigError
from rig.output import Interrupted
from rig.store.store import Store

HERE = Path(__file__).resolve().parent
VARIANTS = ("full", "quick", "tiny")
SEEDS = (0, 1, 2)
# What each device limits, and to which percentages: FLOPs reach further down, because joules and seconds do not follow
# them all the way (half of the active joules of ResNet-20 left a fifth of its MACs: docs/figures.md).
BUDGETS = {
    "virtual-pi4": {"energy": (70, 55, 45), "flops": (45, 25, 15)},
    "local": {"latency": (70, 50, 35), "flops": (45, 25, 15)},
}
MEASURED = {"virtual-pi4": "energy_active_j", "local": "latency_s"}
TASKS: dict[str, dict[str, Any]] = {
    "full": {"task": "fashion-mnist", "model": "resnet20"},
    # The baseline of the full variant, so that it is trained once.
    "quick": {"task": "fashion-mnist", "model": "resnet20", "epochs_shrink": 2, "epochs_finetune": 2},
    "tiny": {"task": "digits", "model": "resnet8", "epochs_baseline": 2, "epochs_shrink": 4, "epochs_finetune": 1},
}


class Piece(NamedTuple):
    """One optimize run: ``share`` in percent of the baseline's ``resource``."""

    device: str
    resource: str
    share: int
    seed: int
    variant: str


def pieces(device: str, variant: str, seeds: tuple[int, ...] = SEEDS) -> list[Piece]:
    """All pieces of a device, seed by seed, the two resources in turn."""
    shares = BUDGETS[device]
    count = max(len(several) for several in shares.values())
    return [
        Piece(device, resource, several[k], seed, variant)
        for seed in seeds
        for k in range(count)
        for resource, several in shares.items()
        if k < len(several)
    ]


def run_piece(piece: Piece) -> Row:
    """The row of a piece: finished earlier, resumed, or new."""
    options, start = options_of(piece), time.monotonic()
    known = finished(options)
    if known is not None:
        return row_of(piece, known, None)
    return row_of(piece, optimized(options), time.monotonic() - start)


def options_of(piece: Piece) -> OptimizeOptions:
    """What ``rig optimize`` is asked for a piece."""
    target = {f"target_{piece.resource}": f"{piece.share}%"}
    return OptimizeOptions(piece.device, seed=piece.seed, **TASKS[piece.variant], **target)


def measure_networks_of(lender: str, piece: Piece) -> Row:
    """The row of a FLOPs piece whose network another device's piece made: measured here, beside its baseline in turns.

    Raises BadInputError where that piece is not finished. Measurements are kept in a store of their own below the
    user's, so that a stopped piece goes on where it was.
    """
    result = finished(options_of(piece._replace(device=lender)))
    if result is None:
        raise BadInputError(f"{lender} has not finished this piece", "run it there first, or leave --networks-of out")
    from rig.compression.bench import Bench
    from rig.compression.loop import CONFIRM_ROUNDS
    from rig.profiles import load_profile
    from rig.quality.verdict import compare as ratio_of

    store = Store(Store().root / "power-vs-flops")
    words = ["borrowed", lender, *map(str, piece)]
    run = run_of(store, words, piece.device)
    networks = {name: Path(result[name]["onnx"]) for name in ("baseline", "result")}
    bench = Bench(load_profile(piece.device), run, lambda text: None)
    with bench:
        found = bench.in_turn(networks, "borrowed", [None], CONFIRM_ROUNDS)
    run.update(state="done")
    before, after = found["baseline", None], found["result", None]
    row = {**row_of(piece, result, None), "kind": before[0].kind, "networks_of": lender}
    for quantity in ("latency_s", "energy_active_j"):
        told = all(getattr(m, quantity) is not None for m in (*before, *after))
        ratio = ratio_of(before, after, quantity) if told else None
        row[quantity] = None if ratio is None else {"value": ratio.value, "lo": ratio.lo, "hi": ratio.hi}
    return row


def row_of(piece: Piece, result: dict[str, Any], seconds: float | None) -> Row:
    """What the comparison needs of a run; costs as shares of the baseline measured in the same turns."""
    before, after = result["baseline"], result["result"]
    return {
        **piece._asdict(),
        "kind": result["kind"],
        "verdict": result["verdict"],
        "baseline_test": before["accuracy_test"]["value"],
        "result_test": after["accuracy_test"]["value"],
        "images": after["accuracy_test"]["n"],
        "macs_share": after["macs"] / before["macs"],
        "params_share": after["params"] / before["params"],
        "latency_s": _share(before["latency_s"], after["latency_s"]),
        "energy_active_j": _share(before["energy_active_j"], after["energy_active_j"]),
        "blocks_removed": len(result["blocks"]["removed"]),
        "seconds": seconds,
    }


def _share(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, float] | None:
    """After over before, with the interval of independent errors; None where it was not measured."""
    if before is None or after is None or not before["value"] or after["value"] is None:
        return None
    ratio = after["value"] / before["value"]
    halves = [(q["hi"] - q["lo"]) / 2 / q["value"] if q["hi"] is not None else math.nan for q in (before, after)]
    half = ratio * math.hypot(*halves)
    return {"value": ratio, "lo": ratio - half, "hi": ratio + half}


def place(row: Row) -> tuple[Any, ...]:
    """What tells one row from another."""
    return tuple(row[field] for field in ("device", "seed", "resource", "share"))


def results_in(folder: Path, variant: str) -> Results:
    """The file of the rows of a variant."""
    return Results(folder / f"loop-{variant}.json", place)


# --- the comparison -----------------------------------------------------------------------------------------------


def compare(rows: list[Row], measured: str) -> dict[str, Any] | None:
    """FLOPs against the device's own resource over all pieces of one device and variant.

    Least squares of test accuracy (points) on the log of the measured cost share, the resource, and the seed (so that
    seeds are paired): ``points`` is what compressing by the device's resource gains at equal measured cost;
    ``cost`` the factor on the measured cost at equal accuracy (Fieller's interval; None where the slope of accuracy
    over cost is not told from zero). None before both resources have two pieces in each of two seeds.
    """
    told = [row for row in rows if row[measured] is not None]
    seeds = sorted({row["seed"] for row in told})
    full = [
        seed
        for seed in seeds
        if all(
            sum(r["seed"] == seed and (r["resource"] == "flops") == flops for r in told) >= 2 for flops in (True, False)
        )
    ]
    if len(full) < 2:
        return None
    told = [row for row in told if row["seed"] in full]
    y = np.array([100.0 * row["result_test"] for row in told])
    cost = np.log([row[measured]["value"] for row in told])
    own = np.array([float(row["resource"] != "flops") for row in told])
    seed_columns = [[float(row["seed"] == seed) for row in told] for seed in full]
    design = np.column_stack([own, cost, *seed_columns])
    return {"seeds": len(full), "pieces": len(told), **_fit(design, y)}


def _fit(design: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from scipy import stats

    beta, *_ = np.linalg.lstsq(design, y, rcond=None)
    left = len(y) - design.shape[1]
    noise = float(np.sum((y - design @ beta) ** 2) / left)
    covariance = noise * np.linalg.inv(design.T @ design)
    t = float(stats.t.ppf(0.975, left))
    gain, slope = float(beta[0]), float(beta[1])
    half = t * math.sqrt(covariance[0, 0])
    shift = fieller(gain, slope, covariance[:2, :2], t)
    cost = None
    if shift is not None:
        cost = {"value": math.exp(-gain / slope), "lo": math.exp(shift[0]), "hi": math.exp(shift[1])}
    return {
        "points": {"value": gain, "lo": gain - half, "hi": gain + half},
        "cost": cost,
        "points_per_halving": {"value": slope * math.log(0.5)},
        "scatter_points": math.sqrt(noise),
    }


def fieller(gain: float, slope: float, covariance: np.ndarray, t: float) -> tuple[float, float] | None:
    """Interval of −gain/slope: all θ with |gain + θ·slope| ≤ t·se; None where it is unbounded.

    Source: Fieller 1954, Some problems in interval estimation.
    """
    a = slope**2 - t**2 * covariance[1, 1]
    b = 2 * (gain * slope - t**2 * covariance[0, 1])
    c = gain**2 - t**2 * covariance[0, 0]
    inside = b * b - 4 * a * c
    if a <= 0 or inside < 0:
        return None
    root = math.sqrt(inside)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def main() -> int:
    """List the pieces, or run those asked for that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "run"])
    parser.add_argument("--device", choices=list(BUDGETS), required=True)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--resource", choices=["flops", "energy", "latency"])
    parser.add_argument("--share", type=int)
    parser.add_argument("--networks-of", choices=list(BUDGETS), help="measure the networks of its FLOPs pieces here")
    parser.add_argument("--variant", choices=VARIANTS, default="full")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    results = results_in(asked.out, asked.variant)
    done = results.by_place()
    chosen = [
        piece
        for piece in pieces(asked.device, asked.variant, tuple(asked.seed or SEEDS))
        if asked.resource in (None, piece.resource) and asked.share in (None, piece.share)
    ]
    if asked.networks_of is not None:
        chosen = [piece for piece in chosen if piece.resource == "flops"]
        lent = BUDGETS[asked.networks_of]["flops"]
        chosen = [piece for piece in chosen if piece.share in lent and asked.networks_of != asked.device]
    if not chosen:
        shares = ", ".join(f"{name} {several}" for name, several in BUDGETS[asked.device].items())
        print(f"no such piece; {asked.device} has {shares}", file=sys.stderr)
        return 2
    failed = 0
    for piece in chosen:
        name = f"seed {piece.seed}, {piece.resource} to {piece.share} %"
        known = done.get(place(piece._asdict()))
        if asked.what == "list":
            print(f"{name}: {'done, ' + known['verdict'] if known else 'missing'}")
        elif known is None:
            try:
                row = measure_networks_of(asked.networks_of, piece) if asked.networks_of else run_piece(piece)
            except RigError as error:
                print(f"{name}: not measured: {error.message}. Fix: {error.fix}", file=sys.stderr, flush=True)
                failed += 1
                continue
            except Interrupted as stopped:
                print(f"{name}: {stopped.message}; the same command goes on", file=sys.stderr, flush=True)
                return 130
            results.keep(row)
            print(f"{name}: {json.dumps(row)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
