"""How a scene is read, as texts, to find out whether another process or machine reads the same scene in the same way.

The same files may be read differently: PROJ may lack the grids of a datum, or another version may choose other bands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from floodmap.imagery.borders import Collar
from floodmap.imagery.overlay import Overlay
from floodmap.imagery.scene import Scene

_SAMPLES, _SIDE = 4, 64
"""Number of windows along each axis, and their side in pixels, that represent the pixels of a scene."""


def reading_of(scene: Scene, *, with_pixels: bool) -> dict[str, str]:
    """Describe how an open scene is read, with its mask, its area of interest and its borders.

    Numbers are rounded, because CPUs of different kinds may give other last digits.

    Args:
        scene: the scene.
        with_pixels: True: the description has a digest of some pixels, for a scene without a fingerprint.

    Returns:
        Text that describes a property, by name of the property, such as "stretch".
    """
    crs = scene.crs.to_string() if scene.crs else None
    found = {
        "grid": f"{scene.grid.shape_hw} {crs} {_rounded(tuple(scene.transform)[:6])} {_rounded([scene.gsd_m or 0.0])}",
        "bands": f"{scene.bands} {scene.nir_band} {scene.dtype}",
        "nodata": str(scene.nodata),
        "stretch": f"{_rounded(scene.stretch.low)} {_rounded(scene.stretch.high)}",
        "borders": _of_collar(scene.collar),
        "overviews": str(scene.has_overviews),
        "mask": _of_overlay(scene.reasons.mask),
        "area of interest": _of_overlay(scene.reasons.aoi),
    }
    return {**found, "pixels": _of_pixels(scene)} if with_pixels else found


def _rounded(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _of_collar(collar: Collar | None) -> str:
    if collar is None:
        return "none"
    digest = hashlib.sha256()
    for colour, cells in collar.cells.items():
        digest.update(f"{colour} {cells.shape}".encode() + cells.tobytes())
    return digest.hexdigest()


def _of_overlay(overlay: Overlay | None) -> str:
    return "none" if overlay is None else _rounded(overlay.bounds)


def _of_pixels(scene: Scene) -> str:
    digest = hashlib.sha256()
    for tile in scene.samples(_SAMPLES, _SIDE):
        digest.update(tile.rgb.tobytes() + tile.reason.tobytes())
    return digest.hexdigest()
