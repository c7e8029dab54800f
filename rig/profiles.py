"""Device profiles: TOML files, validated; a person's own file overrides a shipped one field by field.

Shipped files are in ``rig/devices/``; a person's own are in ``devices/`` of the configuration folder
(``$RIG_CONFIG``, or the platform's configuration folder for ``rig``).
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from device_agents.records import MeasurePlan
from rig.errors import DeviceSetupError, ProfileError, UnknownDeviceError

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library has a TOML reader from 3.11 on
    import tomli as tomllib

SHIPPED_FOLDER = Path(__file__).parent / "devices"

# Where a person without the board can still go through every step.
WITHOUT_A_BOARD = "virtual-pi4"

_PLAN = MeasurePlan()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TransportSettings(_Strict):
    """How the host reaches the device: a local subprocess, or SSH with a checked host key."""

    kind: Literal["local", "ssh", "replay"] = "local"
    host: str | None = Field(default=None, min_length=1)
    user: str | None = Field(default=None, min_length=1)
    port: int = Field(default=22, ge=1, le=65535)
    identity_file: str | None = None
    known_hosts: str | None = None
    run: str | None = Field(default=None, min_length=1)


class RuntimeSettings(_Strict):
    """Which inference engine runs the kernels, and its options (threads, spinning, ...)."""

    name: str = "onnxruntime"
    options: dict[str, Any] = Field(default_factory=dict)


class PlanSettings(_Strict):
    """The fields of ``MeasurePlan`` that belong to the device rather than to one measurement."""

    warmup_s: float = Field(default=_PLAN.warmup_s, ge=0)
    warmup_max_s: float = Field(default=_PLAN.warmup_max_s, gt=0)
    window_s: float = Field(default=_PLAN.window_s, gt=0)
    min_windows: int = Field(default=_PLAN.min_windows, ge=2)
    rel_ci: float = Field(default=_PLAN.rel_ci, gt=0, lt=1)
    max_s: float = Field(default=_PLAN.max_s, gt=0)
    quiet_s: float = Field(default=_PLAN.quiet_s, ge=0)
    cooldown_s: float = Field(default=_PLAN.cooldown_s, ge=0)
    max_temp_c: float = Field(default=_PLAN.max_temp_c, gt=0)

    def to_plan(self, fps: float | None = None) -> MeasurePlan:
        """The measuring plan of this device, back to back or paced at ``fps`` frames a second."""
        return MeasurePlan(fps=fps, **self.model_dump())


class MeterSettings(_Strict):
    """A power meter wired to the host (docs/meters.md): an instrument (``scpi``), or a log being appended to (``log``).

    ``resource``: VISA address, ``instrument``: name of its profile, ``options``: what the profile's commands leave open
    (a channel). ``path``, ``format``, ``*_column``, ``time_format``, ``unit``, ``delay_s``: of a log. The fields from
    ``rate_hz`` on say what the meter does where its profile does not, or differs (the step of the range in use).
    """

    kind: Literal["scpi", "log"]
    resource: str | None = Field(default=None, min_length=1)
    instrument: str | None = Field(default=None, min_length=1)
    options: dict[str, str | int | float] = Field(default_factory=dict)
    path: str | None = Field(default=None, min_length=1)
    format: Literal["csv", "ptd"] = "csv"
    time_column: str | None = None
    time_format: str | None = None
    power_column: str | None = None
    unit: Literal["W", "mW", "uW"] = "W"
    delay_s: float = Field(default=0.05, ge=0)
    rate_hz: float | None = Field(default=None, gt=0)
    window_s: float | None = Field(default=None, ge=0)
    step_w: float | None = Field(default=None, ge=0)
    noise_w: float | None = Field(default=None, ge=0)
    gain_uncertainty: float | None = Field(default=None, ge=0, lt=1)
    boundary: Literal["wall", "board_input", "module", "package", "rail"] | None = None
    rail: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> MeterSettings:
        needed = ("resource", "instrument") if self.kind == "scpi" else ("path", "rate_hz", "boundary")
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f'kind = "{self.kind}" needs {" and ".join(missing)}')
        return self


class DeviceProfile(_Strict):
    """One device: how to reach it, what runs on it, and what measures its power."""

    name: str
    description: str = ""
    simulated: bool = False
    python: str = "python3"
    sensors: tuple[str, ...] = ()
    sensor_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    boundary: Literal["wall", "board_input", "module", "package", "rail"] | None = None
    power_mode: str | None = None
    transport: TransportSettings = TransportSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    plan: PlanSettings = PlanSettings()
    grid: dict[str, Any] = Field(default_factory=dict)
    meter: MeterSettings | None = None

    @property
    def own_file(self) -> Path:
        """The file in which a person overrides this profile (it need not exist)."""
        return config_folder() / "devices" / f"{self.name}.toml"

    def missing_host(self) -> DeviceSetupError | None:
        """The error that says which line of which file sets the host; None where nothing is missing."""
        if self.transport.kind != "ssh" or self.transport.host:
            return None
        where = _line_to_write(self.own_file, ("transport", "host"))
        return DeviceSetupError(
            f"{self.name}: no host is set, so the board cannot be reached",
            fix=f'write host = "NAME-OR-ADDRESS" in section [transport] of {self.own_file}{where}; '
            f"no board at hand: use --device {WITHOUT_A_BOARD}, which needs none",
        )

    def require_host(self) -> None:
        """Raise DeviceSetupError (exit code 3) where an SSH device has no host set."""
        problem = self.missing_host()
        if problem is not None:
            raise problem


def config_folder() -> Path:
    """``$RIG_CONFIG``, or the platform's configuration folder."""
    chosen = os.environ.get("RIG_CONFIG")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # only where the variable does not decide

    return Path(platformdirs.user_config_dir("rig"))


def profile_names() -> list[str]:
    """Every profile that exists, shipped ones first, each once."""
    return list(dict.fromkeys([*_names_in(SHIPPED_FOLDER), *_names_in(config_folder() / "devices")]))


def load_profile(name: str) -> DeviceProfile:
    """Read a profile, a person's own fields over the shipped ones.

    Raises UnknownDeviceError with the nearest names, or ProfileError with file, line and field.
    """
    files = [folder / f"{name}.toml" for folder in (SHIPPED_FOLDER, config_folder() / "devices")]
    is_plain_name = name == Path(name).name and not name.startswith(".")
    found = [path for path in files if path.is_file()] if is_plain_name else []
    if not found:
        raise _unknown(name)
    merged: dict[str, Any] = {"name": name}
    for path in found:
        merged = _merge(merged, read_toml(path))
    if merged["name"] != name:
        path = found[-1]
        line = _line_of(path, ("name",)) or 1
        raise ProfileError(
            f"{path}, line {line}: field name: {merged['name']!r} differs from the file's name",
            fix=f'write name = "{name}", or leave the field out',
        )
    try:
        return DeviceProfile.model_validate(merged)
    except ValidationError as error:
        raise explain(error, found) from error


def _names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.toml"))


def _unknown(name: str) -> UnknownDeviceError:
    names = profile_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"have: {', '.join(names)}"
    own = config_folder() / "devices"
    if _is_priced(name):
        return UnknownDeviceError(
            f"{name} has a cost model but no device profile: it can be priced, not measured",
            fix=f"rig predict MODEL.onnx --device {name}; to measure, say how it is reached in {own / f'{name}.toml'}",
        )
    return UnknownDeviceError(
        f"no device profile named {name!r}; {hint}",
        fix=f"rig devices lists them; a new device is a file {own / 'NAME.toml'}",
    )


def _is_priced(name: str) -> bool:
    """Whether the store has a cost model of that name (one that was fitted to tables needs no profile)."""
    from rig.cost_models import calibrated_devices
    from rig.store.store import default_root

    return name in calibrated_devices(default_root())


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; ProfileError with file and line where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))
        line = where.group(1) if where else str(len(path.read_text(encoding="utf-8").splitlines()))
        raise ProfileError(f"{path}, line {line}: not valid TOML: {error}", fix="correct that line") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}, byte {error.start}: not UTF-8 text", fix="save the file as UTF-8") from error
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}", fix="check the file's permissions") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both_tables = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both_tables else value
    return merged


def explain(error: ValidationError, files: Sequence[Path], model: type[BaseModel] = DeviceProfile) -> ProfileError:
    """The first problem of a validation as file, line, field; the last file that writes the field is named."""
    found_wrong = error.errors()  # a misspelt field comes before the one that is then missing
    first = next((one for one in found_wrong if one["type"] == "extra_forbidden"), found_wrong[0])
    keys = tuple(str(part) for part in first["loc"])
    path, line = files[-1], 1
    for candidate in reversed(files):
        found = _line_of(candidate, keys)
        if found is not None:
            path, line = candidate, found
            break
    field = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = _known_fields(keys[:-1], model)
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(known)}"
        return ProfileError(f"{path}, line {line}: field {field}: unknown field", fix=hint)
    is_table = first["type"] == "model_type"
    said = "a table is expected" if is_table else first["msg"].removeprefix("Value error, ")
    what = said if first["type"] in ("value_error", "missing") else f"{said}, not {first['input']!r}"
    return ProfileError(f"{path}, line {line}: field {field}: {what}", fix=f"correct {field} in {path}")


def _known_fields(table: Sequence[str], model: type[BaseModel]) -> list[str]:
    for key in table:
        annotation = model.model_fields[key].annotation
        nested = next((one for one in (annotation, *get_args(annotation)) if _is_table(one)), None)
        if nested is None:
            return []
        model = nested
    return sorted(model.model_fields)


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


_HEADER = re.compile(r"^\s*\[\s*([\w.\"-]+)\s*\]")
_KEY = re.compile(r"^\s*([\w.\"-]+)\s*=")


def _line_of(path: Path, keys: Sequence[str]) -> int | None:
    """The line (from 1) that writes ``keys``, or the nearest table or inline table that encloses it."""
    table: tuple[str, ...] = ()
    best: tuple[int, int] | None = None  # (length of the common prefix, line)
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        header, key = _HEADER.match(text), _KEY.match(text)
        if header:
            table = _split(header.group(1))
            written = table
        elif key:
            written = table + _split(key.group(1))
        else:
            continue
        if tuple(keys[: len(written)]) == written and (best is None or len(written) > best[0]):
            best = (len(written), number)
    return best[1] if best else None


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip('"') for part in dotted.split("."))


def _line_to_write(path: Path, keys: Sequence[str]) -> str:
    """Where in ``path`` a missing key belongs, as words."""
    if not path.is_file():
        return " (a new file: line 1 is [transport], line 2 is the host)"
    header = _line_of(path, keys)
    if header is None:
        end = len(path.read_text(encoding="utf-8").splitlines())
        return f" (line {end + 1} is a new [transport], line {end + 2} the host)"
    return f", line {header + 1}"
