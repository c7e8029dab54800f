"""Models left on a device by a session that was cut off."""

from __future__ import annotations

import os
from pathlib import Path

from device_agents.model_files import remove_abandoned


def test_old_models_go_and_the_one_in_hand_is_kept(tmp_path: Path) -> None:
    names = [f"model-{digit * 64}.onnx" for digit in "abc"]
    for name in [*names, "agent-1.pyz", "model-of-mine.onnx"]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0.0, 0.0))
    recent = tmp_path / f"model-{'d' * 64}.onnx"
    recent.touch()
    remove_abandoned({"subject": {"path": str(tmp_path / names[1])}})
    kept = ["agent-1.pyz", names[1], recent.name, "model-of-mine.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_a_file_of_the_user_s_own_removes_nothing(tmp_path: Path) -> None:
    for name in ("net.onnx", f"model-{'a' * 64}.onnx"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0.0, 0.0))
    remove_abandoned({"subject": {"path": str(tmp_path / "net.onnx")}})
    remove_abandoned({"subject": {"name": "kernels", "format": "kernels"}})
    assert len(list(tmp_path.iterdir())) == 2
