"""What the next choice is corrected by: all that was measured, the sure and the near ones most."""

from __future__ import annotations

import pytest

from rig.compression.corrections import Reading, next_ratio, ratio
from rig.units import Quantity


def reading(predicted: float, measured: float, half_width: float | None = 0.01) -> Reading:
    lo, hi = (None, None) if half_width is None else (measured - half_width, measured + half_width)
    return Reading(predicted, Quantity(measured, lo, hi, kind="simulated", n=5))


def test_one_reading_is_its_own_ratio() -> None:
    assert ratio([reading(0.9, 1.0)]) == pytest.approx(0.9)
    assert ratio([reading(0.9, 1.0, None)]) == pytest.approx(0.9)


def test_of_readings_alike_it_is_the_middle_in_ratio() -> None:
    assert ratio([reading(1.0, 1.25, 0.025), reading(1.0, 0.8, 0.016)]) == pytest.approx(1.0)


def test_the_surer_one_counts_more_and_no_one_is_sure_beyond_reason() -> None:
    found = ratio([reading(1.0, 1.0, 0.03), reading(1.0, 0.9, 0.003)])
    assert 1 / 0.9 - 0.002 < found < 1 / 0.9
    assert ratio([reading(1.0, 1.0, 0.0), reading(1.0, 0.9, 0.0)]) == pytest.approx((1 / 0.9) ** 0.5)


def test_what_is_far_in_cost_counts_less() -> None:
    near = ratio([reading(1.02, 1.02), reading(1.0, 0.95)])
    far = ratio([reading(2.0, 2.0), reading(1.0, 0.95)])
    assert 1.0 < near < far < 1 / 0.95
    assert far == pytest.approx(1 / 0.95, rel=1e-3)


def test_what_is_not_positive_has_no_say() -> None:
    assert ratio([reading(1.0, -0.1), reading(1.0, 0.95)]) == pytest.approx(1 / 0.95)
    assert ratio([reading(1.0, 0.9), reading(0.5, 0.0)]) > 1e6  # as before: nothing measured, nothing known


def test_what_was_not_met_is_corrected_by_no_less_than_its_own_reading() -> None:
    """Two rounds of a target in watts (virtual-pi4-202): by both readings 0.95 is asked for, and 0.961 comes out."""
    readings = [reading(1.032, 1.0142, 0.040), reading(0.9664, 0.9708, 0.040)]
    assert ratio(readings) > 1.0 > next_ratio(readings, met=False) == pytest.approx(0.9664 / 0.9708)
    assert next_ratio(readings, met=True) == ratio(readings)
    under = [reading(0.9, 0.95), reading(0.9, 0.9)]
    assert next_ratio(under, met=False) == ratio(under) < 1.0
