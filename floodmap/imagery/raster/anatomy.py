"""Structure of a raster: files, members of a VRT mosaic that cannot be read, and areas without pixels."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader, MemoryFile

from floodmap.errors import RemoteError, SceneError
from floodmap.geo import tile_index
from floodmap.geo.gdal import GDAL_ERRORS, closed_by, gdal_reason, open_remote
from floodmap.geo.source_name import SourceName
from floodmap.geo.vrt import Member, Rect, Vrt
from floodmap.imagery.raster import voids
from floodmap.imagery.raster.gaps import Gaps, HiddenGaps, PlacedMember, block_gaps, combined, mosaic_gaps

_LOSSY = ("jpeg", "webp", "jxl", "lerc", "jp2", "mrsid", "ecw")
_SERVICES = ("WMS", "WMTS", "WCS", "OGCAPI", "STACIT", "STACTA", "EEDAI", "PLMosaic", "PostGISRaster", "GTI", "DAAS")
_MOST_NAMED = 3
"""Largest number of unreadable members that a message names."""
_MAX_DEPTH = 8
"""Largest depth of VRTs inside VRTs. Without a limit, the inspection of a VRT that contains itself would not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """Structure of a raster: files, compression, members of a VRT mosaic that cannot be read, and gaps."""

    files: tuple[SourceName, ...]
    """All files of the raster, with masks, overviews and members of a VRT mosaic. Missing files are included."""
    lossy: bool
    """Whether any of the files has lossy compression."""
    gaps: Gaps | None = None
    """Areas of the raster without pixels; None if the raster has no gaps."""
    is_service: bool = False
    """Whether the pixels come from a web service or a database. A change of the pixels is then not detected."""
    lost: dict[SourceName, str] = field(default_factory=dict)
    """Members of a VRT mosaic that cannot be read: error text, such as "no such file", by name of the member.

    Empty if all members can be read."""
    repaired: str | None = None
    """Name of a copy of the VRT in memory, without the members that cannot be read; None: no copy is needed.

    From the original VRT, GDAL reads the value 0 for the pixels of a member that cannot be opened."""

    @property
    def lost_names(self) -> str:
        """Text for messages: names of the first three unreadable members, and the number of further members."""
        more = f", and {len(self.lost) - _MOST_NAMED} more" if len(self.lost) > _MOST_NAMED else ""
        return f"{', '.join(map(str, [*self.lost][:_MOST_NAMED]))}{more}"


def anatomy(dataset: DatasetReader, name: SourceName, bands: Sequence[int], stack: ExitStack) -> Anatomy:
    """Inspect the structure of an open raster: files, members of a VRT mosaic, gaps.

    Args:
        dataset: the open raster.
        name: the name by which the raster was opened.
        bands: numbers, from 1, of the bands that are searched for gaps.
        stack: exit stack that closes files in memory.

    Raises:
        SceneError: the mask of a VRT mosaic cannot be read, or a VRT warps a raster with gaps.
    """
    return _Inspector(stack).inspect(dataset, name, bands, 0)


class _Inspector:
    """Inspection of rasters. Each member of a VRT mosaic is inspected once, even if several bands use the member."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def inspect(self, dataset: DatasetReader, name: SourceName, bands: Sequence[int], depth: int) -> Anatomy:
        """Inspect an open raster, as `anatomy` does. `depth` is the number of VRTs that contain the raster."""
        files = tuple(map(SourceName.of, dataset.files)) or (name,)
        if dataset.driver != "VRT":
            return Anatomy(
                files=files, lossy=is_lossy(dataset),
                gaps=self._between_tiles(dataset, name) if dataset.driver == "GTI" else block_gaps(dataset, bands),
                is_service=dataset.driver in _SERVICES,
            )  # fmt: skip
        vrt = Vrt(dataset, name)
        if vrt.warped is not None:
            return self._warped(name, files, vrt.warped, depth)
        used: dict[SourceName, set[int]] = {}
        for member in (*(member for band in vrt.bands for member in band), *vrt.masks):
            used.setdefault(member.name, set()).add(member.band)
        inspected = {name: self._inspect_member(name, sorted(numbers), depth + 1) for name, numbers in used.items()}
        lost = {name: found for name, found in inspected.items() if isinstance(found, str)}
        for member in (member for band in vrt.bands for member in band):
            found = inspected[member.name]
            if not isinstance(found, str) and (why := _too_small(member, found.shape_hw)):
                lost[member.name] = why
        for mask in vrt.masks:
            if mask.name in lost:
                raise SceneError(f"{name}: its mask {mask.name} cannot be read ({lost[mask.name]}); restore that file")
        whole = {name: found for name, found in inspected.items() if not isinstance(found, str) and name not in lost}
        inner = [member.anatomy for member in whole.values()]
        repaired = {name: member.anatomy.repaired for name, member in whole.items() if member.anatomy.repaired}
        return Anatomy(
            files=tuple(dict.fromkeys([*files, *vrt.names, *(file for one in inner for file in one.files)])),
            lossy=any(one.lossy for one in inner),
            is_service=any(one.is_service for one in inner),
            gaps=combined(
                _gaps(vrt, bands, whole, (dataset.height, dataset.width)), self._holes(vrt, bands, lost, repaired)
            ),
            lost=lost | {name: why for one in inner for name, why in one.lost.items()},
            repaired=self._in_memory(vrt.without(lost, repaired)) if lost or repaired else None,
        )

    def _warped(self, name: SourceName, files: tuple[SourceName, ...], source_name: SourceName, depth: int) -> Anatomy:
        """Inspect a VRT that warps another raster.

        Gaps of the other raster are refused with a SceneError, because the place of gaps on the grid of the VRT is not
        known.
        """
        inspected = self._inspect_member(source_name, (), depth + 1)
        if isinstance(inspected, str):
            return Anatomy(files=(*files, source_name), lossy=False)  # GDAL could not have opened the VRT
        inner = inspected.anatomy
        if inner.gaps is not None or inner.lost:
            without = "has blocks that were never written, or parts without data"
            lacks = f"lacks {', '.join(map(str, inner.lost))}" if inner.lost else without
            raise SceneError(
                f"{name} is a warped copy of {source_name}, which {lacks}; repair that file or declare its nodata, "
                "then run gdalwarp again"
            )
        return Anatomy(
            files=tuple(dict.fromkeys([*files, source_name, *inner.files])),
            lossy=inner.lossy,
            is_service=inner.is_service,
        )

    def _inspect_member(self, name: SourceName, bands: Sequence[int], depth: int) -> _ReadableMember | str:
        """Open and inspect a member of a VRT.

        Args:
            name: name of the member.
            bands: numbers, from 1, of the bands that are searched for gaps. All bands are searched if the member has
                none of these bands.
            depth: number of VRTs that contain the member.

        Returns:
            Structure and size of the member. If the member cannot be read: an error text, such as "no such file".
        """
        if depth > _MAX_DEPTH:
            return "mosaics of mosaics are nested too deep"
        if name.path is not None and not name.path.exists():
            return "no such file"
        try:
            with open_remote(name) if name.is_remote else rasterio.open(name.opened) as dataset:
                fitting = [band for band in bands if band <= dataset.count] or [*range(1, dataset.count + 1)]
                return _ReadableMember(self.inspect(dataset, name, fitting, depth), (dataset.height, dataset.width))
        except (*GDAL_ERRORS, ET.ParseError) as error:
            if name.is_remote:
                raise RemoteError(f"{name} cannot be read over the network: {gdal_reason(error)}") from None
            return gdal_reason(error)

    def _between_tiles(self, dataset: DatasetReader, name: SourceName) -> Gaps | None:
        """Return the gaps of a GDAL tile index (GTI): the areas that no raster of the index covers.

        None if GDAL has a mask for every band but alpha: from a nodata value, from an alpha band of the index, or from
        a mask of the index. These areas then need no `Gaps`, because the masks already mark their pixels as unobserved.
        """
        flags_and_colours = zip(dataset.mask_flag_enums, dataset.colorinterp, strict=True)
        if all(MaskFlags.all_valid not in flags for flags, kind in flags_and_colours if kind != ColorInterp.alpha):
            return None
        return HiddenGaps(coverage=tile_index.open_with_mask(dataset, name, self._stack), bands=(1,))

    def _holes(
        self, vrt: Vrt, bands: Sequence[int], lost: Collection[SourceName], repaired: dict[SourceName, str]
    ) -> Gaps | None:
        """Return the gaps of a VRT mosaic that lie inside members: pixels where every member is nodata or masked.

        GDAL reads the value 0 there if the VRT itself declares neither nodata nor a mask. A pixel is a gap if all
        colour bands are without data. If the nodata values of the members cannot be colours, such as -9999, one colour
        band is enough.

        Args:
            vrt: the VRT.
            bands: numbers of the bands that are used, from 1. The first three are searched: the colours.
            lost: names of the members that cannot be read.
            repaired: for members that are VRTs with unreadable members: `Anatomy.repaired`, by name of the member.

        Returns:
            The gaps. None if the VRT cannot have such gaps; see `Vrt.has_holes`.
        """
        colours = tuple(dict.fromkeys(band for band in bands[:3] if band <= len(vrt.bands)))
        if not vrt.has_holes(colours):
            return None
        hiding = [member for band in colours for member in vrt.bands[band - 1] if member.transparent]
        may_be_colour = any(member.nodata is None or voids.may_be_colour(member.nodata) for member in hiding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            coverage = closed_by(self._stack, rasterio.open(self._in_memory(vrt.coverage(lost, repaired))))
        return HiddenGaps(coverage=coverage, bands=colours, in_any=not may_be_colour)

    def _in_memory(self, vrt: bytes) -> str:
        return str(closed_by(self._stack, MemoryFile(vrt, ext=".vrt")).name)


@dataclass(frozen=True, slots=True)
class _ReadableMember:
    """Member of a VRT mosaic that can be read."""

    anatomy: Anatomy
    shape_hw: tuple[int, int]
    """Rows and columns of the member."""


def _gaps(
    vrt: Vrt, bands: Sequence[int], whole: Mapping[SourceName, _ReadableMember], shape_hw: tuple[int, int]
) -> Gaps | None:
    """Return the gaps of some bands of a VRT mosaic; None if the bands have no gaps.

    `bands` are the numbers of the bands, from 1. `whole` contains, by name, the members that can be read. `shape_hw` is
    the number of rows and columns of the mosaic.
    """
    own = dict.fromkeys(vrt.bands[band - 1] for band in bands if band <= len(vrt.bands))
    found = [_band_gaps(members, whole, shape_hw, computed=vrt.computed) for members in own if members]
    return combined(*found)


def _band_gaps(
    members: Sequence[Member], whole: Mapping[SourceName, _ReadableMember], shape_hw: tuple[int, int], *, computed: bool
) -> Gaps | None:
    everywhere = Rect(0, 0, shape_hw[1], shape_hw[0])
    placed = []
    for member in members:
        place, inspected = member.place or everywhere, whole.get(member.name)
        own = Rect(0, 0, place.width, place.height) if inspected is None else Rect(0, 0, *inspected.shape_hw[::-1])
        gaps = None if inspected is None else inspected.anatomy.gaps
        placed.append(
            PlacedMember(
                place=place, source=member.source or own, transparent=member.transparent, gaps=gaps,
                lost=inspected is None, needed=computed,
            )
        )  # fmt: skip
    return mosaic_gaps(placed, shape_hw)


def _too_small(member: Member, shape_hw: tuple[int, int]) -> str:
    """Return a message if a member does not contain the rectangle that the VRT uses; else an empty text."""
    if member.source is None:
        return ""
    wide, high = member.source.left + member.source.width, member.source.top + member.source.height
    if wide <= shape_hw[1] + 0.5 and high <= shape_hw[0] + 0.5:
        return ""
    return f"it has {shape_hw[1]} x {shape_hw[0]} pixels, but the mosaic needs {wide:g} x {high:g}"


def lost_part_text(path: object, lost: SourceName, why: str) -> str:
    """Return the message that a member of a VRT mosaic cannot be read.

    Args:
        path: name of the VRT.
        lost: name of the member.
        why: error text, such as "no such file".
    """
    return f"{path}: its part {lost} cannot be read ({why}); restore that file, or remove it from the mosaic"


def is_lossy(dataset: DatasetReader) -> bool:
    """Return whether a raster has lossy compression.

    Lossy compression changes the values of pixels slightly. Two effects matter. Near the edge of the picture's content,
    a black or white border is only nearly black or white, and nodata only nearly the nodata value. In an alpha band,
    values beside transparent areas are neither 0 nor opaque.
    """
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    if "LOSSLESS" in tags.get("COMPRESSION_REVERSIBILITY", "").upper().replace(" (POSSIBLY)", ""):
        return False
    return any(name in f"{tags.get('COMPRESSION', '')} {dataset.driver}".lower() for name in _LOSSY)
