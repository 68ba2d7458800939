"""The line on standard output with the result of a scene or a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from floodmap.output.results import FloodMap


def print_result(result: FloodMap, as_json: bool, verbosity: int) -> None:
    """Write one line on a scene's result to standard output; write nothing with --json or -q."""
    if as_json or verbosity < 0:
        return
    summary = result.report
    area = summary["flood_area_ha"]
    size = (
        f"{area:,.2f} ha of flood"
        if area is not None
        else f"{summary['pixels']['flood']:,} pixels of flood (no CRS, so no area)"
    )
    files = (*result.layer_paths[:1], *([result.page_path] if result.page_path else []))
    windows = "1 window" if result.failed_windows == 1 else f"{result.failed_windows} windows"
    lost = "unobserved unless another frame observes the ground" if "frames" in summary else "unobserved there"
    failed = f"; {windows} FAILED, in whole or in part: {lost}" if result.failed_windows else ""
    click.echo(
        f"{result.name}: {size} in {summary['polygons']['flood']:,} polygons, "
        f"{summary['observed_share']:.1%} observed{failed} -> {', '.join(map(str, files))}"
    )
