import math

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
    before = controller.log_strength
    for look in range(10):
        controller.update((1.01, 9.0)[look % 2], look / looks)
        assert abs(controller.log_strength - before) <= Gains().rate / min(looks, 150) + 1e-12
        before = controller.log_strength


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


@pytest.mark.parametrize("start", [1.1, 1.4, 2.0, 4.0])
def test_a_short_way_is_gone_as_surely_as_a_long_one(start):
    """In steps of a fifth of the way each, the next at twice the strength; the first two come too early."""
    controller, way, gone = StrengthController(start, 1.0), start - 1.0, 0
    for look in range(150):
        cost = start - way * min(gone, 5) / 5
        strength = controller.update(cost, look / 149, Seen(cost, idle=0.01 * 2.0**gone))
        if look == 5:
            gone = 2
        elif look > 5 and strength > 0.01 * 2.0**gone:
            gone += 1
    assert gone == 5


def test_what_is_going_is_held_against_the_line_of_when_it_is_gone():
    with_lead, without = StrengthController(2.0, 1.0), StrengthController(2.0, 1.0)
    lead = 0.2 * Gains().ramp  # the line is at 1.8 there
    assert with_lead.update(2.0, 0.0, Seen(1.8, lead)) == pytest.approx(without.update(2.0, 0.0, Seen(2.0)))
    assert with_lead.update(2.0, 0.01, Seen(1.9, lead)) > without.update(2.0, 0.01, Seen(1.9))
