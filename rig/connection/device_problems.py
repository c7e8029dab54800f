"""What a device says that a person has to know although the measurement succeeded: warnings with their fixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Problem = dict[str, "str | None"]


def hello_problems(device: str, hello: Mapping[str, Any]) -> Iterator[Problem]:
    """What an agent found when it started: a power mode that could not be put back, a damaged spool."""
    for text in hello.get("journal_problems", ()):
        fix = "set it back by hand on the device; the agent tries again at its next start"
        yield {"code": "not-restored", "message": f"{device}: {text}", "fix": fix}
    for text in hello.get("spool_problems", ()):
        yield {"code": "spool", "message": f"{device}: {text}", "fix": "check the device's disk (dmesg)"}


def device_problems(device: str, answer: Mapping[str, Any]) -> Iterator[Problem]:
    """What came with a record: the device could not keep a copy, or not be set to the profile's power mode."""
    spool = answer.get("spool_problem")
    if spool:
        message = f"{device}: {spool['message']}; a link lost now would lose the result in hand"
        yield {"code": "device-disk", "message": message, "fix": spool.get("fix") or None}
    mode = (answer["record"].get("environment") or {}).get("power_mode")
    if mode and not mode.get("pinned", True):
        message = f"{device}: power mode {mode['wanted']} was not set: {mode['reason']}"
        yield {"code": "power-mode", "message": message, "fix": mode.get("fix") or None}
