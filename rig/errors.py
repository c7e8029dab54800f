"""Every error a user can meet, as one tree; the exit code belongs to the class.

RigError
├── BadInputError            2   what the user wrote is wrong; never retried
│   ├── ProfileError             a device profile: file, line, field
│   ├── ModelError               an ONNX file or a task file
│   ├── UnsupportedOperatorError an operator that nobody priced or the runtime lacks
│   ├── UnknownDeviceError       no profile of that name (nearest names given)
│   └── NoCostModelError         the device has not been calibrated
├── DeviceError              3
│   ├── DeviceSetupError         wrong host key, no Python, no runtime, no sensor; never retried
│   │   └── UnreachableError         nobody answers; waited for only where the device answered before (it may reboot)
│   ├── DeviceBusyError          somebody else holds the device's lock
│   └── TransientDeviceError     agent died, deadline passed; retried with a bound
│       └── LinkLost                 the agent or the way to it is gone; a new connection may work
├── StoreError               3   the host's disk: full, read-only, a damaged run folder
├── InfeasibleTargetError    4   no network of this family meets the target (said before any training)
├── TargetMissedError        5   measured on the device, and over the target
└── UndecidedError           6   the interval straddles the target after the longest measurement allowed

Exit code 0 is done, 130 interrupted.
"""

from __future__ import annotations


class RigError(Exception):
    """What was being done and what was seen (``message``), and what to do next (``fix``)."""

    exit_code = 1
    code = "error"

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class BadInputError(RigError):
    """What the user wrote is wrong."""

    exit_code = 2
    code = "bad-input"


class ProfileError(BadInputError):
    """A device profile does not parse or validate; the message names file, line and field."""

    code = "bad-profile"


class ModelError(BadInputError):
    """An ONNX model or a task file cannot be used as it is."""

    code = "bad-model"


class UnsupportedOperatorError(BadInputError):
    """An operator that nobody priced, or that the runtime lacks."""

    code = "unsupported-operator"


class UnknownDeviceError(BadInputError):
    """No device profile has that name."""

    code = "unknown-device"


class NoCostModelError(BadInputError):
    """The device has no cost model yet."""

    code = "no-cost-model"


class DeviceError(RigError):
    """The device is unreachable, busy, or lacks something."""

    exit_code = 3
    code = "device"


class DeviceSetupError(DeviceError):
    """The device must be set up before another try can work."""

    code = "device-setup"


class UnreachableError(DeviceSetupError):
    """Nobody answers at the device's address."""


class DeviceBusyError(DeviceError):
    """Somebody else is measuring on the device."""

    code = "device-busy"


class TransientDeviceError(DeviceError):
    """The link or the agent failed in a way that another try may survive."""

    code = "device-transient"


class LinkLost(TransientDeviceError):
    """The agent or the way to it is gone; a new connection may work."""


class StoreError(RigError):
    """The run store cannot be written or read."""

    exit_code = 3
    code = "store"


class InfeasibleTargetError(RigError):
    """No network of this family meets the target."""

    exit_code = 4
    code = "infeasible-target"


class TargetMissedError(RigError):
    """The result was measured on the device and is over the target."""

    exit_code = 5
    code = "target-missed"


class UndecidedError(RigError):
    """The interval still straddles the target after the longest measurement allowed."""

    exit_code = 6
    code = "undecided"


EXIT_INTERRUPTED = 130
