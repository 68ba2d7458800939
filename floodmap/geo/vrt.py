"""What a VRT mosaic is made of: which rectangle of which raster lies where in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rasterio.io import DatasetReader

from floodmap.geo.source_name import SourceName

_XML = "xml:VRT"


class Rect(NamedTuple):
    """A rectangle in pixels of a raster, perhaps in fractions of them."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Member:
    """A raster in a mosaic, as one of its bands uses it."""

    name: SourceName
    band: int
    """Which band of it, counted from 1."""
    source: Rect | None
    """What is used of the raster; None: all of it."""
    place: Rect | None
    """Where that lies in the mosaic; None: everywhere."""
    see_through: bool
    """Whether a value of it stands for nothing, so that what lies beneath shows."""


class Vrt:
    """A VRT whose bands are put together from other rasters.

    Args:
        dataset: opened with GDAL's VRT driver.
        name: what it was opened by; names in it may be relative to it.
    """

    def __init__(self, dataset: DatasetReader, name: SourceName) -> None:
        self._root = ET.fromstring(dataset.tags(ns=_XML)[_XML])
        self._folder = _folder(name)
        self.bands = tuple(tuple(self._members(band)) for band in self._root.iterfind("VRTRasterBand"))
        """The members of each band, what is drawn last at the end; none for bands made in another way."""
        self.masks = tuple(
            member
            for mask in self._root.iter("MaskBand")
            for band in mask.iterfind("VRTRasterBand")
            for member in self._members(band)
        )
        """The members of masks."""
        self.computed = any(band.find("PixelFunctionType") is not None for band in self._root.iterfind("VRTRasterBand"))
        """Whether bands are computed from all their members together."""
        beneath = self._root.find("GDALWarpOptions/SourceDataset")
        self.warped = None if beneath is None else self._named(beneath)
        """The raster that it warps; None where it warps none."""

    @property
    def names(self) -> tuple[SourceName, ...]:
        """Every raster in it, each once; of masks and of bands made in another way too."""
        files = [element for tag in ("SourceFilename", "SourceDataset") for element in self._root.iter(tag)]
        return tuple(dict.fromkeys(self._named(element) for element in files))

    def without(self, lost: Collection[SourceName], replaced: dict[SourceName, str]) -> bytes:
        """The VRT's text without some members, and with others under another name.

        GDAL fails at the first read of a member that cannot be opened, and reads it as 0 from then on.
        """
        root = ET.fromstring(ET.tostring(self._root))
        for parent in root.iter():
            for child in list(parent):
                file = child.find("SourceFilename")
                if file is not None and self._named(file) in lost:
                    parent.remove(child)
        for file in root.iter("SourceFilename"):
            name = self._named(file)
            file.text = replaced.get(name, str(name.opened))
            file.set("relativeToVRT", "0")
        return ET.tostring(root)

    def _members(self, band: ET.Element) -> Iterator[Member]:
        for element in band:
            file = element.find("SourceFilename")
            if element.tag.endswith("Source") and file is not None:
                see_through = element.find("NODATA") is not None or element.findtext("UseMaskBand") == "true"
                number = (element.findtext("SourceBand") or "1").rpartition(",")[2]  # "mask,1" is the mask of band 1
                rects = _rect(element.find("SrcRect")), _rect(element.find("DstRect"))
                yield Member(self._named(file), int(number), *rects, see_through)

    def _named(self, file: ET.Element) -> SourceName:
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


def _rect(element: ET.Element | None) -> Rect | None:
    if element is None:
        return None
    return Rect(*(float(element.get(key, "nan")) for key in ("xOff", "yOff", "xSize", "ySize")))
