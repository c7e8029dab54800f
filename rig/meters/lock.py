"""One process at a time reads an instrument: two would take each other's answers, or change each other's range.

An flock beside the device lock, one a resource; the kernel frees it when its holder dies, so none is ever stale. What
another computer does with an instrument on the network it cannot see: there the lock of the board counts.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket

from device_agents.lock import DeviceLock, lock_folder
from device_agents.protocol import AgentError
from rig.errors import DeviceBusyError, DeviceSetupError


class InstrumentLock:
    """``resource``: VISA's name of the instrument; spellings of one address are one lock."""

    def __init__(self, resource: str) -> None:
        self._resource = resource
        name = hashlib.sha256(same_address(resource).encode()).hexdigest()[:16]
        path = os.path.join(lock_folder(), f"rig-meter-{name}.lock")
        holder = f"{getpass.getuser()}@{socket.gethostname()}"
        self._lock = DeviceLock(path, holder, f"is using the meter at {resource}")

    def acquire(self) -> None:
        """Take it; DeviceBusyError names who has it, DeviceSetupError where no lock can be kept."""
        try:
            self._lock.acquire()
        except AgentError as refused:
            if refused.code != "busy":
                raise DeviceSetupError(f"meter at {self._resource}: {refused.message}", fix=refused.fix) from refused
            raise DeviceBusyError(refused.message, fix="wait until that process has ended, or end it") from refused
        except OSError as error:
            raise DeviceSetupError(
                f"meter at {self._resource}: its lock cannot be kept in {lock_folder()}: {error.strerror}",
                fix="set RIG_LOCK_DIR to a folder that every user of this computer may write",
            ) from error

    def release(self) -> None:
        """Let the next one in."""
        self._lock.release()


def same_address(resource: str) -> str:
    """One spelling for the addresses of one instrument: letters' case, board number 0, a serial port's links."""
    serial = re.match(r"ASRL(/.*?)(?:::|$)", resource.strip(), re.IGNORECASE)  # a link by path has colons
    if serial is not None:
        return f"asrl{os.path.realpath(serial.group(1))}"
    return re.sub(r"^(tcpip|usb|gpib)0?::", r"\1::", resource.strip().casefold())
