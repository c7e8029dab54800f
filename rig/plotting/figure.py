"""A figure with all that must travel with it (question, answer, alt text, numbers), and its SVG and PNG forms."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.figure import FigureBase

from rig.plotting.style import MM, WIDE_MM, drawing

Cell = str | int | float | bool | None
PICTURE_FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}


@dataclass(frozen=True)
class ReportFigure:
    """One figure: its title asks a question, its caption answers it; ``rows`` are the numbers drawn (CSV).

    ``draw(figure)`` adds axes to an empty figure or subfigure; ``alt`` describes the picture in words.
    """

    key: str
    title: str
    caption: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    draw: Callable[[FigureBase], Any]
    height_mm: float
    width_mm: float = WIDE_MM


@dataclass(frozen=True)
class ReportTable:
    """A table of text cells; ``numeric`` says which columns are aligned right."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    caption: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Running text; ``style``: plain, verdict, banner, heading, note, item or code."""

    text: str
    style: str = "plain"


@dataclass(frozen=True)
class Section:
    """A numbered part of the report."""

    number: int
    title: str
    blocks: tuple[ReportFigure | ReportTable | Paragraph, ...]


def render(figure: ReportFigure) -> MplFigure:
    """Draw at print size."""
    canvas = MplFigure(figsize=(figure.width_mm * MM, figure.height_mm * MM), layout="constrained")
    FigureCanvasAgg(canvas)
    figure.draw(canvas)
    return canvas


def svg_text(figure: ReportFigure) -> str:
    """An ``<svg>`` element for a page: ids made unique by the figure's key, alt text as its accessible name."""
    buffer = io.StringIO()
    with drawing():
        render(figure).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'id="([^"]+)"', rf'id="{figure.key}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{figure.key}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{figure.key}-\1)", text)
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    width = f'style="width:{100 * min(1.0, figure.width_mm / WIDE_MM):.0f}%"'
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(figure.alt, quote=True)}" {width} ', 1)


def write_png(figure: ReportFigure, path: Path) -> Path:
    """Write one PNG of 200 dots an inch with the title above the figure; returns the path."""
    return _write_picture(figure, path, "png", {"Software": None, "Description": figure.alt})


def write_picture(figure: ReportFigure, path: Path) -> Path:
    """Write the figure with its title in the format that the path ends in (a key of PICTURE_FORMATS); returns it."""
    fmt = PICTURE_FORMATS[path.suffix.lower()]
    if fmt == "png":
        return write_png(figure, path)
    undated = {"Date": None, "Creator": None, "Title": figure.title, "Description": figure.alt}
    if fmt == "pdf":
        undated = {
            "CreationDate": None,
            "Creator": None,
            "Producer": None,
            "Title": figure.title,
            "Subject": figure.alt,
        }
    return _write_picture(figure, path, fmt, undated)


def _write_picture(figure: ReportFigure, path: Path, fmt: str, metadata: dict[str, str | None]) -> Path:
    with drawing():
        canvas = MplFigure(figsize=(figure.width_mm * MM, (figure.height_mm + 8) * MM), layout="constrained")
        FigureCanvasAgg(canvas)
        canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=9, fontweight="bold")
        figure.draw(canvas)
        canvas.savefig(path, format=fmt, dpi=200, metadata=metadata)
    return path


def write_csv(figure: ReportFigure | ReportTable, path: Path) -> Path:
    """Write the numbers of a figure (missing values are empty cells); returns the path."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(figure.columns)
        writer.writerows([_cell(value) for value in row] for row in figure.rows)
    return path


def _cell(value: Cell) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return "" if value is None else value


def plural(count: int, noun: str) -> str:
    """``1 window``, ``3 windows``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
