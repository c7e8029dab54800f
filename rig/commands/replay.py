"""``rig replay``: stored run → its records analysed again → differences; or the run as a device of its own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.commands.options import ReplayOptions
from rig.output import warning
from rig.store.store import Run, Store

if TYPE_CHECKING:
    from rig.console import Console
    from rig.profiles import DeviceProfile

SHOWN = 20


def run(options: ReplayOptions) -> dict[str, Any]:
    """Replay; raises BadInputError (no such run), StoreError (a damaged one)."""
    from rig.replay import analysis as replay

    stored = _open(options.run)
    common = {"run_id": stored.id, "device": {"name": stored.manifest["device"]}, "kind": _kind(stored)}
    if options.serve:
        return {**common, **_serve(stored)}
    compared = replay.compare(stored)
    differences = [found._asdict() for found in compared.differences]
    return {
        **common,
        "verdict": "different" if differences else "same",
        "counts": compared.counts,
        "differences": differences,
        "warnings": [*stored.problems, *(warning("not-compared", text) for text in compared.left_out)],
        "next": f"rig replay {options.run} --serve",
    }


def _open(name: str) -> Run:
    """A run of the store, or the folder of one from elsewhere."""
    folder = Path(name).expanduser()
    if (folder / "manifest.json").is_file():
        return Run(folder.resolve(), lambda *_: None)
    return Store().open_run(name)


def _kind(stored: Run) -> str | None:
    return stored.info.kind if stored.info else None


def _serve(stored: Run) -> dict[str, Any]:
    from rig.profiles import config_folder
    from rig.replay import analysis as replay

    path = replay.write_profile(stored, config_folder() / "devices")
    return {"profile": path.stem, "artifacts": {"profile": str(path)}, "next": _same_command(stored, path.stem)}


def _same_command(stored: Run, device: str) -> str:
    """The run's own command line, on the served device and with the run's own copies of what was named."""
    from rig.workloads.calibration_networks import NAMED_FOLDER

    words = list(stored.manifest["argv"]) or ["rig", stored.manifest["command"], "--device", ""]
    named = 0
    for i, word in enumerate(words[:-1]):
        if word == "--device":
            words[i + 1] = device
        elif word == "--around":
            copy = stored.path / NAMED_FOLDER / str(named) / Path(words[i + 1]).name
            words[i + 1] = str(copy) if copy.exists() else words[i + 1]
            named += 1
    return shlex.join(words)


def note(profile: DeviceProfile) -> list[dict[str, Any]]:
    """The warning that marks results which a stored run answered; none for a device."""
    if profile.transport.kind != "replay":
        return []
    message = f"{profile.name}: replayed from {Path(profile.transport.run or '').name}; nothing was measured now"
    return [warning("replayed", message, f"rm {profile.own_file} forgets it")]


def show(result: Mapping[str, Any], console: Console) -> None:
    """Same or different, and where; or the profile."""
    if "profile" in result:
        console.line(f"Serving   {result['run_id']} of {result['device']['name']} as device {result['profile']}")
        console.line(f"Profile   {result['artifacts']['profile']}")
        return
    compared = ", ".join(f"{number} {what}" for what, number in result["counts"].items())
    console.line(f"Replayed  {result['run_id']} of {result['device']['name']}: {compared}")
    differences = result["differences"]
    console.line(f"Verdict   {result['verdict']}" + (f", {len(differences)} differences" if differences else ""))
    for found in differences[:SHOWN]:
        console.line(f"  {found['where']}: was {found['stored']}, is now {found['now']}")
    if len(differences) > SHOWN:
        console.line(f"  and {len(differences) - SHOWN} more (--json lists them)")
