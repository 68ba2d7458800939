"""Which bands of a raster are red, green, blue, near infrared and alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rasterio.enums import ColorInterp

from floodmap.errors import SceneError

_ROLES = ("red", "green", "blue")
_NIR_NAMES = ("nir", "near infrared", "near-infrared", "near_infrared")


@dataclass(frozen=True, slots=True, kw_only=True)
class BandChoice:
    """Bands of a raster by the part they play, counted from 1."""

    rgb: tuple[int, ...]
    """Red, green, blue; or one band, shown as grey or through its palette."""
    nir: int | None = None
    """Near infrared."""
    alpha: int | None = None
    """Opacity; 0 is nodata."""
    palette: bool = False
    """Values of the one band index a colour table."""

    @property
    def shown(self) -> tuple[int, ...]:
        """The bands whose values are used, near infrared last."""
        return self.rgb if self.nir is None else (*self.rgb, self.nir)


def choose_bands(
    colorinterp: Sequence[ColorInterp],
    descriptions: Sequence[str | None] = (),
    *,
    wanted: tuple[int, ...] | None = None,
    name: str = "scene",
) -> BandChoice:
    """Choose bands by number, else by colour interpretation, else by description, else by their order.

    Without any of these one or two bands are grey, three are RGB, four are RGB and near infrared, and of more the
    first three are RGB.

    Args:
        colorinterp: one per band, as rasterio gives them.
        descriptions: one per band, as rasterio gives them; "Red" or "NIR" is understood.
        wanted: one band (grey), three (red, green, blue) or four (and near infrared), counted from 1.
        name: the file, for the message.

    Raises:
        SceneError: `wanted` has another length, or a band that does not exist.
    """
    alphas = [band for band, kind in enumerate(colorinterp, 1) if kind == ColorInterp.alpha]
    alpha = alphas[-1] if alphas else None
    if wanted is not None:
        rgb, nir = _wanted(wanted, len(colorinterp), name)
        alpha = None if alpha in wanted else alpha
    else:
        rgb, nir = _by_role(colorinterp, descriptions, [n for n in range(1, len(colorinterp) + 1) if n not in alphas])
        if not rgb:  # an alpha band and nothing else
            rgb, alpha = (alphas[0],), None
    palette = len(rgb) == 1 and colorinterp[rgb[0] - 1] == ColorInterp.palette
    return BandChoice(rgb=rgb, nir=nir, alpha=alpha, palette=palette)


def _wanted(wanted: tuple[int, ...], count: int, name: str) -> tuple[tuple[int, ...], int | None]:
    if len(wanted) not in (1, 3, 4):
        raise SceneError(f"{len(wanted)} bands chosen for {name}; choose 1 (grey), 3 (red, green, blue) or 4 (and NIR)")
    missing = [str(band) for band in wanted if not 1 <= band <= count]
    if missing:
        raise SceneError(f"{name} has no band {', '.join(missing)}; it has bands 1 to {count}")
    return (wanted, None) if len(wanted) < 4 else (wanted[:3], wanted[3])


def _by_role(
    colorinterp: Sequence[ColorInterp], descriptions: Sequence[str | None], usable: list[int]
) -> tuple[tuple[int, ...], int | None]:
    names = {band: (text or "").strip().lower() for band, text in enumerate(descriptions, 1)}

    def find(role: str, *spellings: str) -> int | None:
        by_colour = [band for band in usable if colorinterp[band - 1].name == role]
        return next(iter(by_colour + [band for band in usable if names.get(band) in spellings]), None)

    found = [band for role in _ROLES if (band := find(role, role)) is not None]
    nir = find("nir", *_NIR_NAMES)
    if len(set(found)) == 3:
        rest = [band for band in usable if band not in found]
        return tuple(found), nir or (rest[0] if len(usable) == 4 else None)
    if len(usable) < 3:
        return tuple(usable[:1]), None
    if nir is None and len(usable) == 4:
        nir = usable[3]
    others = [band for band in usable if band != nir]
    return tuple(others[:3] if len(others) >= 3 else usable[:3]), nir
