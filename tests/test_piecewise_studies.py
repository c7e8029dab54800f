"""What the studies share: rows kept piece by piece, runs found again in the store, tables of a README."""

from __future__ import annotations

import json
import os
import runpy
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.shared import stored_runs
from experiments.shared.pieces import Results, deadline_s, exit_code, run_pieces
from experiments.shared.tables import mean_interval, table, with_interval, write_behind
from rig.commands import optimize
from rig.commands.options import OptimizeOptions, command_words
from rig.compression.loop import STATE_VERSION
from rig.errors import BadInputError
from rig.output import Interrupted
from rig.store.store import Store

STUDIES = Path(__file__).resolve().parent.parent / "experiments"
ROOT_ON_PATH = "sys.path.insert(0, str(Path(__file__).resolve().parents[2]))"
OPTIONS = OptimizeOptions("virtual-pi4", "digits", target_latency="50%", seed=3)


class Piece(NamedTuple):
    seed: int

    @property
    def name(self) -> str:
        return f"seed {self.seed}"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "new folder" / "results.json", lambda row: row["seed"])


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_are_kept_in_order_and_one_of_the_same_place_is_replaced(results):
    assert results.rows() == []
    for row in ({"seed": 2, "points": 0.5}, {"seed": 0, "points": 0.1}, {"seed": 2, "points": 0.7}):
        results.keep(row)
    rows = [{"seed": 0, "points": 0.1}, {"seed": 2, "points": 0.7}]
    assert results.rows() == rows
    assert results.by_place() == {0: rows[0], 2: rows[1]}
    assert results.path.read_text() == json.dumps(rows, indent=1) + "\n"
    assert list(results.path.parent.iterdir()) == [results.path]


def test_pieces_that_fail_are_told_and_counted_and_the_others_kept(results, capsys):
    def row_of(piece: Piece) -> dict:
        if piece.seed == 1:
            raise BadInputError("no cost model", "rig calibrate")
        return {"seed": piece.seed}

    assert run_pieces([Piece(0), Piece(1), Piece(2)], row_of, results, deadline_s(1.0)) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [f'seed {seed}: {{"seed": {seed}, "loop": {STATE_VERSION}}}' for seed in (0, 2)]
    assert said.err == "seed 1: not done: no cost model. Fix: rig calibrate\n"
    assert set(results.by_place()) == {0, 2}


def test_no_piece_is_begun_when_time_is_up(results, capsys):
    over_s = deadline_s(0.0)
    assert over_s <= time.monotonic()
    assert run_pieces([Piece(0)], Piece._asdict, results, over_s - 1.0) == 0
    assert capsys.readouterr().err == "time is up; the same command goes on\n"
    assert results.rows() == []
    assert run_pieces([Piece(0)], Piece._asdict, results, deadline_s(1.0)) == 0
    assert results.rows() == [{"seed": 0, "loop": STATE_VERSION}]


@pytest.mark.parametrize(
    ("stop", "said"),
    [(Interrupted("interrupted; saved in o-0001", "rig optimize"), "o-0001; "), (KeyboardInterrupt(), "is saved; ")],
    ids=["of a command", "anywhere"],
)
def test_a_study_that_is_stopped_keeps_its_rows_and_ends_with_130(results, capsys, stop, said):
    def row_of(piece: Piece) -> dict:
        if piece.seed:
            raise stop
        return {"seed": piece.seed}

    code = exit_code(lambda: run_pieces([Piece(0), Piece(1)], row_of, results, deadline_s(1.0)))
    assert code == 130
    assert capsys.readouterr().err.endswith(f"{said}the same command goes on\n")
    assert set(results.by_place()) == {0}


def test_exit_code_tells_whether_pieces_failed():
    assert exit_code(lambda: 0) == 0
    assert exit_code(lambda: 3) == 1


# --- runs in the store --------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What ``rig optimize`` was asked to do in place of doing it, in a store of the test's own."""
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    seen = []
    monkeypatch.setattr(optimize, "run", lambda options, ablation=None: seen.append((options, ablation)) or {"new": 1})
    return seen


def test_a_result_is_new_then_resumed_then_taken_from_the_store(asked):
    assert stored_runs.optimized(OPTIONS, "part") == {"new": 1}
    other = Store().new_run("optimize", "virtual-pi4", argv=["rig", "optimize", "--seed", "4"])
    run = Store().new_run("optimize", "virtual-pi4", argv=command_words("optimize", OPTIONS))
    assert [manifest["id"] for manifest in stored_runs.runs_of(OPTIONS)] == [run.id] != [other.id]
    assert stored_runs.finished(OPTIONS) is None
    assert stored_runs.optimized(OPTIONS) == {"new": 1}
    assert [(options.resume, ablation) for options, ablation in asked] == [(False, "part"), (True, None)]
    run.write_json("result.json", {"run_id": run.id})
    run.update(state="done")
    assert stored_runs.optimized(OPTIONS) == {"run_id": run.id}
    assert len(asked) == 2


def test_a_run_that_another_version_of_the_loop_made_is_not_taken(asked):
    run = Store().new_run("optimize", "virtual-pi4", argv=command_words("optimize", OPTIONS))
    run.write_json("result.json", {"run_id": run.id})
    run.update(state="done")
    run.write_json("state.json", {"version": STATE_VERSION})
    assert stored_runs.optimized(OPTIONS) == {"run_id": run.id}
    run.write_json("state.json", {"version": STATE_VERSION - 1})
    assert stored_runs.optimized(OPTIONS) == {"new": 1}
    assert [options.resume for options, _ in asked] == [False]


def test_a_studys_own_run_is_found_again_by_its_words(tmp_path):
    store = Store(tmp_path)
    first = stored_runs.run_of(store, ["study", "a"], "local")
    assert stored_runs.run_of(store, ["study", "b"], "local").id != first.id
    assert stored_runs.run_of(store, ["study", "a"], "local").id == first.id


def test_the_environment_is_as_it_was_afterwards(monkeypatch):
    monkeypatch.setenv("RIG_HOME", "before")
    monkeypatch.delenv("RIG_CONFIG", raising=False)
    with stored_runs.environment(RIG_HOME="own", RIG_CONFIG="own too"):
        assert (os.environ["RIG_HOME"], os.environ["RIG_CONFIG"]) == ("own", "own too")
    assert os.environ["RIG_HOME"] == "before"
    assert "RIG_CONFIG" not in os.environ


# --- tables -------------------------------------------------------------------------------------------------------


def test_tables_go_behind_the_mark_in_place_of_the_old_ones(tmp_path):
    (tmp_path / "README.md").write_text("words\n\n<!-- mark -->\n\nold\n")
    text = table(["a", "b"], [["1", "2"]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    for _ in range(2):
        write_behind("<!-- mark -->", tmp_path, f"{text}\n")
    assert (tmp_path / "README.md").read_text() == f"words\n\n<!-- mark -->\n\n{text}\n"


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], "–"), ([0.5], "+0.50"), ([-0.1, 0.0, 0.1], "+0.00 [-0.25, +0.25]")],
    ids=["none", "one", "three"],
)
def test_means_have_students_interval_from_two_values_on(values, shown):
    # Standard deviation 0.1, t of two degrees of freedom 4.303.
    assert with_interval(mean_interval(values), 2, sign=True) == shown


def test_the_readme_of_the_whole_line_is_what_its_script_writes(tmp_path):
    folder = STUDIES / "compression"
    for path in (folder / "README.md", *folder.glob("results-*.json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    runpy.run_path(str(folder / "study.py"))["write_readme"](tmp_path)
    assert (tmp_path / "README.md").read_text() == (folder / "README.md").read_text()


def test_every_script_puts_the_root_on_the_path_before_it_imports_what_is_shared():
    """Tests have the root on their path anyway, so that a script without it would fail only for a person."""
    sharing = {path: path.read_text(encoding="utf-8") for path in STUDIES.glob("*/*.py")}
    scripts = {p: t for p, t in sharing.items() if "from experiments." in t and 'if __name__ == "__main__"' in t}
    assert len(scripts) >= 6
    for path, text in scripts.items():
        assert -1 < text.find(f"{ROOT_ON_PATH}\n") < text.index("from experiments."), path
