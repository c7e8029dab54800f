"""A hundred thousand inputs and more on every parser of a meter; writes results.json beside this file.

    python experiments/meter-fuzz/fuzz.py [--inputs 200000] [--hypothesis 100000] [--seed 20261122] [--missing]

The properties are those of tests/meters/parser_properties.py. Plain mutation of true texts makes the first inputs,
which is fifty times as fast; then Hypothesis (tests/contracts/fuzzing.py). ``--missing`` leaves out what results.json
has so many inputs of already.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.contracts.fuzzing import by_hypothesis, counted  # noqa: E402
from tests.meters.parser_properties import METER_PARSERS, SEEDS  # noqa: E402

ALPHABET = "0123456789.,;:+-eE _/\t\"'WattsTimeVMrkPnaif=\r\u0664\u00b2\u2212\x00"


def mutated(text: str, chance: random.Random) -> str:
    """A text cut, doubled, swapped or overwritten in up to four places; one in twenty is noise from end to end."""
    if chance.random() < 0.05:
        return "".join(chance.choices(ALPHABET, k=chance.randrange(40)))
    for _ in range(chance.randrange(5)):
        at, to = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        what = chance.randrange(4)
        if what == 0:
            text = text[:at] + text[to:]
        elif what == 1:
            text = text[:to] + text[at:]
        elif what == 2:
            text = text[:at] + chance.choice(ALPHABET) + text[at + 1 :]
        else:
            text = text[:at] + text[at:to][::-1] + text[to:]
    return text


def by_mutation(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Check so many inputs; raises where one breaks the property."""
    chance = random.Random(f"{seed} {name}")
    different: set[int] = set()
    begun_s = time.perf_counter()
    with METER_PARSERS[name].run() as check:
        for _ in range(inputs):
            text = mutated(chance.choice(SEEDS[name]), chance)
            try:
                check(text)
            except BaseException:
                print(f"{name}: {text!r}", file=sys.stderr)
                raise
            different.add(hash(text))
    return counted(inputs, different, seed, begun_s)


def main() -> None:
    """Fuzz every parser, and write down how many inputs each has seen."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--inputs", type=int, default=200_000)
    arguments.add_argument("--hypothesis", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=20261122)
    arguments.add_argument("--missing", action="store_true", help="only what has fewer inputs yet")
    asked = arguments.parse_args()
    path = HERE / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parsers": {}}
    results["python"] = platform.python_version()
    for name in METER_PARSERS:
        found = results["parsers"].setdefault(name, {})
        for maker, count in (("mutation", asked.inputs), ("hypothesis", asked.hypothesis)):
            if not count or (asked.missing and found.get(maker, {}).get("inputs", 0) >= count):
                continue
            made = by_mutation(name, count, asked.seed) if maker == "mutation" else None
            found[maker] = made or by_hypothesis(METER_PARSERS[name], count, asked.seed)
            print(name, maker, found[maker], flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
