"""Fit the cost models that come with the rig (rig/devices/models) to the published tables (rig/devices/data).

python scripts/ship_cost_models.py            # writes rig/devices/models/NAME/model.json and arrays.npz
python scripts/ship_cost_models.py --check    # says how far the models there are from what this would write
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from device_agents.records import Configuration
from power_models.composition_fit import fit_from_networks
from power_models.kernel_cost import KernelCostModel
from power_models.measured_tables import TableNetwork, read_table
from power_models.model_files import read_arrays
from power_models.network_cost import price_network

DEVICES = Path(__file__).parent.parent / "rig" / "devices"
TABLES = {"pi4": "rpi4_tflite.jsonl.gz", "odroid-n2plus": "odroid_n2plus_tflite.jsonl.gz"}
SHIPPED = {
    "fitted_to": "fitted to MLPerf Inference v2.0 results of such a board (94 CNNs, wall meter)",
    "runtime_words": "TFLite 2.7.1 with ruy",
    "source": "MLCommons Inference results v2.0, open division, submitter Krai; Apache License 2.0",
    "made_by": "scripts/ship_cost_models.py",
}
SINGLE_ABOVE = 10_000  # elements: larger arrays are kept in single precision
AGREE = 1e-4  # relative: what single precision may change of a price
TOLERANCE = 1e-3  # relative: what another version of the numerical libraries may change


def fitted(name: str) -> tuple[KernelCostModel, list[TableNetwork]]:
    """The model of a board, and the networks that it was fitted to."""
    networks = list(read_table(DEVICES / "data" / TABLES[name]).networks)
    configuration = Configuration(name, "published", "tflite", "2.7.1+ruy", 4, False, "", "wall")
    model = fit_from_networks(networks, [], configuration, "imported")
    model.report["shipped"] = SHIPPED
    return model, networks


def write(model: KernelCostModel, networks: list[TableNetwork], folder: Path) -> None:
    """Save the model, compressed; raises ValueError where that would change a price."""
    model.save(folder)
    arrays = read_arrays(folder / "arrays.npz")
    small = {
        n: a.astype(np.float32) if a.dtype == np.float64 and a.size > SINGLE_ABOVE else a for n, a in arrays.items()
    }
    np.savez_compressed(folder / "arrays.npz", **small)
    off = difference(KernelCostModel.load(folder), model, networks)
    if off > AGREE:
        raise ValueError(f"{folder}: single precision changes a price or its interval by {off:.2g}")


def difference(a: KernelCostModel, b: KernelCostModel, networks: list[TableNetwork]) -> float:
    """The largest relative difference of prices and bounds of the networks."""
    pairs = [(price_network(a, n.kernels), price_network(b, n.kernels)) for n in networks]
    values = np.array([[(one.latency_s, one.energy_j) for one in pair] for pair in pairs])
    return float(np.abs(values[:, 0] / values[:, 1] - 1).max())


def main() -> int:
    """Write or check; 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    worst = 0.0
    for name in TABLES:
        model, networks = fitted(name)
        folder = DEVICES / "models" / name
        if not options.check:
            write(model, networks, folder)
        off = difference(KernelCostModel.load(folder), model, networks)
        size = sum(path.stat().st_size for path in folder.iterdir())
        errors = [abs(price_network(model, n.kernels).latency_s[0] / n.latency_s - 1) for n in networks]
        print(f"{name}: {len(networks)} networks, {size / 1e6:.1f} MB, off by {off:.1e} from a fresh fit;"
              f" fitted networks are off by {100 * float(np.mean(errors)):.1f} % (not held out)")  # fmt: skip
        worst = max(worst, off)
    return int(options.check and worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
