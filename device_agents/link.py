"""The supervisor's end of the line to the host: listens, beats, and notices when nobody is there any more."""

import json
import queue
import threading
from typing import Any, Dict, NamedTuple, Optional, Set

from device_agents.child import PATIENCE_S
from device_agents.protocol import AgentError, LineReader, LineWriter, encode


class Settings(NamedTuple):
    """How this agent was started. ``state_dir``: spool and journal. ``lock_path``: one for all users of the device.

    ``root``: of the file system whose power mode is pinned (another one only in tests). ``source_patience_s``: how long
    a power source may take for an answer.
    """

    device: str
    holder: str
    state_dir: str
    lock_path: str
    heartbeat_s: float = 2.0
    lost_after_s: float = 20.0
    root: str = "/"
    source_patience_s: float = PATIENCE_S


class Link(object):
    """The two directions to the host, and whether it is still there."""

    def __init__(self, fd_in: int, fd_out: int, settings: Settings) -> None:
        self._reader = LineReader(fd_in)
        self._settings = settings
        self.requests = queue.Queue()  # type: queue.Queue[Optional[Dict[str, Any]]]
        self.lost = threading.Event()
        self._writer = LineWriter(fd_out, self.lost.is_set)
        self.abandoned = threading.Event()
        self._stopped = threading.Event()
        self._enough: Set[str] = set()

    def start(self) -> None:
        """Start listening and beating."""
        for target in (self._listen, self._beat):
            thread = threading.Thread(target=target)
            thread.daemon = True
            thread.start()

    def send(self, message: Dict[str, Any]) -> None:
        """Send, unless nobody is there any more."""
        self.send_bytes(encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Send whole lines that are already encoded."""
        if self.lost.is_set():
            return
        try:
            self._writer.send_bytes(data)
        except OSError:
            self._lose()

    def is_enough(self, request_id: str) -> bool:
        """Whether the host wants no more windows of that measurement, or nobody is there to want any."""
        return self.lost.is_set() or request_id in self._enough

    def stop(self) -> None:
        """No more heartbeats."""
        self._stopped.set()

    def _lose(self) -> None:
        self.lost.set()
        self.requests.put(None)

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                line = self._reader.read(self._settings.lost_after_s)
            except (EOFError, OSError):
                line = None
            if line is None:
                self._lose()
                return
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line.decode("utf-8"))
            op = message["op"]
            if not isinstance(op, str):
                raise TypeError("an op is text")
        except (ValueError, KeyError, TypeError):
            self.send(error_message(None, AgentError("bad-request", "not a request: %r" % line[:200])))
            return
        if op == "heartbeat":
            return
        if op == "enough":
            self._enough.add(str(message.get("request")))
            return
        if op == "bye":
            if message.get("abandon"):
                self.abandoned.set()
            self.requests.put(None)
            return
        if op == "measure":
            self._enough.clear()  # said of the measurement before
        self.requests.put(message)

    def _beat(self) -> None:
        while not self._stopped.wait(self._settings.heartbeat_s):
            self.send({"event": "heartbeat"})


def error_message(request_id: Optional[str], error: AgentError) -> Dict[str, Any]:
    """An AgentError as the message that answers a request."""
    return dict(error.to_json(), id=request_id, event="error")
