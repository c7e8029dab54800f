"""A stored run in the place of a device: the wire is the real one, ``replay_device`` answers at its other end."""

from __future__ import annotations

import sys
from pathlib import Path

from rig.connection.transport import LocalChannel, LocalTransport
from rig.errors import DeviceSetupError


class ReplayTransport:
    """``run``: the folder of the run that answers."""

    def __init__(self, run: str | None) -> None:
        self._run = Path(run or "").expanduser()
        self.where = f"run {self._run.name}, served again"
        if run is None or not (self._run / "manifest.json").is_file():
            raise DeviceSetupError(
                f"{run}: no run is stored there", fix="rig replay RUN --serve writes the profile anew"
            )

    def run(self, argv: list[str]) -> LocalChannel:
        """Start what answers for the agent; of the command only which agent was wanted counts."""
        agent = next((word for word in argv if word.endswith(".pyz")), "agent-unknown.pyz")
        digest = Path(agent).stem.rpartition("-")[2]
        return LocalTransport().run([sys.executable, "-m", "rig.replay.device", str(self._run), digest])

    def put(self, local_path: Path, remote_name: str) -> str:
        """Nothing is copied: the name holds the digest, by which the stored measurement is found."""
        return remote_name

    def exists(self, remote_name: str) -> str | None:
        """Every file is there."""
        return remote_name

    def remove(self, remote_name: str) -> None:
        """Nothing was copied."""

    def close(self) -> None:
        """Nothing is held."""
