"""Waking up in time beside a load on every core: asks the scheduler for it, as far as this user may.

round-robin   real time, for root and whoever has CAP_SYS_NICE or an rtprio limit: preempts whatever runs
short slice   anybody, from Linux 6.12 on: a task that asks for little at a time preempts one that asks for much
ordinary      nothing of both
"""

import ctypes
import os
import sys

SLICE_NS = 100000  # the least that Linux takes (kernel/sched/syscalls.c)

# sched_setattr of <asm/unistd.h>
SYSCALLS = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "armv7l": 380, "armv6l": 380}


class _SchedAttr(ctypes.Structure):
    """struct sched_attr, its first version (sched_setattr(2))."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def wake_promptly() -> str:
    """Change how this process (not what it starts) is scheduled; returns which of the three it is now."""
    if not sys.platform.startswith("linux"):
        return "ordinary"
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        return "round-robin"
    except OSError:
        return "short slice" if _short_slice() else "ordinary"


def _short_slice() -> bool:
    number = SYSCALLS.get(os.uname().machine)
    release = os.uname().release.split("-")[0].split(".")
    if number is None or tuple(int(part) for part in release[:2] if part.isdigit()) < (6, 12):
        return False
    attributes = _SchedAttr(ctypes.sizeof(_SchedAttr), os.SCHED_OTHER, 0, os.nice(0), 0, SLICE_NS, 0, 0)
    return bool(ctypes.CDLL(None, use_errno=True).syscall(number, 0, ctypes.byref(attributes), 0) == 0)
