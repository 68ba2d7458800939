"""Members of a VRT mosaic: the name of each source raster, the rectangle that is used, and the place in the mosaic."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rasterio.io import DatasetReader

from floodmap.geo.source_name import SourceName

_XML = "xml:VRT"
_PLACING = (
    "SourceFilename", "OpenOptions", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "UseMaskBand", "NODATA",
)  # fmt: skip
"""Names of the XML elements of a VRT source that decide in which pixels of the mosaic the source has data.
All other elements of a source only change the values of the pixels."""
_INTEGERS: dict[str, type[np.integer[Any]]] = {
    "Byte": np.uint8, "Int8": np.int8, "UInt16": np.uint16, "Int16": np.int16, "UInt32": np.uint32, "Int32": np.int32,
}  # fmt: skip
"""Mapping from GDAL's name of an integer type, as in the XML of a VRT band (`dataType`), to the numpy dtype.
Types with fractions, 64-bit and complex types are left out: `_declares_nodata` accepts every nodata value for them."""


class Rect(NamedTuple):
    """Rectangle in pixels of a raster; the numbers may have fractions."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Member:
    """Source of a band of a VRT mosaic: a band of another raster, drawn into a rectangle of the mosaic."""

    name: SourceName
    band: int
    """Number of the band in the other raster, counted from 1."""
    source: Rect | None
    """Rectangle of the other raster that is drawn into the mosaic (`SrcRect`); None: the whole raster."""
    place: Rect | None
    """Rectangle of the mosaic into which `source` is drawn (`DstRect`); None: the whole mosaic."""
    transparent: bool
    """True if the member has a nodata value or a mask: members drawn earlier stay visible at pixels without data."""
    nodata: float | None = None
    """Nodata value that the VRT gives to the member (`NODATA`), in values of the other raster; None: no value."""


class Vrt:
    """VRT, a raster file of GDAL with bands that are composed of other rasters.

    Args:
        dataset: the VRT, opened with GDAL's VRT driver.
        name: name by which the VRT was opened. File names in the VRT may be relative to this name.
    """

    def __init__(self, dataset: DatasetReader, name: SourceName) -> None:
        self._root = ET.fromstring(dataset.tags(ns=_XML)[_XML])
        self._folder = _folder(name)
        self.bands = tuple(tuple(self._members(band)) for band in self._root.iterfind("VRTRasterBand"))
        """Members of each band in the order of drawing: later members cover earlier members.

        Empty for a band that is not a mosaic.
        """
        self.masks = tuple(
            member
            for mask in self._root.iter("MaskBand")
            for band in mask.iterfind("VRTRasterBand")
            for member in self._members(band)
        )
        """Members of all mask bands, in one tuple."""
        self.computed = any(band.find("PixelFunctionType") is not None for band in self._root.iterfind("VRTRasterBand"))
        """True if a pixel function computes a band from all members of the band together."""
        source = self._root.find("GDALWarpOptions/SourceDataset")
        self.warped = None if source is None else self._name_in(source)
        """Name of the raster that is warped, if this is a warped VRT; else None."""

    @property
    def names(self) -> tuple[SourceName, ...]:
        """All rasters named in the VRT, each once, including rasters of masks and of bands that are not mosaics."""
        files = [element for tag in ("SourceFilename", "SourceDataset") for element in self._root.iter(tag)]
        return tuple(dict.fromkeys(self._name_in(element) for element in files))

    def without(self, lost: Collection[SourceName], replaced: dict[SourceName, str]) -> bytes:
        """Return the XML of the VRT without some members, and with new names for other members.

        The XML is needed if a member cannot be opened. GDAL raises an error at the first read of the member, and
        returns 0 for the pixels of the member at every later read.

        Args:
            lost: names of the members to leave out.
            replaced: new name of a member, by old name. Other members keep the old name, as an absolute path.
        """
        return ET.tostring(self._renamed(lost, replaced))

    def has_holes(self, bands: Collection[int]) -> bool:
        """Return whether one of the given bands may have holes that GDAL reads as 0 and that nothing marks as missing.

        A hole is a place where all members of the band are without data. A band may have such holes if two conditions
        hold:

        - A member of the band has a nodata value or a mask. If the VRT has an alpha band, only nodata values count,
          because the alpha band marks what the masks of members hide.
        - The band has no nodata value that its dtype can hold, and neither the band nor the VRT has a mask band.

        The result is False if a pixel function computes any band of the VRT (see `computed`).

        Args:
            bands: numbers of the bands to examine, counted from 1.
        """
        colours = [band.findtext("ColorInterp") for band in self._root.iterfind("VRTRasterBand")]
        if self.computed or self._root.find("MaskBand") is not None:
            return False
        for number, (band, members) in enumerate(zip(self._root.iterfind("VRTRasterBand"), self.bands, strict=True), 1):
            if number in bands and not _declares_nodata(band) and band.find("MaskBand") is None:
                # Masks of members are in the alpha band as well, but nodata values of members are not.
                hides = any(m.nodata is not None or (m.transparent and "Alpha" not in colours) for m in members)
                if hides:
                    return True
        return False

    def coverage(self, lost: Collection[SourceName], replaced: dict[SourceName, str]) -> bytes:
        """Return the XML of a VRT that shows where members have data: 255 where a member has data, and 0 (nodata) else.

        Each band shows the members of the same band of this VRT. `lost` and `replaced` are as in `without`.
        """
        root = self._renamed(lost, replaced)
        for child in list(root):
            if child.tag != "VRTRasterBand":
                root.remove(child)
        for band in root:
            band.attrib.pop("subClass", None)
            band.set("dataType", "Byte")
            sources = [_covering(source) for source in band if source.find("SourceFilename") is not None]
            band[:] = [_element("NoDataValue", "0"), *sources]
        return ET.tostring(root)

    def _renamed(self, lost: Collection[SourceName], replaced: dict[SourceName, str]) -> ET.Element:
        """Return a copy of the XML tree without the members in `lost`, and with new names, as `without` describes."""
        root = ET.fromstring(ET.tostring(self._root))
        for parent in root.iter():
            for child in list(parent):
                file = child.find("SourceFilename")
                if file is not None and self._name_in(file) in lost:
                    parent.remove(child)
        for file in root.iter("SourceFilename"):
            name = self._name_in(file)
            file.text = replaced.get(name, str(name.opened))
            file.set("relativeToVRT", "0")
        return root

    def _members(self, band: ET.Element) -> Iterator[Member]:
        for element in band:
            file = element.find("SourceFilename")
            if element.tag.endswith("Source") and file is not None:
                nodata = _number(element.findtext("NODATA"))
                transparent = nodata is not None or element.findtext("UseMaskBand") == "true"
                number = (element.findtext("SourceBand") or "1").rpartition(",")[2]  # "mask,1" is the mask of band 1
                rects = _rect(element.find("SrcRect")), _rect(element.find("DstRect"))
                yield Member(self._name_in(file), int(number), *rects, transparent, nodata)

    def _name_in(self, file: ET.Element) -> SourceName:
        text = file.text or ""
        if file.get("relativeToVRT") == "1":
            if isinstance(self._folder, Path):
                return SourceName.of(self._folder / text)
            text = f"{self._folder}/{text}"
        return SourceName.of(text or ".")


def _folder(name: SourceName) -> Path | str:
    if name.path is not None:
        return name.path.absolute().parent
    opened = str(name.opened)
    return opened.rpartition("/")[0] if opened.startswith("/vsi") else Path.cwd()


def _declares_nodata(band: ET.Element) -> bool:
    """Return whether a band of a VRT has a nodata value that its dtype can hold, so that GDAL fills holes with it."""
    value = _number(band.findtext("NoDataValue"))
    dtype = _INTEGERS.get(band.get("dataType", "Byte"))
    if value is None or dtype is None:
        return value is not None
    limits = np.iinfo(dtype)
    return value.is_integer() and limits.min <= value <= limits.max


def _number(text: str | None) -> float | None:
    """Return a nodata value of a VRT; None if `text` is empty, as for GDAL.

    NaN if `text` is no number, such as `-1.#IND`, which old versions of GDAL wrote for NaN on Windows.
    """
    if not text:
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _covering(source: ET.Element) -> ET.Element:
    """Return the XML element of a VRT source that draws 255 wherever `source` has data, and nothing elsewhere."""
    new = ET.Element("ComplexSource", source.attrib)
    new.extend(child for child in source if child.tag in _PLACING)
    new.append(_element("LUT", "0:255,1:255"))
    return new


def _element(tag: str, text: str) -> ET.Element:
    element = ET.Element(tag)
    element.text = text
    return element


def _rect(element: ET.Element | None) -> Rect | None:
    if element is None:
        return None
    return Rect(*(float(element.get(key, "nan")) for key in ("xOff", "yOff", "xSize", "ySize")))
