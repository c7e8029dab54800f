"""What a power source really said, kept as evidence: lines and file contents before anything is made of them.

     note(path, text)   called wherever a sensor reads        the first text of each source   ─► "tree"
                                                              the first texts, the last few   ─► "readings"

Bounded, whatever the sampling rate. One log a process: the sampler has one sensor open.
"""

import collections
from typing import Any, Deque, Dict, List

from device_agents.protocol import now_s

MOST_SOURCES = 64
FIRST_READINGS = 20
LAST_READINGS = 4
LONGEST_TEXT = 2000


class RawLog(object):
    """The texts of one measurement."""

    def __init__(self) -> None:
        self._tree: Dict[str, str] = {}
        self._first: List[Any] = []
        self._last: Deque[Any] = collections.deque(maxlen=LAST_READINGS)
        self._count = 0

    def note(self, source: str, text: str) -> None:
        """Keep ``text`` as read from ``source`` (a path, or a command) now, as far as there is room."""
        self._count += 1
        if source not in self._tree and len(self._tree) < MOST_SOURCES:
            self._tree[source] = text[:LONGEST_TEXT]
        (self._first if len(self._first) < FIRST_READINGS else self._last).append((now_s(), source, text))

    def to_json(self) -> Dict[str, Any]:
        """Lists of plain dicts: ``tree`` (path, text), ``readings`` (t_s, path, text), ``reading_count``."""
        readings = [
            {"t_s": t_s, "path": source, "text": text[:LONGEST_TEXT]}
            for t_s, source, text in self._first + list(self._last)
        ]
        tree = [{"path": source, "text": text} for source, text in self._tree.items()]
        return {"tree": tree, "readings": readings, "reading_count": [{"count": self._count}]}


_log = RawLog()


def start() -> None:
    """Forget what was read before: a measurement begins."""
    global _log
    _log = RawLog()


def note(source: str, text: str) -> None:
    """Keep what was just read."""
    _log.note(source, text)


def kept() -> Dict[str, Any]:
    """What was read since ``start``."""
    return _log.to_json()
