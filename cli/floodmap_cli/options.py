"""Options that several commands share, with the checks that make a wrong value a usage error (exit 2).

Parameter names are those of the library's dataclasses, so that a command can pass them on: what `scene_options` adds
is what `SceneOptions` takes, what `grid_options` adds is what `Grid` takes.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from floodmap.defaults import FORMAT, MODEL, OVERLAP, TILE_SIZE
from floodmap.errors import FloodmapError
from floodmap.geo.names import has_gdal_name

from .log import configure_logging

FORMATS = ("gpkg", "shp", "geojson", "fgb", "parquet")
"""Vector formats floodmap writes."""

Command = Callable[..., Any]



def positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Callback: refuse zero, negative numbers, NaN and infinity."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value:g} is not a number above 0")
    return value


def not_negative(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Callback: refuse negative numbers, NaN and infinity."""
    if value is not None and not 0 <= value < math.inf:
        raise click.BadParameter(f"{value:g} is not 0 or a number above")
    return value


def dataset(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | str | None:
    """Callback: a file or .gdb folder as a path; a name that only GDAL knows as text. Refuse what is not there."""
    if value is None:
        return None
    path = Path(value)
    if value and (path.is_file() or (path.is_dir() and path.suffix.lower() == ".gdb")):
        return path
    if has_gdal_name(value):
        return value
    what = "is a directory; give a file or a .gdb folder" if value and path.is_dir() else "does not exist"
    raise click.BadParameter(f"{value!r} {what}")


def share(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Callback: refuse what is no share from 0.01 to 1, with what to write for per cent."""
    if value is not None:
        from floodmap.defaults import check_threshold

        try:
            check_threshold(value)
        except FloodmapError as error:
            raise click.BadParameter(str(error)) from None
    return value


def _ignored(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    if value:
        from floodmap.masks.rules import FloodRule

        try:
            FloodRule.parse(None, ignore=value)
        except FloodmapError as error:
            raise click.BadParameter(str(error)) from None
    return value


def _bands(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(re.fullmatch(r"[0-9]+", part) and int(part) >= 1 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of band numbers, counted from 1, such as 4,3,2")
    return tuple(int(part) for part in parts)


def _nodata(ctx: click.Context, param: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value == "none":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor none") from None


def _formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = [part.strip().lower().removeprefix(".") for part in value.split(",") if part.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is no format; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"{value!r} is no device; choose from auto, cpu, cuda, cuda:N, mps")
    return value


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    # Decorators apply from the inside out; reversed, --help lists the options in the order they are written here.
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


scene_options = _stack(
    click.option(
        "--resolution", "resolution_m", type=float, metavar="METRES", callback=positive,
        help="Work at this ground sample distance instead of the scene's own pixels.",
    ),
    click.option(
        "--bands", metavar="R,G,B[,NIR]", callback=_bands,
        help='Bands to use, counted from 1, such as "4,3,2".  [default: by colour interpretation]',
    ),
    click.option(
        "--nodata", metavar="VALUE|none", callback=_nodata,
        help="Value of pixels that hold nothing, instead of the file's own and of such as -9999 that are found; none: "
        "every pixel is ground.",
    ),
    click.option(
        "--mask", metavar="FILE", callback=dataset,
        help="Raster or polygons to leave unobserved: cloud, say.",
    ),
    click.option(
        "--collar", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
        help="Find untagged black or white borders and leave them unobserved.",
    ),
    click.option(
        "--crs", metavar="CRS",
        help="CRS of the scene, such as EPSG:32643, where the file has none or a wrong one.",
    ),
    click.option(
        "--aoi", metavar="FILE", callback=dataset,
        help="Polygons of the area of interest; ground outside is left out.",
    ),
)  # fmt: skip
"""Adds resolution_m, bands, nodata, mask, collar, crs, aoi: the fields of `floodmap.imagery.options.SceneOptions`."""

grid_options = _stack(
    click.option(
        "--tile-size", type=click.IntRange(min=32), default=TILE_SIZE, show_default=True, metavar="PIXELS",
        help="Longest side of a window; a multiple of 32.",
    ),
    click.option(
        "--overlap", type=click.IntRange(min=0), default=OVERLAP, show_default=True, metavar="PIXELS",
        help="Pixels that neighbouring windows share, at least.",
    ),
)  # fmt: skip
"""Adds tile_size and overlap: fields of `floodmap.inference.tiling.Grid`."""

model_option = click.option(
    "--model", default=MODEL, show_default=True, metavar="NAME|FILE",
    help="A model's name (see: floodmap models list) or a .safetensors or .pth file.",
)  # fmt: skip
"""Adds model."""

flips_option = click.option(
    "--flips", is_flag=True, help="See every window in a mirror too and take the mean: a little better, twice as long."
)
"""Adds flips."""

device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", callback=_device,
    help="auto, cpu, cuda, cuda:N or mps.",
)  # fmt: skip
"""Adds device."""

format_option = click.option(
    "--format", "formats", default=FORMAT, show_default=True, metavar="LIST", callback=_formats,
    help=f"Vector formats to write, separated by commas: {', '.join(FORMATS)}.",
)  # fmt: skip
"""Adds formats, a tuple of names out of FORMATS."""

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
"""Adds overwrite."""

json_option = click.option("--json", "as_json", is_flag=True, help="Write the result as JSON to standard output.")
"""Adds as_json."""


ignore_option = click.option(
    "--ignore-value", "ignore_values", multiple=True, metavar="VALUE", callback=_ignored,
    help='Value of rasters that is neither flood nor dry ("0", "0,9"; may be repeated). So are nodata and, unless they '
    "are flood, values below 0, 255 in bytes and fill values such as 1e20; none: nodata alone.",
)  # fmt: skip
"""Adds ignore_values, a tuple of texts that `floodmap.masks.rules.FloodRule.parse` reads."""


def verbosity_options(command: Command) -> Command:
    """Add -q and -v, set up logging before the command runs, and pass it `verbosity`: -1 quiet, 0, 1 (-v), 2 (-vv)."""

    @click.option("-q", "--quiet", is_flag=True, help="Only errors: no progress, no warnings.")
    @click.option("-v", "--verbose", count=True, help="Say more; -vv adds tracebacks and what other libraries log.")
    @functools.wraps(command)
    def with_logging(*args: Any, quiet: bool, verbose: int, **kwargs: Any) -> Any:
        if quiet and verbose:
            raise click.UsageError("-q and -v exclude each other")
        verbosity = -1 if quiet else min(verbose, 2)
        configure_logging(verbosity)
        return command(*args, verbosity=verbosity, **kwargs)

    return with_logging
