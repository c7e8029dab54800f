"""SCPI instruments through PyVISA and its pure-Python backend: TCP sockets, serial lines, USBTMC.

probe: lock ── *IDN? matches                                          nothing is sent that changes the instrument
open:  lock ── *IDN? matches ── setup ── errors? none ── a first reading
every 1/rate_hz:   query ─────────────► answer        the value is the one made last: its averaging window ended
                   before            after            within update_s before the middle of the exchange
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from device_agents.protocol import now_s
from rig.errors import DeviceBusyError, DeviceSetupError, TransientDeviceError
from rig.meters import Sample
from rig.meters.answers import BadAnswer, fields_of, number, pick, power_w
from rig.meters.evidence import Evidence
from rig.meters.instrument_files import LinkSettings, load_instrument
from rig.meters.lock import InstrumentLock

if TYPE_CHECKING:
    from rig.profiles import MeterSettings

INSTALL = "python -m pip install pyvisa pyvisa-py"  # what the extra "meters" holds for a socket
MOST_ERRORS = 20  # that an instrument's queue is read for
REMEMBERED_TRIPS = 200


class Meter:
    """One instrument at one address. ``settings``: the ``[meter]`` table of a device profile."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._resource_name = str(settings.resource)
        self._instrument = load_instrument(str(settings.instrument)).with_options(settings.options)
        self.name = f"meter-{settings.instrument}"
        self.identity = ""
        self.own_clock = self._instrument.answer.time_field is not None
        self._resource: Any = None
        self._lock = InstrumentLock(self._resource_name)
        self._was_set_up = False
        self._due_s = 0.0
        self._trips_s: list[float] = []
        self._last_stamp_s: float | None = None
        self._evidence = Evidence()

    def describe(self) -> dict[str, Any]:
        """The fields of a sensor's description; what the device profile says goes before the instrument's profile."""
        sampling, settings = self._instrument.sampling, self._settings
        fields = ("rate_hz", "window_s", "step_w", "noise_w", "gain_uncertainty", "boundary", "rail")
        own = {name: getattr(settings, name) for name in fields}
        return {name: getattr(sampling, name) if own[name] is None else own[name] for name in fields}

    def probe(self) -> tuple[str, str, str]:
        """Ask it what it is, and close; "busy" where another process has it. Its settings stay as they are."""
        try:
            self._connect()
        except DeviceBusyError as busy:
            return "busy", busy.message, busy.fix or ""
        except (DeviceSetupError, TransientDeviceError) as error:
            state = "denied" if "permission" in error.message.lower() else "absent"
            return state, error.message, error.fix or ""
        finally:
            self.close()
        return "ok", "", ""

    def open(self) -> None:
        """Connect, make sure that it is the instrument meant, set it up, and read a first value.

        Raises DeviceSetupError, and DeviceBusyError where another process has the instrument.
        """
        try:
            self._connect()
            self._was_set_up = True
            for command in self._instrument.commands.setup:
                self._send(command)
            self._check_errors()
            self._read()
        except TransientDeviceError as error:
            self.close()
            raise DeviceSetupError(error.message, fix=error.fix) from error
        except DeviceSetupError:
            self.close()
            raise
        self._evidence.clear()
        self._last_stamp_s = None
        self._due_s = now_s()

    def _connect(self) -> None:
        """Take the instrument's lock, open it, and make sure that it is the one meant; nothing in it is changed."""
        self.close()
        self._lock.acquire()
        self._resource = _open_resource(self._resource_name, self._instrument.link)
        self.identity = self._ask(self._instrument.commands.identity)
        self._check_identity()

    def close(self) -> None:
        """Send what leaves the instrument usable by hand, and let go; a link that is gone already is no news."""
        resource, self._resource = self._resource, None
        was_set_up, self._was_set_up = self._was_set_up, False
        try:
            if resource is not None:
                self._leave(resource, self._instrument.commands.leave if was_set_up else ())
        finally:
            self._lock.release()

    def _leave(self, resource: Any, commands: Sequence[str]) -> None:
        errors = _visa_errors()
        try:
            for command in commands:
                resource.write(command)
        except errors as error:
            self._evidence.add(f"! leaving: {error}")
        try:
            resource.close()
        except errors as error:
            self._evidence.add(f"! closing: {error}")

    def samples(self, stop: threading.Event) -> list[Sample]:
        """The next reading when it is due; none where it carries the time stamp of the last one, or after ``stop``."""
        if stop.wait(max(0.0, self._due_s - now_s())):
            return []
        period_s = 1.0 / float(self.describe()["rate_hz"])
        self._due_s = max(self._due_s + period_s, now_s())
        sample = self._read()
        if self.own_clock:
            last_s, self._last_stamp_s = self._last_stamp_s, sample.stamp_s
            if last_s is not None and sample.stamp_s == last_s:
                return []
        return [sample]

    def stamp_uncertainty_s(self) -> float:
        """Half of a usual round trip, and half of the time between two values of the instrument."""
        trips = sorted(self._trips_s)
        trip_s = trips[len(trips) // 2] if trips else 0.0
        return 0.5 * (trip_s + self._instrument.sampling.update_s)

    def clear_evidence(self) -> None:
        """A measurement begins."""
        self._evidence.clear()

    def evidence(self) -> dict[str, Any]:
        """Identity and answers, word for word."""
        return self._evidence.to_json(self.identity)

    def _read(self) -> Sample:
        answer, commands = self._instrument.answer, self._instrument.commands
        before_s = now_s()
        text = self._ask(commands.query)
        after_s = now_s()
        self._trips_s = [*self._trips_s[1 - REMEMBERED_TRIPS :], after_s - before_s]
        self._evidence.add(text)
        try:
            fields = fields_of(text, answer.separator, answer.pattern)
            watts = power_w(fields, answer.fields, answer.unit_w, float(self.describe()["step_w"]))
            if answer.time_field is None:
                stamp_s = 0.5 * (before_s + after_s) - 0.5 * self._instrument.sampling.update_s
            else:
                stamp_s = answer.time_unit_s * number(pick(fields, answer.time_field))
        except BadAnswer as bad:
            raise TransientDeviceError(
                f"meter {self.name} at {self._resource_name}: answer to {commands.query}: {bad}{self._queued_error()}",
                fix="look at its display: range, wiring, another program that talks to it; "
                "a wrong field is corrected in its profile (docs/meters.md)",
            ) from bad
        return Sample(stamp_s, watts, after_s)

    def _check_identity(self) -> None:
        if not re.search(self._instrument.identify, self.identity):
            raise DeviceSetupError(
                f"meter at {self._resource_name} says it is {self.identity!r}, not a {self.name} "
                f"({self._instrument.identify})",
                fix="correct meter.resource or meter.instrument in the device profile",
            )

    def _check_errors(self) -> None:
        """Read the error queue empty; the first error names what the instrument did not take."""
        commands = self._instrument.commands
        if commands.errors is None:
            return
        first = None
        for _ in range(MOST_ERRORS):
            said = self._ask(commands.errors)
            if self._is_no_error(said):
                break
            first = first or said
        if first is not None:
            raise DeviceSetupError(
                f"meter {self.name} at {self._resource_name}: set-up gave the error {first!r} "
                f"(sent: {'; '.join(commands.setup)})",
                fix="correct commands.setup in the instrument's profile, or meter.options in the device profile",
            )

    def _is_no_error(self, said: str) -> bool:
        return re.search(self._instrument.commands.no_error, said) is not None

    def _queued_error(self) -> str:
        """What the instrument's own error queue says about a bad answer, as an addition to the message."""
        if self._instrument.commands.errors is None:
            return ""
        try:
            said = self._ask(self._instrument.commands.errors)
        except TransientDeviceError:
            return ""  # the message about the answer itself is the better one
        return "" if self._is_no_error(said) else f"; its error queue says {said!r}"

    def _send(self, command: str) -> None:
        self._talk(command, lambda resource: resource.write(command))

    def _ask(self, command: str) -> str:
        return str(self._talk(command, lambda resource: resource.query(command))).strip()

    def _talk(self, command: str, action: Any) -> Any:
        if self._resource is None:
            raise TransientDeviceError(f"meter {self.name} at {self._resource_name} is not open", fix="open it first")
        try:
            return action(self._resource)
        except _visa_errors() as error:
            raise TransientDeviceError(
                f"meter {self.name} at {self._resource_name}: {_said(error, self._instrument.link.timeout_s)} "
                f"during {command}",
                fix="is it on, in remote mode, and talked to by nobody else? does it know that command?",
            ) from error


def _visa() -> Any:
    try:
        import pyvisa
        import pyvisa_py  # noqa: F401 - the backend that "@py" names
    except ImportError as error:
        raise DeviceSetupError(
            f"meter: SCPI instruments need pyvisa and pyvisa-py, and {error.name} is not installed",
            fix=f"{INSTALL} (a serial meter also needs pyserial, a USB one pyusb)",
        ) from error
    return pyvisa


def _visa_errors() -> tuple[type[Exception], ...]:
    """What talking to an instrument raises: VISA's errors, the operating system's, and text that is none."""
    return (_visa().errors.Error, OSError, ValueError)


def _open_resource(name: str, link: LinkSettings) -> Any:
    pyvisa = _visa()
    settings: dict[str, Any] = {
        "open_timeout": int(1e3 * link.open_timeout_s),
        "timeout": 1e3 * link.timeout_s,
        "read_termination": link.read_termination,
        "write_termination": link.write_termination,
    }
    if name.upper().startswith("ASRL"):
        parity = getattr(pyvisa.constants.Parity, link.parity)
        stop_bits = {1: pyvisa.constants.StopBits.one, 2: pyvisa.constants.StopBits.two}[link.stop_bits]
        settings |= {"baud_rate": link.baud_rate, "data_bits": link.data_bits, "parity": parity, "stop_bits": stop_bits}
    try:
        _look_up_host(name)
        return pyvisa.ResourceManager("@py").open_resource(name, **settings)
    except Exception as error:  # pyvisa-py raises bare Exceptions where it cannot connect
        raise DeviceSetupError(
            f"meter at {name} cannot be opened: {_said(error, link.open_timeout_s)}",
            fix="is it on and on the network, is meter.resource right (TCPIP::HOST::PORT::SOCKET, "
            "ASRL/dev/ttyUSB0::INSTR, USB::VENDOR::PRODUCT::SERIAL::INSTR), and may you use that port?",
        ) from error


def _look_up_host(name: str) -> None:
    """Raise OSError for a host name that leads nowhere, before pyvisa-py opens a socket that it then leaves open."""
    host = re.match(r"TCPIP\d*::([^:]+)::", name, re.IGNORECASE)
    if host is not None:
        socket.getaddrinfo(host.group(1), None, socket.AF_INET)


def _said(error: Exception, timeout_s: float) -> str:
    """An error of VISA or of the operating system in words."""
    abbreviation = getattr(error, "abbreviation", "")
    if abbreviation == "VI_ERROR_TMO":
        return f"no answer within {timeout_s:g} s"
    if abbreviation == "VI_ERROR_CONN_LOST":
        return "the connection was lost"
    return " ".join(str(error).split()) or type(error).__name__
