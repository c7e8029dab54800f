"""Fit the virtual board's constants to the measured networks and write pi4.json.

Latency and active energy of all networks, both dtypes, in one bounded least-squares problem on log errors; each
constant is also pulled towards its start (a plausible value), so that what the data cannot tell stays physical.

    python experiments/virtual-board/fit.py            # fits and writes device_agents/virtual_board/pi4.json
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measured import MeasuredNetwork, read_networks
from scipy.optimize import least_squares
from start import PRIORS, SHARED, Prior, start_constants

from device_agents.virtual_board.physics import price
from device_agents.virtual_board.work import BlockSizes, Work, work_of

TARGET = Path(__file__).resolve().parents[2] / "device_agents" / "virtual_board" / "pi4.json"
COMMAND = "python experiments/virtual-board/fit.py"
DTYPES = ("float32", "int8")

# A pull of one prior width weighs as much as this log error on one network.
PRIOR_WEIGHT = 0.02

# Log errors beyond this weigh more than in proportion: the study bounds the worst network too.
STRESSED_FROM = 0.1


@dataclass(frozen=True)
class Columns:
    """All kernels of one dtype's networks as columns of counts; ``starts``: first kernel of each network."""

    work: Work
    starts: np.ndarray
    latency_s: np.ndarray
    active_j: np.ndarray


def columns_of(networks: list[MeasuredNetwork], blocks: BlockSizes) -> Columns:
    """Count every kernel once."""
    rows, starts = [], []
    for network in networks:
        starts.append(len(rows))
        rows.extend(work_of(kernel, blocks) for kernel in network.kernels)
    work = Work(*np.array(rows, dtype=float).T)
    return Columns(
        work,
        np.array(starts, dtype=int),
        np.array([n.latency_s for n in networks]),
        np.array([n.active_j for n in networks]),
    )


def predict(columns: Columns, prices: dict, invoke_s: float, invoke_w: float) -> tuple[np.ndarray, np.ndarray]:
    """Latency in s and active energy in J of each network."""
    cost = price(columns.work, prices)
    latency_s = np.add.reduceat(cost.latency_s, columns.starts) + invoke_s
    active_j = np.add.reduceat(cost.active_j, columns.starts) + invoke_s * invoke_w
    return latency_s, active_j


class Problem:
    """The least-squares problem over the logarithms of all free constants."""

    def __init__(self, networks: list[MeasuredNetwork], constants: dict) -> None:
        self.constants = constants
        self.columns = {
            dtype: columns_of([n for n in networks if n.dtype == dtype], BlockSizes(**constants["blocks"][dtype]))
            for dtype in DTYPES
        }
        self.free: list[tuple[str, str, Prior]] = []
        for name, prior in PRIORS.items():
            for dtype in ("both",) if name in SHARED else DTYPES:
                self.free.append((name, dtype, prior))
        self.start = np.log([self._value(name, dtype) for name, dtype, _ in self.free])
        widths = np.array([np.log(prior.factor) for _, _, prior in self.free])
        self.pull = PRIOR_WEIGHT / widths
        self.reach = 3.0 * widths

    def _value(self, name: str, dtype: str) -> float:
        if name in ("invoke_s", "invoke_w"):
            return float(self.constants[name])
        return float(self.constants["dtypes"]["float32" if dtype == "both" else dtype][name])

    def constants_at(self, logs: np.ndarray) -> dict:
        """The board's constants for a point of the search."""
        constants = copy.deepcopy(self.constants)
        for (name, dtype, _), value in zip(self.free, np.exp(logs), strict=True):
            if name in ("invoke_s", "invoke_w"):
                constants[name] = float(value)
                continue
            for one in DTYPES if dtype == "both" else (dtype,):
                constants["dtypes"][one][name] = float(value)
        return constants

    def residuals(self, logs: np.ndarray) -> np.ndarray:
        """Log errors of latency and active energy, then the pulls towards the start."""
        constants = self.constants_at(logs)
        errors = []
        for dtype in DTYPES:
            columns = self.columns[dtype]
            latency_s, active_j = predict(
                columns, constants["dtypes"][dtype], constants["invoke_s"], constants["invoke_w"]
            )
            errors += [np.log(latency_s / columns.latency_s), np.log(active_j / columns.active_j)]
        log_errors = np.concatenate(errors)
        stressed = log_errors * np.sqrt(1.0 + (log_errors / STRESSED_FROM) ** 2)
        return np.concatenate([stressed, (logs - self.start) * self.pull])

    def solve(self, starts: int, seed: int = 0) -> dict:
        """Constants of the best of several starts."""
        rng = np.random.default_rng(seed)
        best = None
        for number in range(starts):
            x0 = self.start + (rng.uniform(-0.3, 0.3, len(self.start)) * self.reach if number else 0.0)
            bounds = (self.start - self.reach, self.start + self.reach)
            found = least_squares(self.residuals, x0, bounds=bounds, max_nfev=200)
            print(f"start {number}: cost {found.cost:.5f} after {found.nfev} evaluations", file=sys.stderr)
            if best is None or found.cost < best.cost:
                best = found
        return self.constants_at(best.x)


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    networks = read_networks()
    quiet_w = float(np.median([n.quiet_w for n in networks]))
    constants = Problem(networks, start_constants(quiet_w)).solve(arguments.starts)
    header = {
        "kind": "simulated",
        "fitted_by": COMMAND,
        "fitted_to": "rig/devices/data/rpi4_tflite.jsonl.gz (94 networks, Raspberry Pi 4, MLCommons Inference v2.0)",
        "units": "the ending of each name: _s seconds, _j joules, _w watts, _hz hertz, _c degrees Celsius, _k kelvin",
    }
    arguments.out.write_text(json.dumps({"header": header, **constants}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
