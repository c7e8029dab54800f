"""Two processes on this computer, with gloo, train as one does: the same steps on the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks_case
import torch
from training_cases import build

from rig.compression import distributed
from rig.compression.training import synced_norms

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    # torchrun looks at its processes every few seconds: what a lost one does to the other is seen before it is ended.
    wait = ("--monitor-interval", "5")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *wait, *words]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=here, timeout=300, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process gives and what two give."""
    out = tmp_path_factory.mktemp("ranks") / "two.pt"
    done = torchrun(str(HERE / "ranks_case.py"), str(out))
    assert done.returncode == 0, done.stderr
    return ranks_case.trained(ranks_case.case()), torch.load(out, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "everything", "altered", "back"])
def test_two_ranks_give_what_one_gives(both, name):
    one, two = (found[name] for found in both)
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for key in ("removals", "rollbacks", "norms"):
        assert two[key] == one[key]
    assert one["norms"] == ["BatchNorm2d"]
    for key, value in one["values"].items():
        torch.testing.assert_close(two["values"][key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
def test_surgery_and_going_back_happened(both):
    one, _ = both
    assert one["everything"]["values"]["layer1.0.conv1.weight"].shape == (5, 8, 3, 3)
    assert one["back"]["rollbacks"] == [5]
    assert "conv1.gate" in one["altered"]["values"]
    assert not any(key.startswith("layer1.0.conv1") for key in one["altered"]["values"])
    assert one["plain"]["rollbacks"] == []


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_with_an_error(tmp_path):
    done = torchrun(str(HERE / "ranks_case.py"), str(tmp_path / "none.pt"), "die")
    assert done.returncode != 0
    assert "RankLostError: training resnet on small: another of its 2 processes ended" in done.stderr
    assert not (tmp_path / "none.pt").exists()


def test_one_process_is_its_own_main_and_nothing_is_sent():
    network, values = build(), torch.arange(3.0)
    assert (distributed.ranks(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.share({"a": 1}) == {"a": 1}
    assert distributed.part(values) is values
    assert distributed.total(values) is values
    assert distributed.joined(network) is network
    assert synced_norms.synchronize(network) == []
    assert type(network.bn1) is torch.nn.BatchNorm2d
    with distributed.leading():
        assert distributed.ranks() == 1
