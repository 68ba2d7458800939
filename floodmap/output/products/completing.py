"""Reports and STAC item of finished results: the files that are made from the other files of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from floodmap.imagery.tile import Tile
from floodmap.options import SegmentOptions
from floodmap.output.paths import page_path_of, pdf_path_of, stac_path_of
from floodmap.output.results import FloodMap, is_newer

NO_DATE = "%s has no date of acquisition: in the table source of Copernicus EMS the date is empty"
"""Warning, before a run, about a scene whose date is not known."""


def completed(
    flood_map: FloodMap, options: SegmentOptions, picture: Callable[[], Tile | None], *, again: bool = True
) -> FloodMap:
    """Write the HTML report, the PDF report and the STAC item of finished results, as far as the options want them.

    They are written after all other results. If the run is interrupted meanwhile, the other results are complete, and a
    later run with the option `resume` adds what is missing.

    Args:
        flood_map: the results of the scene.
        options: settings of the run.
        picture: function that returns the whole scene downsampled to at most `maps.SIDE` pixels a side. It is called
            once, if a report is written.
        again: False: a file that is newer than the files it was made from is left as it is.

    Returns:
        The results with the paths of the files.

    Raises:
        OutputError: a file cannot be written.
    """
    folder, name = flood_map.report_path.parent, flood_map.name
    page, pdf = page_path_of(folder, name), pdf_path_of(folder, name)
    wanted = [path for path, is_wanted in ((page, options.report), (pdf, options.pdf)) if is_wanted]
    missing = [path for path in wanted if again or not is_newer(path, flood_map.report_path)]
    if missing:
        _write_reports(flood_map, missing, picture)
    flood_map = replace(
        flood_map, page_path=page if options.report else None, pdf_path=pdf if options.pdf else None
    )  # fmt: skip
    if not options.stac:
        return flood_map
    item = stac_path_of(folder, name)
    # A page that an earlier run wrote from the same results belongs to them, too.
    there = {key: path for key, path in (("page", page), ("pdf", pdf)) if is_newer(path, flood_map.report_path)}
    if again or missing or not is_newer_than_all(item, (flood_map.report_path, *there.values())):
        from floodmap.output.products.stac_item import write_stac_item

        write_stac_item(flood_map, item, pages=there)
    return replace(flood_map, stac_path=item)


def is_newer_than_all(path: Path, others: Iterable[Path]) -> bool:
    """Return whether `path` exists and is not older than any of the other files."""
    return all(is_newer(path, other) for other in others)


def _write_reports(flood_map: FloodMap, paths: Iterable[Path], picture: Callable[[], Tile | None]) -> None:
    """Write the HTML report, the PDF report, or both; the suffix of a path decides."""
    from floodmap.output.pages.scene_report import report_contents, write_scene_report

    shown = picture()
    if shown is None:
        raise ValueError("a report needs a picture of the scene")
    contents = report_contents(flood_map, shown)
    for path in paths:
        if path.suffix == ".html":
            write_scene_report(contents, path)
        else:
            from floodmap.output.pages.pdf import write_pdf_report

            write_pdf_report(contents, path)
