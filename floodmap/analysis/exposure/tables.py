"""Tables of an exposure: CSV, JSON and XLSX."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from floodmap.analysis.exposure.figures import Row, wide
from floodmap.analysis.exposure.result import LEVELS

SHEETS = {"districts": "districts", "roads_by_class": "roads by class", "buildings_by_share": "building classes"}
"""Names of the sheets of a workbook, by key of the report."""
_FORMATS = {"_ha": "#,##0.00", "_m2": "#,##0", "_km": "#,##0.00", "_share": "0.0 %", "_observed": "0.0 %"}
"""Number formats of a workbook, by end of the name of a column."""
_WIDEST = 40


def write_csv(path: Path, report: dict[str, Any]) -> None:
    """Write the rows of the districts, with the columns of all classes of road."""
    rows = wide(report["districts"], report["roads_by_class"])
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write the report."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_xlsx(path: Path, report: dict[str, Any]) -> None:
    """Write a workbook with a sheet for each table of the report, and a sheet of notes."""
    import xlsxwriter

    with xlsxwriter.Workbook(path) as book:
        date = datetime.fromisoformat(report["run"]["finished"]).astimezone(UTC).replace(tzinfo=None)
        book.set_properties({"title": f"Exposure: {report['name']}", "created": date})
        for key, name in SHEETS.items():
            if report[key]:
                _write_sheet(book, name, report[key])
        sheet, bold = book.add_worksheet("notes"), book.add_format({"bold": True, "valign": "top"})
        text = book.add_format({"text_wrap": True, "valign": "top"})
        sheet.set_column(0, 0, 24)
        sheet.set_column(1, 1, 100)
        for row, (title, value) in enumerate(notes(report)):
            sheet.write_string(row, 0, title, bold)
            sheet.write_string(row, 1, value, text)


def _write_sheet(book: Any, name: str, rows: Sequence[Row]) -> None:
    sheet, bold = book.add_worksheet(name), book.add_format({"bold": True, "text_wrap": True, "valign": "top"})
    formats = {ending: book.add_format({"num_format": shown}) for ending, shown in _FORMATS.items()}
    plain = book.add_format()
    for column, title in enumerate(rows[0]):
        chosen = next((one for ending, one in formats.items() if title.endswith(ending)), plain)
        width = max([len(title) / 2, *(len(str(row[title])) for row in rows)])
        sheet.set_column(column, column, min(width + 2, _WIDEST))
        sheet.write_string(0, column, title, bold)
        for number, row in enumerate(rows, 1):
            value = row[title]
            if isinstance(value, str):
                sheet.write_string(number, column, value)  # a name that begins with = is no formula
            elif value is not None:
                sheet.write_number(number, column, value, chosen)
    sheet.freeze_panes(1, 3)
    sheet.autofilter(0, 0, len(rows), len(rows[0]) - 1)


def notes(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a reader of the figures must know, as pairs of a title and a text."""
    thresholds, source = report["thresholds"], report["source"]
    inputs = [
        (name, f"{one['file']}{', layer ' + one['layer'] if one.get('layer') else ''}; SHA-256 {one['sha256']}")
        for name, one in report["inputs"].items()
    ]
    return [
        ("scene", f"{source['scene'] or report['name']}, {source['date'] or 'no date'}"),
        ("fingerprint of the scene", source["fingerprint"] or "unknown"),
        ("probability raster", f"{source['probability']}; SHA-256 {source['sha256']}"),
        ("lower, best, upper", ", ".join(f"{name}: flood from a probability of {thresholds[name]:g}"
                                         for name in LEVELS)),
        ("permanent water", "is no flood" if source["permanent_water"] else "not separated, it is flood"),
        *inputs,
        *((f"warning {number}", text) for number, text in enumerate(report["warnings"], 1)),
        ("reading", EXPLANATION),
        ("licences", report["licences"]),
        ("versions", ", ".join(f"{name} {number}" for name, number in report["versions"].items())),
        ("finished", report["run"]["finished"]),
    ]  # fmt: skip


EXPLANATION = (
    "Figures are of the ground inside the scene; scene_share is the part of a district that the scene covers. "
    "Unobserved ground may be wet or dry, and is in no figure of flood. Areas and lengths are geodesic. A building "
    "belongs to the district of its representative point; a road is cut at the border."
)
LICENCES = (
    "Check the licences of the inputs before you publish. Of OpenStreetMap: credit OpenStreetMap contributors, and "
    "share a database that you derive from it under the ODbL. Name the source of the population raster as its licence "
    "says."
)
WRITERS = {".csv": write_csv, ".json": write_json, ".xlsx": write_xlsx}
"""Function that writes a table, by suffix."""


def summary_table(report: dict[str, Any]) -> str:
    """Return the main figures of each row as text with aligned columns; a range is lower to upper."""
    rows = report["districts"]
    columns = {"district": [str(row["district"]) for row in rows]}
    for title, name, digits in (
        ("flood ha", "flood_{}_ha", 2), ("buildings touched", "buildings_touched_{}", 0),
        ("roads flooded km", "road_flood_{}_km", 2), ("people exposed", "people_exposed_{}", 0),
    ):  # fmt: skip
        if name.format("best") in rows[0]:
            columns[title] = [spread(row, name, digits) for row in rows]
    columns["unobserved ha"] = [f"{row['unobserved_ha']:,.2f}" for row in rows]
    widths = {title: max(map(len, [title, *cells])) for title, cells in columns.items()}
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    texts = [
        "  ".join(cell.ljust(widths["district"]) if not index else cell.rjust(width)
                  for index, (cell, width) in enumerate(zip(line, widths.values(), strict=True)))
        for line in lines
    ]  # fmt: skip
    return "\n".join(texts)


def spread(row: Row, name: str, digits: int = 0) -> str:
    """Return a best figure and its range as text: "12 (9 to 15)".

    Args:
        row: a row of figures.
        name: name of the column, with `{}` in place of lower, best or upper.
        digits: number of decimals.
    """
    lower, best, upper = (f"{row[name.format(level)]:,.{digits}f}" for level in LEVELS)
    return f"{best} ({lower} to {upper})"
