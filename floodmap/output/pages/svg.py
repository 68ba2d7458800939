"""Charts as inline SVG, drawn without a plotting library, for the HTML report of a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 440.0, 250.0
"""Size of a chart, in SVG user units."""
LEFT, RIGHT, TOP, BOTTOM = 58.0, 10.0, 26.0, 40.0
"""Margins between the axes and the edges of a chart, for tick labels and titles, in SVG user units."""
INK, FAINT = "#22303c", "#d5dbe1"


@dataclass(slots=True, kw_only=True)
class Chart:
    """A chart with one pair of axes. Elements that are added later are drawn over elements that were added before."""

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    """Values at the left and right end of the horizontal axis."""
    y_range: tuple[float, float]
    """Values at the lower and upper end of the vertical axis."""
    _parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Convert a value on the horizontal axis to the distance from the left edge of the chart, in SVG user units."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Convert a value on the vertical axis to the distance from the top edge of the chart, in SVG user units."""
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def bar(self, x: tuple[float, float], y: tuple[float, float], colour: str) -> None:
        """Add a filled rectangle.

        Args:
            x: values on the horizontal axis at the left and right edge of the rectangle.
            y: values on the vertical axis at the lower and upper edge of the rectangle.
            colour: colour of the rectangle, in the notation of CSS.
        """
        left, right, low, high = self.x(x[0]), self.x(x[1]), self.y(y[0]), self.y(y[1])
        self._parts.append(
            f'<rect x="{left:.1f}" y="{high:.1f}" width="{right - left:.1f}" height="{low - high:.1f}" '
            f'fill="{colour}"/>'
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> None:
        """Add a line through points (x, y), which are values on the two axes. The colour is in the notation of CSS."""
        coordinates = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(f'<polyline points="{coordinates}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')

    def dot(self, x: float, y: float, colour: str, label: str) -> None:
        """Add a dot with a label at the upper right of the dot. `x` and `y` are values on the two axes."""
        self._parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.5" fill="{colour}"/>')
        self._parts.append(_text(self.x(x) + 6, self.y(y) - 6, label, size=11))

    def legend(self, names: Sequence[tuple[str, str]]) -> None:
        """Add a legend in the upper right quarter of the chart, with one line for each pair (colour, name)."""
        for number, (colour, name) in enumerate(names):
            top = TOP + 6 + 16 * number
            self._parts.append(f'<rect x="{WIDTH / 2:.1f}" y="{top:.1f}" width="10" height="10" fill="{colour}"/>')
            self._parts.append(_text(WIDTH / 2 + 15, top + 9, name, size=11))

    def svg(self) -> str:
        """Return the chart as an `<svg>` element of the class `chart`. The CSS of the page sets the width."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        grid, numbers = [], []
        for value in ticks(*self.y_range):
            y = self.y(value)
            grid.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{FAINT}" stroke-width=".7"/>')
            numbers.append(_text(LEFT - 6, y + 4, f"{value:,.4g}", size=11, anchor="end"))
        for value in ticks(*self.x_range):
            numbers.append(_text(self.x(value), bottom + 15, f"{value:,.4g}", size=11, anchor="middle"))
        axes = f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="{INK}"/>'
        titles = [
            _text((LEFT + right) / 2, 14, self.title, size=12.5, anchor="middle", bold=True),
            _text((LEFT + right) / 2, HEIGHT - 6, self.x_label, size=11.5, anchor="middle"),
            _text(0, 0, self.y_label, size=11.5, anchor="middle",
                  transform=f"translate(13 {(TOP + bottom) / 2:.1f}) rotate(-90)"),
        ]  # fmt: skip
        inside = "".join([*grid, *self._parts, axes, *numbers, *titles])
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(self.title)}" '
            f'font-family="sans-serif" fill="{INK}">{inside}</svg>'
        )


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return the values of the ticks of an axis from `low` to `high`, in ascending order: at most `count` + 1 values.

    The values are the multiples of a step. The step is 1, 2 or 5 times a power of ten: the smallest such step that is
    at least (`high` - `low`) / `count`.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= high - low)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(
    x: float, y: float, text: str, *, size: float, anchor: str = "start", bold: bool = False, transform: str = ""
) -> str:
    weight = ' font-weight="600"' if bold else ""
    turned = f' transform="{transform}"' if transform else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" stroke="none"{weight}{turned}>'
        f"{escape(text)}</text>"
    )
