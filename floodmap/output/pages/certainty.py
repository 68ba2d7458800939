"""How certain a flood map is, as charts: ground by probability, flooded area by threshold."""

from __future__ import annotations

import numpy as np

from floodmap.output.census import Census
from floodmap.output.pages.html import INK, figure, svg_of

THRESHOLDS = (30, 50, 70)
"""Per cent; the area is given at each, and at the run's own."""
WATER, LAND = "#1668a8", "#9aa4ad"


def histogram(census: Census) -> str:
    """Observed ground by probability, in steps of 5 per cent: dry and flooded."""
    percent, shares = np.arange(101), census.pixels[:101] / census.observed_pixels * 100
    with figure(4.6, 2.7) as (drawn, (axis,)):
        bottom = np.zeros(20)
        for colour, name, chosen in (
            (LAND, "dry", percent < census.threshold),
            (WATER, "flood", percent >= census.threshold),
        ):
            heights = np.histogram(percent, 20, (0, 100), weights=shares * chosen)[0]
            axis.bar(np.arange(2.5, 100, 5), heights, 4.4, bottom, color=colour, label=name)
            bottom += heights
        axis.set(title="Observed ground by probability", xlabel="flood probability (%)", ylabel="share of ground (%)",
                 xlim=(0, 100))  # fmt: skip
        axis.grid(axis="x", visible=False)
        axis.legend(frameon=False, fontsize=8, loc="upper center")
        return svg_of(drawn)


def curve(census: Census) -> str:
    """Flooded area over the threshold; the run's own is marked."""
    amounts, unit = (census.pixels, "pixels") if census.ground_m2 is None else (census.ground_m2, "m²")
    if amounts[THRESHOLDS[0] : 101].sum() >= 1000:
        amounts, unit = (amounts / 1000, "thousand pixels") if unit == "pixels" else (amounts / 1e4, "ha")
    area = amounts[:101][::-1].cumsum()[::-1]
    at = np.arange(5, 96)
    with figure(4.6, 2.7) as (drawn, (axis,)):
        axis.plot(at, area[at], color=WATER, linewidth=1.6)
        axis.axvline(census.threshold, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        marked = np.array(THRESHOLDS)
        axis.plot(marked, area[marked], "o", color=WATER, markersize=5)
        for x in marked:
            axis.annotate(f"{area[x]:,.3g}", (x, area[x]), (4, 5), textcoords="offset points", fontsize=8)
        axis.set(title="Flooded area by threshold", xlabel="threshold (%)", ylabel=unit, xlim=(0, 100))
        axis.set_ylim(0, max(float(area[at].max()) * 1.12, 1e-9))
        return svg_of(drawn)
