"""Are targets met? Random ones, drawn for each board from what it can reach, through the whole loop, as measured.

    python experiments/targets/targets.py list  --board virtual-pi4
    python experiments/targets/targets.py run   --board virtual-pi4 --minutes 10
    python experiments/targets/targets.py run   --board virtual-pi4-201          # a board that nothing was tuned on
    python experiments/targets/targets.py table                                  # README.md from what there is

A piece is one ``rig optimize`` with one target. Costs do not depend on how well a network is trained, so the task is a
small part of Fashion-MNIST and training is short; nothing else differs from what a person would run, and no strength is
set by hand. Infeasible targets must be refused before anything is trained. A perturbed board is calibrated when it is
first asked for. Rows go into ``results-<variant>.json``; what is there is not run again. ``--variant tiny``: digits.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from target_draws import BOARDS, FEASIBLE, INFEASIBLE, Target, draw, home_of, reach_of

from experiments.shared.pieces import Results, Row, deadline_s, exit_code, run_pieces, usual_options
from experiments.shared.stored_runs import finished, optimized, runs_of
from experiments.shared.tables import NOT_MEASURED, table, write_behind
from rig.commands.options import CalibrateOptions, OptimizeOptions
from rig.cost_models import calibrated_devices
from rig.errors import InfeasibleTargetError
from rig.store.store import Store

HERE = Path(__file__).resolve().parent
MARK = "<!-- tables: python experiments/targets/targets.py table -->"
WELL_USED = {"local": 0.90}  # of the active budget; 0.95 elsewhere


class Variant(NamedTuple):
    """A size of the study; epochs of baseline, shrinking and fine-tuning; how many targets of each sort; rounds on the
    device (None: as usual)."""

    task: str
    model: str | None
    epochs: tuple[int, int, int]
    feasible: int
    infeasible: int
    rounds: int | None


VARIANTS = {
    "full": Variant(str(HERE / "short.py"), None, (2, 5, 1), FEASIBLE, INFEASIBLE, None),
    "tiny": Variant("digits", "resnet8", (1, 2, 1), 1, 1, 1),
}


def targets_of(board: str, variant: str) -> list[Target]:
    """The board's targets; the survey that they are drawn from is made where it is missing."""
    size = VARIANTS[variant]
    return draw(board, reach_of(board, size.task, size.model), size.feasible, size.infeasible)


def calibrated(board: str) -> None:
    """Calibrate a board of the study's own where it has no cost model, as a person would."""
    from rig.commands import calibrate

    if board not in calibrated_devices(Store().root):
        print(f"calibrating {board}", flush=True)
        calibrate.run(CalibrateOptions(board))


def options_of(target: Target, variant: str) -> OptimizeOptions:
    """What ``rig optimize`` is asked."""
    size = VARIANTS[variant]
    epochs = dict(zip(("epochs_baseline", "epochs_shrink", "epochs_finetune"), size.epochs, strict=True))
    asked = {f"target_{target.quantity}": target.text, "rounds": size.rounds, **epochs}
    return OptimizeOptions(target.board, size.task, size.model, fps=target.fps, **asked)


def run_target(target: Target, variant: str) -> Row:
    """The row of a target: finished earlier, resumed, or new."""
    options, start = options_of(target, variant), time.monotonic()
    row = {**target._asdict(), "variant": variant, "refused": None, "trained": True}
    known = finished(options)
    if known is not None:
        return {**row, **_found(target, known), "seconds": None}
    try:
        return {**row, **_found(target, optimized(options)), "seconds": _since(start)}
    except InfeasibleTargetError as error:
        trained = any((Store().open_run(m["id"]).path / "stages").exists() for m in runs_of(options))
        return {**row, "refused": error.message, "trained": trained, "verdict": None, "seconds": _since(start)}


def _since(start: float) -> float:
    return round(time.monotonic() - start, 1)


def _found(target: Target, result: dict[str, Any]) -> dict[str, Any]:
    used = result["usage"][target.quantity]
    return {
        "kind": result["kind"],
        "verdict": result["verdict"],
        "used": {key: used[key] for key in ("value", "lo", "hi", "n")},
        "rounds": len(result["rounds"]),
        "limit": result["budget"][0]["limit"],
        "macs_share": result["result"]["macs"] / result["baseline"]["macs"],
        "by_the_regularizer": next((s.get("reached") for s in result["stages"] if s["name"] == "shrink"), None),
    }


# --- results ------------------------------------------------------------------------------------------------------


def place(row: Row) -> tuple[Any, ...]:
    """What tells one row from another."""
    return row["board"], row["number"]


def counts(rows: list[Row], board: str) -> dict[str, Any]:
    """What the figures ask of a board: met, well used, refused in time."""
    feasible = [row for row in rows if row["feasible"]]
    met = [row for row in feasible if row["verdict"] == "met"]
    enough = WELL_USED.get(board, 0.95)
    infeasible = [row for row in rows if not row["feasible"]]
    return {
        "asked": len(feasible),
        "met": len(met),
        "well_used": sum(row["used"]["value"] >= enough for row in met),
        "least_used": min((row["used"]["value"] for row in met), default=None),
        "enough": enough,
        "infeasible": len(infeasible),
        "refused": sum(row["refused"] is not None and not row["trained"] for row in infeasible),
    }


def all_tables(folder: Path) -> str:
    """A line a board, and of every target what was asked and what came out; the full variant only."""
    rows = Results(folder / "results-full.json", place).rows()
    if not rows:
        return NOT_MEASURED
    boards, targets = [], []
    for board in BOARDS:
        own = [row for row in rows if row["board"] == board]
        if not own:
            continue
        found = counts(own, board)
        simulated = " (SIMULATED)" if any(row.get("kind") == "simulated" for row in own) else ""
        boards.append(
            [
                f"{board}{simulated}",
                f"{found['met']} of {found['asked']}",
                f"{found['well_used']} of {found['met']} at least {100 * found['enough']:.0f} %",
                "–" if found["least_used"] is None else f"{100 * found['least_used']:.1f} %",
                f"{found['refused']} of {found['infeasible']}",
            ]
        )
        targets += [_detail(row) for row in own]
    head = ["board", "met", "of the active budget used", "least used", "infeasible refused before training"]
    every = table(["board", "target", "verdict", "used", "rounds"], targets)
    return f"{table(head, boards)}\n\nEvery target:\n\n{every}\n"


def _detail(row: Row) -> list[str]:
    asked = Target(*(row[field] for field in Target._fields)).asked
    if row["refused"] is not None:
        return [row["board"], asked, f"refused{' AFTER TRAINING' if row['trained'] else ''}", "–", "–"]
    used = row["used"]
    low, high = (f"{100 * used[end]:.1f}" for end in ("lo", "hi"))
    share = f"{100 * used['value']:.1f} % [{low}, {high}]"
    return [row["board"], asked, row["verdict"], share, str(row["rounds"])]


def write_readme(folder: Path) -> None:
    """Put the tables behind the mark in README.md."""
    write_behind(MARK, folder, all_tables(folder))


def run_board(board: str, variant: str, numbers: list[int] | None, results: Results, minutes: float) -> int:
    """Run the targets of a board that have no row yet; how many failed."""
    until_s = deadline_s(minutes)
    with home_of(board):
        if board not in ("virtual-pi4", "local"):
            calibrated(board)
        done = results.by_place()
        missing = [
            target
            for target in targets_of(board, variant)
            if (numbers is None or target.number in numbers) and (board, target.number) not in done
        ]
        return run_pieces(missing, lambda target: run_target(target, variant), results, until_s)


def list_board(board: str, results: Results) -> None:
    """The rows of a board that there are."""
    rows = [row for row in results.rows() if row["board"] == board]
    for row in rows:
        print(f"{row['number']:2d} {row['quantity']} {row['text']}: {row['verdict'] or 'refused'}")
    print(f"{board}: {len(rows)} of {FEASIBLE + INFEASIBLE} targets done")


def main() -> int:
    """List, run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "run", "table"])
    parser.add_argument("--board", choices=BOARDS, default="virtual-pi4")
    parser.add_argument("--number", type=int, action="append")
    usual_options(parser, VARIANTS, HERE)
    asked = parser.parse_args()
    results = Results(asked.out / f"results-{asked.variant}.json", place)
    if asked.what == "table":
        write_readme(asked.out)
        return 0
    if asked.what == "list":
        list_board(asked.board, results)
        return 0
    return exit_code(lambda: run_board(asked.board, asked.variant, asked.number, results, asked.minutes))


if __name__ == "__main__":
    sys.exit(main())
