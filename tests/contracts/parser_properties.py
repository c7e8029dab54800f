"""What must hold of every parser of a power source, whatever it is fed: the properties, and inputs to try them on.

    inputs (Hypothesis)  ──►  the production parser  ──►  declared error, or watts  ──►  the same watts from the input,
    valid, mutated, random                                                              found in another way

A property raises AssertionError where a parser fails otherwise than declared, or returns a watt that the input does not
say. The default suite tries hundreds of inputs on each, experiments/sensor-fuzz a hundred thousand.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from device_agents import board
from device_agents.protocol import AgentError
from device_agents.sensors import battery, ina2xx, ina3221, nvml, pmic, rapl, tegrastats
from tests.contracts.sources import NANO, PMIC

ORIN = (
    "07-21-2025 16:33:53 RAM 17956/62841MB (lfb 10x4MB) SWAP 0/31420MB (cached 0MB) CPU [31%@729,off] EMC_FREQ 3%@665 "
    "GR3D_FREQ 1%@[305,0] NVENC off VIC off APE 174 cpu@43.718C tj@43.718C VDD_GPU_SOC 2798mW/2798mW VDD_CPU_CV "
    "399mW/763mW VIN_SYS_5V0 3114mW/3169mW"
)
THOR = (
    "05-17-2026 10:00:33 VIC off soc345@34.5C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 4923mW/4544mW/4600mW "
    "VIN_SYS_5V0 4327mW/4227mW"
)

DECLARED = (OSError, ValueError, AgentError)


class Parser(NamedTuple):
    """``run()`` gives the check of one input, set up once for many; ``inputs`` is the strategy that makes them."""

    inputs: st.SearchStrategy[Any]
    run: Callable[[], Any]  # a context manager that yields check(input)


def close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


# --- inputs -----------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn, texts: Sequence[str], alphabet: str) -> str:
    """A true text cut, doubled, swapped and overwritten in a few places."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            text = text[:at] + text[end:]
        elif kind == 1:
            text = text[:end] + text[at:]
        elif kind == 2:
            text = text[:at] + draw(st.text(alphabet, max_size=6)) + text[end:]
        else:
            text = text[:at]
    return text


NASTY = [
    "", "-", "nan", "inf", "-inf", "1e6", "0x10", "+5", "1_000", "1.5", "-0", "00012", "1 2", "٣", "9" * 30, "\x00",
    "-2147483648", "2147483647", "18446744073709551615",
]  # fmt: skip
NUMBER = st.one_of(st.integers(-200, 40000), st.integers(-(10**10), 10**13)).map(str)
CONTENT = st.one_of(
    NUMBER.map(lambda text: text.encode() + b"\n"),
    NUMBER.map(lambda text: text.encode() + b"\n"),
    st.sampled_from(NASTY).map(lambda text: text.encode("utf-8")),
    st.binary(max_size=8),
    st.none(),  # no such file
)


WHITE = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"  # to Python


def digits(content: bytes | None) -> int | None:
    """The whole number that a file says, by another way than the sensors'; None where it says none."""
    text = (content or b"").strip(WHITE)
    body = text[1:] if text[:1] == b"-" else text
    return int(text) if body and all(48 <= byte <= 57 for byte in body) else None


_shown: dict[Path, bytes | None] = {}  # what is written is not written again


def put(path: Path, content: bytes | None) -> None:
    if path in _shown and _shown[path] == content:
        return
    _shown[path] = content
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)


@contextmanager
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    name = tempfile.mkdtemp(prefix="rig-fuzz-", dir=memory if memory.is_dir() else None)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name)
        _shown.clear()


@contextmanager
def clock_of(module: Any) -> Iterator[list[float]]:
    """The module's clock, set by hand."""
    now_s, original = [1000.0], module.now_s
    module.now_s = lambda: now_s[0]
    try:
        yield now_s
    finally:
        module.now_s = original


# --- lines and outputs ------------------------------------------------------------------------------------------


@contextmanager
def tegrastats_line() -> Iterator[Callable[[str], None]]:
    """Every watt is a number that stands in the line, in mW, right behind the rail's name; the total is theirs."""

    def check(line: str) -> None:
        try:
            rails = tegrastats.parse_line(line)
        except ValueError:
            return
        words = line.split()
        pairs = {(name, re.split("mW|/", value)[0]) for name, value in pairwise(words) if "/" in value}
        for name, watts in rails.items():
            assert any(
                name == said and value.lstrip("-").isdigit() and close(int(value) * 1e-3, watts)
                for said, value in pairs
            )
        try:
            _, boundary, total_w = tegrastats.total(rails)
        except ValueError:
            return
        if boundary == "board_input":
            assert total_w in (rails.get("POM_5V_IN"), rails.get("VDD_IN"))
        else:
            assert close(total_w, sum(rails.values()))

    yield check


@contextmanager
def pmic_output() -> Iterator[Callable[[str], None]]:
    """Every watt is the product of the one current and the one voltage that the text gives under the rail's name."""

    def check(text: str) -> None:
        try:
            rails = pmic.parse(text)
        except ValueError:
            return
        said: dict[str, list[float]] = {}
        for line in text.splitlines():
            if "=" in line:
                label, _, value = line.partition("=")
                said.setdefault(label.split()[0], []).append(float(value.strip()[:-1]))
        for name, watts in rails.items():
            [amperes], [volts] = said[name + "_A"], said[name + "_V"]
            assert math.isfinite(watts)
            assert close(watts, amperes * volts)
            assert amperes >= -0.02
        currents = {label[:-2] for label in said if label.endswith("_A")}
        assert currents == set(rails)

    yield check


@contextmanager
def get_throttled() -> Iterator[Callable[[str], None]]:
    """The flags are exactly the known bits of the number in the text; a text that is none has one flag that says so."""

    def check(text: str) -> None:
        flags = board.pi_throttle_flags(text)
        number = text.strip().lower()
        for prefix in ("throttled=", "0x"):
            number = number[len(prefix) :] if number.startswith(prefix) else number
        if 0 < len(number) <= 8 and all(digit in "0123456789abcdef" for digit in number):
            bits = bin(int(number, 16))[2:][::-1]
            known = [name for bit, name in sorted(board.PI_THROTTLE_BITS.items()) if bits[bit : bit + 1] == "1"]
            assert flags == known
        else:
            assert len(flags) == 1
            assert flags[0].startswith("unreadable-get_throttled:")

    yield check


# --- counters ---------------------------------------------------------------------------------------------------


@contextmanager
def rapl_files() -> Iterator[Callable[[list[tuple[float, bytes, bytes]]], None]]:
    """Samples tell the energy that both counters went on by, modulo their ranges, and never more than 10 kW a zone."""
    ranges = (262143328850, 65712999613)
    with folder() as root, clock_of(rapl) as now_s:
        counters = []
        for zone, name, most in (("intel-rapl:0", b"package-0", ranges[0]), ("intel-rapl:0:0", b"dram", ranges[1])):
            (root / zone).mkdir()
            put(root / zone / "name", name)
            put(root / zone / "max_energy_range_uj", b"%d\n" % most)
            counters.append(root / zone / "energy_uj")

        def sleep(seconds: float) -> None:
            now_s[0] += seconds
            for counter, value in zip(counters, running, strict=True):
                put(counter, b"%d\n" % (value + 1))

        original, rapl.time = rapl.time, types.SimpleNamespace(sleep=sleep)
        running = [0, 0]

        def check(steps: list[tuple[float, bytes, bytes]]) -> None:
            first, *rest = steps
            now_s[0] = 1000.0
            running[:] = [
                max(0, min(digits(text) or 0, most - 2)) for text, most in zip(first[1:], ranges, strict=True)
            ]
            for counter, value in zip(counters, running, strict=True):
                put(counter, b"%d\n" % value)
            sensor = rapl.Sensor({"root": str(root)})
            sensor.open()
            last = [value + 1 for value in running]
            begun_s = last_s = now_s[0]
            told_j, true_uj = 0.0, 0
            for seconds, *texts in rest:
                now_s[0] += seconds
                for counter, text in zip(counters, texts, strict=True):
                    put(counter, text)
                try:
                    samples = sensor.poll()
                except DECLARED:
                    return
                for index, text in enumerate(texts):
                    value = digits(text)
                    assert value is not None
                    assert value >= 0
                    true_uj += (value - last[index]) % ranges[index] if value < last[index] else value - last[index]
                    last[index] = value
                for t_s, watts, counter_j in samples:
                    assert watts > 0.0
                    assert close(watts * (t_s - last_s), counter_j - told_j)
                    assert counter_j <= 2.0 * 10e3 * (t_s - begun_s + 1.0)
                    assert close(counter_j, true_uj * 1e-6)
                    told_j, last_s = counter_j, t_s

        try:
            yield check
        finally:
            rapl.time = original


@st.composite
def rapl_steps(draw: st.DrawFn) -> list[tuple[float, bytes, bytes]]:
    """Readings of two counters: mostly going on and wrapping as real ones do, here and there not."""
    ranges = (262143328850, 65712999613)
    values = [draw(st.one_of(st.integers(0, most - 2), st.integers(most - 10**6, most - 2))) for most in ranges]
    steps = [(0.0, b"%d" % values[0], b"%d" % values[1])]
    for _ in range(draw(st.integers(1, 6))):
        seconds = draw(st.sampled_from([0.0, 0.001, 0.02, 0.02, 0.02, 0.5, 59.0, 61.0]))
        texts = []
        for index, most in enumerate(ranges):
            values[index] = (values[index] + draw(st.integers(0, 10**6))) % most
            texts.append(draw(CONTENT) if draw(st.integers(0, 9)) == 0 else b"%d\n" % values[index])
        steps.append((seconds, texts[0] if texts[0] is not None else b"", texts[1] if texts[1] is not None else b""))
    return steps


@contextmanager
def nvml_values() -> Iterator[Callable[[tuple[str, list[tuple[float, int]]]], None]]:
    """A power is the value of that reading; a mean is the counter's step over the time since the step before."""
    cards = types.SimpleNamespace(value=0)
    library = stand_in_pynvml(cards)
    with clock_of(nvml) as now_s:
        had = sys.modules.get("pynvml")
        sys.modules["pynvml"] = library

        def check(told: tuple[str, list[tuple[float, int]]]) -> None:
            method, readings = told
            now_s[0] = 1000.0  # far from zero a float knows time less well
            cards.value = 1 if readings[0][1] <= 0 else readings[0][1]
            sensor = nvml.Sensor({"method": method})
            sensor.open()
            counter, moved_s, told_j = cards.value, None, 0.0
            for seconds, value in readings[1:]:
                now_s[0] += seconds
                cards.value = value
                try:
                    samples = sensor.poll()
                except DECLARED:
                    break
                assert value > 0
                if method != "energy":
                    assert samples == [(now_s[0], value * 1e-3)]
                    continue
                for t_s, watts, counter_j in samples:
                    assert value > counter
                    assert moved_s is not None
                    told_j += (value - counter) * 1e-3
                    assert close(counter_j, told_j)
                    assert close(watts * (t_s - moved_s), (value - counter) * 1e-3)
                if value != counter:
                    assert value > counter
                    counter, moved_s = value, now_s[0] - 0.5 * min(seconds_since_poll(now_s, seconds), 0.1)
            sensor.close()

        try:
            yield check
        finally:
            if had is None:
                del sys.modules["pynvml"]
            else:
                sys.modules["pynvml"] = had


def seconds_since_poll(now_s: list[float], seconds: float) -> float:
    return seconds


def stand_in_pynvml(cards: Any) -> Any:
    """pynvml's names, as far as the sensor uses them; ``cards.value`` is what every call gives, or minus an error."""
    library = types.ModuleType("pynvml")

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"NVML error {value}")
            self.value = value

    codes = {
        "SUCCESS": 0, "ERROR_INVALID_ARGUMENT": 2, "ERROR_NOT_SUPPORTED": 3, "ERROR_NO_PERMISSION": 4,
        "ERROR_DRIVER_NOT_LOADED": 9, "ERROR_NO_DATA": 11, "ERROR_LIBRARY_NOT_FOUND": 12,
        "ERROR_FUNCTION_NOT_FOUND": 13,
        "ERROR_LIB_RM_VERSION_MISMATCH": 18, "ERROR_GPU_IS_LOST": 15,
    }  # fmt: skip

    def value(*_: Any) -> int:
        if cards.value < 0:
            raise NVMLError(-cards.value)
        return int(cards.value)

    def fields(*_: Any) -> list[Any]:
        code = max(0, -cards.value)
        return [types.SimpleNamespace(nvmlReturn=code, timestamp=0, value=types.SimpleNamespace(uiVal=cards.value))]

    for name, code in codes.items():
        setattr(library, "NVML_" + name, code)
    for name, function in {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetCudaComputeCapability": lambda card: (9, 0),
        "nvmlDeviceGetTotalEnergyConsumption": value,
        "nvmlDeviceGetPowerUsage": value,
        "nvmlDeviceGetFieldValues": fields,
    }.items():
        setattr(library, name, function)
    return library


# --- trees and registers ----------------------------------------------------------------------------------------


@contextmanager
def tree(module: Any, path: str, files: dict[str, str], options: Callable[[Path], dict[str, Any]]) -> Iterator[Any]:
    """A sensor's tree in memory: ``read(contents)`` gives the watts of a first sample, or None for a declared error."""
    with folder() as root:
        chip = root / path
        chip.mkdir(parents=True)
        if path.startswith("hwmon"):
            (root / "1-0040").mkdir()
            (chip / "device").symlink_to(root / "1-0040")

        def read(contents: dict[str, bytes | None]) -> float | None:
            for name, text in files.items():
                put(chip / name, text.encode())
            for name, content in contents.items():
                put(chip / name, content)
            sensor = module.Sensor(options(root))
            try:
                sensor.open()
                [(_, watts)] = sensor.poll()
            except DECLARED:
                return None
            finally:
                sensor.close()
            assert math.isfinite(watts)
            return float(watts)

        yield read


@contextmanager
def ina3221_hwmon() -> Iterator[Callable[[tuple[bytes | None, bytes | None]], None]]:
    """Volts times amperes; below zero by the offset and a step at most."""
    files = {"in1_label": "VDD_IN\n", "shunt1_resistor": "5000\n"}
    with tree(ina3221, "ina3221/1-0040/hwmon/hwmon1", files, lambda root: {"root": str(root)}) as read:

        def check(contents: tuple[bytes | None, bytes | None]) -> None:
            watts = read({"in1_input": contents[0], "curr1_input": contents[1]})
            if watts is not None:
                millivolts, milliamperes = digits(contents[0]), digits(contents[1])
                assert millivolts is not None
                assert milliamperes is not None
                assert millivolts >= 0
                assert milliamperes >= -24 or millivolts == 0
                assert close(watts, millivolts * milliamperes * 1e-6)

        yield check


@contextmanager
def ina3221_iio() -> Iterator[Callable[[tuple[bytes | None, bytes | None]], None]]:
    """The power file's milliwatts; below zero by the offset and a step at most."""
    files = {"rail_name_0": "POM_5V_IN\n"}
    with tree(ina3221, "ina3221x/6-0040/iio:device0", files, lambda root: {"root": str(root)}) as read:

        def check(contents: tuple[bytes | None, bytes | None]) -> None:
            watts = read({"in_voltage0_input": contents[0], "in_power0_input": contents[1]})
            if watts is not None:
                milliwatts = digits(contents[1])
                assert milliwatts is not None
                assert close(watts, milliwatts * 1e-3)
                assert milliwatts >= 0 or milliwatts >= -0.025 * (digits(contents[0]) or 0)

        yield check


@contextmanager
def ina2xx_hwmon() -> Iterator[Callable[[tuple[bytes | None, bytes | None, bytes | None]], None]]:
    """The power file where the current is not negative, else volts times amperes, down to the offset and a step."""
    files = {"name": "ina226\n", "shunt_resistor": "10000\n"}

    def options(root: Path) -> dict[str, Any]:
        return {"root": str(root / "hwmon"), "iio_root": str(root / "iio"), "via": "hwmon"}

    with tree(ina2xx, "hwmon/hwmon0", files, options) as read:

        def check(contents: tuple[bytes | None, bytes | None, bytes | None]) -> None:
            watts = read({"in1_input": contents[0], "curr1_input": contents[1], "power1_input": contents[2]})
            if watts is None:
                return
            volts, amperes, power = (decimal(content) for content in contents)
            assert amperes is not None
            assert -1.75 <= amperes <= 8191.75
            if amperes < 0 or contents[2] is None:
                assert volts is not None
                assert close(watts, volts * amperes * 1e-6)
            else:
                assert power is not None
                assert close(watts, power * 1e-6)

        yield check


def decimal(content: bytes | None) -> float | None:
    """The decimal number that a file says, by another way than the sensor's."""
    whole, point, rest = (content or b"").strip(WHITE).partition(b".")
    if digits(whole) is None or (point and not all(48 <= byte <= 57 for byte in rest)):
        return None
    return float(whole + point + rest)


@contextmanager
def ina2xx_iio() -> Iterator[Callable[[tuple[bytes | None, bytes | None, bytes | None]], None]]:
    """Raw times scale: the power where the current is not negative, else volts times amperes."""
    files = {
        "name": "ina219\n",
        "in_shunt_resistor": "0.100000000\n",
        "in_voltage1_scale": "4.0\n",
        "in_power2_scale": "2.0\n",
        "in_current3_scale": "0.1\n",
    }

    def options(root: Path) -> dict[str, Any]:
        return {"root": str(root / "hwmon"), "iio_root": str(root / "1-0040"), "via": "hwmon"}

    with tree(ina2xx, "1-0040/iio:device0", files, options) as read:

        def check(contents: tuple[bytes | None, bytes | None, bytes | None]) -> None:
            watts = read({"in_voltage1_raw": contents[0], "in_current3_raw": contents[1], "in_power2_raw": contents[2]})
            if watts is None:
                return
            volts, amperes, power = (decimal(content) for content in contents)
            assert amperes is not None
            assert -21.0001 <= amperes < 32000
            if amperes < 0:
                assert volts is not None
                assert close(watts, volts * 4e-3 * amperes * 1e-4)
            else:
                assert power is not None
                assert close(watts, power * 2e-3)

        yield check


@contextmanager
def ina2xx_registers() -> Iterator[Callable[[tuple[str, int, int, int]], None]]:
    """LSBs of the data sheet times the registers' signed and unsigned numbers, within the chip's ranges."""
    words: dict[int, int] = {}

    class SMBus:
        def __init__(self, bus: int) -> None: ...

        def read_word_data(self, address: int, register: int) -> int:
            word = words.get(register, 0)
            return (word & 0xFF) << 8 | word >> 8

        def close(self) -> None: ...

    had = sys.modules.get("smbus2")
    sys.modules["smbus2"] = types.SimpleNamespace(SMBus=SMBus)  # type: ignore[assignment]

    def check(told: tuple[str, int, int, int]) -> None:
        chip, config, shunt, bus = told
        words.clear()
        words.update({0x00: config, 0x01: shunt, 0x02: bus, 0x06: bus & 0xC})
        if chip != "ina219":
            words.update({0xFE: 0x5449, 0xFF: 0x2260 if chip == "ina226" else 0x2270})
        sensor = ina2xx.Sensor({"via": "i2c", "chip": chip, "shunt_ohm": 0.1})
        try:
            sensor.open()
            samples = sensor.poll()
        except DECLARED:
            return
        finally:
            sensor.close()
        ready = bus & 2 if chip == "ina219" else bus & 8
        assert len(samples) == (1 if ready else 0)
        for _, watts in samples:
            signed = shunt - 0x10000 if shunt >= 0x8000 else shunt
            if chip == "ina219":
                assert signed >= -21
                assert signed < 4000 << (config >> 11 & 3)
                assert not bus & 1
                assert close(watts, (bus >> 3) * 4e-3 * signed * 10e-6 / 0.1)
            else:
                assert signed >= -5
                assert not bus & 4
                assert close(watts, bus * 1.25e-3 * signed * 2.5e-6 / (0.1 if chip == "ina226" else 0.002))

    try:
        yield check
    finally:
        if had is None:
            del sys.modules["smbus2"]
        else:
            sys.modules["smbus2"] = had


@contextmanager
def battery_files() -> Iterator[Callable[[dict[str, bytes | None]], None]]:
    """The discharging battery's power, or its voltage times its current, without their sign; never zero."""
    with folder() as root:
        bay = root / "BAT0"
        bay.mkdir()

        def check(contents: dict[str, bytes | None]) -> None:
            good = {"type": b"Battery\n", "status": b"Discharging\n", "power_now": b"7000000\n", "energy_now": b"1\n"}
            for name in set(good) | set(contents):
                put(bay / name, good.get(name))
            sensor = battery.Sensor({"root": str(root)})
            sensor.open()
            for name, content in contents.items():
                put(bay / name, content)
            try:
                samples = sensor.poll()
            except DECLARED:
                return
            for _, watts in samples:
                assert contents["status"] == b"Discharging\n"
                assert watts > 0.0
                if contents["power_now"] is not None:
                    microwatts = digits(contents["power_now"])
                    assert microwatts is not None
                    assert close(watts, abs(microwatts) * 1e-6)
                else:
                    microvolts, microamperes = digits(contents["voltage_now"]), digits(contents["current_now"])
                    assert microvolts is not None
                    assert microamperes is not None
                    assert close(watts, abs(microvolts * microamperes) * 1e-12)

        yield check


STATUS = st.sampled_from([b"Discharging\n", b"Discharging\n", b"Discharging\n", b"Charging\n", b"Full\n", b"", b"\xff"])
NVML_READING = st.tuples(
    st.sampled_from([0.02, 0.02, 0.1, 0.5, 3.0]),
    st.one_of(st.integers(-20, 10**6), st.integers(0, 2**63)),
)
NVML_RISING = st.lists(st.tuples(st.sampled_from([0.02, 0.1]), st.integers(0, 20000)), min_size=2, max_size=8).map(
    lambda steps: [(seconds, 5000 + sum(step for _, step in steps[: i + 1])) for i, (seconds, _) in enumerate(steps)]
)
REGISTER = st.one_of(st.integers(0, 0xFFFF), st.integers(0, 0x2000), st.integers(0xFFE0, 0xFFFF))

PARSERS: dict[str, Parser] = {
    "tegrastats line": Parser(
        st.one_of(
            mutated([NANO, ORIN, THOR], "AVDINPOM_5 /-0123456789mW@%[]\t\n\xa0"),
            st.text("AVDIN_5 /-0123456789mW@%[]\n", max_size=60),
            st.text(max_size=60),
        ),
        tegrastats_line,
    ),
    "pmic_read_adc output": Parser(
        st.one_of(
            mutated([PMIC, PMIC.replace("6.22421000", "-0.00893000")], "AVE_ currentvol()=-.0123456789na\n"),
            st.text("AV_ currentvol()=.019\n", max_size=80),
            st.text(max_size=60),
        ),
        pmic_output,
    ),
    "get_throttled output": Parser(
        st.one_of(
            st.integers(0, 2**20 - 1).map(lambda bits: f"throttled=0x{bits:x}\n"),
            st.integers(0, 2**34).map(lambda bits: f"{bits:x}"),
            mutated(["throttled=0x50005\n", "0x80008", "50005\n"], "throled=0x 58fF\n"),
            st.text(max_size=20),
        ),
        get_throttled,
    ),
    "RAPL files": Parser(rapl_steps(), rapl_files),
    "NVML values": Parser(
        st.tuples(
            st.sampled_from(["energy", "energy", "instant", "average"]),
            st.one_of(NVML_RISING, st.lists(NVML_READING, min_size=2, max_size=6)),
        ),
        nvml_values,
    ),
    "INA3221 hwmon tree": Parser(st.tuples(CONTENT, CONTENT), ina3221_hwmon),
    "INA3221 iio tree": Parser(st.tuples(CONTENT, CONTENT), ina3221_iio),
    "INA2xx hwmon tree": Parser(st.tuples(CONTENT, CONTENT, CONTENT), ina2xx_hwmon),
    "INA2xx iio tree": Parser(st.tuples(CONTENT, CONTENT, CONTENT), ina2xx_iio),
    "INA2xx registers": Parser(
        st.tuples(
            st.sampled_from(["ina219", "ina226", "ina260"]),
            st.one_of(st.sampled_from([0x399F, 0x4127, 0x6127, 0x4527]), st.integers(0, 0xFFFF)),
            REGISTER,
            st.one_of(st.integers(0, 0xFFFF), st.integers(0, 0x1FFF).map(lambda code: code << 3 | 2)),
        ),
        ina2xx_registers,
    ),
    "battery files": Parser(
        st.fixed_dictionaries(
            {
                "status": STATUS,
                **dict.fromkeys(("power_now", "voltage_now", "current_now", "energy_now", "present"), CONTENT),
            }
        ),
        battery_files,
    ),
}
