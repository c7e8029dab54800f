"""``rig optimize`` as torchrun starts it: two processes train, one measures and speaks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rig import cli
from rig.commands import follow

TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TASK = ("--device", "virtual-pi4", "--task", "digits", "--model", "resnet8", "--batch", "64")
SHORT = ("--epochs-baseline", "2", "--epochs-shrink", "2", "--epochs-finetune", "1", "--rounds", "1")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store of its own with a small calibration."""
    root = tmp_path_factory.mktemp("torchrun")
    here = {**os.environ, "RIG_HOME": str(root / "home"), "RIG_CONFIG": str(root / "config"), "OMP_NUM_THREADS": "1"}
    words = ("calibrate", "--device", "virtual-pi4", "--kernels", "60")
    done = subprocess.run(
        [sys.executable, "-m", "rig.cli", *words], env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return here


@pytest.mark.slow
def test_two_processes_give_one_result(environment):
    script = shutil.which("rig", path=str(Path(sys.executable).parent)) or shutil.which("rig")
    assert script is not None
    words = (
        "optimize",
        *TASK,
        *SHORT,
        "--target-power",
        "75%",
        "--fps",
        "60",
        "--ema",
        "0.9",
        "--label-smoothing",
        "0.1",
    )
    done = subprocess.run(
        [*TWO, script, *words, "--json"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] in ("met", "missed", "undecided"), done.stderr
    assert (done.returncode == 0) is (result["verdict"] == "met")
    stages = {stage["name"]: stage for stage in result["stages"] if "ranks" in stage}
    assert set(stages) == {"baseline", "shrink", "fine-tune"}
    assert all(stage["ranks"] == 2 and stage["norms_by_rank"] == [] for stage in stages.values())
    assert done.stderr.count("fine-tune: training") == 1


@pytest.mark.slow
def test_what_rank_0_refuses_ends_both(environment):
    done = subprocess.run(
        [*TWO, "-m", "rig.cli", "optimize", *TASK, "--target-latency", "1us"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("narrowest network") == 1


def test_other_commands_are_rank_0_s_alone(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert follow.asked()
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert not follow.asked()
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("RANK", "1")
    assert not follow.asked()
