"""One process at a time has an instrument, and looking at it changes nothing in it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.commands import devices
from rig.commands.options import DevicesOptions
from rig.connection.session import Session, Subject
from rig.errors import DeviceBusyError, DeviceSetupError
from rig.meters import make_meter
from rig.meters.lock import InstrumentLock, same_address
from rig.profiles import MeterSettings
from tests.agent_setup import QUICK, isolated, local_profile, small_model
from tests.fakes.scpi_instrument import IDENTITY, ScpiInstrument, profile_text

__all__ = ["isolated"]  # a fixture

HOLDER = """
import sys, time
from rig.meters.lock import InstrumentLock
lock = InstrumentLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def instrument(isolated: Path) -> Iterator[ScpiInstrument]:
    folder = isolated / "config" / "instruments"
    folder.mkdir(parents=True)
    (folder / "acme.toml").write_text(profile_text())
    with ScpiInstrument() as made:
        yield made


def settings(instrument: ScpiInstrument) -> MeterSettings:
    return MeterSettings.model_validate({"kind": "scpi", "resource": instrument.resource, "instrument": "acme"})


@pytest.fixture
def other(instrument: ScpiInstrument) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the instrument."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, instrument.resource], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_told_who_has_it_and_the_dead_ones_lock_is_free(
    instrument: ScpiInstrument, other: subprocess.Popen[str], isolated: Path
) -> None:
    meter = make_meter(settings(instrument))
    with pytest.raises(DeviceBusyError, match=rf"is using the meter at .* since 20.*\(process {other.pid}\)") as busy:
        meter.open()
    assert busy.value.fix
    assert instrument.heard == [], "not even spoken to"
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=(), meter=settings(instrument)), "test") as session:
        with pytest.raises(DeviceBusyError, match="is using the meter"):
            session.measure(subject, QUICK, request_id="a")
        assert session.pending() == [], "nothing was measured without it"
    other.send_signal(signal.SIGKILL)
    other.wait()
    meter.open()
    assert make_meter(settings(instrument)).probe()[0] == "busy", "within one process too"
    meter.close()
    again = make_meter(settings(instrument))
    again.open()
    again.close()


def test_devices_only_asks_it_what_it_is(
    instrument: ScpiInstrument, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "profile_names", lambda: ["bench"])
    meter = f'\n[meter]\nkind = "scpi"\nresource = "{instrument.resource}"\ninstrument = "acme"\n'
    (isolated / "config" / "devices").mkdir()
    (isolated / "config" / "devices" / "bench.toml").write_text(f'description = "a bench"\nsensors = []\n{meter}')
    row = devices.run(DevicesOptions())["devices"][0]
    assert (row["state"], row["meter"]) == ("ready", "meter-acme")
    assert instrument.heard == ["*IDN?"]
    lock = InstrumentLock(instrument.resource)
    lock.acquire()
    said = devices.run(DevicesOptions())
    lock.release()
    assert (said["devices"][0]["state"], said["devices"][0]["sensors"][0]["state"]) == ("busy", "busy")
    assert "is using the meter" in next(note["message"] for note in said["warnings"] if note["code"] == "meter-busy")
    assert instrument.heard == ["*IDN?"], "nothing is said to an instrument that somebody else has"
    assert IDENTITY.startswith("ACME")


def test_boards_of_one_meter_do_not_find_each_other_at_it(
    instrument: ScpiInstrument, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["one", "three", "two"]
    monkeypatch.setattr(devices, "profile_names", lambda: names)
    meter = f'\n[meter]\nkind = "scpi"\nresource = "{instrument.resource}"\ninstrument = "acme"\n'
    (isolated / "config" / "devices").mkdir()
    for name in names:
        (isolated / "config" / "devices" / f"{name}.toml").write_text(f'description = "a bench"\nsensors = []\n{meter}')
    rows = {row["name"]: row["state"] for row in devices.run(DevicesOptions())["devices"]}
    assert {name: rows[name] for name in names} == dict.fromkeys(names, "ready")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TCPIP::Meter.LAN::5025::SOCKET", "tcpip0::meter.lan::5025::socket"),
        ("USB::0x0B21::0x0025::C1::INSTR", "USB0::0x0b21::0x0025::C1::INSTR"),
    ],
)
def test_spellings_of_an_address_are_one_lock(one: str, other: str) -> None:
    assert same_address(one) == same_address(other)
    assert same_address(one) != same_address(other.replace("5025", "5026").replace("c1", "c2").replace("C1", "C2"))


def test_links_to_a_serial_port_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "ttyUSB0").touch()
    (tmp_path / "by-id").symlink_to(tmp_path / "ttyUSB0")
    assert same_address(f"ASRL{tmp_path}/ttyUSB0::INSTR") == same_address(f"asrl{tmp_path}/by-id::INSTR")


def test_a_link_by_path_with_its_colons_is_the_port_it_leads_to(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"ttyUSB{number}").touch()
        (tmp_path / f"pci-0000:00:14.0-usb-0:{number}:1.0-port0").symlink_to(tmp_path / f"ttyUSB{number}")
    one, other = (f"ASRL{tmp_path}/pci-0000:00:14.0-usb-0:{number}:1.0-port0::INSTR" for number in (0, 1))
    assert same_address(one) == same_address(f"ASRL{tmp_path}/ttyUSB0")
    assert same_address(one) != same_address(other)


def test_a_link_in_the_place_of_a_lock_is_no_busy_instrument(isolated: Path) -> None:
    lock = InstrumentLock("TCPIP::192.0.2.1::INSTR")
    lock.acquire()
    lock.release()
    (path,) = isolated.glob("rig-meter-*.lock")
    path.rename(isolated / "elsewhere")
    path.symlink_to(isolated / "elsewhere")
    with pytest.raises(DeviceSetupError, match="is a symbolic link") as refused:
        lock.acquire()
    assert refused.value.fix == "remove that link"
