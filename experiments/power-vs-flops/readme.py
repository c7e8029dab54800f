"""README.md out of README.template.md and results.json: no figure is typed by hand.

``{{pct path/to/estimate}}`` and the like put in one figure, ``{{table name}}`` a table of ``TABLES``. The first part
of a path may be one of ``SHORT``. A figure that the results do not have raises MissingFigure.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from loop_table import loop_answer, loop_table
from readme_tables import TABLES
from shown import FORMATS, MissingFigure

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE / "README.template.md"
SHORT = {
    "pi4f": "networks/Raspberry Pi 4, float32",
    "pi4i": "networks/Raspberry Pi 4, int8",
    "odf": "networks/Odroid N2+, float32",
    "odi": "networks/Odroid N2+, int8",
    "nano": "networks/Jetson Nano, float32",
    "gpu": "kernels/TX2 GPU",
    "cpu": "kernels/TX2 CPU",
    "pi4": "precision/Raspberry Pi 4",
    "od": "precision/Odroid N2+",
    "pi4v1": "recovered/Raspberry Pi 4, float32, mobilenet-v1-1.0-224-non-quantized",
}
OF_THE_LOOP = {"loop": loop_table, "loop answer": loop_answer}  # made of the loop's own results
PLACEHOLDER = re.compile(r"\{\{(\w+) ([^}]+)\}\}")


def write_readme(results_path: Path, target: Path) -> None:
    """Fill the template from a results file; raises MissingFigure where a table was not given."""
    results = json.loads(results_path.read_text(encoding="utf-8"))
    target.write_text(render(results, TEMPLATE.read_text(encoding="utf-8"), results_path.parent), encoding="utf-8")


def write_tables(results_path: Path, target: Path) -> None:
    """The tables alone, those that the results allow: for other boards than the README's text is about."""
    results = json.loads(results_path.read_text(encoding="utf-8"))
    parts: list[str] = []
    for name, made in TABLES.items():
        try:
            parts.append(f"## {name}\n\n{made(results)}")
        except MissingFigure as missing:
            parts.append(f"## {name}\n\nNone: {missing}.")
    target.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def render(results: dict[str, Any], template: str, folder: Path) -> str:
    """The template with every placeholder filled; ``folder`` has recovered.json and the loop's results, if any."""
    recovered = folder / "recovered.json"
    if recovered.exists():
        results = {**results, "recovered": json.loads(recovered.read_text(encoding="utf-8"))}

    def fill(found: re.Match[str]) -> str:
        what, where = found.group(1), found.group(2).strip()
        if what == "table":
            return OF_THE_LOOP[where](folder) if where in OF_THE_LOOP else TABLES[where](results)
        return FORMATS[what](at(results, where))

    return PLACEHOLDER.sub(fill, template)


def at(results: dict[str, Any], path: str) -> Any:
    """The value at a path of keys and list places, such as ``pi4f/rank/macs energy/spearman``."""
    parts = path.split("/")
    if parts[0] in SHORT:
        parts = [*SHORT[parts[0]].split("/"), *parts[1:]]
    value: Any = results
    for part in parts:
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise MissingFigure(f"results.json has no {path} (at {part!r}); give the study that table") from None
    return value
