"""A hundred thousand inputs on every parser of a power source; writes results.json beside this file.

    python experiments/sensor-fuzz/fuzz.py [--inputs 100000] [--seed 20261122] [--parser NAME ...]

Properties and inputs are those of tests/contracts/parser_properties.py. Hypothesis runs in rounds of 5,000, each with a
seed of its own, because it remembers every input of a round.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.contracts.parser_properties import PARSERS, Parser  # noqa: E402

ROUND = 5000


def fuzz(parser: Parser, inputs: int, seed: int) -> dict[str, Any]:
    """Try inputs until so many were checked: their number, how many differ, and the seconds; raises where one fails."""
    checked, different, rounds = 0, set(), 0
    begun_s = time.perf_counter()
    with parser.run() as check:
        while checked < inputs:

            @seeded(seed + rounds)
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
    return {
        "inputs": checked,
        "different": len(different),
        "rounds": rounds,
        "seed": seed,
        "failures": 0,  # one would have raised
        "seconds": round(time.perf_counter() - begun_s, 1),
    }


def main() -> None:
    """Fuzz the parsers asked for, and write down how many inputs each has seen."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--inputs", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=20261122)
    arguments.add_argument("--parser", nargs="*", choices=sorted(PARSERS), default=None)
    asked = arguments.parse_args()
    path = HERE / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parsers": {}}
    results["python"], results["hypothesis"] = platform.python_version(), hypothesis.__version__
    for name in asked.parser or PARSERS:
        results["parsers"][name] = fuzz(PARSERS[name], asked.inputs, asked.seed)
        print(name, results["parsers"][name], flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
