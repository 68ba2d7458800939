"""How to look at a raster, where its own metadata is not to decide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOptions:
    """How to look at a raster, where its own metadata is not to decide."""

    resolution_m: float | None = None
    """Ground sample distance to work at, in metres; None for the raster's own pixels."""
    bands: tuple[int, ...] | None = None
    """Bands to use, counted from 1: one (grey), three (RGB) or four (RGB and near infrared)."""
    nodata: float | Literal["none"] | None = None
    """Value of pixels that hold nothing, instead of the file's own; `none`: every value is ground."""
    mask: Path | str | None = None
    """Raster (nonzero) or polygons of ground to leave unobserved."""
    aoi: Path | str | None = None
    """Polygons or raster (nonzero) of the ground that is wanted."""
    crs: str | None = None
    """CRS of the raster's coordinates, where the file has none or a wrong one; it overrides the file's."""
    collar: Literal["auto", "off"] = "auto"
    """Whether to look for untagged black or white borders; only scenes with a CRS have them."""
