"""The pulse: what an undisturbed core takes is learned, and windows beside slower ones are told apart."""

import itertools

import pytest

from device_agents import pulse
from device_agents.pulse import LEARNED, QUIET_RATIO, Pulses, is_quiet, pulse_s


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """The clock says how long the work takes: it need not be done."""
    monkeypatch.setattr(pulse, "PULSE_STEPS", 0)


class Clock:
    """A clock on which every pulse takes the next of ``durations_s``."""

    def __init__(self, durations_s):
        self.durations_s = itertools.cycle(durations_s)
        self.at_s = 0.0
        self.running = False

    def __call__(self):
        if self.running:
            self.at_s += next(self.durations_s)
        self.running = not self.running
        return self.at_s


def test_the_faster_of_two_counts():
    assert pulse_s(Clock([3e-4, 2e-4])) < 2.5e-4


def around(pulses, durations_s, windows):
    """Phases measured while pulses take the next of ``durations_s``."""
    pulses._now_s = Clock(durations_s)
    return [pulses.around(lambda: {"count": 1}) for _ in range(windows)]


def test_windows_beside_slow_pulses_are_disturbed():
    pulses = Pulses(Clock([2.6e-4]))
    assert all(is_quiet(phase) for phase in around(pulses, [2.6e-4, 2.7e-4], 40))
    assert not any(is_quiet(phase) for phase in around(pulses, [4.0e-4], 40))
    # One slow pulse of the two is enough: each takes two pieces of work, and the faster counts.
    assert not is_quiet(around(pulses, [2.6e-4, 2.6e-4, 4.0e-4, 4.0e-4], 1)[0])


def test_hours_of_company_do_not_pass_for_quiet():
    pulses = Pulses(Clock([2.6e-4]))
    around(pulses, [2.6e-4], LEARNED)
    phases = around(pulses, [4.0e-4], 3000)
    assert phases[-1]["pulse_fast_s"] == pytest.approx(2.6e-4)
    assert not is_quiet(phases[-1])


def test_a_campaigns_faster_pulse_judges_an_early_window():
    (phase,) = around(Pulses(Clock([4.0e-4])), [4.0e-4], 1)
    assert is_quiet(phase)
    assert not is_quiet(phase, 2.6e-4)
    assert phase["pulse_s"] > QUIET_RATIO * 2.6e-4


def test_a_phase_without_a_pulse_counts_as_quiet():
    assert is_quiet({"count": 3})
