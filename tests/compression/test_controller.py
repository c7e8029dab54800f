import math

import pytest

from rig.compression.methods.controller import Gains, StrengthController


def driven(looks=150, stair=0.0, band=0.0, pull=0.004, dead_looks=35):
    """A plant whose cost falls by strength, after a dead time, seen in stairs: (controller, costs, log strengths)."""
    controller, cost, costs, logs = StrengthController(2.0, 1.0), 2.0, [], []
    for look in range(looks):
        seen = math.ceil(cost / stair - 1e-9) * stair if stair else cost
        strength = controller.update(seen, look / looks, step=band)
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


def test_the_strength_changes_by_its_rate_at_most():
    controller = StrengthController(2.0, 1.0)
    before = controller.log_strength
    for cost in (2.0, 9.0, 1.01, 9.0, 1.01):
        controller.update(cost, 0.5)
        assert abs(controller.log_strength - before) <= Gains().rate + 1e-12
        before = controller.log_strength


def test_what_was_held_up_for_long_does_not_wind_up():
    # Nothing dies for a long time; once the cost is under the line, the strength falls at once and as fast as it may.
    controller = StrengthController(2.0, 1.0)
    for _ in range(2000):
        stuck = controller.update(2.0, 0.7)
    assert stuck == pytest.approx(Gains().ceiling)
    fallen = [controller.update(1.1, 0.2) for _ in range(16)]
    assert fallen[0] == pytest.approx(stuck * math.exp(-Gains().rate))
    assert fallen[-1] < stuck / 10


def test_less_than_a_step_under_the_line_is_on_it():
    controller = StrengthController(2.0, 1.0)
    before = controller.log_strength
    controller.update(1.97, 0.0, step=0.05)
    assert controller.log_strength == before
    controller.update(1.90, 0.0, step=0.05)
    assert controller.log_strength < before
    above = StrengthController(2.0, 1.0)
    above.update(2.01, 0.0, step=0.05)  # above the line there is no dead band: the budget must hold
    assert above.log_strength > before


@pytest.mark.parametrize(("step", "steady"), [(0.05, True), (0.0, False)])
def test_a_cost_that_steps_about_the_line_leaves_the_strength_alone(step, steady):
    controller = StrengthController(2.0, 1.0)
    share = 0.5 * Gains().ramp  # the line is at 1.5 there
    logs = []
    for look in range(40):
        controller.update(1.5 if look % 2 else 1.46, share, step=step)
        logs.append(controller.log_strength)
    assert (max(logs) - min(logs) < 1e-12) == steady


def test_a_controller_goes_on_from_its_state():
    one, _, _ = driven(looks=60)
    other = StrengthController(2.0, 1.0)
    other.restore(one.state())
    assert [one.update(1.5, 0.5 + i / 100) for i in range(9)] == [other.update(1.5, 0.5 + i / 100) for i in range(9)]
