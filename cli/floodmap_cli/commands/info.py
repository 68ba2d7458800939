"""`floodmap info`: how floodmap reads a scene, and estimates of memory, disk space and time for segmenting it."""

from __future__ import annotations

import json
from typing import Any

import click

from floodmap.inspection import inspect_scene
from floodmap.options import SceneOptions, SegmentOptions

from ..options import json_option, options_of, verbosity_options

NIR_USE = "used, unless --nir off"
"""Text beside the number of the near infrared band in the output of `floodmap info`."""


@click.command("info")
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...", type=str)
@options_of(SceneOptions)
@options_of(SegmentOptions, "tile_size", "overlap")
@json_option
@verbosity_options
def info(scenes: tuple[str, ...], tile_size: int, overlap: int, as_json: bool, verbosity: int, **options: Any) -> None:
    """Print how floodmap reads each SCENE, without segmenting it."""
    scene_options = SceneOptions(**options)
    # The fingerprint is in the JSON alone, because it takes long: the whole file is read for it.
    found = [
        inspect_scene(path, scene_options, tile_size=tile_size, overlap=overlap, with_fingerprint=as_json)
        for path in scenes
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(as_text(scene) for scene in found))


def as_text(scene: dict[str, Any]) -> str:
    """Format the result of `inspect_scene` as aligned lines of text."""
    size, source, estimate = scene["size"], scene["source_size"], scene["estimate"]
    bands = ", ".join(str(band) for band in scene["bands"]) + (
        f" (and {scene['nir_band']}, near infrared: {NIR_USE})" if scene["nir_band"] else ""
    )
    identity, missing = scene["dtype"] == "uint8", "not read, because the remote file has no overviews"
    stretch = scene["stretch"] or {"low": [], "high": []}
    bounds = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in zip(*stretch.values(), strict=True))
    rows = {
        "CRS": scene["crs"] or "none: pixel coordinates, no areas",
        "size": f"{size['width']} x {size['height']} pixels, {size['width'] * size['height'] / 1e6:.4g} megapixels"
        + (f" (file {source['width']} x {source['height']})" if source != size else ""),
        "pixel": "unknown" if scene["gsd_m"] is None else f"{scene['gsd_m']:.4g} m on the ground",
        "bands": f"{bands} of type {scene['dtype']}",
        "stretch": "none" if identity else bounds or missing,
        "nodata": "none" if scene["nodata"] is None else f"{scene['nodata']}",
        "collar": missing if scene["collar"] is None else " and ".join(scene["collar"]) or "none",
        "observed": missing if scene["valid_share"] is None else f"about {100 * scene['valid_share']:.1f} %",
        "windows": "{count} of {width} x {height} pixels".format(**scene["windows"]),
        "memory": f"about {estimate['memory_bytes'] / 1e9:.1f} GB (estimate)",
        "disk": f"at most {estimate['disk_bytes'] / 1e6:.3g} MB (estimate)",
        "time": f"about {_duration(estimate['seconds'])} on 2 CPU cores (estimate)",
    }
    return "\n".join([scene["path"], *(f"  {name:<9} {text}" for name, text in rows.items())])


def _duration(seconds: float) -> str:
    """Return a duration, given in seconds, as text such as `90 s`, `45 min` or `2.5 h`."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
