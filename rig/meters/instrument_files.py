"""Profiles of instruments: a TOML file each, so that a new instrument needs no code.

Shipped ones are in ``rig/meters/instruments/``, a person's own in ``instruments/`` of the configuration folder; an own
file of the same name takes a shipped one's place. docs/meters.md explains every field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rig.errors import BadInputError
from rig.profiles import config_folder, explain, read_toml

SHIPPED_FOLDER = Path(__file__).parent / "instruments"

_OPEN = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[\w.+-]{1,32}")


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


Regex = Annotated[str, AfterValidator(_regex)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LinkSettings(_Strict):
    """How lines end and how long to wait; the serial fields are used on ``ASRL`` resources only."""

    read_termination: str = "\n"
    write_termination: str = "\n"
    timeout_s: float = Field(default=2.0, gt=0)
    open_timeout_s: float = Field(default=3.0, gt=0)
    baud_rate: int = Field(default=9600, gt=0)
    data_bits: int = Field(default=8, ge=5, le=8)
    parity: Literal["none", "odd", "even"] = "none"
    stop_bits: Literal[1, 2] = 1


class CommandSettings(_Strict):
    """``setup`` is sent on opening, ``leave`` on closing; ``errors`` asks for the oldest error, until ``no_error``."""

    identity: str = "*IDN?"
    setup: tuple[str, ...] = ()
    query: str
    errors: str | None = "SYSTem:ERRor?"
    no_error: Regex = r"^[+-]?0(\D|$)"
    leave: tuple[str, ...] = ()


class AnswerSettings(_Strict):
    """Where the watts stand in an answer: ``fields`` counted from 1, multiplied with each other and with ``unit_w``.

    ``time_field``: the instrument's own time stamp in the same answer, ``time_unit_s`` of each unit of it.
    """

    separator: str = Field(default=",", min_length=1)
    pattern: Regex | None = None
    fields: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    unit_w: float = Field(default=1.0, gt=0)
    time_field: int | None = Field(default=None, ge=1)
    time_unit_s: float = Field(default=1.0, gt=0)


class SamplingSettings(_Strict):
    """What one reading is. ``update_s``: how often the instrument makes a new value (0: the query starts one)."""

    rate_hz: float = Field(gt=0)
    window_s: float = Field(ge=0)
    update_s: float = Field(default=0.0, ge=0)
    step_w: float = Field(ge=0)
    noise_w: float = Field(default=0.0, ge=0)
    gain_uncertainty: float = Field(ge=0, lt=1)
    boundary: Literal["wall", "board_input", "module", "package", "rail"]
    rail: str = "input"


class Instrument(_Strict):
    """One kind of instrument. ``tried``: on which hardware the profile was tried, or that it was not."""

    description: str
    manual: str
    tried: str
    identify: Regex
    options: dict[str, str | int | float] = Field(default_factory=dict)
    link: LinkSettings = LinkSettings()
    commands: CommandSettings
    answer: AnswerSettings = AnswerSettings()
    sampling: SamplingSettings

    @model_validator(mode="after")
    def _complete(self) -> Instrument:
        sent = (self.commands.identity, *self.commands.setup, self.commands.query, *self.commands.leave)
        unknown = {name for text in sent for name in _OPEN.findall(text)} - set(self.options)
        if unknown:
            raise ValueError(f"commands leave {', '.join(sorted(unknown))} open, which [options] does not name")
        if self.sampling.rate_hz * self.sampling.update_s > 1.001 and self.answer.time_field is None:
            raise ValueError("sampling.rate_hz is above 1 / sampling.update_s: old values would be read twice")
        return self

    def with_options(self, given: Mapping[str, str | int | float]) -> Instrument:
        """The profile with what its commands leave open filled in. Raises BadInputError."""
        for name in given:
            if name not in self.options:
                near = difflib.get_close_matches(name, self.options, n=1)
                known = f"did you mean {near[0]}?" if near else f"known: {', '.join(self.options) or 'none'}"
                raise BadInputError(f"meter: the instrument's profile has no option {name!r}", fix=known)
        values = {name: str(value) for name, value in {**self.options, **given}.items()}
        for name, value in values.items():
            if not _PLAIN.fullmatch(value):
                raise BadInputError(
                    f"meter: option {name} = {value!r} cannot stand in a command",
                    fix="use letters, digits and . _ + - only",
                )

        def filled(text: str) -> str:
            return _OPEN.sub(lambda found: values[found.group(1)], text)

        commands = self.commands
        changed = {
            "identity": filled(commands.identity),
            "setup": tuple(filled(text) for text in commands.setup),
            "query": filled(commands.query),
            "leave": tuple(filled(text) for text in commands.leave),
        }
        return self.model_copy(update={"commands": commands.model_copy(update=changed)})


def own_folder() -> Path:
    """Where a person's own instrument profiles are."""
    return config_folder() / "instruments"


def instrument_names() -> list[str]:
    """Every instrument that has a profile, each once."""
    return sorted({path.stem for folder in (SHIPPED_FOLDER, own_folder()) for path in folder.glob("*.toml")})


def load_instrument(name: str) -> Instrument:
    """Read a profile. Raises BadInputError (with the nearest names), or ProfileError with file, line and field."""
    is_plain_name = name == Path(name).name and not name.startswith(".")
    places = [folder / f"{name}.toml" for folder in (own_folder(), SHIPPED_FOLDER)] if is_plain_name else []
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        names = instrument_names()
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"have: {', '.join(names)}"
        raise BadInputError(
            f"meter: no instrument profile named {name!r}; {hint}",
            fix=f"a new instrument is a file {own_folder() / 'NAME.toml'} (docs/meters.md)",
        )
    try:
        return Instrument.model_validate(read_toml(path))
    except ValidationError as error:
        raise explain(error, [path], Instrument) from error
