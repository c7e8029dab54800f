"""Many Hypothesis inputs on one parser, with their count: what experiments/sensor-fuzz and meter-fuzz run.

In rounds of 5,000 with a seed each, because Hypothesis remembers every input of a round.
"""

from __future__ import annotations

import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded_by

from tests.contracts.parser_properties import Parser

ROUND = 5000


def by_hypothesis(parser: Parser, inputs: int, seed: int) -> dict[str, Any]:
    """Check so many inputs: how many there were, how many differ, the seconds; raises with the smallest that fails."""
    rounds = checked = 0
    different: set[int] = set()
    begun_s = time.perf_counter()
    with parser.run() as check:
        while checked < inputs:

            @seeded_by(seed + rounds)
            @settings(
                max_examples=min(ROUND, inputs - checked),
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @given(parser.inputs)
            def holds(fed: object) -> None:
                nonlocal checked
                check(fed)
                checked += 1
                different.add(hash(repr(fed)))

            holds()
            rounds += 1
    return counted(checked, different, seed, begun_s)


def counted(checked: int, different: set[int], seed: int, begun_s: float) -> dict[str, Any]:
    """What is written down of a parser that held."""
    seconds = round(time.perf_counter() - begun_s, 1)
    return {"inputs": checked, "different": len(different), "seed": seed, "failures": 0, "seconds": seconds}
