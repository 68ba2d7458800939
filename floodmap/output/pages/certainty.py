"""Charts of the certainty of a flood map: share of ground by flood probability, and flooded area by threshold."""

from __future__ import annotations

import numpy as np

from floodmap.output.census import Census
from floodmap.output.pages.svg import INK, Chart

THRESHOLDS = (30, 50, 70)
"""Thresholds in per cent for which the flooded area is shown, besides the threshold of the run."""
WATER, LAND = "#1668a8", "#9aa4ad"


def histogram(census: Census) -> str:
    """Draw a histogram of the observed pixels by flood probability, in 20 bins of 5 per cent.

    Bars show the share of all observed pixels, in per cent. Dry and flooded pixels have different colours.

    Args:
        census: number of pixels of each code in the scene. The scene must have at least one observed pixel.

    Returns:
        The chart as an `<svg>` element.
    """
    percent, shares = np.arange(101), census.pixels[:101] / census.observed_pixels * 100
    kinds = ((LAND, percent < census.threshold), (WATER, percent >= census.threshold))
    stacked = [(colour, np.histogram(percent, 20, (0, 100), weights=shares * chosen)[0]) for colour, chosen in kinds]
    highest = max(float(np.sum([heights for _, heights in stacked], axis=0).max()), 1e-9)
    chart = Chart(
        title="Observed ground by probability", x_label="flood probability (%)", y_label="share of ground (%)",
        x_range=(0, 100), y_range=(0, highest * 1.05),
    )  # fmt: skip
    bottom = np.zeros(20)
    for colour, heights in stacked:
        for number in np.flatnonzero(heights):
            left, low = 5.0 * number, float(bottom[number])
            chart.bar((left + 0.3, left + 4.7), (low, low + float(heights[number])), colour)
        bottom += heights
    chart.legend([(LAND, "dry"), (WATER, "flood")])
    return chart.svg()


def curve(census: Census) -> str:
    """Draw the flooded area as a function of the threshold, for thresholds from 5 to 95 per cent.

    A dashed line marks the threshold of the run, and dots mark `THRESHOLDS`. The vertical axis is in m² or ha. Without
    a geographic or projected CRS, the axis is in pixels or thousand pixels.

    Args:
        census: number of pixels and area of each code in the scene.

    Returns:
        The chart as an `<svg>` element.
    """
    amounts, unit = (census.pixels, "pixels") if census.ground_m2 is None else (census.ground_m2, "m²")
    if amounts[THRESHOLDS[0] : 101].sum() >= 1000:
        amounts, unit = (amounts / 1000, "thousand pixels") if unit == "pixels" else (amounts / 1e4, "ha")
    area = amounts[:101][::-1].cumsum()[::-1]
    highest = max(float(area[5:96].max()) * 1.12, 1e-9)
    chart = Chart(
        title="Flooded area by threshold", x_label="threshold (%)", y_label=unit, x_range=(0, 100),
        y_range=(0, highest),
    )  # fmt: skip
    chart.line([(float(at), float(area[at])) for at in range(5, 96)], WATER)
    chart.line([(census.threshold, 0.0), (census.threshold, highest)], INK, dashed=True)
    for at in THRESHOLDS:
        chart.dot(at, float(area[at]), WATER, f"{area[at]:,.3g}")
    return chart.svg()
