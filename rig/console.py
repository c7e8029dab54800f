"""What a person sees: results on one stream, progress and notices on the other. The only module that imports rich.

On a terminal progress is a live line; elsewhere it is one plain line a stage. ``NO_COLOR`` is honoured by rich; a
status is always a word, colour only repeats it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from rig.errors import RigError

# Off a terminal nothing may be cut or wrapped: a log or a pipe has no width.
PLAIN_WIDTH = 400

WORD_STYLES = {"met": "green", "ready": "green", "missed": "red", "undecided": "yellow", "EXTRAPOLATED": "yellow"}


class Console:
    """Prints a command's results to ``results`` and its warnings and errors to ``notices``."""

    def __init__(self, results: TextIO | None = None, notices: TextIO | None = None) -> None:
        self._results = _rich(results or sys.stdout)
        self._notices = _rich(notices or sys.stderr)

    def line(self, text: str = "") -> None:
        """One line of result, never wrapped or cut."""
        self._results.print(Text(text), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
        """Rows under headings; the columns named in ``right`` are aligned to the right."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell, style=WORD_STYLES.get(cell, "")) for cell in row))
        self._results.print(table, crop=False, soft_wrap=True)

    def warnings(self, warnings: Sequence[Mapping[str, Any]]) -> None:
        """Each warning with what to do about it, to the stream of notices."""
        self._flush()
        for entry in warnings:
            self._notice("Warning: ", "yellow", str(entry["message"]), entry.get("fix"))

    def error(self, error: RigError) -> None:
        """An error with what to do about it, to the stream of notices."""
        self.problem(error.message, error.fix)

    def problem(self, message: str, fix: str | None) -> None:
        """As ``error``, for what is no RigError."""
        self._flush()
        self._notice("Error: ", "red", message, fix)

    def notice(self, text: str) -> None:
        """A plain line to the stream of notices."""
        self._flush()
        self._notices.print(Text(text), soft_wrap=True)

    def next(self, command: str | None) -> None:
        """The last line: the command that comes next."""
        if command:
            self.line(f"Next: {command}")

    def _notice(self, word: str, style: str, message: str, fix: str | None) -> None:
        self._notices.print(Text.assemble((word, style), message), soft_wrap=True)
        if fix:
            self._notices.print(Text(f"Fix: {fix}"), soft_wrap=True)

    def _flush(self) -> None:
        self._results.file.flush()  # so that results come before their warnings in a common log


class Progress:
    """The stages of a long command: ``with Progress() as p: p.stage("measuring"); p.update("12 of 240")``."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._console = _rich(self._stream)
        self._live = self._console.status("") if self._console.is_terminal else None
        self._start_s = time.monotonic()
        self._stage: str | None = None
        self._stage_start_s = self._start_s

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._finish_stage(stopped=kind is not None)
            self._live.stop()

    def stage(self, text: str) -> None:
        """A new stage begins (off a terminal: its one line)."""
        if self._live is None:
            self._console.print(Text(f"[{time.monotonic() - self._start_s:6.1f} s] {text}"), soft_wrap=True)
            self._stream.flush()
            return
        self._finish_stage(stopped=False)
        self._stage, self._stage_start_s = text, time.monotonic()
        self._live.update(Text(text))

    def update(self, detail: str) -> None:
        """How far the stage is; shown on a terminal only."""
        if self._live is not None:
            self._live.update(Text(f"{self._stage or ''}: {detail}"))

    def _finish_stage(self, *, stopped: bool) -> None:
        if self._stage is None:
            return
        took_s = time.monotonic() - self._stage_start_s
        word = "stopped" if stopped else "done"
        self._console.print(Text(f"{word:<8}{self._stage} ({took_s:.1f} s)"), soft_wrap=True)
        self._stage = None


def _rich(stream: TextIO) -> RichConsole:
    is_terminal = stream.isatty()
    return RichConsole(
        file=stream, highlight=False, markup=False, emoji=False, width=None if is_terminal else PLAIN_WIDTH
    )
