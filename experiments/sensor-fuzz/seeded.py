"""Inputs for each parser from a seeded generator: no shrinking, no memory of what was tried, so ten times as many.

Their kinds are those of the Hypothesis strategies in tests/contracts/parser_properties.py: true, mutated, random, at
limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.contracts.parser_properties import NASTY, ORIN, THOR
from tests.contracts.sources import NANO, PMIC

RAPL_RANGES = (262143328850, 65712999613)


def mutated(rng: Random, texts: Sequence[str], alphabet: str) -> str:
    """A true text cut, doubled, overwritten or shortened in up to five places, or a random one."""
    if rng.random() < 0.15:
        letters = alphabet if rng.random() < 0.7 else [chr(rng.randrange(0x20, 0x3000)) for _ in range(8)]
        return "".join(rng.choice(letters) for _ in range(rng.randrange(80)))
    text = rng.choice(texts)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.randrange(14))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:at] + text[end:]
        elif kind == 1:
            text = text[:end] + text[at:]
        elif kind == 2:
            text = text[:at] + "".join(rng.choice(alphabet) for _ in range(rng.randrange(7))) + text[end:]
        elif kind == 3:
            text = text[:at] + rng.choice(NASTY) + text[end:]
        elif rng.random() < 0.3:
            text = text[:at]
    return text


def content(rng: Random) -> bytes | None:
    """What a file may hold: a number of any size and sign, something that looks like one, bytes, or no file."""
    kind = rng.random()
    if kind < 0.70:
        digits = rng.choice([2, 4, 5, 7, 10, 13])
        return b"%d\n" % rng.randrange(-(10**digits) // rng.choice([1, 100, 10**6]), 10**digits)
    if kind < 0.85:
        return rng.choice(NASTY).encode("utf-8")
    if kind < 0.95:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(9)))
    return None


def rapl(rng: Random) -> list[tuple[float, bytes, bytes]]:
    """Readings of two counters that go on, wrap, stand still, jump or are no numbers."""
    values = [rng.randrange(m - 1) if rng.random() < 0.5 else m - 2 - rng.randrange(10**6) for m in RAPL_RANGES]
    steps = [(0.0, b"%d" % values[0], b"%d" % values[1])]
    for _ in range(rng.randrange(1, 7)):
        texts = []
        for index, most in enumerate(RAPL_RANGES):
            values[index] = (values[index] + rng.choice([0, rng.randrange(10**4), rng.randrange(10**6)])) % most
            texts.append((content(rng) or b"") if rng.random() < 0.08 else b"%d\n" % values[index])
        steps.append((rng.choice([0.0, 0.001, 0.02, 0.02, 0.02, 0.5, 59.0, 61.0]), texts[0], texts[1]))
    return steps


def nvml(rng: Random) -> tuple[str, list[tuple[float, int]]]:
    """A method, and values at times: mostly rising as a counter does."""
    value, readings = 5000, []
    for _ in range(rng.randrange(2, 9)):
        value += rng.choice([0, rng.randrange(20000), rng.randrange(2000)])
        wild = rng.random()
        shown = rng.choice([-rng.randrange(1, 20), 0, rng.randrange(2**63), value // 2]) if wild < 0.08 else value
        readings.append((rng.choice([0.02, 0.02, 0.1, 0.5, 3.0]), shown))
    return rng.choice(["energy", "energy", "instant", "average"]), readings


def registers(rng: Random) -> tuple[str, int, int, int]:
    """A chip, its configuration, and its shunt and bus registers."""
    config = rng.choice([0x399F, 0x4127, 0x6127, 0x4527]) if rng.random() < 0.7 else rng.randrange(0x10000)
    shunt = rng.choice([rng.randrange(0x10000), rng.randrange(0x2000), 0xFFFF - rng.randrange(32)])
    bus = rng.choice([rng.randrange(0x10000), rng.randrange(0x2000) << 3 | 2, rng.randrange(0x10000) & ~4 | 8])
    return rng.choice(["ina219", "ina226", "ina260"]), config, shunt, bus


def throttled(rng: Random) -> str:
    """The firmware's answer, or the kernel's, true or not."""
    bits = rng.getrandbits(rng.choice([4, 20, 20, 32, 36]))
    return mutated(rng, [f"throttled=0x{bits:x}\n", f"{bits:x}", f"0x{bits:X}\n"], "throled=0x 58fF\n")


def battery(rng: Random) -> dict[str, bytes | None]:
    """A battery's folder."""
    status = rng.choice([b"Discharging\n"] * 5 + [b"Charging\n", b"Full\n", b"", b"\xff"])
    names = ("power_now", "voltage_now", "current_now", "energy_now", "present")
    return {"status": status, **{name: content(rng) for name in names}}


INPUTS: dict[str, Callable[[Random], Any]] = {
    "tegrastats line": lambda rng: mutated(rng, [NANO, ORIN, THOR], "AVDINPOM_5 /-0123456789mW@%[]\t\n\xa0"),
    "pmic_read_adc output": lambda rng: mutated(rng, [PMIC], "AVE_ currentvol()=-.0123456789na\n"),
    "get_throttled output": throttled,
    "RAPL files": rapl,
    "NVML values": nvml,
    "INA3221 hwmon tree": lambda rng: (content(rng), content(rng)),
    "INA3221 iio tree": lambda rng: (content(rng), content(rng)),
    "INA2xx hwmon tree": lambda rng: (content(rng), content(rng), content(rng)),
    "INA2xx iio tree": lambda rng: (content(rng), content(rng), content(rng)),
    "INA2xx registers": registers,
    "battery files": battery,
}
