"""A composition on disk: ``model.json`` and ``arrays.npz`` as other cost models have, a base in the folder ``base``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_agents.records import Configuration
from power_models.composition_cost import LogCost
from power_models.composition_opinion import SecondOpinion
from power_models.model_files import FORMAT_VERSION, read_arrays, write_arrays, write_json

if TYPE_CHECKING:
    from power_models.composition import CompositionModel

FORM = "composition"
READABLE = (3, 4)  # before version 4 there was no second opinion


def write(model: CompositionModel, folder: object) -> None:
    """Write both files, and the base's, each replaced whole; ``model.json`` last."""
    target = Path(str(folder))
    target.mkdir(parents=True, exist_ok=True)
    if model.base is not None:
        model.base.save(target / "base")
    costs = {"seconds": model.seconds} | ({} if model.watts is None else {"watts": model.watts})
    arrays = {f"{name}:{key}": value for name, cost in costs.items() for key, value in cost.to_arrays().items()}
    write_arrays(target / "arrays.npz", arrays)
    about = {
        "format_version": FORMAT_VERSION,
        "form": FORM,
        "configuration": model.configuration.to_json(),
        "kind": model.kind,
        "costs": {name: cost.to_json() for name, cost in costs.items()},
        "known_kinds": [list(pair) for pair in model.known_kinds],
        "idle_power_w": model.idle_power_w,
        "overhead": model.overhead,
        "report": model.report,
        "unusable": model.unusable,
        "layout_block": model.layout_block,
        "reach": model.reach,
        "widths": model.widths,
        "together": model.together,
        "base": model.base is not None,
        "opinion": None if model.opinion is None else model.opinion.to_json(),
    }
    write_json(target / "model.json", about)


def read(folder: object) -> CompositionModel:
    """Read what ``write`` wrote, now or before there were second opinions.

    Raises ValueError naming the folder of a missing, damaged or other file.
    """
    source = Path(str(folder))
    try:
        about = json.loads((source / "model.json").read_text(encoding="utf-8"))
        if about.get("format_version") not in READABLE or about.get("form") != FORM:
            raise ValueError(f"no {FORM} of format version {' or '.join(map(str, READABLE))}")
        return restored(about, read_arrays(source / "arrays.npz"), read(source / "base") if about["base"] else None)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"cost model in {source} cannot be read: {error}; fit the device again") from error


def restored(about: Mapping[str, Any], arrays: Mapping[str, Any], base: CompositionModel | None) -> CompositionModel:
    """The model of what a folder holds; KeyError, TypeError, ValueError where it is damaged."""
    from power_models.composition import CompositionModel

    costs = {}
    for name, own in about["costs"].items():
        mine = {key.partition(":")[2]: value for key, value in arrays.items() if key.partition(":")[0] == name}
        costs[name] = LogCost.restore(own, mine)
    idle = about["idle_power_w"]
    return CompositionModel(
        Configuration(**about["configuration"]),
        about["kind"],
        {},
        {},
        tuple((kind, dtype) for kind, dtype in about["known_kinds"]),
        None if idle is None else (idle[0], idle[1], idle[2]),
        (about["overhead"][0], about["overhead"][1]),
        about["report"],
        about["unusable"],
        layout_block=about["layout_block"],
        seconds=costs["seconds"],
        watts=costs.get("watts"),
        reach={family: (low, high) for family, (low, high) in about["reach"].items()},
        widths=about["widths"],
        together=about["together"],
        base=base,
        opinion=None if about.get("opinion") is None else SecondOpinion.restore(about["opinion"]),
    )
