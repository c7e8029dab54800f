"""Studies done piece by piece: a row of a results file each, kept as soon as it is done; the same command goes on.

    pieces asked for ──► those without a row ──► one after the other: its row ──► put into the results file
                                                     │
                                                     ├─ RigError: said and counted, then the next piece
                                                     ├─ time is up (``--minutes``): no further piece is begun
                                                     └─ Ctrl-C: exit code 130

Scripts find this module by putting the repository's root on ``sys.path``, as the tests have it anyway.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from rig.compression.loop import STATE_VERSION
from rig.durable import write_atomic
from rig.errors import RigError
from rig.output import Interrupted

Row = dict[str, Any]


class Named(Protocol):
    """A piece; ``name``: how a person calls it."""

    @property
    def name(self) -> str: ...


P = TypeVar("P", bound=Named)


class Results(NamedTuple):
    """A file of rows: JSON, in the order of ``place``, which is also what tells one row from another."""

    path: Path
    place: Callable[[Row], Any]

    def rows(self) -> list[Row]:
        """All rows; none where there is no file."""
        return list(json.loads(self.path.read_text(encoding="utf-8"))) if self.path.exists() else []

    def by_place(self) -> dict[Any, Row]:
        """All rows by their place."""
        return {self.place(row): row for row in self.rows()}

    def keep(self, row: Row) -> None:
        """Put a row into the file, in place of one of the same place; raises StoreError where it cannot be written."""
        others = [one for one in self.rows() if self.place(one) != self.place(row)]
        text = json.dumps(sorted([*others, row], key=self.place), indent=1) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, text.encode(), f"writing {self.path.name}")


def usual_options(parser: ArgumentParser, variants: Iterable[str], home: Path) -> None:
    """Options that the studies share: which size, for how long, where the results are."""
    parser.add_argument("--variant", choices=list(variants), default="full")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no piece after so long")
    parser.add_argument("--out", type=Path, default=home)


def deadline_s(minutes: float) -> float:
    """When so many minutes are over, on the monotonic clock."""
    return time.monotonic() + 60.0 * minutes


def run_pieces(pieces: Iterable[P], row_of: Callable[[P], Row], results: Results, until_s: float) -> int:
    """Run pieces and keep their rows as they are done; how many failed. Ctrl-C passes through.

    Each row says by ``loop`` which version of training and shrinking it is of.
    """
    failed = 0
    for piece in pieces:
        if time.monotonic() > until_s:
            print("time is up; the same command goes on", file=sys.stderr, flush=True)
            break
        try:
            row = row_of(piece)
        except RigError as error:
            tell_failed(piece, error)
            failed += 1
            continue
        row = {**row, "loop": STATE_VERSION}
        results.keep(row)
        print(f"{piece.name}: {json.dumps(row)}", flush=True)
    return failed


def tell_failed(piece: Named, error: RigError) -> None:
    """Say why a piece was not done."""
    print(f"{piece.name}: not done: {error.message}. Fix: {error.fix}", file=sys.stderr, flush=True)


def exit_code(study: Callable[[], int]) -> int:
    """Of a study that says how many of its pieces failed: 0, 1 where some did, 130 where Ctrl-C stopped it."""
    try:
        return 1 if study() else 0
    except KeyboardInterrupt as stopped:
        saved = stopped.message if isinstance(stopped, Interrupted) else "interrupted; everything so far is saved"
        print(f"{saved}; the same command goes on", file=sys.stderr, flush=True)
        return 130
