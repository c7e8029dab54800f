"""A text file that somebody else appends to: its new whole lines, across rotation and truncation.

rotated (another file under the name)   → the old one is read to its end, then the new one from its start
cut short (smaller than what was read)  → read again from its start
last line without its newline           → waited for
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

CHUNK = 1 << 16
LONGEST_LINE = 4096  # bytes without a newline: that is no log of readings


class Line(NamedTuple):
    """A whole line, its number in its file (from 1), and whether it is the first of a file."""

    number: int
    text: str

    @property
    def first(self) -> bool:
        return self.number == 1


class Tail:
    """Raises OSError where the file cannot be read, ValueError for what is no text file of lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = path.open("rb")
        self._number = 0
        self._rest = b""

    def to_end(self) -> tuple[Line | None, Line | None]:
        """Skip what is there; the first and the last whole line of it."""
        first = last = None
        for line in self.new_lines():
            first, last = first or line, line
        return first, last

    def new_lines(self) -> list[Line]:
        """The whole lines that came since the last call, oldest first."""
        if self._file is None:
            raise ValueError("the file was closed")
        lines = self._read()
        state = self._present()
        if state is None:
            return lines  # renamed away and not made anew yet
        if not os.path.samestat(state, os.fstat(self._file.fileno())):
            lines += self._read()  # what was written before the name changed hands
            self._file.close()
            self._begin(self.path.open("rb"))
            lines += self._read()
        elif state.st_size < self._file.tell():
            self._file.seek(0)
            self._begin(self._file)
            lines += self._read()
        return lines

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _begin(self, file: BinaryIO) -> None:
        self._file, self._number, self._rest = file, 0, b""

    def _present(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)
        except FileNotFoundError:
            return None

    def _read(self) -> list[Line]:
        lines: list[Line] = []
        while self._file is not None:
            data = self._file.read(CHUNK)
            if not data:
                break
            *whole, self._rest = (self._rest + data).split(b"\n")
            for text in whole:
                self._number += 1
                lines.append(Line(self._number, text.decode("utf-8", "replace").rstrip("\r")))
            if len(self._rest) > LONGEST_LINE:
                raise ValueError(f"line {self._number + 1} is longer than {LONGEST_LINE} bytes: not a log of readings")
        return lines
