"""HTML representation of a scene's results in a notebook: two small maps and a summary."""

from __future__ import annotations

from html import escape

from floodmap.output.pages.maps import draw_results
from floodmap.output.results import FloodMap

SIDE = 420
"""Longest side of each map, in pixels."""


def notebook_html(flood_map: FloodMap) -> str:
    """Return the results of a scene as HTML for a notebook, without scripts and external files."""
    report = flood_map.report
    hectares, flood = report["flood_area_ha"], report["pixels"]["flood"]
    size = f"{hectares:,.2f} ha" if hectares is not None else f"{flood:,} pixels"
    failed = f"; {flood_map.failed_windows} windows failed" if flood_map.failed_windows else ""
    line = (
        f"<b>{escape(flood_map.name)}</b>: {size} of flood in {report['polygons']['flood']:,} polygons, "
        f"{report['observed_share']:.1%} observed{failed}"
    )
    titles = ("Flood (blue), unobserved (hatched)", "Probability, light 0 to dark 100 %")
    figures = "".join(
        f'<figure style="margin:0"><img src="{address}" alt="{title}" style="background:#f6f6ee;max-width:100%">'
        f"<figcaption>{title}</figcaption></figure>"
        for title, address in zip(titles, draw_results(flood_map, SIDE), strict=True)
    )
    return f'<div><p>{line}</p><div style="display:flex;gap:12px;flex-wrap:wrap">{figures}</div></div>'
