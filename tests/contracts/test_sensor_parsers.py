"""Hundreds of inputs on every parser; experiments/sensor-fuzz tries a hundred thousand of the same."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.contracts.parser_properties import PARSERS

EXAMPLES = 250


@pytest.mark.parametrize("name", PARSERS)
def test_no_input_gives_a_watt_that_it_does_not_say(name: str) -> None:
    parser = PARSERS[name]
    with parser.run() as check:

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(parser.inputs)
        def holds(fed: object) -> None:
            check(fed)

        holds()
