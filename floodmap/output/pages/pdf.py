"""PDF report of one scene: the contents of the HTML report on A4 pages. Text stays text, nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fpdf import FPDF

from floodmap._runtime.files import atomic_path
from floodmap.errors import writing
from floodmap.output.pages.pdf_maps import draw_legend, draw_map, height_of
from floodmap.output.pages.pdf_text import Fonts, use_fonts

MARGIN = 15.0
"""Margin of a page, in millimetres, as all lengths of this module."""
WIDTH = 210 - 2 * MARGIN
GAP = 6.0
"""Distance between two columns."""
INK, QUIET, LINE, WARM = (34, 48, 60), (92, 104, 115), (213, 219, 225), (180, 84, 31)
"""Colours, red, green and blue, as in the HTML report."""
LARGEST_MAP = 165.0
"""Largest height of the map on the first page."""

UNSEEN = "There is no result for this ground: it may be wet or dry."

Rows = Sequence[Sequence[str]]


class Sheets(FPDF):
    """A4 pages with a footer."""

    lettering: Fonts
    foot: str = ""

    def footer(self) -> None:
        """Write the footer of a page: origin of the report, and number of the page."""
        self.set_y(-MARGIN + 3)
        self.set_font(self.lettering.family, size=6.5)
        self.set_text_color(*QUIET)
        shown = self.lettering.shown(self.foot)
        while self.get_string_width(shown) > WIDTH - 25:  # a long name is cut here; the title has it in full
            shown = "..." + shown[4:]
        self.cell(WIDTH - 20, 3, shown)
        self.set_xy(210 - MARGIN - 20, -MARGIN + 3)
        self.set_font(self.lettering.family, size=6.5)
        self.cell(20, 3, f"page {self.page_no()} of {{nb}}", align="R")

    def write_line(
        self, text: str, size: float, *, bold: bool = False, colour: tuple[int, int, int] = INK, width: float = WIDTH,
        align: str = "L",
    ) -> None:  # fmt: skip
        """Write a paragraph at the current position, and move below it, to the same column.

        Args:
            text: the paragraph; characters that the font lacks are written as their code.
            size: size of the letters in points.
            bold: True: bold letters.
            colour: red, green and blue, 0 to 255.
            width: width of the column.
            align: L, C or R.
        """
        x = self.get_x()
        self.set_font(self.lettering.family, "B" if bold else "", size)
        self.set_text_color(*colour)
        self.multi_cell(width, size * 0.48, self.lettering.shown(text), align=align, new_x="LEFT", new_y="NEXT")
        self.set_x(x)

    def heading(self, text: str, width: float = WIDTH) -> None:
        """Write a heading."""
        self.set_xy(self.get_x(), self.get_y() + 2.5)
        self.write_line(text, 9.5, bold=True, width=width)
        self.set_xy(self.get_x(), self.get_y() + 0.8)

    def write_table(
        self, rows: Rows, widths: Sequence[float], *, head: Sequence[str] = (), size: float = 7.2, bold: int = -1
    ) -> None:
        """Write a table at the current position, over several pages if need be.

        Args:
            rows: texts of the cells.
            widths: widths of the columns.
            head: titles of the columns; empty: a table of names and values, with the names in grey.
            size: size of the letters in points.
            bold: number of a row in bold letters; -1: none.
        """
        x = self.get_x()
        for number, row in enumerate([*([head] if head else []), *rows]):
            is_head, is_bold = bool(head) and number == 0, number - bool(head) == bold
            height = self._row_height(row, widths, size, bold=is_head or is_bold)
            if self.get_y() + height > self.page_break_trigger:
                self.add_page()
                self.set_x(x)
            y, left = self.get_y(), x
            for column, (text, width) in enumerate(zip(row, widths, strict=True)):
                self.set_xy(left, y + 0.6)
                colour = QUIET if is_head or (not head and column == 0) else INK
                right = "R" if head and column else "L"
                self.write_line(text, size, bold=is_head or is_bold, colour=colour, width=width, align=right)
                left += width
            self.set_draw_color(*LINE)
            self.line(x, y + height, x + sum(widths), y + height)
            self.set_xy(x, y + height)

    def table_height(self, rows: Rows, widths: Sequence[float], *, size: float = 7.2) -> float:
        """Return the height that `write_table` would take for some rows."""
        return sum(self._row_height(row, widths, size, bold=False) for row in rows)

    def _row_height(self, row: Sequence[str], widths: Sequence[float], size: float, *, bold: bool) -> float:
        self.set_font(self.lettering.family, "B" if bold else "", size)
        heights = [self._text_height(text, width, size) for text, width in zip(row, widths, strict=True)]
        return max(heights) + 1.2

    def _text_height(self, text: str, width: float, size: float) -> float:
        lines = self.multi_cell(width, size * 0.48, self.lettering.shown(text), dry_run=True, output="LINES")
        return size * 0.48 * max(1, len(lines) if isinstance(lines, list) else 1)


def write_pdf_report(contents: Mapping[str, Any], path: Path) -> Path:
    """Write the PDF report of a scene, and return its path. The bytes depend on the contents alone.

    Args:
        contents: result of `scene_report.report_contents`.
        path: the PDF file to write.

    Raises:
        OutputError: the file cannot be written.
    """
    pdf = Sheets(format="A4")
    pdf.lettering = use_fonts(pdf)
    pdf.set_margins(MARGIN, MARGIN, MARGIN)
    pdf.set_auto_page_break(True, MARGIN)
    pdf.c_margin = 0.6
    pdf.set_creation_date(datetime.fromisoformat(contents["finished"]))
    pdf.set_title(f"Flood map of {contents['title']}")
    pdf.set_creator("floodmap")
    pdf.set_lang("en")
    pdf.foot = f"{contents['title']}, finished {contents['finished'][:10]}, made by floodmap {contents['version']}"
    pdf.add_page()
    _first_page(pdf, contents)
    pdf.add_page()
    _second_page(pdf, contents)
    with writing(path), atomic_path(path) as partial:
        pdf.output(str(partial))
    return path


def _first_page(pdf: Sheets, contents: Mapping[str, Any]) -> None:
    """Write title, result, warnings and the map."""
    pdf.write_line(contents["title"], 16, bold=True)
    pdf.write_line(contents["subtitle"], 8, colour=QUIET)
    pdf.ln(2)
    headline = contents["headline"]
    pdf.write_line(headline["figure"] + headline["rest"], 12, bold=True)
    if headline["open"]:
        pdf.write_line(headline["open"], 8.5)
    if not contents["permanent"]:
        pdf.write_line(
            "Flood here is all open water: rivers, lakes and pools that are always there count too.", 7, colour=QUIET
        )
    pdf.ln(2)
    _cards(pdf, contents["cards"])
    _warnings(pdf, contents)
    maps = contents["maps"]
    pdf.heading("Where the water is")
    room = pdf.page_break_trigger - pdf.get_y() - 22
    if room < 60:
        pdf.add_page()
        room = pdf.page_break_trigger - pdf.get_y() - 22
    draw_map(pdf, maps, MARGIN, pdf.get_y(), (WIDTH, min(room, LARGEST_MAP)), overlay=maps.overlay, main=True)
    draw_legend(pdf, maps)


def _cards(pdf: Sheets, cards: Sequence[Mapping[str, str]]) -> None:
    """Write the main figures side by side."""
    width, top, bottom = WIDTH / len(cards), pdf.get_y(), pdf.get_y()
    for number, card in enumerate(cards):
        pdf.set_xy(MARGIN + number * width, top)
        pdf.write_line(card["name"], 7, colour=QUIET, width=width)
        pdf.write_line(card["figure"], 10.5, bold=True, width=width)
        pdf.write_line(card["note"], 6.5, colour=QUIET, width=width)
        bottom = max(bottom, pdf.get_y())
    pdf.set_draw_color(*LINE)
    pdf.line(MARGIN, bottom + 1, MARGIN + WIDTH, bottom + 1)
    pdf.set_xy(MARGIN, bottom + 2)


def _warnings(pdf: Sheets, contents: Mapping[str, Any]) -> None:
    """Write the warnings, and windows that failed."""
    lines = list(contents["warnings"])
    if failed := contents["failed"]:
        windows = "1 window" if failed["count"] == 1 else f"{failed['count']} windows"
        lines.append(f"{windows} failed, in whole or in part. What could not be segmented is unobserved, not dry.")
        lines += failed["lines"]
        lines += [f"and {failed['more']} more, listed in the JSON file"] if failed["more"] else []
    if not lines:
        return
    pdf.heading("Warnings")
    for line in lines:
        pdf.write_line(f"! {line}", 7.5, colour=WARM)


def _second_page(pdf: Sheets, contents: Mapping[str, Any]) -> None:
    """Write the small maps and the tables."""
    maps, half = contents["maps"], (WIDTH - GAP) / 2
    pdf.heading("The scene, and the probability of flood")
    top = pdf.get_y()
    frame = (half, 70.0)
    draw_map(pdf, maps, MARGIN, top, frame)
    draw_map(pdf, maps, MARGIN + half + GAP, top, frame, overlay=maps.probability, photograph=False)
    pdf.set_xy(MARGIN, top + height_of(maps, frame))
    draw_legend(pdf, maps, probability=True)
    left, right = _results(contents), _provenance(contents)
    heights = [sum(_height(pdf, one, half) for one in column) for column in (left, right)]
    top = pdf.get_y()
    if top + max(heights) <= pdf.page_break_trigger:
        for column, x in ((left, MARGIN), (right, MARGIN + half + GAP)):
            pdf.set_xy(x, top)
            for part in column:
                _write_part(pdf, part, half)
    else:
        for part in (*left, *right):
            _write_part(pdf, part, WIDTH)


Part = dict[str, Any]
"""A heading, texts beneath it, and a table: `title`, `texts`, `rows`, `shares` of the width, `head` and `bold`."""


def _part(title: str, texts: Iterable[str], rows: Rows, shares: Sequence[float], **more: Any) -> Part:
    return {"title": title, "texts": [text for text in texts if text], "rows": rows, "shares": shares, **more}


def _results(contents: Mapping[str, Any]) -> list[Part]:
    """Return the largest places, unobserved ground and thresholds."""
    placed = contents["placed"]
    places = [
        (str(number), one["area"], one["confidence"], one["x"], one["y"])
        for number, one in enumerate(contents["largest"], 1)
    ]
    head = ("", "area", "confidence", "longitude" if placed else "column", "latitude" if placed else "row")
    unseen = [(one["reason"], one["pixels"], one["share"], one["area"]) for one in contents["unobserved"]]
    parts = [
        _part("The largest places", [*([] if places else ["There is no polygon."]), contents["left_out"]], places,
               (0.06, 0.25, 0.23, 0.23, 0.23), head=head),
        _part("What was not seen", [UNSEEN if unseen else "Every pixel was observed."], unseen,
               (0.4, 0.2, 0.18, 0.22), head=("reason", "pixels", "share", "area")),
    ]  # fmt: skip
    if certainty := contents["certainty"]:
        rows = [(one["threshold"], one["area"], one["share"], one["change"]) for one in certainty["rows"]]
        own = next((number for number, one in enumerate(certainty["rows"]) if one["own"]), -1)
        titles = ("flood from", "area", "of the observed", "change")
        parts.append(_part("How certain is the area?", [certainty["text"]], rows, (0.25,) * 4, head=titles, bold=own))
    return parts


def _provenance(contents: Mapping[str, Any]) -> list[Part]:
    """Return settings, source, model and versions."""
    shares = (0.36, 0.64)
    return [
        _part("Settings", [], contents["settings"], shares),
        _part("Source, model and versions", [], contents["origin"], shares),
    ]


def _height(pdf: Sheets, part: Part, width: float) -> float:
    """Return the height of a part, a little too large rather than too small."""
    widths = [share * width for share in part["shares"]]
    heads = [part["head"]] if part.get("head") and part["rows"] else []
    texts = [[text] for text in part["texts"]]
    return 9.0 + pdf.table_height([*heads, *part["rows"]], widths) + pdf.table_height(texts, [width])


def _write_part(pdf: Sheets, part: Part, width: float) -> None:
    pdf.heading(part["title"], width)
    for text in part["texts"]:
        pdf.write_line(text, 7.2, width=width)
    if part["rows"]:
        widths = [share * width for share in part["shares"]]
        pdf.write_table(part["rows"], widths, head=part.get("head", ()), bold=part.get("bold", -1))
