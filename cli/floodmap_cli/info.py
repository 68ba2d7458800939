"""`floodmap info`: what floodmap sees in a scene, and what segmenting it will take."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any

import click

from floodmap.imagery.scene import Scene
from floodmap.inference.strangeness import strange
from floodmap.inference.tiling import Grid
from floodmap.models.protocol import Segmenter
from floodmap.options import MODEL, SceneOptions, SegmentOptions
from floodmap.output.results import BYTES_PER_PIXEL

from .options import json_option, options_of, verbosity_options

log = logging.getLogger("floodmap")

PROCESS_BYTES = 1.2e9
"""Memory of Python, torch, and the shipped model at work on the windows of one batch."""
PIXEL_BYTES = 0.3
"""Memory for polygons, a pixel of the scene: of one with as many shores as the synthetic ones."""
PIXELS_PER_SECOND = 5e6
"""Speed of the shipped model on two CPU cores."""
NIR_USE = "used, unless --nir off"
"""Whether near infrared is used."""
STARTUP_SECONDS = 4
"""What imports, reading the header and finishing take, however small the scene."""


@click.command("info")
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...", type=str)
@options_of(SceneOptions)
@options_of(SegmentOptions, "tile_size", "overlap")
@json_option
@verbosity_options
def info(scenes: tuple[str, ...], tile_size: int, overlap: int, as_json: bool, verbosity: int, **options: Any) -> None:
    """Say what floodmap sees in each SCENE, without segmenting it."""
    looks = SceneOptions(**options)
    # Reading a large file whole takes a while, and only the JSON says what comes of it.
    found = [
        describe(path, looks, tile_size=tile_size, overlap=overlap, with_fingerprint=as_json) for path in scenes
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(as_text(scene) for scene in found))


def describe(
    path: str, options: SceneOptions, *, tile_size: int, overlap: int, with_fingerprint: bool = True
) -> dict[str, Any]:
    """Everything `info` reports of one scene; the memory, disk and time are estimates."""
    with Scene.open(path, options) as scene:
        warnings = [*scene.unsuited, *strange(scene, shipped_model())]
        for line in warnings:
            log.warning("%s", line)
        grid = Grid(height=scene.height, width=scene.width, tile_size=tile_size, overlap=overlap)
        pixels = scene.height * scene.width
        windows = len(grid) * grid.shape_hw[0] * grid.shape_hw[1]
        return {
            "path": str(scene.path),
            "size": {"width": scene.width, "height": scene.height},
            "source_size": {"width": scene.source_shape_hw[1], "height": scene.source_shape_hw[0]},
            "crs": scene.crs.to_string() if scene.crs else None,
            "transform": list(scene.transform)[:6],
            "gsd_m": scene.gsd_m,
            "source_gsd_m": scene.source_gsd_m,
            "dtype": scene.dtype,
            "bands": list(scene.bands),
            "nir_band": scene.nir_band,
            "stretch": {"low": list(scene.stretch.low), "high": list(scene.stretch.high)},
            # JSON has no NaN.
            "nodata": scene.nodata if scene.nodata is None or scene.nodata == scene.nodata else "nan",
            "collar": list(scene.collar.colours) if scene.collar else [],
            "valid_share": scene.valid_share(),
            "date": scene.date.isoformat(),
            "warnings": [*scene.remarks, *warnings],
            "fingerprint": scene.fingerprint if with_fingerprint else None,
            "windows": {"count": len(grid), "height": grid.shape_hw[0], "width": grid.shape_hw[1]},
            "estimate": {
                "memory_bytes": int(PROCESS_BYTES + scene.cache_bytes + PIXEL_BYTES * pixels),
                "disk_bytes": int(BYTES_PER_PIXEL * pixels),
                "seconds": round(STARTUP_SECONDS + windows / PIXELS_PER_SECOND, 1),
            },
        }


@cache
def shipped_model() -> Segmenter:
    """The model that ships: what it was trained on tells which scenes are strange."""
    from floodmap.models.loading import load_segmenter
    from floodmap.models.registry import resolve

    return load_segmenter(resolve(MODEL), "cpu")


def as_text(scene: dict[str, Any]) -> str:
    """The same as aligned lines."""
    size, source, estimate = scene["size"], scene["source_size"], scene["estimate"]
    bands = ", ".join(str(band) for band in scene["bands"]) + (
        f" (and {scene['nir_band']}, near infrared: {NIR_USE})" if scene["nir_band"] else ""
    )
    bounds = zip(scene["stretch"]["low"], scene["stretch"]["high"], strict=True)
    identity = scene["dtype"] == "uint8"
    rows = {
        "CRS": scene["crs"] or "none: pixel coordinates, no areas",
        "size": f"{size['width']} x {size['height']} pixels, {size['width'] * size['height'] / 1e6:.4g} megapixels"
        + (f" (file {source['width']} x {source['height']})" if source != size else ""),
        "pixel": "unknown" if scene["gsd_m"] is None else f"{scene['gsd_m']:.4g} m on the ground",
        "bands": f"{bands} of type {scene['dtype']}",
        "stretch": "none" if identity else ", ".join(f"{low:.6g} to {high:.6g}" for low, high in bounds),
        "nodata": "none" if scene["nodata"] is None else f"{scene['nodata']}",
        "collar": " and ".join(scene["collar"]) or "none",
        "observed": f"about {100 * scene['valid_share']:.1f} %",
        "windows": "{count} of {width} x {height} pixels".format(**scene["windows"]),
        "memory": f"about {estimate['memory_bytes'] / 1e9:.1f} GB (estimate)",
        "disk": f"at most {estimate['disk_bytes'] / 1e6:.3g} MB (estimate)",
        "time": f"about {_duration(estimate['seconds'])} on 2 CPU cores (estimate)",
    }
    return "\n".join([scene["path"], *(f"  {name:<9} {text}" for name, text in rows.items())])


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
