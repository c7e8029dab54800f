"""What the agent changes on the device, journalled first, so that it is put back whatever happens.

pin("performance") → journal the old governor of every CPU (synced) → write → verify
restore()          → write the old values → drop the journal           at exit, and at the next start after a power cut
"""

import glob
import json
import os
from typing import Any, Dict, List, Tuple

from device_agents.board import read_text

_GOVERNORS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"


class PinnedState(object):
    """``journal_path``: where the old values are kept. ``root``: the file system's root (tests hand in a tree)."""

    def __init__(self, journal_path: str, root: str = "/") -> None:
        self._journal_path = journal_path
        self._root = root

    @property
    def has_journal(self) -> bool:
        """Whether something was changed and not put back."""
        return os.path.exists(self._journal_path)

    def pin(self, power_mode: str) -> Dict[str, Any]:
        """Set the CPU frequency governor to ``power_mode`` where the device has it and rights allow.

        Returns {"wanted", "pinned": bool, "reason"}: what could not be pinned is recorded, and taints the measurement.
        """
        folders = sorted(glob.glob(os.path.join(self._root, _GOVERNORS)))
        if not folders:
            return _not_pinned(power_mode, "the device has no cpufreq governors")
        changes: List[Tuple[str, str]] = []
        for folder in folders:
            path = os.path.join(folder, "scaling_governor")
            offered = (read_text(os.path.join(folder, "scaling_available_governors")) or "").split()
            if power_mode not in offered:
                return _not_pinned(power_mode, "%s offers %s" % (folder, " ".join(offered) or "no governors"))
            old = read_text(path)
            if old is None:
                return _not_pinned(power_mode, "%s cannot be read" % path)
            if old != power_mode:
                changes.append((path, old))
        return self._apply(power_mode, changes)

    def restore(self) -> List[str]:
        """Write back what the journal holds; returns what could not be, in words (and keeps the journal then)."""
        problems = []
        for path, old in reversed(self._journalled()):
            try:
                _write(path, old)
            except OSError as error:
                problems.append("%s could not be set back to %s: %s" % (path, old, error))
        if not problems and os.path.exists(self._journal_path):
            os.remove(self._journal_path)
        return problems

    def _apply(self, power_mode: str, changes: List[Tuple[str, str]]) -> Dict[str, Any]:
        if not changes:
            return {"wanted": power_mode, "pinned": True, "reason": "was set already"}
        if self._journalled():
            self.restore()
        self._journal(changes)
        for path, _ in changes:
            try:
                _write(path, power_mode)
                seen = read_text(path)
            except OSError as error:
                self.restore()
                return _not_pinned(power_mode, "%s: %s" % (path, error.strerror))
            if seen != power_mode:
                self.restore()
                return _not_pinned(power_mode, "%s reads %s after writing" % (path, seen))
        return {"wanted": power_mode, "pinned": True, "reason": ""}

    def _journal(self, changes: List[Tuple[str, str]]) -> None:
        with open(self._journal_path, "w", encoding="utf-8") as file:
            json.dump(changes, file)
            file.flush()
            os.fsync(file.fileno())

    def _journalled(self) -> List[Tuple[str, str]]:
        text = read_text(self._journal_path)
        if not text:
            return []
        try:
            return [(str(path), str(old)) for path, old in json.loads(text)]
        except ValueError:
            return []  # cut short: the journal is synced before anything is written, so nothing was changed


def _not_pinned(wanted: str, reason: str) -> Dict[str, Any]:
    return {"wanted": wanted, "pinned": False, "reason": reason}


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
