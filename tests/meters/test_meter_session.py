"""A meter at the host beside the real agent of this computer: watts that follow what is known, faults by name."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents.clocks import Exchange
from device_agents.protocol import now_s
from rig.connection.session import Session, Subject
from rig.errors import BadInputError, DeviceSetupError
from rig.meters.host_meter import HostMeter
from rig.profiles import MeterSettings, load_profile
from rig.quality.verdict import assess
from tests.agent_setup import QUICK, isolated, local_profile, small_model
from tests.fakes.scpi_instrument import ScpiInstrument, profile_text

__all__ = ["isolated"]  # a fixture

pytestmark = pytest.mark.alone

# Latency is not what these tests are about: other work on this computer must not reject them.
CALM = QUICK._replace(min_windows=3, rel_ci=0.9)

# Slow enough that a busy computer, which lets a thread wait for a tenth of a second, loses no reading.
RATE_HZ, WINDOW_S = 20.0, 0.05


@pytest.fixture
def instruments(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("rig.meters.host_meter.CLOCK_ROOM_S", 0.02)  # the device is this computer
    folder = isolated / "config" / "instruments"
    folder.mkdir(parents=True)
    (folder / "acme.toml").write_text(profile_text(rate_hz=RATE_HZ, window_s=WINDOW_S))
    (folder / "stamped.toml").write_text(profile_text(rate_hz=RATE_HZ, window_s=WINDOW_S, time_field=True))
    return folder


def profile(instrument: ScpiInstrument, name: str = "acme", **fields: Any) -> Any:
    settings = {"kind": "scpi", "resource": instrument.resource, "instrument": name, **fields}
    return local_profile(sensors=(), meter=MeterSettings.model_validate(settings))


@pytest.fixture
def subject(isolated: Path) -> Subject:
    return Subject("small", path=small_model(isolated / "m.onnx"))


def step_of(level_w: Callable[[float], float], t0_s: float, t1_s: float) -> float:
    """True mean between two times of the host's clock."""
    return float(np.mean([level_w(t) for t in np.linspace(t0_s, t1_s, 4001)]))


def test_constant_watts_come_out_as_they_are(instruments: Path, subject: Subject) -> None:
    with ScpiInstrument(lambda t_s: 4.25) as instrument, Session(profile(instrument), "test") as session:
        assert session.power_source == "meter-acme"
        record = session.measure(subject, CALM, request_id="a")
    measured = assess(record)
    assert record["trace_problem"] is None
    assert [record["phases"][i]["name"] for i in (0, -1)] == ["quiet_before", "quiet_after"]
    assert record["plan"]["window_s"] >= 5.0 / RATE_HZ
    assert measured.power_w is not None
    assert measured.power_w.value == pytest.approx(4.25, abs=0.01)
    assert measured.idle_power_w is not None
    assert measured.idle_power_w.value == pytest.approx(4.25, abs=0.01)
    window = next(phase for phase in record["phases"] if phase["name"] == "window")
    period_s = (window["t1_s"] - window["t0_s"]) / window["count"]
    assert measured.energy_j is not None
    assert measured.energy_j.value == pytest.approx(4.25 * period_s, rel=0.5)
    assert measured.budget["power_w"]["gain"] == pytest.approx(1.96 * 0.001 * 4.25, rel=0.01)
    assert 0 < record["clock"]["uncertainty_s"] < 0.1
    assert record["sensor"]["boundary"] == "board_input"
    assert record["evidence"]["meter_answers"]


def test_a_known_step_falls_where_it_happened(instruments: Path, subject: Subject) -> None:
    """Stamped by the instrument, whose clock is 1234.5 s before the host's."""
    at_s = [float("inf")]

    def watts(t_s: float) -> float:
        return 3.0 if t_s < at_s[0] else 6.0

    def begin(progress: dict[str, Any]) -> None:
        if at_s[0] == float("inf") and progress["phase"] != "quiet_before":
            at_s[0] = now_s() + 0.5

    plan = CALM._replace(min_windows=4, max_s=3.0)
    with (
        ScpiInstrument(watts, window_s=WINDOW_S, clock_offset_s=1234.5) as instrument,
        Session(profile(instrument, "stamped"), "test") as session,
    ):
        record = session.measure(subject, plan, request_id="a", on_progress=begin)
    measured = assess(record)
    assert record["trace_problem"] is None, record["trace_problem"]
    assert measured.windows is not None
    assert measured.windows.power_w, measured.reason
    joules = truth_j = 0.0
    for t0, t1, power in zip(
        measured.windows.power_t0_s, measured.windows.power_t1_s, measured.windows.power_w, strict=True
    ):
        joules += power * (t1 - t0)
        truth_j += step_of(watts, t0, t1) * (t1 - t0)  # this computer's agent has the host's clock
    assert {round(power) for power in measured.windows.power_w} >= {3, 6}
    assert joules == pytest.approx(truth_j, abs=3.0 * 1.5 / RATE_HZ)  # 3 W, a sample and a half
    assert measured.idle_power_w is not None


def test_a_fault_rejects_the_power_keeps_the_latency_and_heals(instruments: Path, subject: Subject) -> None:
    """Each in the middle of a measurement; the next one opens the meter anew. What else can be said: test_meter_scpi"""
    faults = {"close": "no answer within|lost", "nan": "there is no reading"}
    with ScpiInstrument() as instrument, Session(profile(instrument), "test") as session:
        for fault, words in faults.items():

            def fail(progress: dict[str, Any], fault: str = fault) -> None:
                instrument.fault = fault

            record = session.measure(subject, CALM, request_id=fault, on_progress=fail)
            instrument.fault = ""
            measured = assess(record)
            assert re.search(words, record["trace_problem"]), record["trace_problem"]
            assert measured.verdict == "rejected"
            assert measured.power_w is None
            assert measured.latency_s.value is not None
            assert measured.latency_s.value > 0


def beside(meter: HostMeter, spoil: Callable[[], None]) -> dict[str, Any]:
    """What a record gets that this computer measured for 0.6 s, the meter spoilt on the way."""
    meter.begin()
    time.sleep(0.4)
    began_s = now_s()
    spoil()
    time.sleep(0.6)
    phases = [{"t0_s": began_s, "t1_s": now_s()}]
    asked = {"phases": phases, "external_source": meter.request, "trace": None, "trace_problem": None}
    same_clock = [Exchange(t, t, t, t + 1e-5) for t in (began_s, now_s())]
    made = meter.attach(asked, same_clock)
    meter.close()
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale after five periods, without the grace of two seconds."""
    monkeypatch.setattr("rig.meters.host_meter.STALE_AT_LEAST_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_time_stamp_that_stands_still_is_stale(instruments: Path) -> None:
    with ScpiInstrument() as instrument:
        made = beside(
            HostMeter(profile(instrument, "stamped").meter, "token"), lambda: setattr(instrument, "fault", "frozen")
        )
    assert "stale: no new sample of meter meter-stamped" in made["trace_problem"]
    assert made["trace"]["times_s"]  # what there is stays as evidence


def test_a_meter_that_is_not_there_is_said_before_anything_is_measured(instruments: Path, subject: Subject) -> None:
    meter = MeterSettings(kind="scpi", resource="TCPIP::127.0.0.1::1::SOCKET", instrument="acme")
    with Session(local_profile(sensors=(), meter=meter), "test") as session:
        with pytest.raises(DeviceSetupError, match="Connection refused"):
            session.measure(subject, CALM, request_id="a")
        assert session.pending() == []
    simulated = load_profile("virtual-pi4").model_copy(update={"meter": meter})
    with Session(simulated, "test") as session, pytest.raises(BadInputError, match="is simulated: no meter sees it"):
        session.measure(subject, CALM, request_id="a")


class Appender:
    """Another program that appends to a power log while it lives."""

    def __init__(self, path: Path, watts: float, period_s: float = 1.0 / RATE_HZ) -> None:
        self.path, self.watts, self.period_s = path, watts, period_s
        self.paused = threading.Event()
        self.rotate = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.path.write_text("time,watts\n")

    def __enter__(self) -> Appender:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        noise = np.random.default_rng(3)
        while not self._stop.wait(self.period_s):
            if self.rotate.is_set():
                self.rotate.clear()
                self.path.rename(self.path.with_suffix(".1"))
                self.path.write_text("time,watts\n")
            if not self.paused.is_set():
                line = f"{time.time():.4f},{self.watts + noise.normal(0, 0.01):.4f}\n"
                with self.path.open("a") as file:
                    file.write(line[:9])
                    file.flush()
                    file.write(line[9:])


@pytest.fixture
def appender(isolated: Path, instruments: Path) -> Iterator[Appender]:
    with Appender(isolated / "power.csv", 7.5) as made:
        time.sleep(0.1)
        yield made


def log_profile(path: Path) -> Any:
    told = {"kind": "log", "path": str(path), "rate_hz": RATE_HZ, "window_s": WINDOW_S, "boundary": "wall"}
    return local_profile(sensors=(), meter=MeterSettings.model_validate({**told, "noise_w": 0.01}))


def test_a_growing_log_gives_the_watts_even_when_it_is_rotated(appender: Appender, subject: Subject) -> None:
    with Session(log_profile(appender.path), "test") as session:

        def rotate(progress: dict[str, Any]) -> None:
            if progress["phase"] == "quiet_before":
                appender.rotate.set()

        record = session.measure(subject, CALM, request_id="a", on_progress=rotate)
    assert appender.path.with_suffix(".1").exists()
    measured = assess(record)
    assert record["trace_problem"] is None
    assert measured.power_w is not None, measured.reason
    assert measured.power_w.value == pytest.approx(7.5, abs=0.02)
    assert record["sensor"]["boundary"] == "wall"


@pytest.mark.usefixtures("impatient")
def test_a_log_that_nobody_appends_to_is_stale(appender: Appender) -> None:
    made = beside(HostMeter(log_profile(appender.path).meter, "token"), appender.paused.set)
    assert "stale: no new sample of meter meter-log" in made["trace_problem"]


def test_a_record_from_the_spool_gets_its_trace_in_its_own_session_only(instruments: Path, subject: Subject) -> None:
    with ScpiInstrument() as instrument:
        with Session(profile(instrument), "test") as session:
            first = session.measure(subject, CALM, request_id="a")
            os.kill(int(session.hello["agent"]["pid"]), signal.SIGKILL)
            same = session.measure(subject, CALM, request_id="a")  # served from the spool
        assert same["started_utc"] == first["started_utc"]
        assert same["trace_problem"] is None
        assert len(same["trace"]["times_s"]) >= len(first["trace"]["times_s"]) - 5
        with Session(profile(instrument), "test") as session:
            pending = session.pending()
            session.ack(["a"])
        assert pending[0]["trace"] is None
        assert "earlier session of the host" in pending[0]["trace_problem"]
        assert assess(pending[0]).verdict == "rejected"
        assert assess(pending[0]).latency_s.value == assess(first).latency_s.value


def test_the_devices_clock_is_mapped_to_the_hosts(instruments: Path) -> None:
    """A device 500 s behind that runs 40 ppm fast: the trace must lie under the phases all the same."""
    with ScpiInstrument(lambda t_s: 5.0) as instrument:
        meter = HostMeter(profile(instrument).meter, "token")
        meter.begin()

        def device_s(host_s: float) -> float:
            return (host_s - began_s) * (1 + 4e-5) + began_s - 500.0

        def exchange() -> Exchange:
            sent_s = now_s()
            received_s = device_s(sent_s + 0.001)
            time.sleep(0.003)
            return Exchange(sent_s, received_s, received_s, now_s())

        began_s = now_s()
        exchanges = [exchange() for _ in range(4)]
        time.sleep(0.2)
        phase = {"t0_s": device_s(now_s()), "t1_s": device_s(now_s() + 0.5)}
        time.sleep(0.55)
        exchanges += [exchange() for _ in range(4)]
        record = {"phases": [phase], "external_source": meter.request, "trace": None, "trace_problem": None}
        made = meter.attach(record, exchanges)
        meter.close()
    clock = made["clock"]
    assert clock["offset_s"] == pytest.approx(500.0, abs=0.005)
    assert made["trace_problem"] is None
    assert made["trace"]["times_s"][0] < phase["t0_s"] + 500.0 < phase["t1_s"] + 500.0 < made["trace"]["times_s"][-1]
