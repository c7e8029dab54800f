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
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from equal_cost import dearer
from peer_ground import ground_of, run_of
from peer_pieces import COUNTED, FLOPS, OURS, PEERS, PRUNED, VARIANTS, Piece, pieces, place, results_in
from peer_runs import plan_of, row_of
from peer_table import write_readme

from experiments.shared.pieces import Row, deadline_s, exit_code, run_pieces, tell_failed, usual_options
from rig.errors import RigError

HERE = Path(__file__).resolve().parent


def list_pieces(chosen: list[Piece], done: dict[Any, Row]) -> None:
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


def measure_first(chosen: list[Piece], until_s: float) -> int:
    """Train missing baselines, then measure what is known before training; how many failed."""
    failed = 0
    for device, network, seed, variant in dict.fromkeys((p.device, p.network, p.seed, p.variant) for p in chosen):
        pruned = any(p.peer in PRUNED and (p.device, p.network, p.seed) == (device, network, seed) for p in chosen)
        if pruned and time.monotonic() < until_s:
            ground_of(device, network, variant).start(seed)
    for piece in chosen:
        if piece.peer in (*OURS, FLOPS) or time.monotonic() > until_s:
            continue  # their networks are found in training
        try:
            plan = plan_of(piece)
        except RigError as error:
            tell_failed(piece, error)
            failed += 1
            continue
        share = 100 * (plan.share.value or float("nan"))
        how = f"after {len(plan.looks)} looks: {plan.candidate.label}"
        print(f"{piece.name}: {share:.1f} % of the cost {how}", flush=True)
    return failed


def to_do(piece: Piece, row: Row | None, redo: bool) -> bool:
    """Whether a piece is to be run: without a row, void and wanted again, or too dear and not trained yet.

    A void row that was trained all the same is a bound, and done.
    """
    if row is None or not row["void"]:
        return row is None
    if dearer(row["share"]["value"], piece.goal):
        return row["result_test"] is None
    return redo


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
    parser.add_argument("--redo", action="store_true", help="do void rows again")
    usual_options(parser, VARIANTS, HERE)
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
    results = results_in(asked.out, asked.variant)
    done = results.by_place()
    if asked.what == "list":
        list_pieces(chosen, done)
        return 0
    missing = [p for p in chosen if to_do(p, done.get(place(p._asdict())), asked.redo)]
    for piece in missing:
        if place(piece._asdict()) in done and piece.peer not in OURS:
            forget(piece)
    until_s = deadline_s(asked.minutes)

    def study() -> int:
        failed = measure_first(missing, until_s)
        return failed + (run_pieces(missing, row_of, results, until_s) if asked.what == "run" else 0)

    return exit_code(study)


if __name__ == "__main__":
    sys.exit(main())
