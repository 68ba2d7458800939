"""Tile index of GDAL (GTI): a vector layer with the names and footprints of rasters.

GDAL opens a tile index as one raster, which is composed of these rasters. In this module, a tile is one of these
rasters, not the pixels of a window.
"""

from __future__ import annotations

import io
import os
import warnings
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile

from floodmap.errors import SceneError, VectorError
from floodmap.geo.gdal import closed_by
from floodmap.geo.names import readable
from floodmap.geo.source_name import SourceName

_ROOT = "GDALTileIndexDataset"
_LOCATION = "location"
"""Default name of the attribute of the vector layer that contains the names of the tiles."""
_BEFORE_XML = b"\xef\xbb\xbf \t\r\n"
"""Bytes that may precede the first `<` of an XML file: the byte order mark of UTF-8, and white space."""


def open_with_mask(dataset: DatasetReader, name: SourceName, stack: ExitStack) -> DatasetReader:
    """Open a tile index a second time, with a mask that is 0 where no tile has pixels.

    This function is for tile indexes without nodata, alpha and mask. When GDAL opens such an index in the usual way, it
    returns the pixel value 0 where no tile has pixels, and does not mark these pixels as missing.

    Args:
        dataset: the tile index, opened with GDAL's GTI driver.
        name: name by which the tile index was opened.
        stack: exit stack that closes the second dataset.

    Returns:
        The second dataset, open, with the same height and width as `dataset`.

    Raises:
        SceneError: a tile does not exist, or the index cannot be opened a second time with the same size.
    """
    from pyogrio.errors import DataLayerError, DataSourceError

    wrong = (RasterioError, VectorError, DataSourceError, DataLayerError, ET.ParseError, LookupError, OSError)
    try:
        settings = _settings(name)
        tiles = closed_by(stack, MemoryFile(_tiles(settings, name), ext=".gpkg"))
        file = closed_by(stack, MemoryFile(_xml(dataset, str(tiles.name)), ext=".gti"))
        masked: DatasetReader = closed_by(stack, rasterio.open(file.name))
    except wrong as error:
        raise SceneError(_unknown(name)) from error
    if masked.shape != dataset.shape:
        raise SceneError(_unknown(name))
    return masked


def _unknown(name: SourceName) -> str:
    return (
        f"{name} is a tile index without nodata, so ground without a tile would be read as 0; declare nodata in its "
        "tiles, or make a mosaic of them with gdalbuildvrt"
    )


def _settings(name: SourceName) -> ET.Element:
    """Return the XML that describes a tile index, as its root element.

    A tile index is given as the name of an XML file, as XML text, or as the name of a vector file. For a vector file,
    the returned XML contains only the name of this file, in the element `IndexDataset`.
    """
    text = str(name.opened).removeprefix("GTI:")
    if text.lstrip().startswith("<"):
        return ET.fromstring(text.strip())
    if os.path.isfile(text):
        with Path(text).open("rb") as file:
            is_xml = file.read(100).lstrip(_BEFORE_XML).startswith(b"<")
        # The element may follow an XML declaration and comments. Some vector formats are XML, too.
        if is_xml and (root := ET.fromstring(Path(text).read_bytes().strip())).tag == _ROOT:
            return root
    root = ET.Element(_ROOT)
    ET.SubElement(root, "IndexDataset").text = text
    return root


def _tiles(settings: ET.Element, name: SourceName) -> bytes:
    """Return the footprints of the tiles as a GeoPackage, with the absolute name of each tile as attribute `location`.

    The GeoPackage has no CRS. In GeoJSON, GDAL would take a missing CRS for EPSG:4326, and would find no tile in its
    place.

    Args:
        settings: XML of the tile index, from `_settings`.
        name: name by which the tile index was opened.

    Raises:
        SceneError: a tile does not exist.
    """
    import pyogrio

    index, layer = settings.findtext("IndexDataset", ""), settings.findtext("IndexLayer")
    with readable(index) as opened:
        tags = pyogrio.read_info(opened, layer=layer)["layer_metadata"] or {}
        field = settings.findtext("LocationField") or tags.get("LOCATION_FIELD", _LOCATION)
        where = settings.findtext("Filter")
        _, _, footprints, values = pyogrio.raw.read(opened, layer=layer, columns=[field], where=where)
    folder = (name.path or Path(index)).absolute().parent
    named = [_absolute(str(location), folder) for location in values[0]]
    missing = [tile for tile in named if Path(tile).is_absolute() and not (_is_virtual(tile) or Path(tile).exists())]
    if missing:
        # GDAL (3.10) returns 0 not only for a missing tile, but also for all tiles that it would draw after it.
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise SceneError(f"{index}: its tile {missing[0]}{more} does not exist; restore it, or make the index again")
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(
            out, footprints, [np.array(named, object)], [_LOCATION], layer="index", driver="GPKG",
            geometry_type="Unknown", crs=None,
        )  # fmt: skip
    return out.getvalue()


def _is_virtual(path: str) -> bool:
    return path.startswith("/vsi")


def _absolute(tile: str, folder: Path) -> str:
    """Return the absolute name of a tile. `folder` is the folder of the index.

    GDAL looks for a relative name first in the folder of the index, and then in the current working directory.
    """
    if ":" in tile or os.path.isabs(tile):
        return tile
    beside = folder / tile
    return str(beside if beside.exists() or _is_virtual(str(folder)) else Path(tile).absolute())


def _xml(dataset: DatasetReader, index: str) -> bytes:
    """Return the XML of a new tile index that declares a mask and has the grid of `dataset`.

    `index` is the name of a file in memory with the GeoPackage from `_tiles`.
    """
    left, bottom, right, top = dataset.bounds
    across, down = dataset.res[0], dataset.res[1]
    root = ET.Element(_ROOT)
    elements = {
        "IndexDataset": index, "LocationField": _LOCATION, "SRS": dataset.crs.to_wkt() if dataset.crs else None,
        "ResX": repr(across), "ResY": repr(down), "MinX": repr(left), "MinY": repr(bottom), "MaxX": repr(right),
        "MaxY": repr(top), "MaskBand": "true",
    }  # fmt: skip
    for tag, text in elements.items():
        if text is not None:
            ET.SubElement(root, tag).text = text
    return ET.tostring(root)
