"""How long whole commands take, in real time: ``rig --help``, and ``rig predict`` of a ResNet-50 sized graph.

    python benchmarks/cli_startup.py [--device virtual-pi4]

Best and median of several processes, and their mean processor time (which other work on the machine does not change).
``predict`` needs a calibrated device.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import onnx

RUNS = 9
LIMITS_S = {"help": 0.4, "predict": 1.0}
RESNET50 = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"


def seconds(words: list[str]) -> tuple[list[float], float]:
    """Wall-clock seconds of whole processes, and the mean of their processor seconds."""
    found = []
    before = os.times()
    for _ in range(RUNS):
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rig.cli", *words], check=True, capture_output=True)
        found.append(time.perf_counter() - start_s)
    after = os.times()
    busy_s = after.children_user + after.children_system - before.children_user - before.children_system
    return found, busy_s / RUNS


def main() -> None:
    """Measure and print a line a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="virtual-pi4")
    device = parser.parse_args().device
    commands = {"help": ["--help"], "predict": ["predict", str(RESNET50), "--device", device]}
    for name, words in commands.items():
        found, busy_s = seconds(words)
        best, median = min(found), statistics.median(found)
        print(f"{name:<8} best {best:.2f} s, median {median:.2f} s of {RUNS} runs, processor {busy_s:.2f} s", end="; ")
        print(f"limit {LIMITS_S[name]:.1f} s")


if __name__ == "__main__":
    main()
