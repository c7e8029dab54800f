"""The pulse: what an undisturbed core takes is learned, and windows beside slower ones are told apart."""

import itertools

from device_agents.pulse import LEARN_S, QUIET_RATIO, Pulses, is_quiet, pulse_s


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


def test_a_window_beside_a_slow_pulse_is_disturbed():
    times = {"slow": 4.0e-4, "fast": 2.6e-4}
    state = ["fast"]
    at_s = itertools.count()

    pulses = Pulses(lambda: next(at_s) * times[state[0]])
    assert is_quiet(pulses.around(lambda: {"count": 1}))
    state[0] = "slow"
    fast_s = pulses.around(lambda: {"count": 1})["pulse_fast_s"]
    at_s = itertools.count()
    pulses._now_s = Clock([4.0e-4, 4.0e-4])
    phase = pulses.around(lambda: {"count": 1})
    assert phase["pulse_s"] > QUIET_RATIO * fast_s
    assert not is_quiet(phase)


def test_what_is_undisturbed_is_learned_before_the_first_window():
    clock = Clock([4.0e-4] * 8 + [2.6e-4] * 2)
    pulses = Pulses(clock)
    phase = pulses.around(lambda: {})
    assert clock.at_s >= LEARN_S
    assert phase["pulse_fast_s"] < 3e-4


def test_a_phase_without_a_pulse_counts_as_quiet():
    assert is_quiet({"count": 3})
