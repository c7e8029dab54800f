import numpy as np
import pytest

from rig.compression.budget import Bound, Budget, check_feasible, resolve
from rig.errors import BadInputError, InfeasibleTargetError
from rig.units import parse_limit

BASE = np.array([0.010, 0.020, 30e6, 270e3])
P0 = 2.9


def test_a_share_of_power_counts_the_active_part():
    budget = resolve([parse_limit("power", "50%")], 60.0, P0, BASE)
    assert budget.bounds[0].limit == pytest.approx(P0 + 0.5 * 60 * 0.020)
    assert budget.usage(BASE) == pytest.approx(2.0)


def test_a_share_of_energy_counts_the_active_part_and_an_absolute_one_the_board():
    share = resolve([parse_limit("energy", "50%")], None, P0, BASE).bounds[0]
    assert share.limit == pytest.approx(0.010)
    absolute = resolve([parse_limit("energy", "40mJ")], None, P0, BASE).bounds[0]
    assert absolute.value(BASE) == pytest.approx(0.020 + P0 * 0.010)


@pytest.mark.parametrize(
    ("quantity", "text", "fps"),
    [("power", "3.6W", 60.0), ("power", "4W", None), ("energy", "30mJ", None), ("latency", "5ms", None)],
)
def test_gradients_by_finite_differences(quantity, text, fps):
    bound = resolve([parse_limit(quantity, text)], fps, P0, BASE).bounds[0]
    gradient = bound.gradient(BASE)
    for i in range(4):
        step = np.eye(4)[i] * BASE[i] * 1e-6
        numeric = (bound.value(BASE + step) - bound.value(BASE - step)) / (2 * step[i])
        assert gradient[i] == pytest.approx(numeric, rel=1e-5, abs=1e-12)


def test_removing_low_power_time_raises_flat_out_watts():
    bound = Bound("power", 4.0, "W", None, None, P0)
    assert bound.gradient(BASE)[0] < 0


def test_a_target_at_quiet_power_is_infeasible():
    with pytest.raises(InfeasibleTargetError, match="quiet power"):
        resolve([parse_limit("power", "2.6W")], 60.0, P0, BASE)


def test_a_target_above_the_baseline_is_nothing_to_do():
    with pytest.raises(BadInputError, match="already meets"):
        resolve([parse_limit("power", "9W")], 60.0, P0, BASE)


def test_no_target_is_said():
    with pytest.raises(BadInputError, match="no target"):
        resolve([], None, P0, BASE)


def test_below_the_narrowest_network_is_infeasible_before_training():
    budget = resolve([parse_limit("latency", "5ms")], None, P0, BASE)
    with pytest.raises(InfeasibleTargetError, match="narrowest"):
        check_feasible(budget, np.array([0.006, 0.01, 1e6, 1e4]), None)
    check_feasible(budget, np.array([0.004, 0.01, 1e6, 1e4]), None)


def test_a_frame_rate_beyond_the_narrowest_network_is_refused():
    budget = resolve([parse_limit("power", "3.2W")], 60.0, P0, BASE)
    with pytest.raises(InfeasibleTargetError, match="frames a second"):
        check_feasible(budget, np.array([0.020, 0.001, 1e6, 1e4]), 60.0)


def test_several_limits_hold_together():
    budget = resolve([parse_limit("power", "50%"), parse_limit("latency", "25%")], 60.0, P0, BASE)
    assert budget.usage(BASE) == pytest.approx(4.0)
    assert budget.tightest(BASE).quantity == "latency"


def test_scaling_moves_only_the_active_part():
    budget = Budget((Bound("power", 3.9, "W", 60.0, None, P0),))
    assert budget.scaled({"power": 0.5}).bounds[0].limit == pytest.approx(3.4)
