"""Flags and clocks of the device beside the windows: what rejects a measurement, and what is said of it."""

from __future__ import annotations

import pytest

from rig.quality.verdict import assess
from tests.synthetic_records import synthetic_record


def record_with(**changes: dict[int, object]) -> dict[str, object]:
    """A good record; ``changes``: field → phase number → value (quiet, warm-up, then the windows)."""
    record = synthetic_record()
    for field, by_phase in changes.items():
        for number, value in by_phase.items():
            record["phases"][number][field] = value
    return record


def test_a_flag_that_comes_up_rejects_and_is_named_with_its_first_phase() -> None:
    flags: dict[int, object] = {key: ["hw-thermal", "undervoltage"] for key in range(5, 9)}
    made = assess(record_with(throttled=flags))
    assert made.verdict == "rejected"
    assert "throttled: hw-thermal, undervoltage set in phase 6" in str(made.reason)


def test_one_more_event_of_a_counter_rejects() -> None:
    before: dict[int, object] = {i: ["core-thermal-events:3"] for i in range(15)}
    assert assess(record_with(throttled=before)).ok
    after: dict[int, object] = {**before, 9: ["core-thermal-events:4"]}
    assert "core-thermal-events:4 set in phase 10" in str(assess(record_with(throttled=after)).reason)


def test_a_card_at_its_power_limit_is_said_not_rejected() -> None:
    made = assess(record_with(throttled={key: ["power-cap"] for key in range(2, 14)}))
    assert made.ok, made.reason
    assert "the device was held at its own limit (power-cap) in 100 % of the windows" in made.warnings


@pytest.mark.parametrize(("clock_hz", "said"), [(1.48e9, False), (1.46e9, True)])
def test_a_clock_that_falls_between_windows_is_a_warning(clock_hz: float, said: bool) -> None:
    clocks: dict[int, object] = {**dict.fromkeys(range(15), 1.5e9), 7: clock_hz}
    made = assess(record_with(cpu_freq_hz=clocks))
    assert made.ok, made.reason
    assert [w for w in made.warnings if "CPU clock" in w] == (
        ["the CPU clock fell by 2.7 % from window 1 to 6 (1.50 to 1.46 GHz): pin the governor, or cool the device"]
        if said
        else []
    )


def test_a_rising_clock_and_one_that_is_not_known_say_nothing() -> None:
    rising: dict[int, object] = {i: 1.0e9 + 0.05e9 * i for i in range(15)}
    unknown: dict[int, object] = dict.fromkeys(range(15))
    for clocks in (rising, unknown):
        assert not [w for w in assess(record_with(cpu_freq_hz=clocks)).warnings if "clock" in w]


def test_the_clock_of_a_short_window_is_not_known_well_enough() -> None:
    record = synthetic_record(window_s=0.5)
    for number, phase in enumerate(record["phases"]):
        phase["cpu_freq_hz"] = 1.5e9 - 0.1e9 * (number % 2)
    assert not [w for w in assess(record).warnings if "CPU clock" in w]
