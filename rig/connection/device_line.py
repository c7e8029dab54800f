"""The line to the agent on one device: laid when it is first needed, laid anew where it broke, so often and no more.

    again(action)       action, over a line that stands; once more after a broken one
    when_free(action)   the same, waiting while it is this line's own former agent that still holds the device

A device that answered before and does not now may be rebooting, and is waited for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from rig.connection.agent_bundle import AgentBundle, installed_bundle
from rig.connection.agent_link import AgentLink
from rig.connection.device_problems import hello_problems
from rig.connection.transport import LocalTransport, Transport, transport_for
from rig.errors import BadInputError, DeviceBusyError, LinkLost, ModelError, UnreachableError
from rig.profiles import DeviceProfile
from rig.store.identity import rig_home

T = TypeVar("T")

RECONNECTS = 3
RECONNECT_PAUSE_S = 1.0
FIRST_PAUSE_S = 0.1  # an agent that is leaving takes tenths of a second; the pauses then double

# A device that answered before is waited for this long: it may be rebooting.
REBOOT_S = 120.0


class Patience(NamedTuple):
    """How often the agent is heard of, after what silence it is lost, and how long a reboot is waited for."""

    heartbeat_s: float = 2.0
    lost_after_s: float = 20.0
    reboot_s: float = REBOOT_S


class DeviceLine:
    """``holder``: who has the device, as others are told. ``hello``: what the agent said of itself and the device.

    ``transport``, ``bundle``: the profile's and the installed one by default. ``noted`` hears of the device's problems.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        holder: str,
        transport: Transport | None,
        bundle: AgentBundle | None,
        patience: Patience,
        noted: Callable[[Iterable[dict[str, str | None]]], None],
    ) -> None:
        self.hello: dict[str, Any] = {}
        self._profile = profile
        self._holder = holder
        self._transport = transport
        self._bundle = bundle
        self._patience = patience
        self._noted = noted
        self._link: AgentLink | None = None
        self._requests = 0

    def lay(self) -> None:
        """Reach the device for the first time."""
        if self._transport is None:
            self._transport = transport_for(self._profile.transport)
        self.again(lambda: None)

    @property
    def transport(self) -> Transport:
        """How files and commands get to the device; BadInputError before the line was laid."""
        if self._transport is None:
            raise BadInputError("the session was not entered", fix="use it in a with statement")
        return self._transport

    @property
    def link(self) -> AgentLink:
        """The agent that answers now; LinkLost where none does."""
        if self._link is None:
            raise LinkLost(f"{self._profile.name}: not connected")
        return self._link

    def next_id(self) -> str:
        """A name for a request that has none of its own."""
        self._requests += 1
        return f"r{self._requests}"

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask once, over the line as it stands."""
        return self.link.ask({"id": self.next_id(), **request}, timeout_s)

    def hang_up(self, abandon: bool) -> AgentLink | None:
        """Say goodbye to the agent; returns the link there was. The transport stays, until ``close``."""
        link, self._link = self._link, None
        if link is not None:
            link.close(abandon)
        return link

    def close(self) -> None:
        """Let go of the transport."""
        if self._transport is not None:
            self._transport.close()

    def again(self, action: Callable[[], T]) -> T:
        """Do it, connecting first where there is no link, and again after a broken link, a bounded number of times."""
        until_s: float | None = None
        for attempt in range(RECONNECTS + 1):
            try:
                if self._link is None or not self._link.alive:
                    self._reach(until_s or self._patient_until_s())
                return action()
            except (LinkLost, UnreachableError) as error:
                self._drop()
                until_s = until_s or self._patient_until_s()
                too_late = isinstance(error, UnreachableError) and time.monotonic() >= until_s
                if attempt == RECONNECTS or too_late:
                    raise
                time.sleep(RECONNECT_PAUSE_S * attempt)
        raise AssertionError("unreachable")

    def when_free(
        self, action: Callable[[], dict[str, Any]], longest_s: float, model_is_gone: Callable[[], bool]
    ) -> dict[str, Any]:
        """``again``, waiting while it is this line's own former agent that still holds the device.

        Once more, too, where the model is gone: another host that used the same one takes it away as it leaves.
        """
        deadline_s = time.monotonic() + longest_s
        sent_again = False
        pauses = _pauses_s()
        while True:
            try:
                return self.again(action)
            except DeviceBusyError as error:
                if self._holder not in error.message or time.monotonic() > deadline_s:
                    raise
                time.sleep(next(pauses))
            except ModelError:
                if sent_again or not model_is_gone():
                    raise
                sent_again = True

    def _patient_until_s(self) -> float:
        """Until when a device that does not answer now is waited for; one that never answered is not."""
        return time.monotonic() + (self._patience.reboot_s if self.hello else 0.0)

    def _reach(self, until_s: float) -> None:
        """Connect; a device that answered before and does not now may be rebooting, and is waited for."""
        told = False
        pauses = _pauses_s()
        while True:
            try:
                self._connect()
                return
            except (UnreachableError, LinkLost) as error:
                self._drop()
                left_s = until_s - time.monotonic()
                if left_s <= 0.0:
                    raise
                if not told:
                    sys.stderr.write(f"rig: {error.message}; waiting up to {left_s:.0f} s for it to come back\n")
                told = True
                time.sleep(next(pauses))

    def _drop(self) -> None:
        """Let go of a broken link and of the connection under it, which may be half open: it would only cost time."""
        self.hang_up(abandon=False)
        self.close()

    def _connect(self) -> None:
        transport = self.transport
        bundle = self._bundle or installed_bundle()
        remote = transport.exists(bundle.remote_name) or transport.put(bundle.path, bundle.remote_name)
        channel = transport.run([*self._interpreter(transport), "-I", remote, *self._arguments()])
        self._link = AgentLink(channel, self._profile.name, self._patience.heartbeat_s, self._patience.lost_after_s)
        self._link.shake_hands(bundle.sha256)
        request = {"op": "hello", "sensors": list(self._profile.sensors)}
        request["sensor_options"] = self._profile.sensor_options
        request["runtime"] = self._profile.runtime.name
        self.hello = {**self.ask(request, 90.0), "agent": self._link.magic}
        self._noted(hello_problems(self._profile.name, self.hello))

    def _interpreter(self, transport: Transport) -> list[str]:
        # On this computer the interpreter that has the host's packages is this one, whatever the path says.
        if isinstance(transport, LocalTransport) and self._profile.python == "python3":
            return [sys.executable]
        return [self._profile.python]

    def _arguments(self) -> list[str]:
        arguments = ["supervise", "--device", self._profile.name, "--holder", self._holder]
        arguments += ["--heartbeat-s", str(self._patience.heartbeat_s)]
        arguments += ["--lost-after-s", str(self._patience.lost_after_s)]
        if isinstance(self._transport, LocalTransport):
            state = rig_home() / "agent" / self._profile.name
            arguments += ["--state-dir", str(state)]
            if self._profile.simulated:
                # A simulated board disturbs nobody else's measurement: it is locked for this store alone.
                arguments += ["--lock-path", str(state / "lock")]
        return arguments


def _pauses_s() -> Iterator[float]:
    """Seconds between one try and the next."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2.0 * pause_s, RECONNECT_PAUSE_S)
