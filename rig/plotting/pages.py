"""The report as A4 pages: the same blocks as the web page, set by matplotlib into one PDF."""

from __future__ import annotations

import datetime
import textwrap
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure as MplFigure
from matplotlib.gridspec import GridSpec

from rig.plotting.figure import Paragraph, ReportFigure, ReportTable, Section
from rig.plotting.style import INK, MM, SOFT_INK, VERMILLION, WIDE_MM, drawing

PAGE_W_MM, PAGE_H_MM = 210.0, 297.0
LEFT_MM, TOP_MM, BOTTOM_MM = 20.0, 18.0, 18.0
CHARACTER_MM = 0.203  # mean advance of DejaVu Sans per point of type size, in mm


class TextStyle(NamedTuple):
    """Type of a paragraph: size in points, weight, colour, space above and beneath in mm, indent, family."""

    size: float = 8.5
    weight: str = "normal"
    colour: str = INK
    above_mm: float = 0.5
    below_mm: float = 2.0
    indent_mm: float = 0.0
    family: str = "DejaVu Sans"


TEXT = {
    "plain": TextStyle(), "note": TextStyle(colour=SOFT_INK), "item": TextStyle(indent_mm=5.0, below_mm=1.0),
    "verdict": TextStyle(size=11.0, weight="bold", below_mm=3.0), "banner": TextStyle(size=10.0, weight="bold", colour=VERMILLION),
    "heading": TextStyle(size=9.0, weight="bold", above_mm=2.0, below_mm=1.0), "code": TextStyle(family="DejaVu Sans Mono", indent_mm=4.0),
    "title": TextStyle(size=15.0, weight="bold", below_mm=1.0), "section": TextStyle(size=12.5, weight="bold", above_mm=3.0, below_mm=2.0),
    "figure": TextStyle(size=9.0, weight="bold", above_mm=2.5, below_mm=1.0), "caption": TextStyle(size=8.0, colour=SOFT_INK, below_mm=4.0),
}  # fmt: skip


class _Pages:
    """Sets blocks from the top; begins a page when one does not fit."""

    def __init__(self, pdf: PdfPages, footer: str) -> None:
        self._pdf, self._footer = pdf, footer
        self._number = 0
        self._page: MplFigure | None = None
        self._y_mm = 0.0

    def page(self) -> MplFigure:
        if self._page is None:
            self._number += 1
            self._page = MplFigure(figsize=(PAGE_W_MM * MM, PAGE_H_MM * MM), layout="constrained")
            FigureCanvasAgg(self._page)
            self._y_mm = TOP_MM
            self._put(self._footer, LEFT_MM, PAGE_H_MM - 9, TextStyle(size=8.0, colour=SOFT_INK))
            self._put(
                f"page {self._number}",
                PAGE_W_MM - LEFT_MM,
                PAGE_H_MM - 9,
                TextStyle(size=8.0, colour=SOFT_INK),
                "right",
            )
        return self._page

    def finish(self) -> None:
        if self._page is not None:
            self._pdf.savefig(self._page)
            self._page = None

    def need(self, height_mm: float) -> None:
        """Begin a page unless this height is left on the present one."""
        self.page()
        if self._y_mm + height_mm > PAGE_H_MM - BOTTOM_MM and self._y_mm > TOP_MM:
            self.finish()
            self.page()

    def _put(self, text: str, x_mm: float, y_mm: float, style: TextStyle, align: str = "left") -> None:
        self.page().text(
            x_mm / PAGE_W_MM, 1 - y_mm / PAGE_H_MM, text, fontsize=style.size, fontweight=style.weight, color=style.colour,
            family=style.family, ha=align, va="top", linespacing=1.25, parse_math=False,
        ).set_in_layout(False)  # fmt: skip

    def text(self, text: str, style: TextStyle, bullet: str = "") -> None:
        lines = wrapped(text, style)
        self.need(_text_mm(lines, style))
        self._y_mm += style.above_mm
        if bullet:
            self._put(bullet, LEFT_MM, self._y_mm, style)
        self._put("\n".join(lines), LEFT_MM + style.indent_mm, self._y_mm, style)
        self._y_mm += _text_mm(lines, style) - style.above_mm

    def figure(self, figure: ReportFigure) -> None:
        heading, caption = TEXT["figure"], TEXT["caption"]
        around = _text_mm(wrapped(figure.title, heading), heading) + _text_mm(wrapped(figure.caption, caption), caption)
        self.need(figure.height_mm + around)
        self.text(figure.title, heading)
        below = PAGE_H_MM - self._y_mm - figure.height_mm
        right = PAGE_W_MM - LEFT_MM - figure.width_mm
        grid = GridSpec(
            3,
            3,
            figure=self.page(),
            height_ratios=[self._y_mm, figure.height_mm, below],
            width_ratios=[LEFT_MM, figure.width_mm, right],
        )
        figure.draw(self.page().add_subfigure(grid[1, 1]))
        self._y_mm += figure.height_mm
        self.text(figure.caption, caption)

    def table(self, table: ReportTable) -> None:
        widths = column_widths(table)
        starts = [LEFT_MM + sum(widths[:i]) for i in range(len(widths))]
        self.need(24.0)
        self.text(table.title, TEXT["figure"])
        head, body = TextStyle(size=8.0, weight="bold"), TextStyle(size=8.0)
        self._row(table.columns, table.numeric, starts, widths, head)
        for row in table.rows:
            before = self._number
            self.need(_row_mm(row, widths, body) + 1)
            if self._number != before:
                self._row(table.columns, table.numeric, starts, widths, head)
            self._row(row, table.numeric, starts, widths, body)
        self._y_mm += 2.0
        if table.caption:
            self.text(table.caption, TEXT["caption"])

    def _row(
        self,
        cells: tuple[str, ...],
        numeric: tuple[bool, ...],
        starts: list[float],
        widths: list[float],
        style: TextStyle,
    ) -> None:
        for cell, right, start, width in zip(cells, numeric, starts, widths, strict=True):
            text = "\n".join(_cell_lines(cell, width, style))
            self._put(text, start + width - 2 if right else start, self._y_mm, style, "right" if right else "left")
        self._y_mm += _row_mm(cells, widths, style)
        self._rule(SOFT_INK if style.weight == "bold" else "#DDDDDD")

    def _rule(self, colour: str) -> None:
        from matplotlib.lines import Line2D

        y = 1 - (self._y_mm - 0.9) / PAGE_H_MM
        x = [LEFT_MM / PAGE_W_MM, (LEFT_MM + WIDE_MM) / PAGE_W_MM]
        line = Line2D(x, [y, y], color=colour, linewidth=0.5, transform=self.page().transFigure)
        line.set_in_layout(False)
        self.page().add_artist(line)


def wrapped(text: str, style: TextStyle) -> list[str]:
    """Lines of a paragraph that fit the text width."""
    wide = {"bold": 1.12}.get(style.weight, 1.0) * (1.08 if "Mono" in style.family else 1.0)
    return textwrap.wrap(text, max(20, int((WIDE_MM - style.indent_mm) / (CHARACTER_MM * wide * style.size)))) or [""]


def _text_mm(lines: list[str], style: TextStyle) -> float:
    return len(lines) * style.size * 1.47 / 72 * 25.4 + style.above_mm + style.below_mm


def _cell_lines(cell: str, width_mm: float, style: TextStyle) -> list[str]:
    wide = 1.12 if style.weight == "bold" else 1.0
    return textwrap.wrap(cell, max(4, int((width_mm - 2) / (CHARACTER_MM * wide * style.size)))) or [""]


def _row_mm(cells: tuple[str, ...], widths: list[float], style: TextStyle) -> float:
    lines = max(len(_cell_lines(cell, width, style)) for cell, width in zip(cells, widths, strict=True))
    return lines * style.size * 1.47 / 72 * 25.4 + 2.0


def column_widths(table: ReportTable) -> list[float]:
    """Widths in mm that share the page by the longest cell (longest word at least), text columns give way first."""
    longest = [max(len(str(row[i])) for row in (table.columns, *table.rows)) for i in range(len(table.columns))]
    words = [
        max((len(w) for row in (table.columns, *table.rows) for w in str(row[i]).split()), default=1)
        for i in range(len(table.columns))
    ]
    character = CHARACTER_MM * 8.0 * 1.1
    wanted = [min(n * character + 4, 110.0) for n in longest]
    least = [min(w * character + 4, 60.0) for w in words]
    if sum(wanted) <= WIDE_MM:
        spare = (WIDE_MM - sum(wanted)) / len(wanted)
        return (
            [w + spare for w in wanted]
            if all(w < 100 for w in wanted)
            else [*wanted[:-1], wanted[-1] + spare * len(wanted)]
        )
    give = sum(wanted) - WIDE_MM
    slack = [max(0.0, w - m) for w, m in zip(wanted, least, strict=True)]
    total = sum(slack) or 1.0
    return [w - give * s / total for w, s in zip(wanted, slack, strict=True)]


def write_pdf(
    path: Path, title: str, lead: list[Paragraph], parts: list[Section], created: datetime.datetime | None
) -> Path:
    """Write all sections; ``created`` (the run's start) is the only date in the file. Returns the path."""
    metadata = {"Title": title, "Creator": "rig", "Producer": "matplotlib", "CreationDate": created, "ModDate": None}
    with drawing(), PdfPages(path, metadata=metadata) as pdf:
        pages = _Pages(pdf, title)
        pages.text(title, TEXT["title"])
        for paragraph in lead:
            pages.text(paragraph.text, TEXT[paragraph.style])
        for section in parts:
            pages.need(60.0)
            pages.text(f"{section.number}  {section.title}", TEXT["section"])
            for block in section.blocks:
                _set(pages, block)
        pages.finish()
    return path


def _set(pages: _Pages, block: ReportFigure | ReportTable | Paragraph) -> None:
    if isinstance(block, ReportFigure):
        pages.figure(block)
    elif isinstance(block, ReportTable):
        pages.table(block)
    else:
        pages.text(block.text, TEXT[block.style], "•" if block.style == "item" else "")
