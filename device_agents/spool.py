"""Results kept on the device until the host has stored them: appended and synced before they are sent.

The file holds JSON lines: {"key", "record"} for a result, {"acked": key} for one the host has. When all are
acknowledged the file is emptied. A last line cut short by a power loss is dropped: that result was never sent.
"""

import hashlib
import json
import os
from typing import Any, Dict, List, Optional

from device_agents.protocol import encode

# The fields of a request that make it the same measurement.
_SAME = ("id", "runtime", "options", "source", "source_options", "subject", "plan", "profile")


def request_key(request: Dict[str, Any]) -> str:
    """The id with a digest of what was asked: another host's like-named request is not mistaken for this one."""
    asked = {field: request.get(field) for field in _SAME}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8")).hexdigest()
    return "%s@%s" % (request["id"], digest[:16])


class Spool(object):
    """``pending``: key → record, in the order they were measured."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.pending: Dict[str, Dict[str, Any]] = {}
        self._order: List[str] = []
        self._read()

    def keys(self) -> List[str]:
        """Keys of the results that the host has not acknowledged."""
        return [key for key in self._order if key in self.pending]

    def get(self, key: str) -> Optional[Dict[str, Any]]:
        """A result that is still here."""
        return self.pending.get(key)

    def add(self, key: str, record: Dict[str, Any]) -> None:
        """Append a result and sync it to disk; OSError where the disk does not take it."""
        self._append({"key": key, "record": record}, sync=True)
        self._remember(key, record)

    def acknowledge(self, keys: List[str]) -> None:
        """Forget results that the host has stored; unknown keys were acknowledged before."""
        for key in keys:
            if self.pending.pop(key, None) is not None and self.pending:
                # Not synced: if this line is lost, the host is offered the result once more and knows it.
                self._append({"acked": key}, sync=False)
        self._order = [key for key in self._order if key in self.pending]
        if not self.pending and os.path.exists(self._path):
            with open(self._path, "wb"):
                pass

    def _remember(self, key: str, record: Dict[str, Any]) -> None:
        if key not in self.pending:
            self._order.append(key)
        self.pending[key] = record

    def _append(self, line: Dict[str, Any], sync: bool) -> None:
        with open(self._path, "ab") as file:
            start = file.tell()
            try:
                file.write(encode(line))
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # half a line would hide the next one
                raise

    def _read(self) -> None:
        if not os.path.exists(self._path):
            return
        good = 0
        with open(self._path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line.decode("utf-8"))
                good += len(line)
                if "acked" in entry:
                    self.pending.pop(entry["acked"], None)
                else:
                    self._remember(entry["key"], entry["record"])
        if good < os.path.getsize(self._path):
            with open(self._path, "r+b") as file:
                file.truncate(good)
