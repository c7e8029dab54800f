"""What `rig doctor` changes for a meter whose data sheet is wrong: one simulated board, one network, three ways.

    python experiments/doctor/misdeclared.py

truth: a meter without errors; as declared: a meter that averages over 0.2 s and stamps 0.15 s late, and declares 10 ms
and no lag; after the doctor: the same meter, characterized. Simulated.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from rig.commands import doctor, measure
from rig.commands.options import DoctorOptions, MeasureOptions
from rig.workloads.onnx_builder import NetworkBuilder

TRUE = "{ gain_uncertainty = 0.0, step_w = 0.0, noise_w = 0.0, rate_hz = 1000.0, window_s = 0.001 }"
WRONG = "{ gain_uncertainty = 0.0, window_s = 0.2, lag_s = 0.15, declared_window_s = 0.01, rate_hz = 50.0 }"


def measured(meter: str, network: Path, folder: Path, characterize: bool) -> str:
    """Power, quiet power and active energy with half-widths, and the warnings."""
    devices = folder / "config" / "devices"
    devices.mkdir(parents=True)
    os.environ.update(RIG_HOME=str(folder / "home"), RIG_CONFIG=str(folder / "config"))
    text = f'[runtime]\noptions = {{ board = "pi4", seed = 3, meter = {meter} }}\n'
    (devices / "virtual-pi4.toml").write_text(text)
    if characterize:
        doctor.run(DoctorOptions("virtual-pi4"))
    found = measure.run(MeasureOptions(network, "virtual-pi4"))
    shown = []
    for name, unit in (("power_w", "W"), ("idle_power_w", "W"), ("energy_active_j", "J")):
        quantity = found["network"][name]
        shown.append(f"{name} {quantity['value']:.5f} ± {0.5 * (quantity['hi'] - quantity['lo']):.5f} {unit}")
    return ", ".join([*shown, f"{len(found['warnings'])} warnings"])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = NetworkBuilder(seed=0)
        x = network.input(1, 8, 64, 64)
        onnx.save(network.model(network.conv(x, (8, 8), (3, 3))), folder / "net.onnx")
        for way, meter, characterize in (
            ("truth", TRUE, False),
            ("as declared", WRONG, False),
            ("after the doctor", WRONG, True),
        ):
            print(f"{way}: {measured(meter, folder / 'net.onnx', folder / way, characterize)}")


if __name__ == "__main__":
    main()
