"""Quantities with their uncertainty, and the few places where text becomes SI numbers and back.

Everything inside is SI. A user writes ``3.6W``, ``40mJ``, ``12ms``, ``1.2GFLOP``, ``50%``, ``60`` (frames per second)
or ``1h30m``; what cannot be read, or cannot be meant, is a ``BadInputError`` that says what to write instead.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from rig.errors import BadInputError

KINDS = ("measured", "emulated", "simulated", "predicted", "imported")

PREFIXES = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SHOWN_PREFIXES = {
    "W": ("µ", "m", ""),
    "J": ("n", "µ", "m", "", "k"),
    "s": ("n", "µ", "m", ""),
    "MAC": ("", "k", "M", "G", "T"),
    "FLOP": ("", "k", "M", "G", "T"),
    "Hz": ("", "k", "M", "G"),
    "B": ("", "k", "M", "G"),
}
MICRO_SIGNS = {"u": "µ", "\u03bc": "µ"}  # ASCII u and Greek mu both mean the micro sign

NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*$")
COMMA = re.compile(r"\s*[+-]?\d+,\d")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")
DURATION_S = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}
NOT_PACED = "leave --fps out to measure back to back"
MAX_FPS = 100_000.0
MAX_DURATION_S = 30 * 86400.0


# --- quantities ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A number with its interval: the one form in which a figure is stored, sent and shown.

    ``value``, ``lo``, ``hi``: SI, None where it is missing. ``level``: of the interval. ``n``: independent windows
    behind it, never raw samples. ``kind``: how the number came about; ``basis``: the kind it rests on (a prediction
    from simulated data stays marked).
    """

    value: float | None
    lo: float | None = None
    hi: float | None = None
    level: float = 0.95
    n: int | None = None
    kind: str = "measured"
    basis: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"quantity kind {self.kind!r}: known are {', '.join(KINDS)}")

    @classmethod
    def around(cls, value: float, half_width: float, **fields: Any) -> Quantity:
        """A quantity with a symmetric interval of the given half-width (same unit as ``value``)."""
        if not math.isfinite(half_width):
            return cls(value, None, None, **fields)
        return cls(value, value - half_width, value + half_width, **fields)

    @property
    def half_width(self) -> float | None:
        """Half of the interval, None without one."""
        return None if self.lo is None or self.hi is None else 0.5 * (self.hi - self.lo)

    @property
    def relative(self) -> float | None:
        """Half-width over the value's magnitude, None without an interval or at zero."""
        return None if self.half_width is None or not self.value else self.half_width / abs(self.value)

    @property
    def simulated(self) -> bool:
        """Whether the number, or what it rests on, comes from a simulation."""
        return "simulated" in (self.kind, self.basis)

    @property
    def label(self) -> str:
        """Words that must stand beside the number: ``MEASURED``, ``SIMULATED``, ``PREDICTED from SIMULATED``, ..."""
        if self.basis and self.basis != self.kind:
            return f"{self.kind.upper()} from {self.basis.upper()}"
        return self.kind.upper()

    def scaled(self, factor: float) -> Quantity:
        """The quantity times an exact factor (bounds swap under a negative one)."""
        value, lo, hi = (None if x is None else x * factor for x in (self.value, self.lo, self.hi))
        if factor < 0:
            lo, hi = hi, lo
        return Quantity(value, lo, hi, self.level, self.n, self.kind, self.basis)

    def to_json(self) -> dict[str, Any]:
        """The JSON form; a number that is not finite becomes null."""
        return {
            "value": _finite(self.value),
            "lo": _finite(self.lo),
            "hi": _finite(self.hi),
            "level": self.level,
            "n": self.n,
            "kind": self.kind,
            "basis": self.basis,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Quantity:
        """Read the JSON form; unknown keys are a ValueError."""
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"quantity: unknown key(s) {', '.join(unknown)}")
        return cls(**data)

    def format(self, unit: str = "", *, label: bool = False) -> str:
        """Text with as many digits as the uncertainty carries: ``5.36 ± 0.05 W``, ``5.3 [4.9, 5.7] W``.

        ``unit``: the SI unit without prefix; ``%`` shows a ratio as per cent. ``label``: append ``label`` (simulated
        numbers always get theirs).
        """
        text = self._format_number(unit)
        return f"{text} {self.label}" if label or self.simulated else text

    def _format_number(self, unit: str) -> str:
        value = _finite(self.value)
        if value is None:
            return "n/a"
        factor, shown = _scale(value, unit)
        tail = f" {shown}" if shown else ""
        half = _finite(self.half_width)
        if half is None or half <= 0:
            return f"{_significant(value * factor, 3)}{tail}"
        decimals = _decimals(half * factor)
        low, middle, high = (_fixed(x * factor, decimals) for x in (self.lo, value, self.hi))
        centred = abs(0.5 * (self.lo + self.hi) - value) <= 0.05 * half
        if centred and self.kind != "predicted":
            return f"{middle} ± {_fixed(half * factor, decimals)}{tail}"
        return f"{middle} [{low}, {high}]{tail}"


def _finite(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)


def _scale(value: float, unit: str) -> tuple[float, str]:
    """(factor, unit with prefix) that leaves at least one digit before the point."""
    if unit == "%":
        return 100.0, "%"
    prefixes = SHOWN_PREFIXES.get(unit, ("",))
    if value == 0:
        return 1.0, unit
    chosen = prefixes[0]
    for prefix in prefixes:
        if abs(value) >= 0.9995 * PREFIXES[prefix]:
            chosen = prefix
    return 1.0 / PREFIXES[chosen], chosen + unit


def _decimals(half_width: float) -> int:
    """Decimals to show: two digits of the half-width where it starts with 10 to 35, else one."""
    exponent = math.floor(math.log10(half_width))
    leading = half_width / 10.0**exponent
    if round(leading, 9) >= 9.5:
        return -exponent  # rounds up to 10, which is shown with both digits
    return (1 if leading < 3.55 else 0) - exponent


def _fixed(x: float, decimals: int) -> str:
    rounded = round(x, decimals) + 0.0
    return f"{rounded:.{max(decimals, 0)}f}"


def _significant(x: float, digits: int) -> str:
    if x == 0:
        return "0"
    return _fixed(x, digits - 1 - math.floor(math.log10(abs(x))))


# --- what a user writes -----------------------------------------------------------------------------------------


class Limit(NamedTuple):
    """One limit of a budget: absolute (``limit`` in SI ``unit``) or ``relative`` to the baseline (0 to 1)."""

    quantity: str
    unit: str
    limit: float | None
    relative: float | None

    def to_json(self, fps: float | None = None) -> dict[str, Any]:
        """The ``budget`` entry of ``result.json``; ``fps`` is attached to power only."""
        shown_fps = fps if self.quantity == "power" else None
        return {**self._asdict(), "fps": shown_fps}


class _Rule(NamedTuple):
    unit: str
    symbols: dict[str, float]  # unit symbol without prefix -> factor to SI
    prefixes: tuple[str, ...]
    low: float
    high: float
    example: str
    bare: bool  # whether a number alone is enough


LIMITS = {
    # Ranges: what a board, a module or one desktop GPU can do for one inference. Beyond them it is a typing error.
    "power": _Rule("W", {"W": 1.0}, ("µ", "m", "", "k", "M"), 1e-3, 1500.0, "3.6W", False),
    "energy": _Rule("J", {"J": 1.0}, ("n", "µ", "m", "", "k"), 1e-9, 1e5, "40mJ", False),
    "latency": _Rule("s", {"s": 1.0}, ("n", "µ", "m", ""), 1e-7, 3600.0, "12ms", False),
    "flops": _Rule(
        "FLOP",
        {"FLOP": 1.0, "FLOPs": 1.0, "MAC": 2.0, "MACs": 2.0},  # one multiply-accumulate is two operations
        ("", "k", "M", "G", "T"),
        1e3,
        1e16,
        "1.2GFLOP",
        False,
    ),
    "params": _Rule("params", {"params": 1.0, "": 1.0}, ("", "k", "M", "G"), 10.0, 1e13, "250k", True),
}


def parse_limit(quantity: str, text: str) -> Limit:
    """Read a target such as ``3.6W`` or ``50%`` for ``quantity``: power, energy, latency, flops or params.

    Raises BadInputError with what was seen and what to write.
    """
    rule = LIMITS[quantity]
    option = f"--target-{quantity} {text}"
    number, symbol = _number_and_unit(text, option, f"write for example {rule.example} or 50%")
    if symbol == "%":
        return Limit(quantity, rule.unit, None, _percent(number, option))
    factor = _factor(symbol, rule, option, _shown_number(number))
    value = number * factor
    if value == 0:
        raise BadInputError(f"{option}: zero {quantity} cannot be reached", f"write for example {rule.example}")
    if not rule.low <= value <= rule.high:
        raise BadInputError(
            f"{option}: {value:.15g} {rule.unit}? Expected is {rule.low:g} to {rule.high:g} {rule.unit}",
            _other_prefix(number, symbol, rule),
        )
    return Limit(quantity, rule.unit, value, None)


def parse_fps(text: str) -> float:
    """Frames per second from ``60``, ``29.97`` or ``60fps``; raises BadInputError."""
    option = f"--fps {text}"
    number, symbol = _number_and_unit(text, option, "write for example 60")
    if symbol not in ("", "fps"):
        raise BadInputError(f"{option}: unit {symbol!r} is not a frame rate", f"write {_shown_number(number)}")
    if number == 0:
        raise BadInputError(f"{option}: zero frames a second measures nothing", NOT_PACED)
    if number > MAX_FPS:
        raise BadInputError(f"{option}: more than {MAX_FPS:g} frames a second", NOT_PACED)
    return number


def parse_duration(text: str) -> float:
    """Seconds from ``90s``, ``20m``, ``1h30m`` or ``2d``; raises BadInputError."""
    option = f"--time {text}"
    fix = "write for example 90s, 20m or 1h30m"
    compact = text.strip().replace(" ", "")
    parts = DURATION.findall(compact)
    if not parts or "".join(n + u for n, u in parts) != compact:
        bare = re.fullmatch(r"\d+(\.\d+)?", compact)
        raise BadInputError(
            f"{option}: {'no unit' if bare else 'not a duration'}", f"write {compact}m or {compact}s" if bare else fix
        )
    units = [DURATION_S[unit] for _, unit in parts]
    if any(later >= earlier for earlier, later in itertools.pairwise(units)):
        raise BadInputError(f"{option}: units are repeated or out of order", fix)
    seconds = sum(float(number) * scale for (number, _), scale in zip(parts, units, strict=True))
    if not 0 < seconds <= MAX_DURATION_S:
        raise BadInputError(f"{option}: {seconds:g} s is not between 0 and {MAX_DURATION_S / 86400:g} days", fix)
    return seconds


def parse_share(text: str, option: str) -> float:
    """A relative error from ``5%``; raises BadInputError for what is no percentage above 0 and at most 100."""
    number, symbol = _number_and_unit(text, option, "write for example 5%")
    if symbol != "%":
        raise BadInputError(f"{option}: {f'unit {symbol!r}' if symbol else 'no unit'}", f"write {number:g}%")
    if not 0 < number <= 100:
        raise BadInputError(f"{option}: is not above 0 % and at most 100 %", "write for example 5%")
    return number / 100.0


def _number_and_unit(text: str, option: str, fix: str) -> tuple[float, str]:
    """Split text; refuses what is no finite number, a decimal comma, and anything negative."""
    if COMMA.match(text):
        raise BadInputError(f"{option}: decimal comma", f"write {text.strip().replace(',', '.', 1)}")
    match = NUMBER.match(text)
    if match is None:
        raise BadInputError(f"{option}: {text.strip() or 'an empty text'} is not a number with a unit", fix)
    number, symbol = float(match.group(1)), match.group(2)
    if not math.isfinite(number):
        raise BadInputError(f"{option}: not a finite number", fix)
    if number < 0:
        raise BadInputError(f"{option}: is negative", f"write {text.strip().lstrip('-')} if that was meant")
    return number, symbol


def _percent(number: float, option: str) -> float:
    if not 0 < number <= 100:
        raise BadInputError(
            f"{option}: a share of the baseline is above 0 % and at most 100 %", "write for example 50%"
        )
    return number / 100.0


def _factor(symbol: str, rule: _Rule, option: str, number: str) -> float:
    """Factor from the written unit to SI, or a BadInputError that offers the nearest unit."""
    if not symbol and not rule.bare:
        raise BadInputError(f"{option}: no unit", f"write {number}{_usual_unit(rule)} (or 50% of the baseline)")
    for micro, sign in MICRO_SIGNS.items():
        if symbol.startswith(micro) and sign + symbol[1:] in _units(rule):
            symbol = sign + symbol[1:]
    known = _units(rule)
    if symbol in known:
        return known[symbol]
    folded = {unit.lower(): unit for unit in known}  # of mW and MW the later wins; both are shown below
    same_letters = [unit for unit in known if unit.lower() == symbol.lower()]
    if same_letters:
        choices = " or ".join(f"{number}{unit}" for unit in same_letters)
        raise BadInputError(f"{option}: unit {symbol!r}: upper and lower case differ in units", f"write {choices}")
    near = difflib.get_close_matches(symbol.lower(), folded, n=1, cutoff=0.5)
    guess = folded[near[0]] if near else _usual_unit(rule)
    shown = ", ".join(unit for unit in known if unit)
    raise BadInputError(f"{option}: unknown unit {symbol!r} (known: {shown}, %)", f"write {number}{guess} if meant so")


def _units(rule: _Rule) -> dict[str, float]:
    return {p + s: PREFIXES[p] * f for s, f in rule.symbols.items() for p in rule.prefixes}


def _usual_unit(rule: _Rule) -> str:
    return re.sub(r"^[\d.]+", "", rule.example)


def _other_prefix(number: float, symbol: str, rule: _Rule) -> str:
    """A fix for an implausible value: the same number with a prefix that makes it plausible."""
    for unit, factor in sorted(_units(rule).items(), key=lambda item: abs(math.log10(item[1]))):
        if unit != symbol and rule.low <= number * factor <= rule.high:
            return f"write {_shown_number(number)}{unit} if that was meant"
    return f"write for example {rule.example}"


def _shown_number(number: float) -> str:
    return f"{number:.15g}"
