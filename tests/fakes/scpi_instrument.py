"""An instrument that speaks SCPI over TCP, in threads of the test: the physical edge of a meter on the host.

Power follows ``power_w(t_s)`` on the host's clock, averaged over ``window_s`` and read in steps, as a real one does.
``fault``, set at any moment: "close" (the socket ends), "hang" (no answer), "garbage", "nan" (9.91E37), "overload"
(9.9E37), "negative", "frozen" (one time stamp for ever), "error" (the error queue fills).
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from device_agents.protocol import now_s

IDENTITY = "ACME,PM1,0042,1.0"


class ScpiInstrument:
    """Listens on a free port of this computer while in its with statement."""

    def __init__(
        self,
        power_w: Callable[[float], float] = lambda t_s: 5.0,
        *,
        window_s: float = 0.02,
        noise_w: float = 0.01,
        clock_offset_s: float = 0.0,
        identity: str = IDENTITY,
    ) -> None:
        self.power_w = power_w
        self.fault = ""
        self.heard: list[str] = []
        self.answers = 0
        self._window_s = window_s
        self._noise = random.Random(7)
        self._noise_w = noise_w
        self._clock_offset_s = clock_offset_s
        self._identity = identity
        self._errors: list[str] = []
        self._frozen_s: float | None = None
        self._closing = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def resource(self) -> str:
        return f"TCPIP::127.0.0.1::{self._server.getsockname()[1]}::SOCKET"

    def __enter__(self) -> ScpiInstrument:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.drop()
        for thread in self._threads:
            thread.join(5.0)

    def drop(self) -> None:
        """End every connection there is."""
        while self._connections:
            connection = self._connections.pop()
            with contextlib.suppress(OSError):  # the other end was quicker
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        rest = b""
        while True:
            try:
                data = connection.recv(4096)
            except OSError:
                return
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                answer = self._answer(line.decode().strip())
                if self.fault == "close":
                    self.drop()
                    return
                if answer is not None and self.fault != "hang":
                    try:
                        connection.sendall(answer.encode() + b"\n")
                    except OSError:
                        return

    def _answer(self, command: str) -> str | None:
        self.heard.append(command)
        if command == "*IDN?":
            return self._identity
        if command.upper() == "SYST:ERR?":
            return self._errors.pop(0) if self._errors else '0,"No error"'
        if command.startswith("READ?"):
            return self._reading()
        if not command.startswith(("*CLS", "RATE ", "LOCAL")):
            self._errors.append('-113,"Undefined header"')
        return None

    def _reading(self) -> str:
        self.answers += 1
        at_s = now_s()
        said = {"garbage": "#?!", "nan": "+9.91000000E+37", "overload": "+9.90000000E+37", "negative": "-2.5"}
        watts = self.power_w(at_s - 0.5 * self._window_s) + self._noise.gauss(0.0, self._noise_w)
        text = said.get(self.fault, f"{watts:.4f}")
        if self.fault == "frozen":
            self._frozen_s = at_s if self._frozen_s is None else self._frozen_s
            at_s = self._frozen_s
        return f"230.1,{text},{at_s + self._clock_offset_s:.6f}"


def profile_text(*, rate_hz: float = 50.0, window_s: float = 0.02, time_field: bool = False, extra: str = "") -> str:
    """The instrument's profile, as a person would write it."""
    return f"""
description = "a meter of the tests"
manual = "tests/fakes/scpi_instrument.py"
tried = "on itself"
identify = '^ACME,PM1,'
[link]
timeout_s = 0.5
open_timeout_s = 1.0
[options]
rate = "FAST"
[commands]
setup = ["*CLS", "RATE {{rate}}"]
query = "READ?"
errors = "SYST:ERR?"
leave = ["LOCAL"]
[answer]
fields = [2]
{"time_field = 3" if time_field else ""}
[sampling]
rate_hz = {rate_hz}
window_s = {window_s}
update_s = 0.0
step_w = 0.0001
noise_w = 0.01
gain_uncertainty = 0.001
boundary = "board_input"
rail = "5 V"
{extra}
"""
