"""The report as A4 pages: the same blocks as the web page, set by matplotlib into one PDF."""

from __future__ import annotations

import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure as MplFigure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from rig.plotting.figure import Paragraph, ReportFigure, ReportTable, Section
from rig.plotting.style import INK, MM, SOFT_INK, VERMILLION, WIDE_MM, drawing

PAGE_W_MM, PAGE_H_MM = 210.0, 297.0
LEFT_MM, TOP_MM, BOTTOM_MM = 20.0, 15.0, 15.0
CELL_GAP_MM = 3.0


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
    "plain": TextStyle(),
    "note": TextStyle(colour=SOFT_INK),
    "item": TextStyle(indent_mm=5.0, below_mm=1.0),
    "verdict": TextStyle(size=10.5, weight="bold", below_mm=3.0),
    "banner": TextStyle(size=9.0, weight="bold", colour=VERMILLION),
    "heading": TextStyle(size=9.0, weight="bold", above_mm=2.0, below_mm=1.0),
    "code": TextStyle(family="DejaVu Sans Mono", indent_mm=4.0),
    "title": TextStyle(size=14.0, weight="bold", below_mm=1.0),
    "section": TextStyle(size=12.5, weight="bold", above_mm=3.0, below_mm=2.0),
    "figure": TextStyle(size=9.0, weight="bold", above_mm=2.5, below_mm=1.0),
    "caption": TextStyle(size=8.0, colour=SOFT_INK, below_mm=4.0),
}


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
            x_mm / PAGE_W_MM,
            1 - y_mm / PAGE_H_MM,
            text,
            fontsize=style.size,
            fontweight=style.weight,
            color=style.colour,
            family=style.family,
            ha=align,
            va="top",
            linespacing=1.25,
            parse_math=False,
        ).set_in_layout(False)

    def text(self, text: str, style: TextStyle, bullet: str = "") -> None:
        lines = wrapped(text, style)
        self.need(_text_mm(lines, style))
        self._y_mm += style.above_mm
        if bullet:
            self._put(bullet, LEFT_MM, self._y_mm, style)
        self._put("\n".join(lines), LEFT_MM + style.indent_mm, self._y_mm, style)
        self._y_mm += _text_mm(lines, style) - style.above_mm

    def figure(self, figure: ReportFigure) -> None:
        self.need(_block_mm(figure))
        self.text(figure.title, TEXT["figure"])
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
        self.text(figure.caption, TEXT["caption"])

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
            self._put(
                text, start + width - CELL_GAP_MM if right else start, self._y_mm, style, "right" if right else "left"
            )
        self._y_mm += _row_mm(cells, widths, style)
        self._rule(SOFT_INK if style.weight == "bold" else "#DDDDDD")

    def _rule(self, colour: str) -> None:
        y = 1 - (self._y_mm - 0.9) / PAGE_H_MM
        x = [LEFT_MM / PAGE_W_MM, (LEFT_MM + WIDE_MM) / PAGE_W_MM]
        line = Line2D(x, [y, y], color=colour, linewidth=0.5, transform=self.page().transFigure)
        line.set_in_layout(False)
        self.page().add_artist(line)


@lru_cache(maxsize=20000)
def width_mm(text: str, style: TextStyle) -> float:
    """Printed width of one line."""
    font = FontProperties(family=style.family, size=style.size, weight=style.weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72 * 25.4


def wrapped(text: str, style: TextStyle, room_mm: float | None = None) -> list[str]:
    """Lines that fit ``room_mm`` (default: the text width less the indent); a word too long for a line is cut."""
    room = (WIDE_MM - style.indent_mm if room_mm is None else room_mm) + 0.01  # against rounding
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if width_mm(joined, style) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and width_mm(lines[-1] + character, style) > room:
                lines.append("")
            lines[-1] += character
    return lines


def _text_mm(lines: list[str], style: TextStyle) -> float:
    return len(lines) * style.size * 1.47 / 72 * 25.4 + style.above_mm + style.below_mm


def _cell_lines(cell: str, column_mm: float, style: TextStyle) -> list[str]:
    return wrapped(cell, style, column_mm - CELL_GAP_MM)


def _row_mm(cells: tuple[str, ...], widths: list[float], style: TextStyle) -> float:
    lines = max(len(_cell_lines(cell, width, style)) for cell, width in zip(cells, widths, strict=True))
    return lines * style.size * 1.47 / 72 * 25.4 + 1.8


def column_widths(table: ReportTable) -> list[float]:
    """Widths in mm that share the page by what the cells need; columns give way down to their longest word."""
    head, body = TextStyle(size=8.0, weight="bold"), TextStyle(size=8.0)
    columns = list(zip(*table.rows, strict=True))
    wanted, least = [], []
    for title, cells in zip(table.columns, columns, strict=True):
        words = [width_mm(word, head) for word in title.split()]
        least.append(max([*words, *(width_mm(w, body) for c in cells for w in c.split())], default=0.0) + CELL_GAP_MM)
        wanted.append(max([*words, *(width_mm(cell, body) for cell in cells)], default=0.0) + CELL_GAP_MM)
    spare = WIDE_MM - sum(wanted)
    if spare >= 0:
        return (
            [*wanted[:-1], wanted[-1] + spare] if not table.numeric[-1] else [w + spare / len(wanted) for w in wanted]
        )
    slack = [max(0.0, w - min(m, 60.0)) for w, m in zip(wanted, least, strict=True)]
    share = -spare / (sum(slack) or 1.0)
    return [w - share * s for w, s in zip(wanted, slack, strict=True)]


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
            heading = f"{section.number}  {section.title}"
            pages.need(_text_mm([heading], TEXT["section"]) + _opening_mm(section))
            pages.text(heading, TEXT["section"])
            for block in section.blocks:
                _set(pages, block)
        pages.finish()
    return path


def _block_mm(block: ReportFigure | ReportTable | Paragraph) -> float:
    """Height of a block, or of as much of it as must stand together with its heading."""
    if isinstance(block, ReportTable):
        return 40.0
    if isinstance(block, Paragraph):
        style = TEXT[block.style]
        return _text_mm(wrapped(block.text, style), style)
    heading, caption = TEXT["figure"], TEXT["caption"]
    texts = _text_mm(wrapped(block.title, heading), heading) + _text_mm(wrapped(block.caption, caption), caption)
    return block.height_mm + texts


def _opening_mm(section: Section) -> float:
    """Height of the first figure or table with the paragraphs before it, which stand on the heading's page."""
    height = 0.0
    for block in section.blocks:
        height += _block_mm(block)
        if not isinstance(block, Paragraph):
            break
    return min(height, 0.8 * PAGE_H_MM)


def _set(pages: _Pages, block: ReportFigure | ReportTable | Paragraph) -> None:
    if isinstance(block, ReportFigure):
        pages.figure(block)
    elif isinstance(block, ReportTable):
        pages.table(block)
    else:
        pages.text(block.text, TEXT[block.style], "•" if block.style == "item" else "")
