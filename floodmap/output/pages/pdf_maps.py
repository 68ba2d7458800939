"""Maps of the PDF report: pictures of `maps.SceneMaps`, with scale bar, north arrow, numbers and legend."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from typing import TYPE_CHECKING

from floodmap.output.pages.maps import FILL, GREY, GREY_STRIPE, OVERLAY, RAMP, SHORE, TEAL, WARM, WARM_STRIPE, SceneMaps

if TYPE_CHECKING:
    from fpdf import FPDF

    from floodmap.output.pages.pdf import Sheets

INK = (34, 48, 60)
_NUMBER_MM = 2.0
"""Radius of the disc behind a number, in millimetres, as all lengths of this module."""
_PAPER = 255
_STEPS = 60
"""Number of rectangles of the colour ramp."""


def height_of(maps: SceneMaps, frame: tuple[float, float]) -> float:
    """Return the height of a map that is fitted into a frame (width, height)."""
    return min(frame[0] / maps.width, frame[1] / maps.height) * maps.height


def draw_map(
    pdf: Sheets, maps: SceneMaps, x: float, y: float, frame: tuple[float, float], *, overlay: str = "",
    photograph: bool = True, main: bool = False,
) -> None:  # fmt: skip
    """Draw a map as large as fits into a frame, in the middle of its width.

    Args:
        pdf: the report.
        maps: maps of the scene.
        x: left edge of the frame.
        y: top edge of the frame.
        frame: width and height of the frame.
        overlay: picture over the photograph, as a `data:` URL; empty: none.
        photograph: False: draw the overlay alone.
        main: True: with numbers, scale bar and north arrow. The position moves below them, else it stays.
    """
    scale = min(frame[0] / maps.width, frame[1] / maps.height)
    width, height = maps.width * scale, maps.height * scale
    left = x + (frame[0] - width) / 2
    for picture in (maps.photograph if photograph else "", overlay):
        if picture:
            pdf.image(io.BytesIO(base64.b64decode(picture.partition(",")[2])), left, y, width, height)
    pdf.set_draw_color(*INK)
    pdf.set_line_width(0.15)
    pdf.rect(left, y, width, height)
    if not main:
        return
    for number, across, down in maps.numbers:
        _draw_number(pdf, number, left + across * scale, y + down * scale)
    if maps.scale_bar is not None and maps.north_deg is not None:
        _draw_scale_bar(pdf, maps.scale_bar.length * scale, maps.scale_bar.text, left, y + height + 2)
        _draw_north(pdf, maps.north_deg, left + width - 4, y + height + 4.5)
        height += 8
    pdf.set_xy(x, y + height + 1)


def _draw_number(pdf: Sheets, number: int, x: float, y: float) -> None:
    pdf.set_fill_color(_PAPER)
    pdf.set_line_width(0.35)
    pdf.circle(x, y, _NUMBER_MM, style="DF")
    _write(pdf, str(number), x - _NUMBER_MM, y - 1.3, 2 * _NUMBER_MM, 6.5, align="C")


def _draw_scale_bar(pdf: Sheets, length: float, text: str, x: float, y: float) -> None:
    pdf.set_line_width(0.5)
    pdf.polyline([(x, y), (x, y + 2), (x + length, y + 2), (x + length, y)])
    _write(pdf, text, x + length + 1.5, y - 0.3, 40, 7.5)


def _draw_north(pdf: Sheets, north_deg: float, x: float, y: float) -> None:
    pdf.set_fill_color(*INK)
    with pdf.rotation(-north_deg, x, y):  # fpdf2 turns to the left
        pdf.polygon([(x, y - 3), (x + 1.6, y + 2.4), (x, y + 1.3), (x - 1.6, y + 2.4)], style="F")
    _write(pdf, "N", x - 7, y - 1.5, 3.5, 7.5, align="R")


def draw_legend(pdf: Sheets, maps: SceneMaps, *, probability: bool = False) -> None:
    """Write the legend at the current position, and move below it.

    Args:
        pdf: the report.
        maps: maps of the scene. Only kinds of ground that occur have an entry.
        probability: True: the legend of the map of flood probability; False: that of flood and unobserved ground.
    """
    x, y = pdf.l_margin, pdf.get_y() + 1.5
    if probability:
        x = _write(pdf, "probability of flood 0", x, y, 0, 7) + 1
        for step in range(_STEPS):
            pdf.set_fill_color(*_ramp(100 * step / (_STEPS - 1)))
            pdf.rect(x + step * 30 / _STEPS, y, 30 / _STEPS + 0.1, 3, style="F")
        x = _write(pdf, "100 %", x + 31, y, 0, 7) + 5
    entries = {
        "flood": (OVERLAY[FILL], OVERLAY[SHORE], "flood"),
        "permanent": (OVERLAY[TEAL], OVERLAY[TEAL], "permanent water"),
        "unobserved": (OVERLAY[GREY], OVERLAY[GREY_STRIPE], "not observed: may be wet or dry"),
        "failed": (OVERLAY[WARM], OVERLAY[WARM_STRIPE], "failed, not observed"),
        "outside": ((255, 255, 255, 255), OVERLAY[GREY_STRIPE], "outside the area of interest"),
    }
    for kind, (fill, edge, text) in entries.items():
        if kind not in maps.shown or (probability and kind != "unobserved"):
            continue
        x, y = _next_entry(pdf, text, x, y)
        pdf.set_fill_color(*_over_paper(fill))
        pdf.set_draw_color(*edge[:3])
        pdf.set_line_width(0.3)
        pdf.rect(x, y, 6, 3, style="DF")
        if kind in ("unobserved", "failed"):
            _hatch(pdf, x, y)
        x = _write(pdf, text, x + 7, y, 0, 7) + 5
    if maps.numbers and not probability:
        x, y = _next_entry(pdf, "the largest places", x, y)
        pdf.set_draw_color(*INK)
        _draw_number(pdf, 1, x + _NUMBER_MM, y + 1.5)
        _write(pdf, "the largest places", x + 2 * _NUMBER_MM + 1, y, 0, 7)
    pdf.set_xy(pdf.l_margin, y + 5)


def _next_entry(pdf: Sheets, text: str, x: float, y: float) -> tuple[float, float]:
    """Return the place of an entry of the legend: (x, y), or the next line if it does not fit there."""
    pdf.set_font(pdf.lettering.family, size=7)
    return (x, y) if x + 9 + pdf.get_string_width(text) < pdf.w - pdf.r_margin else (pdf.l_margin, y + 5)


def _hatch(pdf: FPDF, x: float, y: float) -> None:
    for step in range(4):
        pdf.line(x + 1.5 * step, y + 3, min(x + 1.5 * step + 1.5, x + 6), y)


def _over_paper(colour: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """Return a translucent colour as it looks on white paper."""
    red, green, blue, opacity = colour
    mixed = [round(part * opacity / 255 + _PAPER * (1 - opacity / 255)) for part in (red, green, blue)]
    return mixed[0], mixed[1], mixed[2]


def _ramp(percent: float) -> tuple[int, int, int]:
    """Return the colour of a flood probability in per cent, between the colours of `maps.RAMP`."""
    for (low, first), (high, second) in pairwise(RAMP):
        if percent <= high:
            part = (percent - low) / (high - low)
            parts = [int(first[i : i + 2], 16) * (1 - part) + int(second[i : i + 2], 16) * part for i in (1, 3, 5)]
            return round(parts[0]), round(parts[1]), round(parts[2])
    raise ValueError(f"{percent} is above 100 per cent")


def _write(pdf: Sheets, text: str, x: float, y: float, width: float, size: float, align: str = "L") -> float:
    """Write a short text, and return its right end; a width of 0 is that of the text."""
    pdf.set_font(pdf.lettering.family, size=size)
    pdf.set_text_color(*INK)
    shown = pdf.lettering.shown(text)
    width = width or pdf.get_string_width(shown) + 2 * pdf.c_margin
    pdf.set_xy(x, y)
    pdf.cell(width, size * 0.42, shown, align=align)
    return x + width
