"""A small soak: the real one is experiments/soak (2,000 measurements)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from experiments.soak.soak import Soak

pytestmark = pytest.mark.skipif(
    shutil.which("sshd") is None and not os.path.exists("/usr/sbin/sshd"), reason="openssh-server is not installed"
)


@pytest.mark.slow
def test_a_small_soak_loses_and_doubles_nothing(tmp_path: Path) -> None:
    results = Soak(tmp_path / "soak", measurements=24, seed=4, real_share=0.1).run()
    print(f"\nsoak: {results['faults_in_all']} faults in {results['stored']} measurements: {results['faults']}")
    assert results["faults_in_all"] >= 2
    assert (results["stored"], results["lost"], results["doubled"]) == (24, 0, 0)
    assert results["of_them_real_time"] == 2
    assert not any(results["left_behind"].values()), results["left_behind"]
