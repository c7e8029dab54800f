"""A meter over a real TCP socket, through PyVISA and its pure-Python backend; every way in which it fails is named."""

from __future__ import annotations

import os
import pty
import select
import sys
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agents.protocol import now_s
from rig.errors import DeviceSetupError, TransientDeviceError
from rig.meters import Sample, make_meter
from rig.meters.clock import SteppedClock, offset_s
from rig.profiles import MeterSettings
from tests.fakes.scpi_instrument import IDENTITY, ScpiInstrument, profile_text

NO_WAIT = threading.Event()


@pytest.fixture
def instruments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path))
    folder = tmp_path / "instruments"
    folder.mkdir()
    (folder / "acme.toml").write_text(profile_text())
    (folder / "stamped.toml").write_text(profile_text(time_field=True))
    return folder


@pytest.fixture
def instrument(instruments: Path) -> Iterator[ScpiInstrument]:
    with ScpiInstrument() as made:
        yield made


def settings(instrument: ScpiInstrument, name: str = "acme", **fields: object) -> MeterSettings:
    return MeterSettings.model_validate({"kind": "scpi", "resource": instrument.resource, "instrument": name, **fields})


def test_it_is_identified_set_up_read_and_left(instrument: ScpiInstrument) -> None:
    meter = make_meter(settings(instrument, options={"rate": "SLOW"}, step_w=0.5, boundary="wall"))
    meter.open()
    began_s = now_s()
    samples = [one for _ in range(10) for one in meter.samples(NO_WAIT)]
    took_s = now_s() - began_s
    meter.close()
    assert meter.identity == IDENTITY
    assert all(4.9 < one.power_w < 5.1 for one in samples)
    assert [one.stamp_s for one in samples] == sorted({one.stamp_s for one in samples})
    assert 9 / 50.0 <= took_s < 1.0  # at its rate, not faster
    assert meter.stamp_uncertainty_s() < 0.05
    time.sleep(0.05)
    assert instrument.heard[:4] == ["*IDN?", "*CLS", "RATE SLOW", "SYST:ERR?"]
    assert instrument.heard[-1] == "LOCAL"
    said = meter.evidence()
    assert said["meter"][0]["identity"] == IDENTITY
    assert said["meter_answers"][0]["text"].startswith("230.1,")
    described = meter.describe()
    assert (described["step_w"], described["boundary"], described["rate_hz"]) == (0.5, "wall", 50.0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("close", "connection was lost|no answer within|closed"),
        ("hang", "no answer within 0.5 s during READ"),
        ("garbage", r"answer to READ\?: '#\?!' is no number"),
        ("nan", r"'\+9.91000000E\+37' means that there is no reading"),
        ("overload", r"'\+9.90000000E\+37' means overload"),
        ("negative", "-2.5 W is negative: the current leads are swapped"),
    ],
)
def test_a_fault_while_measuring_is_named_and_ends_the_samples(
    instrument: ScpiInstrument, fault: str, words: str
) -> None:
    meter = make_meter(settings(instrument))
    meter.open()
    assert meter.samples(NO_WAIT)
    instrument.fault = fault
    with pytest.raises(TransientDeviceError, match=words) as error:
        [meter.samples(NO_WAIT) for _ in range(3)]
    assert "meter-acme" in error.value.message
    assert error.value.fix
    meter.close()
    instrument.fault = ""
    meter.open()  # and it heals
    assert meter.samples(NO_WAIT)
    meter.close()


def test_a_repeated_time_stamp_is_no_new_sample(instrument: ScpiInstrument) -> None:
    meter = make_meter(settings(instrument, "stamped"))
    meter.open()
    assert len([one for _ in range(5) for one in meter.samples(NO_WAIT)]) == 5
    instrument.fault = "frozen"
    assert len([one for _ in range(5) for one in meter.samples(NO_WAIT)]) == 1
    meter.close()


def test_what_is_not_there_or_not_it_is_said_on_opening(instrument: ScpiInstrument, instruments: Path) -> None:
    state, reason, fix = make_meter(settings(instrument)).probe()
    assert (state, reason, fix) == ("ok", "", "")
    (instruments / "other.toml").write_text(profile_text().replace("^ACME,PM1", "^ACME,PM9"))
    state, reason, _ = make_meter(settings(instrument, "other")).probe()
    assert (state, IDENTITY in reason) == ("absent", True)
    (instruments / "sets.toml").write_text(profile_text().replace('"*CLS"', '"*CLS", "RANGE 5"'))
    with pytest.raises(DeviceSetupError, match=r"error '-113,\"Undefined header\"' \(sent: \*CLS; RANGE 5"):
        make_meter(settings(instrument, "sets")).open()
    nobody = MeterSettings(kind="scpi", resource="TCPIP::127.0.0.1::1::SOCKET", instrument="acme")
    state, reason, fix = make_meter(nobody).probe()
    assert (state, "Connection refused" in reason, "is it on" in fix) == ("absent", True, True)


@pytest.mark.parametrize("name", ["COM1", "TCPIP::nowhere.invalid::5::SOCKET", "ASRL/dev/not-there::INSTR"])
def test_addresses_that_lead_nowhere(name: str, instruments: Path) -> None:
    meter = make_meter(MeterSettings(kind="scpi", resource=name, instrument="acme"))
    state, reason, fix = meter.probe()
    assert state == "absent"
    assert name in reason
    assert fix


@pytest.fixture
def serial_line() -> Iterator[str]:
    """A pseudo-terminal whose other end answers as the instrument does."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    ended = threading.Event()

    def serve() -> None:
        rest = b""
        while not ended.is_set():
            if not select.select([master], [], [], 0.05)[0]:
                continue
            *lines, rest = (rest + os.read(master, 4096)).split(b"\n")
            for line in lines:
                answer = {b"*IDN?": IDENTITY, b"SYST:ERR?": '0,"No error"', b"READ?": "230.1,3.25,0"}.get(line.strip())
                if answer is not None:
                    os.write(master, answer.encode() + b"\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield os.ttyname(slave)
    ended.set()
    thread.join(5.0)
    os.close(master)
    os.close(slave)


def test_a_serial_line_works_as_the_network_does(serial_line: str, instruments: Path) -> None:
    meter = make_meter(MeterSettings(kind="scpi", resource=f"ASRL{serial_line}::INSTR", instrument="acme"))
    meter.open()
    samples = [one for _ in range(3) for one in meter.samples(NO_WAIT)]
    meter.close()
    assert [one.power_w for one in samples] == [3.25] * 3


def test_a_missing_library_is_a_setup_error_with_the_command(
    instrument: ScpiInstrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyvisa_py", None)
    state, reason, fix = make_meter(settings(instrument)).probe()
    assert (state, "pyvisa_py is not installed" in reason) == ("absent", True)
    assert "pip install" in fix


def test_a_meters_clock_is_placed_by_its_quickest_sample() -> None:
    delays = [0.04, 0.02, 0.3, 0.01, 0.05, 0.2]
    samples = [Sample(i * 0.1, 5.0, i * 0.1 + 1000.0 + delay) for i, delay in enumerate(delays)]
    assert offset_s(samples, 0.1) == pytest.approx(1000.01)
    stepped = [*samples, *(Sample(1.0 + i * 0.1 + 5.0, 5.0, 1001.01 + i * 0.1) for i in range(6))]
    with pytest.raises(SteppedClock, match=r"stepped by \+5 s"):
        offset_s(stepped, 0.1)
