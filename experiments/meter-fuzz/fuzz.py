"""A hundred thousand inputs on every parser of a meter; writes results.json beside this file.

    python experiments/meter-fuzz/fuzz.py [--inputs 100000] [--seed 20261122]

Properties and inputs are those of tests/meters/parser_properties.py; rounds and seeds as in experiments/sensor-fuzz.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

import hypothesis

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.meters.parser_properties import METER_PARSERS  # noqa: E402


def sensor_fuzz() -> Any:
    """The script of the sensors, whose folder's name is no module's."""
    path = ROOT / "experiments" / "sensor-fuzz" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("sensor_fuzz", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Fuzz every parser, and write down how many inputs each has seen."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--inputs", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=20261122)
    asked = arguments.parse_args()
    fuzz = sensor_fuzz().fuzz
    results: dict[str, Any] = {"python": platform.python_version(), "hypothesis": hypothesis.__version__, "parsers": {}}
    for name, parser in METER_PARSERS.items():
        results["parsers"][name] = fuzz(parser, asked.inputs, asked.seed)
        print(name, results["parsers"][name], flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
