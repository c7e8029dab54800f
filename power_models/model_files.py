"""A cost model on disk: ``model.json`` (what it is) and ``arrays.npz`` (its numbers, no pickle); numpy reads it all."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_agents.records import Configuration
from power_models.drift import Drift
from power_models.family_cost import FamilyModel
from power_models.intervals import ErrorScale

if TYPE_CHECKING:
    from power_models.kernel_cost import KernelCostModel

# 1: first version; 2: network_widths, layout_block; 3: drift (since then drifts), stacks of learners, doubts;
# 4: second opinions of compositions, which a program that does not know them must not leave out
FORMAT_VERSION = 4
READABLE = (2, 3, 4)  # the older versions lack nothing that their own models have


def write(model: KernelCostModel, folder: object) -> None:
    """Write both files into a folder (made if missing); each is replaced whole."""
    target = Path(str(folder))
    target.mkdir(parents=True, exist_ok=True)
    flat: dict[str, Any] = {}
    for name, family in model.models.items():
        flat |= {f"{name}:{key}": value for key, value in family.to_arrays().items()}
    about = {
        "format_version": FORMAT_VERSION,
        "configuration": model.configuration.to_json(),
        "kind": model.kind,
        "models": {name: family.to_json() for name, family in model.models.items()},
        "families": {name: _priced_json(priced) for name, priced in model.families.items()},
        "known_kinds": [list(pair) for pair in model.known_kinds],
        "idle_power_w": model.idle_power_w,
        "overhead": model.overhead,
        "report": model.report,
        "unusable": model.unusable,
        "network_widths": model.network_widths,
        "layout_block": model.layout_block,
        "drifts": {campaign: vars(drift) for campaign, drift in model.drifts.items()},
        "switches": model.switches,
    }
    write_arrays(target / "arrays.npz", flat)
    write_json(target / "model.json", about)


def write_json(path: Path, about: Mapping[str, Any]) -> None:
    """Write what a model is to one file, which is replaced whole."""
    _replace(path, json.dumps(about, indent=1, allow_nan=False).encode())


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays to one file, which is replaced whole."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    _replace(path, buffer.getvalue())


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _priced_json(priced: Any) -> dict[str, Any]:
    return {
        "model": priced.model,
        "latency_shift": priced.latency_shift,
        "energy_shift": priced.energy_shift,
        "scales": {quantity: vars(scale) for quantity, scale in priced.scales.items()},
        "kind_factor": dict(priced.kind_factor),
    }


def read(cls: type[KernelCostModel], folder: object) -> KernelCostModel:
    """Read both files; raises ValueError naming the file that is missing, damaged or of another version."""
    from power_models.kernel_cost import PricedFamily

    source = Path(str(folder))
    try:
        about = json.loads((source / "model.json").read_text(encoding="utf-8"))
        version = about.get("format_version")
        if version not in READABLE:
            raise ValueError(f"format version {version!r}, this program reads {' and '.join(map(str, READABLE))}")
        if "form" in about:
            from power_models import composition_files  # it needs this module

            return composition_files.read(source)
        flat = read_arrays(source / "arrays.npz")
        by_model: dict[str, dict[str, Any]] = {name: {} for name in about["models"]}
        for key, value in flat.items():
            name, _, rest = key.partition(":")
            by_model[name][rest] = value
        models = {name: FamilyModel.restore(name, own, by_model[name]) for name, own in about["models"].items()}
        families = {
            name: PricedFamily(**{**own, "scales": {q: ErrorScale(**scale) for q, scale in own["scales"].items()}})
            for name, own in about["families"].items()
        }
        idle = about["idle_power_w"]
        model = cls(
            Configuration(**about["configuration"]),
            about["kind"],
            models,
            families,
            tuple((kind, dtype) for kind, dtype in about["known_kinds"]),
            None if idle is None else (idle[0], idle[1], idle[2]),
            (about["overhead"][0], about["overhead"][1]),
            about["report"],
            about["unusable"],
            {name: (down, up) for name, (down, up) in about["network_widths"].items()},
            about["layout_block"],
            _drifts(about),
            dict(about.get("switches", {})),
        )
        if "parts" not in model.report:
            return model
        from power_models.transfer import restore  # it needs this module

        return restore(model, source)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"cost model in {source} cannot be read: {error}; calibrate the device again") from error


def _drifts(about: Mapping[str, Any]) -> dict[str, Drift]:
    """By campaign; a model of when all rows were one campaign holds one, or none."""
    found = about.get("drifts")
    if found is None:
        found = {"": about["drift"]} if about.get("drift") else {}
    return {str(campaign): Drift(**drift) for campaign, drift in found.items()}


def read_arrays(path: Path) -> dict[str, Any]:
    """The named arrays of a file."""
    # One read of the whole file: hundreds of small members make seeking in a zip the slow part.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
