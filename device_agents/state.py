"""What the agent changes on the device, journalled first, so that it is put back whatever happens.

pin("performance") → journal what was set before (synced) → write → verify
restore()          → write it back → drop the journal       at exit, and at the next start after a crash or a power cut
"""

import json
import os
from typing import Any, Dict, List, Optional, Tuple

from device_agents.board import read_text
from device_agents.power_modes import NotPinned, PowerModes
from device_agents.spool import sync_folder, write_synced

# (what, the value to put back), in the order in which they were changed.
Changes = List[Tuple[str, str]]


class PinnedState(object):
    """``journal_path``: where the old values are kept. ``root``: the file system's root (tests hand in a tree)."""

    def __init__(self, journal_path: str, root: str = "/", is_root: Optional[bool] = None) -> None:
        self._journal_path = journal_path
        self._modes = PowerModes(root, os.path.join(os.path.dirname(journal_path), "jetson_clocks.conf"), is_root)

    @property
    def has_journal(self) -> bool:
        """Whether something was changed and not put back."""
        return os.path.exists(self._journal_path)

    def pin(self, power_mode: str) -> Dict[str, Any]:
        """Set ``power_mode`` where the device has it and rights allow, and verify that it was taken.

        A power mode is a CPU frequency governor, a mode of nvpmodel (by name or number), ``jetson_clocks``, or several
        joined by "+". Returns {"wanted", "pinned": bool, "reason", "fix" where it could not be}: what could not be
        pinned is put back, recorded, and taints the measurement. What an earlier agent left behind is put back first.
        """
        left = self.restore()
        if left:
            return _not_pinned(power_mode, "an earlier change is still to be undone: %s" % "; ".join(left))
        try:
            changed = self._set_all(power_mode)
        except NotPinned as refusal:
            return _not_pinned(power_mode, "; ".join([refusal.reason] + self.restore()), refusal.fix)
        except OSError as error:
            reason = "%s: %s" % (error.filename or self._journal_path, error.strerror)
            fix = "write access takes root, or a narrow rule in sudoers: see docs/faults.md"
            return _not_pinned(power_mode, "; ".join([reason] + self.restore()), fix)
        return {"wanted": power_mode, "pinned": True, "reason": "" if changed else "was set already"}

    def restore(self) -> List[str]:
        """Put back what the journal holds; returns what could not be, in words, and keeps that part of the journal."""
        problems, kept = [], []  # type: List[str], Changes
        changes = self._journalled()
        for what, old in reversed(changes):
            try:
                self._modes.write(what, old)
            except (OSError, NotPinned) as error:
                reason = error.reason if isinstance(error, NotPinned) else error.strerror
                problems.append("%s could not be set back to %s: %s" % (what, old, reason))
                kept.insert(0, (what, old))
        try:
            if kept != changes or not kept:
                self._journal(kept)
        except OSError as error:
            problems.append("%s cannot be written: %s" % (self._journal_path, error.strerror))
        return problems

    def _set_all(self, power_mode: str) -> Changes:
        changes = []  # type: Changes
        for part in power_mode.split("+"):
            settings = [one for one in self._modes.settings(part) if self._modes.read(one.what) != one.value]
            if not settings:
                continue
            changes.extend((setting.what, self._modes.before(setting.what)) for setting in settings)
            self._journal(changes)
            for setting in settings:
                self._modes.write(setting.what, setting.value)
                seen = self._modes.read(setting.what)
                if seen != setting.value:
                    raise NotPinned("%s reads %s after writing %s" % (setting.what, seen, setting.value))
        return changes

    def _journal(self, changes: Changes) -> None:
        if changes:
            write_synced(self._journal_path, json.dumps(changes).encode("utf-8"))
        elif os.path.exists(self._journal_path):
            os.remove(self._journal_path)
            sync_folder(os.path.dirname(self._journal_path))

    def _journalled(self) -> Changes:
        text = read_text(self._journal_path)
        if not text:
            return []
        try:
            return [(str(what), str(old)) for what, old in json.loads(text)]
        except (ValueError, TypeError):
            return []  # no journal of this agent's: it is written whole, before anything is changed


def _not_pinned(wanted: str, reason: str, fix: str = "") -> Dict[str, Any]:
    return {"wanted": wanted, "pinned": False, "reason": reason, "fix": fix}
