"""Records the golden runs anew: small calibrations whose analysis must not change unnoticed (``tests/test_replay.py``).

    python -m tests.golden.record_runs [virtual] [local] [board]     measures them anew
    python -m tests.golden.record_runs --conclude                   keeps the records: what follows is made anew

``virtual``: the simulated Pi 4. ``local``: this computer's CPU with ONNX Runtime, time only. ``board``: the arm64
userland of tests/boards, power by an INA226's hwmon tree. Names of this computer are taken out of what is kept.
"""

from __future__ import annotations

import gzip
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from device_agents.board import serial
from rig import calibration
from rig.collect.rows import read_campaign
from rig.quality.verdict import assess
from rig.replay import analysis as replay
from rig.store import evidence
from rig.store.run import Run
from rig.units import Quantity
from tests.agent_setup import QUICK_PLAN

RUNS = Path(__file__).parent / "runs"
KERNELS = {"virtual": 18, "local": 8, "board": 4}

VIRTUAL = f"""{QUICK_PLAN}[grid]
contexts = 0
longest_s = 0.02
"""
LOCAL = """
[plan]
warmup_s = 0.1
warmup_max_s = 0.5
window_s = 0.03
min_windows = 6
max_s = 1.0
quiet_s = 0.8
rel_ci = 0.5
[grid]
contexts = 0
longest_s = 1e-3
chain_plan = {}
"""


def record(name: str, folder: Path) -> Path:
    """Calibrate and pack the run; returns the archive."""
    config = folder / "config" / "devices"
    config.mkdir(parents=True)
    environment = {**os.environ, "RIG_HOME": str(folder / "home"), "RIG_CONFIG": str(folder / "config")}
    device = {"virtual": "virtual-pi4", "local": "local", "board": "pi4"}[name]
    words = ["calibrate", "--device", device, "--kernels", str(KERNELS[name])]
    if name == "board":
        from tests.boards.arm64 import Arm64Board
        from tests.boards.userland import userland

        with Arm64Board(userland(), folder / "pi") as board:
            (config / f"{device}.toml").write_text(board.profile())
            _calibrate(words, environment)
    else:
        (config / f"{device}.toml").write_text(VIRTUAL if name == "virtual" else LOCAL)
        _calibrate(words, environment)
    return _pack(folder, name)


def conclude(archive: Path, folder: Path) -> Path:
    """Make verdicts, rows and predictions anew from the records of a golden run; returns the archive."""
    runs = folder / "home" / "runs"
    runs.mkdir(parents=True)
    with tarfile.open(archive) as packed:
        packed.extractall(runs, filter="data")
    run = Run(next(runs.iterdir()), lambda *_: None)
    (run.path / evidence.ASSESSMENTS_FILE).unlink()
    for record in run.measurements():
        evidence.keep_assessment(run, assess(record))
    collected = read_campaign(run)
    result = run.read_json("result.json")
    idle = collected.idle_power_w
    result["kernels"]["before"] = calibration.measured_kernels(collected.rows, collected.kind)
    result["idle_power_w"] = Quantity(*idle, kind=collected.kind).to_json() if idle else None
    result["overhead"] = {"latency_s": collected.overhead[0], "energy_active_j": collected.overhead[1]}
    result["validation"] = replay.predictions_again(run, collected)
    run.write_json("result.json", result)
    return _pack(folder, archive.name.removesuffix(".tar.gz"))


def _calibrate(words: list[str], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "rig.cli", *words], env=environment, check=True)


def _pack(folder: Path, name: str) -> Path:
    """The run's folder as one archive, the same bytes for the same files."""
    run = next((folder / "home" / "runs").glob("c-*"))
    replaced = {str(folder): "/golden", f'"{platform.node()}"': '"golden"', serial(): "machine-golden"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for path in run.rglob("*") if path.is_file() and not path.name.endswith(".lock")):
            data = path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                text = data.decode("utf-8")
                for private, public in replaced.items():
                    text = text.replace(private, public)
                data = text.encode("utf-8")
            entry = tarfile.TarInfo(f"{run.name}/{path.relative_to(run).as_posix()}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    RUNS.mkdir(exist_ok=True)
    target = RUNS / f"{name}.tar.gz"
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return target


def main(names: list[str]) -> int:
    """Record the named ones, or all; with --conclude only what follows from the records."""
    if names == ["--conclude"]:
        for archive in sorted(RUNS.glob("*.tar.gz")):
            with tempfile.TemporaryDirectory(prefix="rig-golden-") as folder:
                print(conclude(archive, Path(folder)).name)
        return 0
    for name in names or list(KERNELS):
        with tempfile.TemporaryDirectory(prefix="rig-golden-") as folder:
            path = record(name, Path(folder))
        print(f"{path.relative_to(Path.cwd())}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
