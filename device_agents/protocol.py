"""The wire: one JSON object a line, errors as data, and a standard output that nobody else can print into."""

import errno
import json
import os
import select
import sys
import threading
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional

PROTOCOL_VERSION = 1
MAGIC = "RIG-AGENT "

# The exit status of an agent that has nowhere to keep its spool and journal.
STORAGE_STATUS = 98

# CLOCK_BOOTTIME does not step with NTP and goes on during suspend; time.CLOCK_BOOTTIME has a name only from 3.7 on.
_CLOCK_BOOTTIME = 7

# A pipe or socket that polls as writable takes this much at once (PIPE_BUF).
_AT_ONCE_BYTES = 4096
_LOOK_UP_MS = 500

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = NO_SPACE + (errno.EROFS, errno.EACCES, errno.EPERM)


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
    """Writes messages to a file descriptor, whole lines, from any thread.

    ``gone()``: whether to give up (TimeoutError) on somebody who no longer reads (a half-open link never breaks).
    """

    def __init__(self, fd: int, gone: Optional[Callable[[], bool]] = None) -> None:
        self._fd = fd
        self._gone = gone
        self._lock = threading.Lock()
        if gone is not None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def send(self, message: Dict[str, Any]) -> None:
        """Write one message; raises OSError (BrokenPipeError) where nobody reads any more."""
        self.send_bytes(encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Write whole lines that are already encoded."""
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, self._part(view)) :]

    def _part(self, view: memoryview) -> memoryview:
        """What can be written now without waiting for the reader longer than it is there."""
        while self._gone is not None and not self._poll.poll(_LOOK_UP_MS):
            if self._gone():
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads any more")
        return view if self._gone is None else view[:_AT_ONCE_BYTES]


class LineReader(object):
    """Reads lines from a file descriptor with a deadline, without losing the start of an unfinished one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pieces: List[bytes] = []
        self._lines: List[bytes] = []

    def read(self, timeout_s: Optional[float]) -> Optional[bytes]:
        """The next line; None once ``timeout_s`` passed without one (None: for ever). Raises EOFError at the end."""
        deadline_s = None if timeout_s is None else now_s() + timeout_s
        while not self._lines:
            wait_s = None if deadline_s is None else deadline_s - now_s()
            if wait_s is not None and wait_s < 0:
                wait_s = 0.0
            # select waits by the microsecond, poll by the millisecond: the sampler's ticks would be late.
            if not select.select([self._fd], [], [], wait_s)[0]:
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


def storage_error(error: OSError, what: str) -> AgentError:
    """The device's disk refused something: which file, why, and what to do."""
    where = " (%s)" % error.filename if error.filename else ""
    if error.errno in NO_SPACE:
        fix = "free some space on the device (df -h shows where), then give the same command again"
    else:
        fix = "make that folder writable for the user on the device, or set XDG_CACHE_HOME there to another one"
    return AgentError("storage", "%s: %s%s" % (what, error.strerror or error, where), fix)


def memory_error(what: str) -> AgentError:
    """The device has too little memory for what it was asked."""
    fix = "measure a smaller model or batch, end other programs on the device, or give it swap space"
    return AgentError("model", "not enough memory on the device %s" % what, fix)


def encode_answer(answer: Dict[str, Any], op: str) -> bytes:
    """A child's answer as one line; one that holds a number JSON lacks becomes an error that says so."""
    try:
        return encode({"answer": answer})
    except ValueError as error:
        message = "the answer to %s holds what is no number: %s" % (op, error)
        return encode({"error": AgentError("bad-number", message).to_json()})


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
            writer.send_bytes(encode_answer(handler(request), request["op"]))
        except AgentError as error:
            writer.send({"error": error.to_json()})
        except MemoryError:
            writer.send({"error": memory_error("during %s" % request["op"]).to_json()})
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            writer.send({"error": storage_error(error, "during %s" % request["op"]).to_json()})
