"""The host judges the energy that its meter sees, and the device measures until it is as precise as was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_agents.clocks import ClockMap
from device_agents.intervals import relative_half_width
from device_agents.protocol import now_s
from rig.connection.session import Session, Subject
from rig.meters.interval import EnergyInterval
from rig.profiles import MeterSettings
from rig.quality.verdict import assess
from tests.agent_setup import QUICK, isolated, local_profile, small_model
from tests.fakes.scpi_instrument import ScpiInstrument, profile_text

__all__ = ["isolated"]  # a fixture

pytestmark = pytest.mark.alone

PERIOD_S = 0.05
RATE_HZ, WINDOW_S = 50.0, 0.02


def windows(watts: list[float]) -> tuple[list[dict[str, Any]], list[tuple[float, float]]]:
    """Progress messages of windows of 1 s on the device's clock, and readings of the meter 500 s ahead of it."""
    messages = [{"measured": [[10.0 + i, 11.0 + i, 4]]} for i in range(len(watts))]
    levels = [watts[0], *watts, watts[-1]]
    samples = []
    for i, level in enumerate(levels):
        for k in range(20):
            at_s = 509.0 + i + (k + 0.5) * PERIOD_S
            samples.append((at_s + 0.5 * PERIOD_S, level))  # a stamp is at the end of what it averages over
    return messages, samples


def test_it_is_the_agents_own_rule_on_the_meters_energy() -> None:
    plan = QUICK._replace(min_windows=4, rel_ci=0.05)
    watts = [5.0, 5.5, 4.6, 5.2, 5.0, 4.9, 5.1, 5.0]
    messages, samples = windows(watts)
    interval = EnergyInterval(plan, ClockMap(500.0, 0.0, 0.0, 1e-3), PERIOD_S, lambda: samples)
    seen = []
    for message in messages:
        interval.add(message)
        seen.append(interval.is_narrow)
    expected = relative_half_width([w / 4 for w in watts])
    assert expected is not None
    assert interval.relative == pytest.approx(expected, rel=0.02)
    assert seen[:3] == [False] * 3, "not before min_windows"
    assert seen[3] is False, "too wide after four"
    assert seen[-1] is (expected <= 0.05)


def test_a_window_counts_once_its_readings_have_come() -> None:
    messages, samples = windows([5.0, 5.1, 5.0, 4.9])
    heard: list[tuple[float, float]] = []
    interval = EnergyInterval(QUICK, ClockMap(500.0, 0.0, 0.0, 1e-3), PERIOD_S, lambda: heard)
    for message in messages:
        interval.add(message)
    assert interval.relative is None
    heard.extend(sample for sample in samples if sample[0] < 512.5)  # two of them are over
    assert interval.relative is None
    heard[:] = samples
    assert interval.relative is not None


@pytest.fixture
def instruments(isolated: Path) -> Path:
    folder = isolated / "config" / "instruments"
    folder.mkdir(parents=True)
    (folder / "acme.toml").write_text(profile_text(rate_hz=RATE_HZ, window_s=WINDOW_S))
    return isolated


def measured(instruments: Path, **plan: Any) -> tuple[dict[str, Any], list[int]]:
    """A measurement of this computer by a meter whose watts alternate every 130 ms; how many windows were told."""
    subject = Subject("small", path=small_model(instruments / "m.onnx"))
    began_s = now_s()
    told: list[int] = []
    with ScpiInstrument(lambda t_s: 9.0 if int((t_s - began_s) / 0.13) % 2 else 1.0, window_s=WINDOW_S) as instrument:
        settings = {"kind": "scpi", "resource": instrument.resource, "instrument": "acme"}
        meter = MeterSettings.model_validate(settings)
        with Session(local_profile(sensors=(), meter=meter), "test") as session:
            asked = QUICK._replace(min_windows=3, fps=400.0, **plan)  # at a rate: the energy is the power's alone
            record = session.measure(
                subject, asked, request_id="a", on_progress=lambda said: told.append(len(said.get("measured") or ()))
            )
            session.ack(["a"])
    return record, told


def test_the_device_goes_on_until_the_meters_energy_is_precise(instruments: Path) -> None:
    record, told = measured(instruments, rel_ci=0.25, max_s=20.0)
    count = sum(phase["name"] == "window" for phase in record["phases"])
    assert record["trace_problem"] is None
    assert record["stopped"] == "precise"
    assert count > 6, "three were enough for the latency"
    assert sum(told) <= count
    assert record["precision"]["energy_rel"] < 0.3, "the last windows may have made it a little wider"


def test_what_the_time_does_not_allow_is_said_with_what_would(instruments: Path) -> None:
    record, _ = measured(instruments, rel_ci=0.01, max_s=1.0)
    assert record["stopped"] == "max_s"
    assert record["precision"]["energy_rel"] > 0.01
    (short,) = [text for text in assess(record).warnings if text.startswith("energy_j")]
    assert "limited by sampling in the time given" in short
    assert "s of windows instead of" in short
    assert "plan.max_s" in short
