"""Parts of HTML pages that open offline: templates, charts as inline SVG, and pictures as `data:` URLs."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from floodmap._runtime.extras import require
from floodmap._runtime.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#22303c", "#d5dbe1"
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "axes.titlesize": 9.5, "axes.titleweight": "bold", "figure.constrained_layout.use": True,
    "svg.hashsalt": "floodmap", "text.parse_math": False,
}  # fmt: skip

Image8 = NDArray[np.uint8]


def write_page(path: Path, template: str, **context: Any) -> None:
    """Render a template, and write the page atomically. Values are escaped, unless the template marks a value as safe.

    Args:
        path: the file to write.
        template: name of a file in `templates/`.
        context: values of the variables in the template.

    Raises:
        OutputError: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("floodmap.output"), autoescape=True, trim_blocks=True)
    write_whole(path, pages.get_template(template).render(**context))


@contextmanager
def figure(width: float, height: float, columns: int = 1) -> Iterator[tuple[Figure, Sequence[Any]]]:
    """Context manager: a matplotlib figure with one row of axes, in the style of all charts.

    Args:
        width: width of the figure in inches.
        height: height of the figure in inches.
        columns: number of axes.

    Yields:
        The figure, and the axes from left to right.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", "a page with charts of a comparison")
    # pyplot is not used, because it would select a GUI backend and keep a reference to every figure.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(width, height))
        axes = drawn.subplots(1, columns, squeeze=False)[0]
        yield drawn, axes


def svg_of(drawn: Figure) -> str:
    """Convert a matplotlib figure to an `<svg>` element of the class `chart`; the style of the page sets the width."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Names may have characters that matplotlib's font lacks. Text stays text in SVG, and browsers have other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawn.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="chart"', svg, count=1)


def jpeg(rgb: Image8, side: int, max_bytes: int | None = None) -> str:
    """Encode a picture as a JPEG `data:` URL.

    Args:
        rgb: uint8 (height, width, 3).
        side: longest side in pixels; a larger picture is shrunk to this size.
        max_bytes: largest size of the JPEG in bytes; None: no limit. The JPEG quality is reduced from 82 until the size
            fits, but not below 25. At 25 the JPEG may be larger than `max_bytes`.
    """
    picture = Image.fromarray(rgb)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    for quality in (82, 70, 55, 40, 25):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, optimize=True)
        if max_bytes is None or out.tell() <= max_bytes:
            break
    return _data("image/jpeg", out)


def png(indices: Image8, colours: Sequence[tuple[int, int, int, int]]) -> str:
    """Encode a picture with a palette as a PNG `data:` URL.

    Args:
        indices: uint8 (height, width), index of the colour of each pixel in `colours`.
        colours: the palette: red, green, blue and opacity of each colour, 0 to 255.
    """
    picture = Image.fromarray(indices)
    picture.putpalette([part for colour in colours for part in colour[:3]])
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True, transparency=bytes(colour[3] for colour in colours))
    return _data("image/png", out)


def _data(kind: str, content: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
