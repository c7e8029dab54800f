"""A hundred thousand inputs and more on every parser of a power source; writes results.json beside this file.

    python experiments/sensor-fuzz/fuzz.py [--inputs 150000] [--hypothesis 20000] [--seed 20261122] [--parser NAME ...]

First a seeded generator (seeded.py), then Hypothesis, which goes for edge cases and shrinks what fails, in rounds of
5,000 with a seed each, because it remembers every input of a round. The properties are those of
tests/contracts/parser_properties.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded_by

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
sys.path.insert(0, str(HERE))

from seeded import INPUTS  # noqa: E402

from tests.contracts.parser_properties import PARSERS  # noqa: E402

ROUND = 5000


def by_hypothesis(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Try so many inputs: their number, how many differ, and the seconds; raises with the smallest that fails."""
    parser, rounds, checked = PARSERS[name], 0, 0
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
    return _result(checked, different, seed, begun_s)


def by_generator(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """The same by the seeded generator; raises with the input that fails."""
    rng, make = Random(f"{name} {seed}"), INPUTS[name]
    different: set[int] = set()
    begun_s = time.perf_counter()
    with PARSERS[name].run() as check:
        for number in range(inputs):
            fed = make(rng)
            try:
                check(fed)
            except Exception as error:
                raise AssertionError(f"{name}, input {number}: {fed!r}") from error
            different.add(hash(repr(fed)))
    return _result(inputs, different, seed, begun_s)


def _result(checked: int, different: set[int], seed: int, begun_s: float) -> dict[str, Any]:
    seconds = round(time.perf_counter() - begun_s, 1)
    return {"inputs": checked, "different": len(different), "seed": seed, "failures": 0, "seconds": seconds}


def main() -> None:
    """Fuzz the parsers asked for, and write down how many inputs each has seen."""
    arguments = argparse.ArgumentParser(description="Fuzz the parsers of power sources.")
    arguments.add_argument("--inputs", type=int, default=150_000, help="by the seeded generator, a parser")
    arguments.add_argument("--hypothesis", type=int, default=20_000, help="by Hypothesis, a parser")
    arguments.add_argument("--seed", type=int, default=20261122)
    arguments.add_argument("--parser", nargs="*", choices=sorted(PARSERS), default=None)
    asked = arguments.parse_args()
    path = HERE / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parsers": {}}
    results["python"], results["hypothesis"] = platform.python_version(), hypothesis.__version__
    for name in asked.parser or PARSERS:
        found = results["parsers"].setdefault(name, {})
        if asked.inputs:
            found["generator"] = by_generator(name, asked.inputs, asked.seed)
        if asked.hypothesis:
            found["hypothesis"] = by_hypothesis(name, asked.hypothesis, asked.seed)
        print(name, found, flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
