"""The one JSON object of ``--json``: an envelope around what a command returned, or around its error.

Keys of every envelope: schema, command, rig_version, run_id, device, kind, warnings, artifacts, next; or error.
Quantities carry their unit in the key's suffix; what is missing is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig import __version__
from rig.errors import DeviceSetupError, RigError, TargetMissedError, UndecidedError

SCHEMA_VERSION = 1  # 1: first version

VERDICT_EXIT_CODES = {
    "missed": TargetMissedError.exit_code,
    "undecided": UndecidedError.exit_code,
    "blocked": DeviceSetupError.exit_code,
    "different": 1,
}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was saved and the command that resumes."""

    def __init__(self, message: str, resume: str) -> None:
        super().__init__(message)
        self.message = message
        self.resume = resume


def envelope(command: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints for a command that ran: the common keys first, then the command's own."""
    common: dict[str, Any] = {
        "schema": f"rig.{command}/{SCHEMA_VERSION}",
        "command": command,
        "rig_version": __version__,
        "run_id": None,
        "device": None,
        "kind": None,
        "warnings": [],
        "artifacts": {},
        "next": None,
    }
    return {**common, **result, "warnings": once(result.get("warnings", []))}


def error_envelope(command: str | None, code: str, message: str, fix: str | None) -> dict[str, Any]:
    """What ``--json`` prints for a command that failed."""
    return {
        "schema": f"rig.error/{SCHEMA_VERSION}",
        "command": command,
        "rig_version": __version__,
        "error": {"code": code, "message": message, "fix": fix},
    }


def warning(code: str, message: str, fix: str | None = None) -> dict[str, Any]:
    """One entry of ``warnings``."""
    return {"code": code, "message": message, "fix": fix}


def warning_of(error: RigError) -> dict[str, Any]:
    """A warning that says what an error would have said."""
    return warning(error.code, error.message, error.fix)


def once(warnings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each warning once, in the order first given."""
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in warnings:
        seen.setdefault((entry["code"], entry["message"]), dict(entry))
    return list(seen.values())


def exit_code(result: Mapping[str, Any]) -> int:
    """0, or that of the verdict where the command has one (1 different, 5 missed, 6 undecided)."""
    return VERDICT_EXIT_CODES.get(str(result.get("verdict")), 0)


def to_text(data: Mapping[str, Any]) -> str:
    """One line of standard JSON; a number that is not finite becomes null."""
    return json.dumps(plain(data), allow_nan=False, ensure_ascii=False)


def plain(data: Any) -> Any:
    """The same data in types that JSON has. Raises TypeError for what has no plain form."""
    if data is None or isinstance(data, bool | int | str):
        return data
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Path):
        return str(data)
    if hasattr(data, "to_json"):  # Quantity and the records
        return plain(data.to_json())
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, Sequence):
        return [plain(value) for value in data]
    if hasattr(data, "tolist"):  # numpy arrays and scalars, without importing numpy
        return plain(data.tolist())
    raise TypeError(f"{type(data).__name__} has no JSON form")
