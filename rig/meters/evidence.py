"""What a meter said, word for word, in bounded room: the first lines, the last ones, and how many there were."""

from __future__ import annotations

import collections
from typing import Any

KEPT_LINES = 100  # at each end of a measurement
LONGEST = 400  # characters of one line


class Evidence:
    """Lines in order; the middle of a long measurement is only counted (its samples are in the trace)."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._first: list[str] = []
        self._last: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._count = 0

    def add(self, line: str) -> None:
        """Keep a line as it came."""
        self._count += 1
        (self._first if len(self._first) < KEPT_LINES else self._last).append(line[:LONGEST])

    def to_json(self) -> dict[str, Any]:
        """``count``, ``first`` and ``last`` (empty where ``first`` holds everything)."""
        return {"count": self._count, "first": list(self._first), "last": list(self._last)}
