"""Ours and its peers at equal measured cost and equal epochs: accuracy, over five seeds, on two devices.

    python experiments/peers/peers.py list    --device virtual-pi4                 # the pieces, and which are done
    python experiments/peers/peers.py measure --device local --network resnet20    # costs first: nothing is trained
    python experiments/peers/peers.py run     --device local --network resnet20 --budget 30 --minutes 20
    python experiments/peers/peers.py run     --device virtual-pi4 --budget 50 --seed 0 --peer uniform   # one piece
    python experiments/peers/peers.py table                                        # README.md from what there is

A piece is one network of one method: device, network, budget (percent of the baseline's seconds or active joules),
method, seed. ``run`` trains the baselines that are missing, measures the networks of all pieces asked for that can be
known without training, then trains piece by piece and measures each trained network again; ``--minutes`` begins no new
piece after so long. A stopped piece goes on where it was. Rows go into ``results-<variant>.json``; ``--redo`` does void
rows again. ``--variant tiny``: a small network on digits, to see that everything works. README.md has the protocol.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from peer_ground import ground_of, run_of
from peer_pieces import COUNTED, FLOPS, OURS, PEERS, PRUNED, VARIANTS, Piece, keep, pieces, place, read_rows
from peer_runs import plan_of, row_of
from peer_table import write_readme

from rig.errors import RigError
from rig.output import Interrupted

HERE = Path(__file__).resolve().parent


def list_pieces(chosen: list[Piece], done: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    """One line a piece: missing, void, or its share and accuracies."""
    for piece in chosen:
        row = done.get(place(piece._asdict()))
        if row is None:
            state = "missing"
        elif row["void"]:
            state = f"VOID, {row['void']}"
        else:
            change = 100 * (row["result_test"] - row["baseline_test"])
            state = f"done, {100 * row['share']['value']:.1f} % of the cost, {change:+.2f} points"
        print(f"{piece.name}: {state}")


def measure_first(chosen: list[Piece], deadline_s: float) -> int:
    """Train missing baselines, then measure what is known before training; how many failed."""
    failed = 0
    for device, network, seed, variant in dict.fromkeys((p.device, p.network, p.seed, p.variant) for p in chosen):
        pruned = any(p.peer in PRUNED and (p.device, p.network, p.seed) == (device, network, seed) for p in chosen)
        if pruned and time.monotonic() < deadline_s:
            ground_of(device, network, variant).baseline(seed)
    for piece in chosen:
        if piece.peer in (*OURS, FLOPS) or time.monotonic() > deadline_s:
            continue  # their networks are found in training
        try:
            plan = plan_of(piece)
        except RigError as error:
            failed += _failed(piece, error)
            continue
        share = 100 * (plan.share.value or float("nan"))
        how = f"after {len(plan.looks)} looks: {plan.candidate.label}"
        print(f"{piece.name}: {share:.1f} % of the cost {how}", flush=True)
    return failed


def run_pieces(chosen: list[Piece], path: Path, deadline_s: float) -> int:
    """Run pieces and keep their rows as they are done; how many failed."""
    failed = 0
    for piece in chosen:
        if time.monotonic() > deadline_s:
            print("time is up; the same command goes on", file=sys.stderr, flush=True)
            break
        try:
            row = row_of(piece)
        except RigError as error:
            failed += _failed(piece, error)
            continue
        keep(path, row)
        print(f"{piece.name}: {json.dumps(row)}", flush=True)
    return failed


def _failed(piece: Piece, error: RigError) -> int:
    print(f"{piece.name}: not done: {error.message}. Fix: {error.fix}", file=sys.stderr, flush=True)
    return 1


def forget(piece: Piece) -> None:
    """Let a void piece be measured and trained anew: its run stays in the store, under words that nobody asks for."""
    run = run_of(piece.words, piece.device)
    run.update(argv=[*piece.words, "void"])


def main() -> int:
    """List, measure or run the pieces asked for, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "measure", "run", "table"])
    parser.add_argument("--device", choices=list(COUNTED))
    parser.add_argument("--network", action="append")
    parser.add_argument("--budget", type=int, action="append")
    parser.add_argument("--peer", choices=PEERS, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--variant", choices=list(VARIANTS), default="full")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no piece after so long")
    parser.add_argument("--redo", action="store_true", help="do void rows again")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    if asked.what == "table":
        write_readme(asked.out)
        return 0
    if asked.device is None:
        parser.error(f"--device is needed: {' or '.join(COUNTED)}")
    chosen = pieces(
        asked.device,
        asked.variant,
        networks=asked.network,
        budgets=asked.budget,
        peers=asked.peer,
        seeds=asked.seed,
    )
    if not chosen:
        size = VARIANTS[asked.variant]
        names = ", ".join(network.name for network in size.networks)
        print(f"no such piece; networks {names}; budgets {size.budgets}; seeds {size.seeds}", file=sys.stderr)
        return 2
    path = asked.out / f"results-{asked.variant}.json"
    done = {place(row): row for row in read_rows(path)}
    if asked.what == "list":
        list_pieces(chosen, done)
        return 0
    missing = [p for p in chosen if (row := done.get(place(p._asdict()))) is None or (asked.redo and row["void"])]
    for piece in missing:
        if place(piece._asdict()) in done and piece.peer not in OURS:
            forget(piece)
    deadline_s = time.monotonic() + 60.0 * asked.minutes
    try:
        failed = measure_first(missing, deadline_s)
        if asked.what == "run":
            failed += run_pieces(missing, path, deadline_s)
    except Interrupted as stopped:
        print(f"{stopped.message}; the same command goes on", file=sys.stderr, flush=True)
        return 130
    except KeyboardInterrupt:
        print("interrupted; everything so far is saved; the same command goes on", file=sys.stderr, flush=True)
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
