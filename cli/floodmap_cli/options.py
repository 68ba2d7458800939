"""Click options that several commands share, and callbacks that make a wrong value a usage error (exit 2).

Most options are built by `options_of` from the fields of the option dataclasses in `floodmap.options`. Every parameter
of a command that comes from such an option has the name of the dataclass field. A command therefore collects these
parameters in a dictionary `settings`, and creates the dataclass from it: `SegmentOptions(**settings)`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from floodmap.errors import FloodmapError
from floodmap.geo.names import has_gdal_name
from floodmap.options import FORMATS, MODEL, check_threshold

from .lines import lines
from .log import configure_logging

Command = Callable[..., Any]


class FileOrUrl(click.Path):
    """Parameter type: a local path, or a URL or another name that only GDAL opens, which is returned unchanged."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a `Path`, or a str for a URL."""
        return value if isinstance(value, str) and has_gdal_name(value) else super().convert(value, param, ctx)


def positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse zero, negative numbers, NaN and infinity (callback of click)."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value:g} is not a number above 0")
    return value


def not_negative(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse negative numbers, NaN and infinity (callback of click)."""
    if value is not None and not 0 <= value < math.inf:
        raise click.BadParameter(f"{value:g} must be 0 or more")
    return value


def dataset(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | str | None:
    """Convert the value of an option that names a file, and refuse a file that does not exist (callback of click).

    A file or a .gdb folder becomes a Path. A name that only GDAL opens, such as `/vsizip/...`, stays text. None (the
    option is not given) stays None.
    """
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
    """Refuse a threshold outside 0.01 to 1 (callback of click). For 40, the message says to write 0.4."""
    if value is not None:
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
        wrong = f"{', '.join(unknown)} is no format" if unknown else "no format given"
        raise click.BadParameter(f"{wrong}; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def _prompts(ctx: click.Context, param: click.Parameter, value: str) -> str | Path | None:
    return value if value in ("auto", "none") else dataset(ctx, param, value)


def _part(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not 0 < value < 1:
        raise click.BadParameter(f"{value:g} is not a share above 0 and below 1")
    return value


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"{value!r} is no device; choose from auto, cpu, cuda, cuda:N, mps")
    return value


def _devices(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return ",".join(_device(ctx, param, one.strip()) for one in value.split(","))


def _as_lines(ctx: click.Context, value: str) -> None:
    if not ctx.resilient_parsing:
        lines.as_json = value == "json"


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    # Decorators apply from the inside out; in reverse, --help lists the options in the order of the source.
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


_CHECKS = {
    "resolution_m": positive, "bands": _bands, "nodata": _nodata, "mask": dataset, "aoi": dataset, "prompts": _prompts,
    "permanent_water": dataset, "permanent_rim_m": not_negative,
    "threshold": share, "min_area_m2": not_negative, "simplify_m": not_negative, "formats": _formats,
    "epochs": positive, "learning_rate": positive, "val_share": _part,
}  # fmt: skip
"""Mapping from the name of a dataclass field to the callback that checks the value of the option."""


def options_of(fields_of: type, *names: str) -> Callable[[Command], Command]:
    """Return a decorator that adds one option to a command for each field of a dataclass, in the order of the fields.

    Args:
        fields_of: dataclass; fields that were not made by `floodmap.options.option` are left out.
        names: names of the fields to use; no names: all fields.
    """
    hints = get_type_hints(fields_of)
    chosen = [one for one in fields(fields_of) if one.metadata and (not names or one.name in names)]
    return _stack(*(_option(one, hints[one.name]) for one in chosen))


def _option(one: Field[Any], hint: Any) -> Callable[[Command], Command]:
    """Return a decorator that adds the option of a dataclass field to a command; `hint` is the field's type."""
    metadata, check = one.metadata, _CHECKS.get(one.name)
    flag = metadata["flag"] or "--" + re.sub("_m2?$", "", one.name).replace("_", "-")
    if hint is bool:
        return click.option(flag, one.name, is_flag=True, help=metadata["help"])
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    settings: dict[str, Any] = {"type": kinds[0] if kinds[0] in (int, float) and check is not _nodata else str}
    if get_origin(hint) is Literal:
        settings["type"] = click.Choice(get_args(hint))
    elif metadata["least"] is not None:
        settings["type"] = click.IntRange(min=metadata["least"])
    default = ",".join(one.default) if isinstance(one.default, tuple) else one.default
    shown = f"  [default: {metadata['shown']}]" if metadata["shown"] else ""
    if metadata["shown"]:
        default = None
    return click.option(
        flag, one.name, default=default, show_default=default is not None, metavar=metadata["metavar"],
        callback=check, help=metadata["help"] + shown, **settings,
    )  # fmt: skip


model_option = click.option(
    "--model", default=MODEL, show_default=True, metavar="NAME|FILE",
    help="A model's name (see: floodmap models list) or a .safetensors or .pth file.",
)  # fmt: skip
"""Decorator that adds the parameter `model`."""

flips_option = click.option(
    "--flips", is_flag=True, help="Average each window with its mirror image: slightly better, but twice as long."
)
"""Decorator that adds the parameter `flips`."""

device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", callback=_device,
    help="auto, cpu, cuda, cuda:N or mps.",
)  # fmt: skip
"""Decorator that adds the parameter `device`."""

devices_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE[,DEVICE...]", callback=_devices,
    help="auto, cpu, cuda, cuda:N or mps; several, such as cuda:0,cuda:1, start a worker process for each.",
)  # fmt: skip
"""Decorator that adds the parameter `device`, one device or several devices separated by commas."""

workers_options = _stack(
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N",
        help="Compute in N worker processes on this machine: small scenes side by side. The results are the same.",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS",
        help="Compute windows on the workers of a Dask cluster, such as tcp://host:8786.",
    ),
    click.option(
        "--allow-mixed", is_flag=True,
        help="Allow workers that differ in versions, device or precision. The result then depends on the distribution.",
    ),
)  # fmt: skip
"""Decorator that adds the parameters `workers`, `scheduler` and `allow_mixed`."""

catalogue_option = click.option(
    "--catalogue", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write the polygons of all scenes and a row for each scene to FILE.gpkg, or to FILE.parquet.",
)  # fmt: skip
"""Decorator that adds the parameter `catalogue`."""

stac_items_option = click.option(
    "--stac-items", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a STAC item of each scene to FILE.parquet (stac-geoparquet).",
)  # fmt: skip
"""Decorator that adds the parameter `stac_items`."""

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing results.")
"""Decorator that adds the parameter `overwrite`."""

json_option = click.option("--json", "as_json", is_flag=True, help="Write the result as JSON to standard output.")
"""Decorator that adds the parameter `as_json`."""

progress_option = click.option(
    "--progress", type=click.Choice(["bar", "json"]), default="bar", show_default=True, is_eager=True,
    expose_value=False, callback=lambda ctx, param, value: _as_lines(ctx, value),
    help="bar: a bar, on a terminal only; json: progress and messages as lines of JSON on standard error.",
)  # fmt: skip
"""Decorator that adds the option `--progress`, without a parameter."""

ignore_option = click.option(
    "--ignore-value", "ignore_values", multiple=True, metavar="VALUE", callback=_ignored,
    help='Value of rasters that is neither flood nor dry ("0", "0,9"; may be repeated). Nodata is always ignored, and, '
    "unless they are flood, values below 0, 255 in bytes and fill values such as 1e20; none: only nodata.",
)  # fmt: skip
"""Decorator that adds the parameter `ignore_values`, a tuple of texts for `floodmap.masks.rules.FloodRule.parse`."""


def verbosity_options(command: Command) -> Command:
    """Decorate a command with the options -q and -v, and configure logging before the command runs.

    The command receives the parameter `verbosity`: -1 for -q, 0 by default, 1 for -v, 2 for -vv.
    """

    @click.option("-q", "--quiet", is_flag=True, help="Only errors: no progress, no warnings.")
    @click.option("-v", "--verbose", count=True, help="Log more; -vv adds tracebacks and the logs of other libraries.")
    @functools.wraps(command)
    def with_logging(*args: Any, quiet: bool, verbose: int, **kwargs: Any) -> Any:
        if quiet and verbose:
            raise click.UsageError("-q and -v exclude each other")
        verbosity = -1 if quiet else min(verbose, 2)
        configure_logging(verbosity)
        return command(*args, verbosity=verbosity, **kwargs)

    return with_logging
