"""A child process of the supervisor (the runtime, the sampler), seen from the supervisor."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import Any, Dict, List, Optional

from device_agents.protocol import AgentError, LineReader, LineWriter, encode, now_s

_PR_SET_PDEATHSIG = 1

# A killed process ends at once, unless a driver holds it in the kernel: then nobody can wait for it.
_KILL_WAIT_S = 5.0

# How long the sampler process may take for an answer; a sensor read that hangs longer is given up.
PATIENCE_S = 10.0


class ChildDied(Exception):
    """The child ended while an answer was awaited; ``how`` says by which signal or with which status."""

    def __init__(self, how: str) -> None:
        super(ChildDied, self).__init__(how)
        self.how = how


class ChildSilent(Exception):
    """The child did not answer within the deadline."""

    def __init__(self, waited_s: float) -> None:
        super(ChildSilent, self).__init__("no answer for %.1f s" % waited_s)
        self.waited_s = waited_s


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that nothing is left behind on the board.

    Elsewhere the closed pipe ends the child at its next read.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def own_command(role: str) -> List[str]:
    """The command that starts this same agent in another role, with the interpreter flags of this process."""
    flags = ["-I"] if sys.flags.isolated else []
    if sys.flags.no_site:
        flags.append("-S")
    return [sys.executable] + flags + [os.path.abspath(sys.argv[0]), role]


class Child(object):
    """Starts on the first request, and is asked one thing at a time.

    ``patience_s``: how long those wait for its answers who know no better.
    """

    def __init__(self, role: str, command: Optional[List[str]] = None, patience_s: float = PATIENCE_S) -> None:
        self.role = role
        self.patience_s = patience_s
        self._command = command
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._reader: Optional[LineReader] = None
        self._writer: Optional[LineWriter] = None
        self._until_s = 0.0

    def ask(self, request: Dict[str, Any], deadline_s: float) -> Dict[str, Any]:
        """Send a request and return its answer.

        Raises AgentError (what the child reports), ChildDied, or ChildSilent after ``deadline_s`` seconds; a silent
        child is killed, since its answer could otherwise be taken for that of the next request. A child that died since
        the last request is not started anew here: a new one knows nothing of what the old one was told.
        """
        if self._process is None:
            self.start()
        process, writer, reader = self._process, self._writer, self._reader
        if process is None or writer is None or reader is None:
            raise ChildDied("was not started")
        started_s = now_s()
        self._until_s = started_s + deadline_s
        try:
            writer.send_bytes(encode(request))
            line = reader.read(deadline_s)
        except TimeoutError:
            line = None
        except (BrokenPipeError, EOFError):
            raise ChildDied(self._end(process)) from None
        if line is None:
            self.kill()
            raise ChildSilent(now_s() - started_s)
        try:
            return _answer_in(line)
        except (ValueError, KeyError, TypeError):
            self.kill()
            raise ChildDied("sent garbage (%r) and was ended" % line[:60]) from None

    @property
    def running(self) -> bool:
        """Whether the child process exists."""
        return self._process is not None and self._process.poll() is None

    def stop(self, grace_s: float = 2.0) -> None:
        """Close the pipe, wait, and kill what has not ended."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            _end_now(process)
        self._forget()

    def kill(self) -> None:
        """End the child at once (a hanging one does not notice a closed pipe)."""
        if self._process is not None:
            _end_now(self._process)
        self._forget()

    def start(self) -> None:
        """Start the process where it does not run."""
        if self.running:
            return
        self._forget()
        process = subprocess.Popen(
            self._command or own_command(self.role), stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True
        )
        if process.stdin is None or process.stdout is None:
            raise ChildDied("has no pipes")
        self._process = process
        self._writer = LineWriter(process.stdin.fileno(), lambda: now_s() > self._until_s)
        self._reader = LineReader(process.stdout.fileno())

    def _end(self, process: "subprocess.Popen[bytes]") -> str:
        try:
            status: Optional[int] = process.wait(_KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            status = _end_now(process)
        self._forget()
        return "hangs in the kernel and cannot be ended" if status is None else how_it_ended(status)

    def _forget(self) -> None:
        process, self._process = self._process, None
        self._reader = self._writer = None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass  # unsent bytes to a dead child


def how_it_ended(status: int) -> str:
    """A ``Popen.returncode`` in words: the signal's name, or the exit status."""
    if status >= 0:
        return "ended with exit status %d" % status
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "signal %d" % -status
    return "killed by %s" % name


def _end_now(process: "subprocess.Popen[bytes]") -> Optional[int]:
    """Kill and wait; None for one that a driver holds in the kernel (the kernel ends it when the driver lets go)."""
    process.kill()
    try:
        return process.wait(_KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        return None


def _answer_in(line: bytes) -> Dict[str, Any]:
    """The answer of a child's line; raises its AgentError, or ValueError, KeyError, TypeError for anything else."""
    message = json.loads(line.decode("utf-8"))
    if "error" in message:
        raise AgentError.from_json(message["error"])
    answer = message["answer"]
    if not isinstance(answer, dict):
        raise TypeError("an answer is an object")
    return answer
