"""One connection to a running agent: drains both streams, beats, and answers or fails within a deadline."""

from __future__ import annotations

import collections
import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from device_agents.protocol import MAGIC, PROTOCOL_VERSION, STORAGE_STATUS
from rig.connection.agent_bundle import TOO_OLD_STATUS
from rig.connection.transport import Channel
from rig.errors import (
    BadInputError,
    DeviceBusyError,
    DeviceSetupError,
    LinkLost,
    ModelError,
    RigError,
    TransientDeviceError,
)

START_TIMEOUT_S = 60.0
GOODBYE_S = 10.0

_NO_SUCH_COMMAND = 127

# What the agent's error codes are on the host.
_ERRORS: dict[str, type[RigError]] = {
    "bad-request": BadInputError,
    "model": ModelError,
    "busy": DeviceBusyError,
    "no-runtime": DeviceSetupError,
    "no-sensor": DeviceSetupError,
    "storage": DeviceSetupError,
    "runtime-crashed": TransientDeviceError,
    "deadline": TransientDeviceError,
    "abandoned": TransientDeviceError,
}


class AgentLink:
    """``channel``: a just started agent. ``magic``: what its first line said.

    Everything is written by one thread, so that an agent that stopped reading holds up nobody: its silence is noticed.
    """

    def __init__(self, channel: Channel, device: str, heartbeat_s: float, lost_after_s: float) -> None:
        self.magic: dict[str, Any] = {}
        self._channel = channel
        self._device = device
        self._heartbeat_s = heartbeat_s
        self._lost_after_s = lost_after_s
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._log: collections.deque[str] = collections.deque(maxlen=200)
        self._outbox: queue.Queue[bytes | None] = queue.Queue()
        self._broken = ""
        self._closed = threading.Event()
        self._ended = False
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._read_lines, self._read_log, self._write_lines, self._beat)
        ]
        for thread in self._threads[:3]:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether the connection was still there when last used."""
        return not self._ended

    def shake_hands(self, agent_hash: str) -> None:
        """Skip login banners until the magic line and check that it is the agent that was sent."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            line = self._next_line(deadline_s - time.monotonic())
            if line is None:
                raise self._did_not_start()
            if line.startswith(MAGIC.encode("ascii")):
                break
        self.magic = json.loads(line[len(MAGIC) :])
        if self.magic["protocol"] != PROTOCOL_VERSION or self.magic["agent_hash"] != agent_hash:
            raise DeviceSetupError(
                f"{self._device}: another agent answered: {self.magic}", fix="remove ~/.cache/rig/agent-*.pyz there"
            )
        self._threads[3].start()

    def ask(
        self,
        request: dict[str, Any],
        deadline_s: float,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return its result.

        Raises LinkLost when the link ends or nothing at all is heard for ``lost_after_s``, TransientDeviceError past
        the deadline, and the agent's own errors as RigErrors.
        """
        self._send(request)
        until_s = time.monotonic() + deadline_s
        while True:
            message = self._next_message(request, until_s)
            if message.get("id") != request["id"]:
                continue  # a heartbeat, or the late answer of a request that was given up
            if message["event"] == "progress":
                if on_progress is not None:
                    on_progress(message)
            elif message["event"] == "error":
                raise self._error(message)
            else:
                return message

    def tell(self, message: dict[str, Any]) -> None:
        """Send what no answer comes to; LinkLost where the link is known to be broken."""
        self._send(message)

    def close(self, abandon: bool) -> None:
        """Say goodbye, wait a little, and let go; an agent with a measurement in hand ends by itself."""
        if not self._ended:
            try:
                self._send({"op": "bye", "abandon": abandon})
                self._outbox.put(None)
                self._channel.wait(GOODBYE_S)
            except (TransientDeviceError, OSError) as error:
                self._log.append(f"goodbye: {error}")
        self._ended = True
        self._closed.set()
        self._outbox.put(None)
        self._channel.close()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(5.0)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message, allow_nan=False).encode() + b"\n"
        if self._broken:
            raise self._lost(f"writing failed: {self._broken}")
        self._outbox.put(data)

    def _next_message(self, request: dict[str, Any], until_s: float) -> dict[str, Any]:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            self._ended = True
            raise TransientDeviceError(
                f"{self._device}: no result of {request['op']} within its deadline",
                fix="look at the board, then try again",
            )
        line = self._next_line(min(left_s, self._lost_after_s))
        if line is None:
            raise self._lost(f"waiting for {request['op']}")
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._lost(f"the agent sent {line[:80]!r}") from error
        return message

    def _next_line(self, timeout_s: float) -> bytes | None:
        try:
            return self._lines.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def _lost(self, what: str) -> LinkLost:
        self._ended = True
        status = self._channel.wait(0.2)
        how = f"silent for {self._lost_after_s:g} s" if status is None else f"the agent ended with status {status}"
        return LinkLost(f"{self._device}: link lost while {what}: {how}{self._last_words()}", fix="try again")

    def _did_not_start(self) -> RigError:
        """Why there was no magic line, from the exit status and what was printed."""
        self._ended = True
        status = self._channel.wait(1.0)
        words = self._last_words()
        if status == TOO_OLD_STATUS:
            return DeviceSetupError(
                f"{self._device}: Python there is too old{words}",
                fix="set python in the profile to Python 3.6 or newer",
            )
        if status == _NO_SUCH_COMMAND:
            return DeviceSetupError(
                f"{self._device}: no Python there{words}", fix="install python3, or set python in the profile"
            )
        if status is None:
            return LinkLost(f"{self._device}: no sign of the agent for {START_TIMEOUT_S:g} s{words}", fix="try again")
        if status == STORAGE_STATUS:
            return DeviceSetupError(
                f"{self._device}: the agent cannot write its files{words}",
                fix="on the device: free some space, make ~/.cache writable, or set XDG_CACHE_HOME to another folder",
            )
        if status in (1, 2):
            return DeviceSetupError(
                f"{self._device}: the agent did not start (status {status}){words}",
                fix="is python of the profile Python 3.6 or newer, and ~/.cache writable there?",
            )
        return LinkLost(f"{self._device}: the agent ended with status {status}{words}", fix="try again")

    def _last_words(self) -> str:
        self._threads[1].join(0.2)
        return "; it printed: " + " / ".join(list(self._log)[-3:]) if self._log else ""

    def _error(self, message: dict[str, Any]) -> RigError:
        kind = _ERRORS.get(message["code"], TransientDeviceError)
        words = self._last_words() if message["code"] == "runtime-crashed" else ""
        return kind(f"{self._device}: {message['message']}{words}", fix=message.get("fix") or None)

    def _read_lines(self) -> None:
        try:
            for line in self._channel.stdout:
                self._lines.put(line)
        except (OSError, ValueError):
            pass  # closed from this side, or the link broke: both are the end
        self._lines.put(None)

    def _write_lines(self) -> None:
        try:
            for data in iter(self._outbox.get, None):
                self._channel.stdin.write(data)
                self._channel.stdin.flush()
            self._channel.stdin.close()
        except (OSError, ValueError) as error:  # the link broke, or was closed from this side
            self._broken = str(error) or "closed"
            self._lines.put(None)

    def _read_log(self) -> None:
        try:
            for line in self._channel.stderr:
                self._log.append(line.decode("utf-8", "replace").rstrip())
        except (OSError, ValueError):
            return  # closed from this side, or the link broke: the other reader says so

    def _beat(self) -> None:
        while not self._closed.wait(self._heartbeat_s):
            try:
                self._send({"op": "heartbeat"})
            except LinkLost:
                return  # the next request finds out, and reconnects
