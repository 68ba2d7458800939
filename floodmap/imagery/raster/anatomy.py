"""What a raster is made of: its files, members of a mosaic that cannot be read, and ground it has no pixels for."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile

from floodmap.errors import SceneError
from floodmap.geo.gdal import closed_by, gdal_reason
from floodmap.geo.source_name import SourceName
from floodmap.geo.vrt import Member, Rect, Vrt
from floodmap.imagery.raster.gaps import AnyGaps, Gaps, Placed, block_gaps, mosaic_gaps

_LOSSY = ("jpeg", "webp", "jxl", "lerc", "jp2", "mrsid", "ecw")
_SERVICES = ("WMS", "WMTS", "WCS", "OGCAPI", "STACIT", "STACTA", "EEDAI", "PLMosaic", "PostGISRaster", "GTI", "DAAS")
_NAMED = 3
"""Lost members of a mosaic that are named for each window."""
_DEEPEST = 8
"""Mosaics of mosaics are followed so far; one that holds itself would never end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What a raster is made of."""

    files: tuple[SourceName, ...]
    """Every file it is read from: masks, overviews, the members of a mosaic; missing ones too."""
    lossy: bool
    """Whether any of it is compressed with loss."""
    gaps: Gaps | None = None
    """What it has no pixels for."""
    elsewhere: bool = False
    """Whether a service delivers the pixels, so that no file tells when they change."""
    lost: dict[SourceName, str] = field(default_factory=dict)
    """Members that cannot be read, and why."""
    mended: str | None = None
    """Name of the mosaic without them, in memory: GDAL reads a member that it could not open as 0."""

    @property
    def lost_names(self) -> str:
        """Members that cannot be read, in words: the first few."""
        more = f", and {len(self.lost) - _NAMED} more" if len(self.lost) > _NAMED else ""
        return f"{', '.join(map(str, [*self.lost][:_NAMED]))}{more}"


def anatomy(dataset: DatasetReader, name: SourceName, bands: Sequence[int], stack: ExitStack) -> Anatomy:
    """Look into an open raster.

    Args:
        dataset: the raster.
        name: what it was opened by.
        bands: whose gaps count.
        stack: what is made in memory goes with it.
    """
    return _Surgeon(stack).look(dataset, name, bands, 0)


class _Surgeon:
    """Looks into rasters, each member of a mosaic once however many bands use it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def look(self, dataset: DatasetReader, name: SourceName, bands: Sequence[int], depth: int) -> Anatomy:
        """See `anatomy`."""
        files = tuple(map(SourceName.of, dataset.files)) or (name,)
        if dataset.driver != "VRT":
            return Anatomy(
                files=files, lossy=is_lossy(dataset), gaps=block_gaps(dataset, bands),
                elsewhere=dataset.driver in _SERVICES,
            )  # fmt: skip
        vrt = Vrt(dataset, name)
        if vrt.warped is not None:
            return self._warped(name, files, vrt.warped, depth)
        used: dict[SourceName, set[int]] = {}
        for member in (*(member for band in vrt.bands for member in band), *vrt.masks):
            used.setdefault(member.name, set()).add(member.band)
        looked = {name: self._member(name, sorted(numbers), depth + 1) for name, numbers in used.items()}
        lost = {name: found for name, found in looked.items() if isinstance(found, str)}
        for member in (member for band in vrt.bands for member in band):
            found = looked[member.name]
            if not isinstance(found, str) and (why := _too_small(member, found.shape_hw)):
                lost[member.name] = why
        for mask in vrt.masks:
            if mask.name in lost:
                raise SceneError(f"{name}: its mask {mask.name} cannot be read ({lost[mask.name]}); bring it back")
        whole = {name: found for name, found in looked.items() if not isinstance(found, str) and name not in lost}
        inner = [member.anatomy for member in whole.values()]
        mended = {name: member.anatomy.mended for name, member in whole.items() if member.anatomy.mended}
        return Anatomy(
            files=tuple(dict.fromkeys([*files, *vrt.names, *(file for one in inner for file in one.files)])),
            lossy=any(one.lossy for one in inner),
            elsewhere=any(one.elsewhere for one in inner),
            gaps=_gaps(vrt, bands, whole, (dataset.height, dataset.width)),
            lost=lost | {name: why for one in inner for name, why in one.lost.items()},
            mended=self._in_memory(vrt.without(lost, mended)) if lost or mended else None,
        )

    def _warped(self, name: SourceName, files: tuple[SourceName, ...], beneath: SourceName, depth: int) -> Anatomy:
        """A VRT that warps another raster: where that lacks anything is not known on its grid."""
        looked = self._member(beneath, (), depth + 1)
        if isinstance(looked, str):
            return Anatomy(files=(*files, beneath), lossy=False)  # GDAL could not have opened it
        inner = looked.anatomy
        if inner.gaps is not None or inner.lost:
            lacks = f"lacks {', '.join(map(str, inner.lost))}" if inner.lost else "has blocks that were never written"
            raise SceneError(
                f"{name} warps {beneath}, which {lacks}: mend that, or declare its nodata, and warp it anew"
            )
        return Anatomy(
            files=tuple(dict.fromkeys([*files, beneath, *inner.files])), lossy=inner.lossy, elsewhere=inner.elsewhere
        )

    def _member(self, name: SourceName, bands: Sequence[int], depth: int) -> _Looked | str:
        """A member, or why it cannot be read."""
        if depth > _DEEPEST:
            return "mosaics of mosaics are nested too deep"
        if name.path is not None and not name.path.exists():
            return "no such file"
        try:
            with rasterio.open(name.opened) as dataset:
                fitting = [band for band in bands if band <= dataset.count] or [*range(1, dataset.count + 1)]
                return _Looked(self.look(dataset, name, fitting, depth), (dataset.height, dataset.width))
        except (RasterioError, ET.ParseError) as error:
            return gdal_reason(error)

    def _in_memory(self, vrt: bytes) -> str:
        return str(closed_by(self._stack, MemoryFile(vrt, ext=".vrt")).name)


@dataclass(frozen=True, slots=True)
class _Looked:
    """A member that can be read."""

    anatomy: Anatomy
    shape_hw: tuple[int, int]


def _gaps(
    vrt: Vrt, bands: Sequence[int], whole: Mapping[SourceName, _Looked], shape_hw: tuple[int, int]
) -> Gaps | None:
    """What these bands of a mosaic lack."""
    own = dict.fromkeys(vrt.bands[band - 1] for band in bands if band <= len(vrt.bands))
    found = [_band_gaps(members, whole, shape_hw, computed=vrt.computed) for members in own if members]
    lacking = [one for one in found if one is not None]
    return AnyGaps(lacking) if lacking else None


def _band_gaps(
    members: Sequence[Member], whole: Mapping[SourceName, _Looked], shape_hw: tuple[int, int], *, computed: bool
) -> Gaps | None:
    everywhere = Rect(0, 0, shape_hw[1], shape_hw[0])
    placed = []
    for member in members:
        place, looked = member.place or everywhere, whole.get(member.name)
        own = Rect(0, 0, place.width, place.height) if looked is None else Rect(0, 0, *looked.shape_hw[::-1])
        gaps = None if looked is None else looked.anatomy.gaps
        placed.append(
            Placed(
                place=place, source=member.source or own, see_through=member.see_through, gaps=gaps,
                lost=looked is None, needed=computed,
            )
        )  # fmt: skip
    return mosaic_gaps(placed, shape_hw)


def _too_small(member: Member, shape_hw: tuple[int, int]) -> str:
    """Why a member cannot be what the mosaic was made of; nothing where it can."""
    if member.source is None:
        return ""
    wide, high = member.source.left + member.source.width, member.source.top + member.source.height
    if wide <= shape_hw[1] + 0.5 and high <= shape_hw[0] + 0.5:
        return ""
    return f"it has {shape_hw[1]} x {shape_hw[0]} pixels, and {wide:g} x {high:g} are wanted"


def is_lossy(dataset: DatasetReader) -> bool:
    """Whether a raster is compressed with loss, so that its borders and its alpha band are frayed."""
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    if "LOSSLESS" in tags.get("COMPRESSION_REVERSIBILITY", "").upper().replace(" (POSSIBLY)", ""):
        return False
    return any(name in f"{tags.get('COMPRESSION', '')} {dataset.driver}".lower() for name in _LOSSY)
