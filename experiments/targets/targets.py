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
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from target_draws import BOARDS, FEASIBLE, INFEASIBLE, Target, draw, home_of, reach_of

from rig.durable import write_atomic
from rig.errors import InfeasibleTargetError, RigError
from rig.output import Interrupted

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
    from rig.commands.options import CalibrateOptions
    from rig.cost_models import calibrated_devices
    from rig.store.store import Store

    if board not in calibrated_devices(Store().root):
        print(f"calibrating {board}", flush=True)
        calibrate.run(CalibrateOptions(board))


def options_of(target: Target, variant: str) -> Any:
    """What ``rig optimize`` is asked."""
    from rig.commands.options import OptimizeOptions

    size = VARIANTS[variant]
    epochs = dict(zip(("epochs_baseline", "epochs_shrink", "epochs_finetune"), size.epochs, strict=True))
    asked = {f"target_{target.quantity}": target.text, "rounds": size.rounds, **epochs}
    return OptimizeOptions(target.board, size.task, size.model, fps=target.fps, **asked)


def run_target(target: Target, variant: str) -> dict[str, Any]:
    """The row of a target: finished earlier, resumed, or new."""
    from rig.commands import optimize
    from rig.store.store import Store

    options, start = options_of(target, variant), time.monotonic()
    earlier = runs_of(options)
    done = [manifest["id"] for manifest in earlier if manifest["state"] == "done"]
    row = {**target._asdict(), "variant": variant, "refused": None, "trained": True}
    try:
        if done:
            result = dict(Store().open_run(done[0]).read_json("result.json"))
        else:
            unfinished = any(manifest["state"] in ("interrupted", "running") for manifest in earlier)
            result = optimize.run(replace(options, resume=True) if unfinished else options)
    except InfeasibleTargetError as error:
        trained = any((Store().open_run(m["id"]).path / "stages").exists() for m in runs_of(options))
        return {**row, "refused": error.message, "trained": trained, "verdict": None, "seconds": _since(start)}
    return {**row, **_found(target, result), "seconds": None if done else _since(start)}


def runs_of(options: Any) -> list[dict[str, Any]]:
    """Manifests of the runs of these options, the newest first."""
    from rig.commands.options import command_words
    from rig.store.store import Store

    words = command_words("optimize", options)
    return [m for m in reversed(Store().runs()) if m["command"] == "optimize" and m["argv"] == words]


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


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one row from another."""
    return row["board"], row["number"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is no file."""
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def keep(path: Path, row: dict[str, Any]) -> None:
    """Put a row into a results file, in place of one of the same target."""
    rows = sorted([*(r for r in read_rows(path) if place(r) != place(row)), row], key=place)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode(), f"writing {path.name}")


def counts(rows: list[dict[str, Any]], board: str) -> dict[str, Any]:
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


def tables(folder: Path) -> str:
    """A line a board, and of every target what was asked and what came out."""
    rows = read_rows(folder / "results-full.json")
    if not rows:
        return "**Not measured yet.** There are no results; nothing is claimed.\n"
    head = ["board", "met", "of the active budget used", "least used", "infeasible refused before training"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    details = []
    for board in BOARDS:
        own = [row for row in rows if row["board"] == board]
        if not own:
            continue
        found = counts(own, board)
        simulated = " (SIMULATED)" if any(row.get("kind") == "simulated" for row in own) else ""
        least = "–" if found["least_used"] is None else f"{100 * found['least_used']:.1f} %"
        cells = [
            f"{board}{simulated}",
            f"{found['met']} of {found['asked']}",
            f"{found['well_used']} of {found['met']} at least {100 * found['enough']:.0f} %",
            least,
            f"{found['refused']} of {found['infeasible']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        details += [_detail(row) for row in own]
    head = ["board", "target", "verdict", "used", "rounds"]
    every = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *details]
    return "\n".join([*lines, "", "Every target:", "", *every]) + "\n"


def _detail(row: dict[str, Any]) -> str:
    asked = f"{row['quantity']} {row['text']}" + (f" at {row['fps']} fps" if row["fps"] else "")
    if row["refused"] is not None:
        return f"| {row['board']} | {asked} | refused{' AFTER TRAINING' if row['trained'] else ''} | – | – |"
    used = row["used"]
    low, high = (f"{100 * used[end]:.1f}" for end in ("lo", "hi"))
    share = f"{100 * used['value']:.1f} % [{low}, {high}]"
    return f"| {row['board']} | {asked} | {row['verdict']} | {share} | {row['rounds']} |"


def write_readme(folder: Path) -> None:
    """Put the tables behind the mark in README.md."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8").split(MARK)[0]
    path.write_text(f"{text}{MARK}\n\n{tables(folder)}", encoding="utf-8")


def run_board(board: str, variant: str, numbers: list[int] | None, path: Path, minutes: float) -> int:
    """Run the targets of a board that have no row yet; how many failed."""
    deadline_s, failed = time.monotonic() + 60.0 * minutes, 0
    with home_of(board):
        if board not in ("virtual-pi4", "local"):
            calibrated(board)
        done = {place(row) for row in read_rows(path)}
        for target in targets_of(board, variant):
            if (numbers is not None and target.number not in numbers) or (board, target.number) in done:
                continue
            if time.monotonic() > deadline_s:
                print("time is up; the same command goes on", file=sys.stderr, flush=True)
                break
            try:
                row = run_target(target, variant)
            except RigError as error:
                print(f"{target}: not done: {error.message}. Fix: {error.fix}", file=sys.stderr, flush=True)
                failed += 1
                continue
            keep(path, row)
            print(json.dumps(row), flush=True)
    return failed


def list_board(board: str, path: Path) -> None:
    """The rows of a board that there are."""
    rows = [row for row in read_rows(path) if row["board"] == board]
    for row in rows:
        print(f"{row['number']:2d} {row['quantity']} {row['text']}: {row['verdict'] or 'refused'}")
    print(f"{board}: {len(rows)} of {FEASIBLE + INFEASIBLE} targets done")


def main() -> int:
    """List, run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "run", "table"])
    parser.add_argument("--board", choices=BOARDS, default="virtual-pi4")
    parser.add_argument("--number", type=int, action="append")
    parser.add_argument("--variant", choices=list(VARIANTS), default="full")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no target after so long")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    path = asked.out / f"results-{asked.variant}.json"
    if asked.what == "table":
        write_readme(asked.out)
        return 0
    if asked.what == "list":
        list_board(asked.board, path)
        return 0
    try:
        failed = run_board(asked.board, asked.variant, asked.number, path, asked.minutes)
    except Interrupted as stopped:
        print(f"{stopped.message}; the same command goes on", file=sys.stderr, flush=True)
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
