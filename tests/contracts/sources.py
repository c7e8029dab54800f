"""Every power source of the agent at its physical edge: the tree, the executable, the library or the bus that it reads.

     Source(folder) ── put() ──► files, script, registers ◄── read by ── the real sensor in the real sampler process

Each knows the true watts that it shows, and its faults: what may happen to it while it is read, and which words the
sensor must then find for it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from device_agents.virtual_board.board import VirtualBoard
from device_agents.virtual_board.physics import BoardModel
from tests.contracts.ttar import unpack
from tests.fakes.nvml_library import LOST, NO_PERMISSION

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sensors"
NANO = (
    "RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [16%@204,9%@204,0%@204,0%@204] "
    "EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25 PLL@34C CPU@36.5C PMIC@100C GPU@36C AO@39.5C thermal@36.25C "
    "POM_5V_IN 1022/1022 POM_5V_GPU 0/0 POM_5V_CPU 204/204"
)
PMIC = (GOLDEN / "rpi5_pmic_read_adc.txt").read_text(encoding="ascii")


class Fault(NamedTuple):
    """What happens, and words of the message that says so."""

    happen: Callable[[], object]
    named: str | None  # None: found at the next start only
    left_out: str | None = None  # the rail that the next start does without, by name


def put(path: Path, text: str) -> None:
    """Replace a file's content at once, as an attribute of the kernel changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name("." + path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


class Source:
    """``stale``: how a source that stopped is known: it "raises", has no new samples ("silent"), or only "repeats" """

    sensor = ""
    true_w = 0.0
    tolerance = 1e-6  # relative
    stale = "repeats"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options: dict[str, Any] = {}
        self.nowhere: dict[str, Any] = {"root": str(folder / "nowhere")}
        self._moving = threading.Event()
        self._mover = threading.Thread(target=self._move, daemon=True)

    def start(self) -> None:
        """Let the source run: from now on its values move as those of the real one do."""
        self._moving.set()
        self.tick()
        self._mover.start()

    def stop(self) -> None:
        """It stands still from now on."""
        self._moving.clear()
        if self._mover.is_alive():
            self._mover.join()

    def tick(self) -> None:
        """Show the values of now."""

    def faults(self) -> Mapping[str, Fault]:
        """By name."""
        return {}

    def _move(self) -> None:
        while self._moving.is_set():
            self.tick()
            time.sleep(0.005)

    def _content_faults(self, path: Path, negative: str = "-77777777") -> dict[str, Fault]:
        """What may happen to a file that the sensor reads."""
        return {
            "missing": Fault(path.unlink, path.name),
            "unreadable": Fault(lambda: put(path, "garbage\n"), path.name),
            "empty": Fault(lambda: put(path, ""), path.name),
            "NaN": Fault(lambda: put(path, "nan\n"), path.name),
            "negative": Fault(lambda: put(path, negative + "\n"), path.name),
            "denied": Fault(lambda: path.chmod(0), path.name),
        }


class Rapl(Source):
    """The recorded Intel tree, with what that machine lacks: memory, graphics, psys, mmio twin, second package."""

    sensor, true_w, tolerance, stale = "rapl", 31.0, 0.3, "raises"
    WATTS: ClassVar = {  # zone -> name, W, counter at the start
        "intel-rapl:0": ("package-0", 20.0, 240422366267),
        "intel-rapl:0:0": ("core", 11.0, 118821284256),
        "intel-rapl:0:1": ("uncore", 2.0, 6564982278),
        "intel-rapl:0:2": ("dram", 3.0, 262143999938 - 90000),  # wraps within a second
        "intel-rapl:1": ("package-1", 8.0, 26963529117),
        "intel-rapl:2": ("psys", 55.0, 12345678),
        "intel-rapl-mmio:0": ("package-0", 20.0, 240422366267),
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = unpack(GOLDEN / "rapl_intel.ttar", folder) / "sys/class/powercap"
        self.options = {"root": str(self.root)}
        self.frozen: set[str] = set()
        self._begun_s = time.monotonic()
        for zone, (name, _, _) in self.WATTS.items():
            put(self.root / zone / "name", name + "\n")
            put(self.root / zone / "max_energy_range_uj", f"{self.range_uj(name)}\n")
        self.tick()

    @staticmethod
    def range_uj(name: str) -> int:
        return 262143999938 if name == "dram" else 262143328850

    def tick(self) -> None:
        passed_s = time.monotonic() - self._begun_s
        for zone, (name, watts, start_uj) in self.WATTS.items():
            if zone not in self.frozen:
                count = (start_uj + round(watts * passed_s * 1e6)) % self.range_uj(name)
                put(self.root / zone / "energy_uj", f"{count}\n")

    def faults(self) -> Mapping[str, Fault]:
        path = self.root / "intel-rapl:0/energy_uj"
        found = self._content_faults(path)
        found["reset"] = Fault(lambda: put(path, "0\n"), "jumped")
        found["stands still"] = Fault(lambda: None, "stands still")
        return {
            name: Fault(lambda one=fault: (self._freeze("intel-rapl:0"), one.happen()), fault.named)
            for name, fault in found.items()
        }

    def _freeze(self, zone: str) -> None:
        self.frozen.add(zone)
        time.sleep(0.05)  # a tick that began before is over


class Ina3221Hwmon(Source):
    """JetPack 5 and later, an AGX Orin: no total rail; values from public threads."""

    sensor, true_w = "ina3221", 19.864 * 0.180 + 19.8 * 0.165 + 5.04 * 1.091

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "drivers"
        self.options = {"root": str(self.root)}
        self.chip = self.root / "ina3221/1-0040/hwmon/hwmon3"
        rails = (("VDD_GPU_SOC", 19864, 180), ("VDD_CPU_CV", 19800, 165), ("VIN_SYS_5V0", 5040, 1091))
        for number, (label, millivolts, milliamperes) in enumerate(rails, 1):
            put(self.chip / f"in{number}_label", label + "\n")
            put(self.chip / f"in{number}_input", f"{millivolts}\n")
            put(self.chip / f"curr{number}_input", f"{milliamperes}\n")
            put(self.chip / f"shunt{number}_resistor", "2000\n")

    def faults(self) -> Mapping[str, Fault]:
        found = self._content_faults(self.chip / "curr2_input", "-4000")
        return {
            **found,
            "missing": Fault(found["missing"].happen, "curr2_input", "not wired: VDD_CPU_CV"),
            "negative": Fault(found["negative"].happen, "VDD_CPU_CV: -79.2 W, the current flows backwards"),
        }


class Ina3221Iio(Source):
    """JetPack 4, a Nano."""

    sensor, true_w = "ina3221", 1.022

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "drivers"
        self.options = {"root": str(self.root)}
        self.chip = self.root / "ina3221x/6-0040/iio:device0"
        rails = (("POM_5V_IN", 5000, 1022), ("POM_5V_GPU", 5000, 0), ("POM_5V_CPU", 5000, 204))
        for number, (label, millivolts, milliwatts) in enumerate(rails):
            put(self.chip / f"rail_name_{number}", label + "\n")
            put(self.chip / f"in_voltage{number}_input", f"{millivolts}\n")
            put(self.chip / f"in_power{number}_input", f"{milliwatts}\n")

    def faults(self) -> Mapping[str, Fault]:
        found = self._content_faults(self.chip / "in_power0_input", "-2000")
        return {**found, "negative": Fault(found["negative"].happen, "POM_5V_IN: -2 W, the current flows backwards")}


class Ina226Hwmon(Source):
    """An INA226 on 10 mOhm, by Linux's hwmon driver."""

    sensor, true_w = "ina2xx", 1.9875

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nowhere = {"root": str(folder / "nowhere"), "iio_root": str(folder / "nowhere"), "via": "hwmon"}
        self.options = {**self.nowhere, "root": str(folder / "hwmon")}
        self.chip = folder / "hwmon/hwmon2"
        device = folder / "1-0040"
        device.mkdir()
        files = {"name": "ina226", "in1_input": 5000, "curr1_input": 400, "power1_input": 1987500}
        for name, value in {**files, "update_interval": 35, "shunt_resistor": 10000}.items():
            put(self.chip / name, f"{value}\n")
        (self.chip / "device").symlink_to(device)

    def faults(self) -> Mapping[str, Fault]:
        current = self.chip / "curr1_input"
        return {
            **self._content_faults(self.chip / "power1_input"),
            # Open attributes stay readable, and what they give is the chip's own reading.
            "denied": Fault(lambda: (self.chip / "power1_input").chmod(0), None),
            "missing": Fault(current.unlink, "curr1_input"),
            "reversed": Fault(lambda: put(current, "-400\n"), "swap IN+ and IN-"),
            "overflow": Fault(lambda: put(current, "8192\n"), "overflows"),
            "no VBUS": Fault(lambda: put(self.chip / "power1_input", "0\n"), "wire VBUS"),
        }


class Ina219Iio(Source):
    """An INA219 on 100 mOhm, by Linux's iio driver: register values and the driver's scales."""

    sensor, true_w = "ina2xx", 0.5

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nowhere = {"root": str(folder / "nowhere"), "iio_root": str(folder / "nowhere"), "via": "hwmon"}
        self.options = {**self.nowhere, "iio_root": str(folder / "iio")}
        self.chip = folder / "1-0040/iio:device1"
        files = {
            "name": "ina219",
            "in_voltage0_raw": 1000,  # 10 uV
            "in_voltage0_scale": "0.010000000",
            "in_voltage1_raw": 1250,
            "in_voltage1_scale": "4.000000000",
            "in_power2_raw": 250,
            "in_power2_scale": "2.000000000",
            "in_current3_raw": 1000,
            "in_current3_scale": "0.100000000",
            "in_shunt_resistor": "0.100000000",
            "in_sampling_frequency": 940,
        }
        for name, value in files.items():
            put(self.chip / name, f"{value}\n")
        (folder / "iio").mkdir()
        (folder / "iio/iio:device1").symlink_to(self.chip)

    def faults(self) -> Mapping[str, Fault]:
        current = self.chip / "in_current3_raw"
        return {
            **self._content_faults(self.chip / "in_power2_raw"),
            # Open attributes stay readable, and what they give is the chip's own reading.
            "denied": Fault(lambda: (self.chip / "in_power2_raw").chmod(0), None),
            "reversed": Fault(lambda: put(current, "-1000\n"), "swap IN+ and IN-"),
            "overflow": Fault(lambda: put(current, "32767\n"), "overflows"),
            "no VBUS": Fault(lambda: put(self.chip / "in_power2_raw", "0\n"), "wire VBUS"),
        }


class Ina226I2c(Source):
    """An INA226 on 10 mOhm, by its registers."""

    sensor, true_w, stale = "ina2xx", 5.0, "raises"
    REGISTERS: ClassVar = {"00": 0x4127, "01": 4000, "02": 4000, "06": 0, "fe": 0x5449, "ff": 0x2260}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.options = {"via": "i2c", "shunt_ohm": 0.01}
        self.nowhere = {"via": "i2c", "shunt_ohm": 0.01, "bus": 7}
        self.change()

    def change(self, converts: bool = True, error: int = 0, **registers: int) -> None:
        """Change registers ("r01"), or what the bus does."""
        words = {**self.REGISTERS, **{name[1:]: word for name, word in registers.items()}}
        text = json.dumps({"registers": words, "converts": converts, "error": error})
        put(Path(os.environ["SMBUS_REGISTERS"]), text)

    def stop(self) -> None:
        super().stop()
        self.change(converts=False)

    def faults(self) -> Mapping[str, Fault]:
        return {
            "missing": Fault(lambda: self.change(error=121), "Remote I/O error"),
            "denied": Fault(lambda: self.change(error=errno.EACCES), ""),
            "reversed": Fault(lambda: self.change(r01=0xF000), "swap IN+ and IN-"),
            "overflow": Fault(lambda: self.change(r01=0x7FFF), "overflows"),
            "no VBUS": Fault(lambda: self.change(r02=0), "wire VBUS"),
        }


class Nvml(Source):
    """A card of 50 W, by its energy counter."""

    sensor, true_w, tolerance, stale = "nvml", 50.0, 0.5, "silent"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nowhere = {"index": 1}
        self.values = Path(os.environ["NVML_FOLDER"])
        shutil.rmtree(self.values, ignore_errors=True)
        put(self.values / "ENERGY", "clock\n")

    def stop(self) -> None:
        super().stop()
        put(self.values / "ENERGY", f"{1000000 + int(10 * time.monotonic()) * 5000}\n")

    def faults(self) -> Mapping[str, Fault]:
        energy = self.values / "ENERGY"
        return {
            "missing": Fault(energy.unlink, "GPU 0"),
            "lost": Fault(lambda: put(energy, f"{LOST}\n"), "the GPU is lost"),
            "denied": Fault(lambda: put(energy, f"{NO_PERMISSION}\n"), "does not let this user"),
            "zero": Fault(lambda: put(energy, "0\n"), "GPU 0"),
        }


class Pmic(Source):
    """A Raspberry Pi 5's own reading."""

    sensor, true_w, tolerance = "pmic", 7.23982, 1e-5

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nowhere = {"command": str(folder / "nowhere")}
        self.options = {"command": script(folder / "vcgencmd", 'cat "${0%/*}/reading"')}
        self.show(PMIC)

    def show(self, text: str) -> None:
        put(self.folder / "reading", text)

    def faults(self) -> Mapping[str, Fault]:
        core = "     VDD_CORE_A current(7)=6.22421000A\n"
        return {
            "missing": Fault(lambda: self.show(PMIC.replace(core, "")), "VDD_CORE_V without its current"),
            "unreadable": Fault(lambda: self.show('error=1 error_msg="Command not registered"\n'), "not registered"),
            "NaN": Fault(lambda: self.show(PMIC.replace("=6.22421000A", "=nanA")), "VDD_CORE_A = nan A"),
            "negative": Fault(lambda: self.show(PMIC.replace("=6.2242", "=-6.2242")), "VDD_CORE_A = -6.2242"),
            "denied": Fault(lambda: (self.folder / "vcgencmd").chmod(0o644), "vcgencmd"),
        }


class Tegrastats(Source):
    """A Nano's line, five times a second."""

    sensor, true_w, stale = "tegrastats", 1.022, "raises"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nowhere = {"command": str(folder / "nowhere")}
        loop = 'here="${0%/*}"; while [ ! -e "$here/hangs" ]; do cat "$here/line"; sleep 0.2; done; exec sleep 600'
        self.options = {"command": script(folder / "tegrastats", loop), "interval_ms": 200}
        self.show(NANO)

    def show(self, line: str) -> None:
        put(self.folder / "line", line + "\n")

    def stop(self) -> None:
        super().stop()
        put(self.folder / "hangs", "")

    def faults(self) -> Mapping[str, Fault]:
        return {
            "missing": Fault(lambda: self.show(NANO.replace("POM_5V_IN 1022/1022 ", "")), "POM_5V_IN is missing"),
            "unreadable": Fault(lambda: self.show("garbage"), "no power in the line"),
            "NaN": Fault(lambda: self.show(NANO.replace("IN 1022", "IN nan")), "POM_5V_IN is missing"),
            "negative": Fault(
                lambda: self.show(NANO.replace("IN 1022", "IN -1022")), "POM_5V_IN: the current flows back"
            ),
            "denied": Fault(lambda: (self.folder / "tegrastats").chmod(0o644), None),
        }


class Battery(Source):
    """A laptop on battery, its gauge quicker than a real one's."""

    sensor, true_w, stale = "battery", 12.34, "silent"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "power_supply"
        self.options = {"root": str(self.root), "update_s": 0.1}
        self._joules = 31_000_000
        for name, text in (("type", "Mains"), ("online", "0")):
            put(self.root / "AC" / name, text + "\n")
        battery = {"type": "Battery", "status": "Discharging", "present": "1", "power_now": "12340000"}
        for name, text in {**battery, "voltage_now": "11900000", "energy_now": str(self._joules)}.items():
            put(self.root / "BAT0" / name, text + "\n")

    def tick(self) -> None:
        self._joules -= 1
        put(self.root / "BAT0/energy_now", f"{self._joules}\n")

    def faults(self) -> Mapping[str, Fault]:
        power = self.root / "BAT0/power_now"
        found = self._content_faults(power)
        del found["negative"]  # drivers disagree on the sign
        return {
            **found,
            "missing": Fault(lambda: (power.unlink(), (self.root / "BAT0/voltage_now").unlink()), "voltage_now"),
            "zero": Fault(lambda: put(power, "0\n"), "0 W"),
            "on mains": Fault(lambda: put(self.root / "AC/online", "1\n"), "unplug the charger"),
        }


class Virtual(Source):
    """The simulated board, waiting."""

    sensor, tolerance, stale = "virtual", 0.05, "silent"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nowhere = {"timeline": str(folder / "nowhere")}
        self.options = {"timeline": str(folder / "timeline.jsonl"), "seed": 3}
        self._stream = (folder / "timeline.jsonl").open("w", encoding="utf-8")
        self._board = VirtualBoard(BoardModel.load("pi4"), 11, self._stream)
        self.true_w = self._board.model.quiet_w
        self._board.idle(1.0)
        self._stream.flush()

    def tick(self) -> None:
        self._board.idle(0.05)
        self._stream.flush()

    def stop(self) -> None:
        super().stop()
        self._stream.close()


class VirtualReference(Virtual):
    """The same board, by the finer meter."""

    sensor = "virtual_reference"


def script(path: Path, body: str) -> str:
    """An executable of the shell."""
    path.write_text("#!/bin/sh\n" + body + "\n")
    path.chmod(0o755)
    return str(path)


SOURCES: dict[str, type[Source]] = {
    "rapl": Rapl,
    "ina3221 hwmon": Ina3221Hwmon,
    "ina3221 iio": Ina3221Iio,
    "ina2xx hwmon": Ina226Hwmon,
    "ina2xx iio": Ina219Iio,
    "ina2xx i2c": Ina226I2c,
    "nvml": Nvml,
    "pmic": Pmic,
    "tegrastats": Tegrastats,
    "battery": Battery,
    "virtual": Virtual,
    "virtual_reference": VirtualReference,
}

# Every fault there is, for parametrizing: (source, fault). Kept beside the classes, and checked against them by a test.
FAULTS = {
    "rapl": ("missing", "unreadable", "empty", "NaN", "negative", "denied", "reset", "stands still"),
    "ina3221 hwmon": ("missing", "unreadable", "empty", "NaN", "negative", "denied"),
    "ina3221 iio": ("missing", "unreadable", "empty", "NaN", "negative", "denied"),
    "ina2xx hwmon": (
        "missing", "unreadable", "empty", "NaN", "negative", "denied", "reversed", "overflow", "no VBUS",
    ),
    "ina2xx iio": ("missing", "unreadable", "empty", "NaN", "negative", "denied", "reversed", "overflow", "no VBUS"),
    "ina2xx i2c": ("missing", "denied", "reversed", "overflow", "no VBUS"),
    "nvml": ("missing", "lost", "denied", "zero"),
    "pmic": ("missing", "unreadable", "NaN", "negative", "denied"),
    "tegrastats": ("missing", "unreadable", "NaN", "negative", "denied"),
    "battery": ("missing", "unreadable", "empty", "NaN", "denied", "zero", "on mains"),
}  # fmt: skip
