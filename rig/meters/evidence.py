"""What a meter said, word for word, in bounded room: the first lines, the last ones, and how many there were."""

from __future__ import annotations

import collections
from typing import Any

from device_agents.protocol import now_s

FIRST_LINES = 500
LAST_LINES = 100
LONGEST = 400  # characters of one line


class Evidence:
    """Lines with the moment when they came; the middle of a long measurement is only counted."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._first: list[dict[str, Any]] = []
        self._last: collections.deque[dict[str, Any]] = collections.deque(maxlen=LAST_LINES)
        self._count = 0

    def add(self, line: str) -> None:
        """Keep a line as it came."""
        self._count += 1
        entry = {"t_s": now_s(), "text": line[:LONGEST]}
        (self._first if len(self._first) < FIRST_LINES else self._last).append(entry)

    def to_json(self, identity: str) -> dict[str, Any]:
        """Parts of a record's ``evidence`` (``rig.store.evidence``): ``meter``, ``meter_answers``."""
        return {"meter": [{"identity": identity, "count": self._count}], "meter_answers": [*self._first, *self._last]}
