"""A hundred thousand inputs and more on every parser of a power source; writes results.json beside this file.

    python experiments/sensor-fuzz/fuzz.py [--inputs 110000] [--hypothesis 100000] [--seed 20261122] [--parser NAME ...]

First a seeded generator (seeded.py), then Hypothesis, which goes for edge cases and shrinks what fails
(tests/contracts/fuzzing.py). The properties are those of tests/contracts/parser_properties.py. ``--missing`` leaves out
what results.json has so many inputs of already: a run that was stopped goes on.
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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
sys.path.insert(0, str(HERE))

from seeded import INPUTS  # noqa: E402

from tests.contracts.fuzzing import by_hypothesis, counted  # noqa: E402
from tests.contracts.parser_properties import PARSERS  # noqa: E402


def by_generator(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """So many inputs by the seeded generator; raises with the input that fails."""
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
    return counted(inputs, different, seed, begun_s)


def main() -> None:
    """Fuzz the parsers asked for, and write down how many inputs each has seen."""
    arguments = argparse.ArgumentParser(description="Fuzz the parsers of power sources.")
    arguments.add_argument("--inputs", type=int, default=110_000, help="by the seeded generator, a parser")
    arguments.add_argument("--hypothesis", type=int, default=100_000, help="by Hypothesis, a parser")
    arguments.add_argument("--seed", type=int, default=20261122)
    arguments.add_argument("--parser", nargs="*", choices=sorted(PARSERS), default=None)
    arguments.add_argument("--missing", action="store_true", help="only what has fewer inputs yet")
    asked = arguments.parse_args()
    path = HERE / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parsers": {}}
    results["python"], results["hypothesis"] = platform.python_version(), hypothesis.__version__
    for name in asked.parser or PARSERS:
        found = results["parsers"].setdefault(name, {})
        for maker, count in (("generator", asked.inputs), ("hypothesis", asked.hypothesis)):
            if not count or (asked.missing and found.get(maker, {}).get("inputs", 0) >= count):
                continue
            made = by_generator(name, count, asked.seed) if maker == "generator" else None
            found[maker] = made or by_hypothesis(PARSERS[name], count, asked.seed)
            print(name, maker, found[maker], flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
