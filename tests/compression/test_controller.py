import math

import numpy as np
import pytest

from rig.compression.methods.controller import SLACK, Gains, Seen, StrengthController


def driven(looks=150, stair=0.0, band=0.0, pull=0.004, dead_looks=35):
    """A plant whose cost falls by strength, after a dead time, seen in stairs: (controller, costs, log strengths)."""
    controller, cost, costs, logs = StrengthController(2.0, 1.0), 2.0, [], []
    for look in range(looks):
        seen = math.ceil(cost / stair - 1e-9) * stair if stair else cost
        strength = controller.update(seen, look / looks, Seen(seen, step=band))
        costs.append(seen)
        logs.append(controller.log_strength)
        cost -= pull * strength if look > dead_looks else 0.0
    return controller, costs, logs


def test_the_controller_brings_a_lagging_plant_to_its_target():
    # Channels die late and all at once for a while: a dead time of a quarter of the run.
    _, costs, _ = driven()
    assert costs[-1] == pytest.approx(1.0, abs=0.05)
    assert min(costs) > 0.9


@pytest.mark.parametrize("pull", [0.002, 0.004, 0.016])
def test_on_stairs_it_ends_at_the_target_and_not_far_below(pull):
    _, costs, _ = driven(stair=0.05, band=0.05, pull=pull)
    assert 0.85 <= costs[-1] <= 1.0 + 1e-9


def test_at_the_target_the_controller_lets_go():
    assert StrengthController(2.0, 1.0).update(0.99, 0.9) == 0.0


@pytest.mark.parametrize("looks", [15, 150])
def test_the_strength_changes_by_its_rate_at_most_however_often_it_is_looked(looks):
    controller = StrengthController(2.0, 1.0)
    controller.update(1.01, 0.0)
    for look in range(1, 10):
        before = controller.log_strength
        controller.update((1.01, 9.0)[look % 2], look / looks)
        assert abs(controller.log_strength - before) == pytest.approx(Gains().rate / looks)


@pytest.mark.parametrize("looks", [15, 150])
def test_what_an_error_adds_in_time_does_not_depend_on_how_often_it_is_looked(looks):
    controller = StrengthController(2.0, 1.0)
    controller.update(2.0, 0.0)
    before = controller.log_strength
    for look in range(1, looks + 1):  # a steady error of a hundredth of the way
        controller.update(controller.wanted(look / looks) + 0.01, look / looks)
    gained = controller.log_strength - before
    assert gained == pytest.approx(0.01 * (Gains().integral + Gains().proportional))


def test_a_state_of_an_earlier_version_keeps_its_strength():
    controller = StrengthController(2.0, 1.0)
    controller.restore({"log_strength": 1.0, "previous_error": 0.0})
    controller.update(1.5, 0.4, Seen(1.5, idle=0.03))
    assert controller.log_strength == pytest.approx(1.0, abs=Gains().rate / 150 + 1e-9)


def test_a_state_from_before_the_first_look_begins_where_it_would_have_begun():
    controller = StrengthController(2.0, 1.0)
    controller.restore(StrengthController(2.0, 1.0).state())
    controller.update(2.0, 0.0, Seen(2.0, idle=0.03))
    assert controller.log_strength == pytest.approx(math.log(0.03))


def test_at_the_target_already_there_is_no_way_to_go():
    assert StrengthController(1.0, 1.0).update(1.0, 0.5) == 0.0
    assert math.isfinite(StrengthController(1.0, 1.0).update(1.5, 0.5))


def test_what_was_held_up_for_long_does_not_wind_up():
    # Nothing dies for a long time; once the cost is under the line, the strength falls at once and as fast as it may.
    controller = StrengthController(2.0, 1.0, gains=Gains(ramp=100.0))
    for look in range(2000):
        stuck = controller.update(2.0, look / 150)
    assert stuck == pytest.approx(Gains().ceiling)
    fallen = [controller.update(1.1, (2000 + look) / 150) for look in range(16)]
    assert fallen[0] == pytest.approx(stuck * math.exp(-Gains().rate / 150))
    assert fallen[-1] < stuck / 10


def test_less_than_a_step_under_the_line_is_on_it():
    controller = StrengthController(2.0, 1.0)
    before = controller.log_strength
    controller.update(1.97, 0.0, Seen(1.97, step=0.05))
    assert controller.log_strength == before
    controller.update(1.90, 0.01, Seen(1.90, step=0.05))
    assert controller.log_strength < before
    above = StrengthController(2.0, 1.0)
    above.update(2.01, 0.0, Seen(2.01, step=0.05))  # above the line there is no dead band: the budget must hold
    assert above.log_strength > before


@pytest.mark.parametrize(("step", "steady"), [(0.05, True), (0.0, False)])
def test_a_cost_that_steps_about_the_line_leaves_the_strength_alone(step, steady):
    controller = StrengthController(2.0, 1.0)
    logs = []
    for look in range(40):
        cost = controller.wanted(look / 150) - (0.0 if look % 2 else 0.04)
        controller.update(cost, look / 150, Seen(cost, step=step))
        logs.append(controller.log_strength)
    assert (max(logs) - min(logs) < 1e-12) == steady


def test_a_controller_goes_on_from_its_state():
    one, _, _ = driven(looks=60)
    other = StrengthController(2.0, 1.0)
    other.restore(one.state())
    assert [one.update(1.5, 0.5 + i / 100) for i in range(9)] == [other.update(1.5, 0.5 + i / 100) for i in range(9)]


def test_it_begins_where_the_first_channel_would_go_and_does_not_fall_far_below():
    controller = StrengthController(2.0, 1.0)
    controller.update(2.0, 0.0, Seen(2.0, idle=0.03))
    assert controller.log_strength == pytest.approx(math.log(0.03))
    for look in range(1, 50):  # far under the line: nothing would happen at less than this
        controller.update(1.2, look / 150, Seen(1.2, idle=0.03))
    assert controller.log_strength == pytest.approx(math.log(0.03) - SLACK)
    other = StrengthController(2.0, 1.0)
    other.restore(controller.state())
    other.update(1.2, 0.4, Seen(1.2, idle=5.0))
    assert other.log_strength == pytest.approx(math.log(5.0) - SLACK), "it follows where that moves to"


def way_gone(controller, looks=150, channels=400):
    """Share of the way to the target that graded channels go: each condemned above its own strength, pardoned below
    half of it, gone after a tenth of the looks."""
    goes_at = 0.05 * np.exp(np.linspace(0.0, 3.0, channels))
    left = np.full(channels, max(1, looks // 10))
    going = np.zeros(channels, dtype=bool)
    cost = controller.start
    for look in range(looks):
        alive = left > 0
        cost, projected = (controller.start * float(kept.mean()) for kept in (alive, alive & ~going))
        idle = float((goes_at * np.where(going, 0.5, 1.0))[alive].min())
        strength = controller.update(cost, look / looks, Seen(projected, lead=0.1, idle=idle))
        going = alive & np.where(going, strength > 0.5 * goes_at, strength > goes_at)
        left = np.where(going, left - 1, np.where(alive, max(1, looks // 10), left))
    return (controller.start - cost) / (controller.start - controller.target)


@pytest.mark.parametrize("looks", [60, 150])
@pytest.mark.parametrize("start", [1.05, 1.1, 1.4, 2.0, 3.0])
def test_a_short_way_is_gone_as_surely_as_a_long_one(start, looks):
    assert 0.95 <= way_gone(StrengthController(start, 1.0), looks) <= 1.12


def test_what_is_going_is_held_against_the_line_of_when_it_is_gone():
    with_lead, without = StrengthController(2.0, 1.0), StrengthController(2.0, 1.0)
    lead = 0.2 * Gains().ramp  # the line is at 1.8 there
    assert with_lead.update(2.0, 0.0, Seen(1.8, lead)) == pytest.approx(without.update(2.0, 0.0, Seen(2.0)))
    assert with_lead.update(2.0, 0.01, Seen(1.9, lead)) > without.update(2.0, 0.01, Seen(1.9))
