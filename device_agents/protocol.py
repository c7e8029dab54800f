"""The wire: one JSON object a line, errors as data, and a standard output that nobody else can print into."""

import json
import os
import select
import sys
import threading
import time
from typing import Any, BinaryIO, Dict, List, Optional

PROTOCOL_VERSION = 1
MAGIC = "RIG-AGENT "

# CLOCK_BOOTTIME does not step with NTP and goes on during suspend; time.CLOCK_BOOTTIME has a name only from 3.7 on.
_CLOCK_BOOTTIME = 7


class AgentError(Exception):
    """What the host is told: ``code`` (docs/agent.md), ``message`` (what was seen) and ``fix`` (what to do next)."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super(AgentError, self).__init__(message)
        self.code = code
        self.message = message
        self.fix = fix

    def to_json(self) -> Dict[str, str]:
        """The three texts as a dict."""
        return {"code": self.code, "message": self.message, "fix": self.fix}

    @classmethod
    def from_json(cls, data: Dict[str, str]) -> "AgentError":
        """Read what ``to_json`` wrote."""
        return cls(data["code"], data["message"], data.get("fix", ""))


def now_s() -> float:
    """Seconds on the device's monotonic clock, the same in all processes of the agent (Linux: CLOCK_BOOTTIME)."""
    if sys.platform.startswith("linux"):
        return time.clock_gettime(_CLOCK_BOOTTIME)
    return time.monotonic()


def clock_domain() -> str:
    """The name of the clock that ``now_s`` reads."""
    return "boottime" if sys.platform.startswith("linux") else "monotonic"


def encode(message: Dict[str, Any]) -> bytes:
    """One line, ending in a newline; NaN and infinity are refused (ValueError): they are not JSON."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"


def claim_stdout() -> int:
    """Keep the true standard output for the protocol, and point fd 1 at stderr for everybody else.

    Returns the kept file descriptor. A library that prints, in Python or in C, then prints into stderr.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return kept


class LineWriter(object):
    """Writes messages to a file descriptor, whole lines, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, message: Dict[str, Any]) -> None:
        """Write one message; raises OSError (BrokenPipeError) where nobody reads any more."""
        self.send_bytes(encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Write whole lines that are already encoded."""
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]


class LineReader(object):
    """Reads lines from a file descriptor with a deadline, without losing the start of an unfinished one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pieces: List[bytes] = []
        self._lines: List[bytes] = []
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN | select.POLLHUP)

    def read(self, timeout_s: Optional[float]) -> Optional[bytes]:
        """The next line; None once ``timeout_s`` passed without one (None: for ever). Raises EOFError at the end."""
        deadline_s = None if timeout_s is None else now_s() + timeout_s
        while not self._lines:
            wait_s = None if deadline_s is None else deadline_s - now_s()
            if wait_s is not None and wait_s < 0:
                wait_s = 0.0
            if not self._poll.poll(None if wait_s is None else int(wait_s * 1000.0 + 0.999)):
                return None
            self._take()
        return self._lines.pop(0)

    def _take(self) -> None:
        data = os.read(self._fd, 1 << 16)
        if not data:
            raise EOFError("the other end closed the pipe")
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._pieces.append(line)
            self._lines.append(b"".join(self._pieces))
            self._pieces = []
        if rest:
            self._pieces.append(rest)


def serve(stdin: BinaryIO, writer: LineWriter, handlers: Dict[str, Any], idle: Optional[Any] = None) -> None:
    """Answer the requests of a parent process until it closes the pipe.

    ``handlers``: op -> function(request) -> answer dict. ``idle()`` is called between requests and returns the seconds
    until it wants to be called again (None: not before the next request). An AgentError becomes an error answer.
    """
    reader = LineReader(stdin.fileno())
    while True:
        wait_s = idle() if idle is not None else None
        try:
            line = reader.read(wait_s)
        except EOFError:
            return
        if line is None:
            continue
        request = json.loads(line.decode("utf-8"))
        handler = handlers[request["op"]]
        try:
            writer.send({"answer": handler(request)})
        except AgentError as error:
            writer.send({"error": error.to_json()})
