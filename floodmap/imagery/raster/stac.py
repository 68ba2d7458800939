"""STAC items as scenes: the assets with the colours of an item become one raster, a VRT."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from floodmap._runtime.extras import require
from floodmap.errors import SceneError
from floodmap.geo.gdal import gdal_env, gdal_reason
from floodmap.geo.remote import content_of
from floodmap.geo.source_name import SourceName

if TYPE_CHECKING:
    from pystac import Asset, Item

_COLOURS = ("red", "green", "blue")
_NEAR_INFRARED = ("nir", "nir08")
_RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/x-geotiff")
_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip
_SUFFIXES = (".json", ".geojson")


@dataclass(frozen=True, slots=True)
class Band:
    """One band of an asset."""

    asset: str
    """Key of the asset in the item."""
    href: str
    number: int
    """Number of the band in the file, from 1."""
    colour: str
    """The `eo:common_name`: red, green, blue, nir or nir08."""


def scene_of(name: SourceName) -> SourceName:
    """Return the raster of a STAC item; the name itself if it is not a STAC item.

    Assets are chosen by the first rule that fits: one asset with bands named red, green and blue (`eo:common_name`);
    three assets of these names, one for each band; the asset with the role `visual`; the only raster with the role
    `data`. Near infrared is added if the asset, or another asset with a band of this name, has the same pixel grid.

    Args:
        name: name of a local JSON file or of a URL that ends in .json or .geojson, or any other name.

    Returns:
        The text of a VRT as a `SourceName`, with the id of the item as its title. The VRT has the date of the item.

    Raises:
        SceneError: no asset fits, an asset cannot be read, or the assets differ in size or place.
        RemoteError: the item cannot be read over the network.
        MissingPackageError: pystac is not installed.
    """
    content = _content(name)
    if content is None:
        return name
    require("pystac", "a STAC item as a scene")
    from pystac import Item

    item = Item.from_dict(content, href=_address(name), preserve_dict=False)
    bands = _bands(item, name)
    return SourceName(_vrt(item, bands, name), None, title=re.sub(r"[^\w.-]+", "_", item.id).strip("_.") or "item")


def _content(name: SourceName) -> dict[str, Any] | None:
    """Return the content of a STAC item; None if the name is not that of a STAC item.

    Raises:
        SceneError: the file is a STAC catalogue or collection.
    """
    label = name.label.partition("?")[0]
    if not label.lower().endswith(_SUFFIXES) or (name.path is not None and not name.path.is_file()):
        return None
    content: Any = None
    with suppress(ValueError):
        content = json.loads(name.path.read_bytes() if name.path else content_of(name))
    if not isinstance(content, dict) or "stac_version" not in content:
        return None
    if content.get("type") != "Feature":
        raise SceneError(f"{name} is a STAC {content.get('type', 'file')}, not an item; give one of its items")
    return content


def _address(name: SourceName) -> str:
    """Return the address against which relative addresses of assets are resolved."""
    return str(name.path.absolute()) if name.path is not None else name.given


def _bands(item: Item, name: SourceName) -> list[Band]:
    """Choose the bands of a scene: red, green, blue, and near infrared if there is any; see `scene_of`.

    Assets without named bands give a list of one `Band` without a colour: the file as it is.
    """
    rasters = {key: asset for key, asset in item.assets.items() if _is_raster(asset)}
    named = [band for key, asset in rasters.items() for band in _named_bands(key, asset)]
    of_assets = [[one for one in named if one.asset == key] for key in rasters]
    of_single_bands = [bands[0] for bands in of_assets if len(bands) == 1]
    for group in [*of_assets, of_single_bands]:
        chosen = [next((one for one in group if one.colour == colour), None) for colour in _COLOURS]
        found = [one for one in chosen if one is not None]
        if len(found) == len(_COLOURS):
            return [*found, *[one for one in group if one.colour in _NEAR_INFRARED][:1]]
    visual = [key for key, asset in rasters.items() if "visual" in (asset.roles or ())]
    data = [key for key, asset in rasters.items() if "data" in (asset.roles or ())] or [*rasters]
    for keys in (visual, data):
        if len(keys) == 1:
            return [Band(keys[0], rasters[keys[0]].get_absolute_href() or "", 0, "")]
    raise SceneError(
        f"{name}: no assets of this STAC item have the bands red, green and blue (eo:common_name), and none is the "
        f"only one with the role visual or data; its assets: {', '.join(item.assets) or 'none'}"
    )


def _is_raster(asset: Asset) -> bool:
    kind, roles = (asset.media_type or "").lower(), asset.roles or []
    is_known = kind.startswith(_RASTERS) if kind else _path_of(asset.href).endswith((".tif", ".tiff", ".jp2"))
    return is_known and not {"thumbnail", "overview", "metadata"} & set(roles)


def _path_of(href: str) -> str:
    return href.lower().partition("?")[0]


def _named_bands(key: str, asset: Asset) -> Iterator[Band]:
    """Yield the bands of an asset that have a common name, from `bands` (STAC 1.1) or `eo:bands`."""
    listed: Sequence[dict[str, Any]] = asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or ()
    if not listed and (name := asset.extra_fields.get("eo:common_name")):
        listed = [{"common_name": name}]
    for number, band in enumerate(listed, 1):
        colour = band.get("eo:common_name") or band.get("common_name") or ""
        yield Band(key, asset.get_absolute_href() or "", number, colour)


def _vrt(item: Item, bands: Sequence[Band], name: SourceName) -> str:
    """Return the XML of a VRT with the bands of a scene, its grid and its date."""
    files = {one.href: SourceName.of(one.href) for one in bands}
    sizes: dict[str, tuple[int, int, Any]] = {}
    parts, first = [], None
    for one in bands:
        with warnings.catch_warnings(), gdal_env(siblings=not files[one.href].is_remote):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                with rasterio.open(files[one.href].opened) as dataset:
                    sizes[one.href] = (*dataset.shape, dataset.transform)
                    if one.colour in _NEAR_INFRARED and sizes[one.href] != sizes[bands[0].href]:
                        continue
                    first = first or _head(dataset, item)
                    numbers = [one.number] if one.number else dataset.indexes
                    parts += [_band_xml(dataset, files[one.href], number, one.colour) for number in numbers]
            except RasterioError as error:
                raise SceneError(
                    f"{name}: the asset {one.asset} ({files[one.href]}) cannot be read: {gdal_reason(error)}"
                ) from error
    colours = [one for one in bands if one.colour not in _NEAR_INFRARED]
    for one in colours:
        if sizes[one.href] != sizes[colours[0].href]:
            raise SceneError(f"{name}: the assets {colours[0].asset} and {one.asset} have different pixel grids")
    numbered = "".join(part.replace("BAND_NUMBER", str(number)) for number, part in enumerate(parts, 1))
    return f"{first}{numbered}</VRTDataset>"


def _head(dataset: DatasetReader, item: Item) -> str:
    date = item.datetime or item.common_metadata.start_datetime
    wkt = f"<SRS>{escape(dataset.crs.to_wkt())}</SRS>" if dataset.crs else ""
    place = ", ".join(f"{value:.17g}" for value in dataset.transform.to_gdal())
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}">{wkt}'
        f"<GeoTransform>{place}</GeoTransform>{_date_xml(date)}"
    )


def _date_xml(date: datetime | None) -> str:
    if date is None:
        return ""
    utc = date if date.tzinfo is None else date.astimezone(UTC)
    return f'<Metadata><MDI key="TIFFTAG_DATETIME">{utc:%Y:%m:%d %H:%M:%S}</MDI></Metadata>'


def _band_xml(dataset: DatasetReader, file: SourceName, number: int, colour: str) -> str:
    dtype = _TYPES.get(dataset.dtypes[number - 1])
    if dtype is None:
        raise SceneError(f"{file} holds {dataset.dtypes[number - 1]} numbers; floodmap needs an image of real numbers")
    kind = dataset.colorinterp[number - 1].name.capitalize() if not colour else colour.capitalize()
    kind = "" if colour in _NEAR_INFRARED else kind
    nodata = dataset.nodatavals[number - 1]
    size = f'xOff="0" yOff="0" xSize="{dataset.width}" ySize="{dataset.height}"'
    label = colour or dataset.descriptions[number - 1] or ""
    return (
        f'<VRTRasterBand dataType="{dtype}" band="BAND_NUMBER">'
        + (f"<Description>{escape(label)}</Description>" if label else "")
        + (f"<NoDataValue>{nodata:.17g}</NoDataValue>" if nodata is not None else "")
        + (f"<ColorInterp>{kind}</ColorInterp>" if kind else "")
        + f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(str(file.opened))}</SourceFilename>'
        + f"<SourceBand>{number}</SourceBand><SrcRect {size}/><DstRect {size}/></SimpleSource></VRTRasterBand>"
    )
