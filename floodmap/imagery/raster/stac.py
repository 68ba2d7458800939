"""STAC items as scenes: the assets of an item that hold red, green and blue become one raster, a VRT."""

from __future__ import annotations

import copy
import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio
import rasterio.shutil
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader, MemoryFile

from floodmap._runtime.extras import require
from floodmap.errors import RemoteError, SceneError
from floodmap.geo.gdal import GDAL_ERRORS, closed_by, gdal_env_of, gdal_reason, open_remote
from floodmap.geo.remote import content_of, start_of
from floodmap.geo.source_name import SourceName
from floodmap.geo.urls import web_address

if TYPE_CHECKING:
    from pystac import Asset, Item

_COLOURS = ("red", "green", "blue")
_NEAR_INFRARED = ("nir", "nir08")
_RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/x-geotiff")
_SUFFIXES = (".json", ".geojson")
_RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png", ".img", ".webp", ".gtiff", ".cog")


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
    three assets, each with one band of these names; the asset with the role `visual`; the only raster with the role
    `data`. Near infrared is added if the asset, or another asset with a band of this name, has the same pixel grid.

    Args:
        name: name of a local JSON file or of a URL that ends in .json or .geojson, or any other name.

    Returns:
        The file of one asset, or the text of a VRT. The title of the name is the id of the item, and its date is that
        of the item.

    Raises:
        SceneError: no asset fits, an asset cannot be read, or the assets differ in size or place.
        RemoteError: the item cannot be read over the network.
        MissingPackageError: pystac is not installed.
    """
    content = _content(name)
    if content is None:
        return name
    require("pystac", "a STAC item as a scene")
    from pystac import Item, STACError

    try:
        item = Item.from_dict(content, href=_address(name), preserve_dict=False)
    except (STACError, KeyError, TypeError, ValueError) as error:
        raise SceneError(f"{name} is no valid STAC item: {type(error).__name__} {error}") from None
    return _raster(item, _bands(item, name), name)


def _content(name: SourceName) -> dict[str, Any] | None:
    """Return the content of a STAC item; None if the name is not that of a STAC item.

    Raises:
        SceneError: the file is a STAC catalogue or collection.
    """
    if not _may_be_item(name):
        return None
    content: Any = None
    with suppress(ValueError):
        content = json.loads(name.path.read_bytes() if name.path else content_of(name))
    if not isinstance(content, dict) or "stac_version" not in content:
        return None
    if content.get("type") != "Feature":
        raise SceneError(f"{name} is a STAC {content.get('type', 'file')}, not an item; give one of its items")
    return content


def _may_be_item(name: SourceName) -> bool:
    """Return whether a file may be a STAC item: by its suffix, or, without a suffix, by its first byte.

    Addresses of items in a STAC API have no suffix.
    """
    suffix = Path(name.label).suffix.lower()
    if name.path is not None:
        return suffix in _SUFFIXES and name.path.is_file()
    if name.title or not name.is_remote:
        return False
    if suffix in _SUFFIXES:
        return True
    plain = suffix not in _RASTER_SUFFIXES and web_address(str(name.opened)) is not None
    with suppress(RemoteError):
        return plain and start_of(name).lstrip()[:1] == b"{"
    return False


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
    return bool(asset.href) and is_known and not {"thumbnail", "overview", "metadata"} & set(roles)


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


def _raster(item: Item, bands: Sequence[Band], name: SourceName) -> SourceName:
    """Return the raster of the chosen bands: the file itself, or the text of a VRT.

    Raises:
        SceneError: a file cannot be read, has fewer bands than the item lists, or has a mask that is lost in a VRT of
            several files; or the files have different pixel grids.
    """
    title = re.sub(r"[^\w.-]+", "_", item.id).strip("_.") or "item"
    acquired = item.datetime or item.common_metadata.start_datetime
    if not bands[0].number:
        file = SourceName.of(bands[0].href)
        return SourceName(file.given, file.path, title=title, acquired=acquired)
    with ExitStack() as stack:
        files = {href: _opened(href, name, stack) for href in dict.fromkeys(band.href for band in bands)}
        first = files[bands[0].href]
        used = [band for band in bands if band.colour in _COLOURS or _grid(files[band.href]) == _grid(first)]
        for band in used:
            if _grid(files[band.href]) != _grid(first):
                raise SceneError(f"{name}: the assets {used[0].asset} and {band.asset} have different pixel grids")
            if band.number > files[band.href].count:
                raise SceneError(f"{name}: the asset {band.asset} has fewer bands than the item lists")
        for band in used:
            if len({one.href for one in used}) > 1 and MaskFlags.per_dataset in files[band.href].mask_flag_enums[0]:
                raise SceneError(f"{name}: the asset {band.asset} has a mask of its own; build a VRT with gdalbuildvrt")
        trees = {href: _vrt_of(dataset) for href, dataset in files.items()}
        root = trees[bands[0].href]
        elements = [trees[band.href].findall("VRTRasterBand")[band.number - 1] for band in used]
    for element in root.findall("VRTRasterBand"):
        root.remove(element)
    for number, (band, element) in enumerate(zip(used, elements, strict=True), 1):
        root.append(_renumbered(element, number, band.colour))
    return SourceName(ET.tostring(root, "unicode"), None, title=title, acquired=acquired)


def _opened(href: str, name: SourceName, stack: ExitStack) -> DatasetReader:
    """Open a file of an item. `stack` closes the file; `name` is the item, for messages."""
    file = SourceName.of(href)
    with warnings.catch_warnings(), gdal_env_of(file):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            opened = open_remote(file) if file.is_remote else rasterio.open(file.opened)
            dataset: DatasetReader = closed_by(stack, opened)
        except GDAL_ERRORS as error:
            raise SceneError(f"{name}: its asset {file} cannot be read: {gdal_reason(error)}") from None
    return dataset


def _grid(dataset: DatasetReader) -> object:
    return dataset.shape, dataset.crs, dataset.transform


def _vrt_of(dataset: DatasetReader) -> ET.Element:
    """Return a VRT of a whole file: with its bands, mask, nodata values, and control points."""
    with MemoryFile(ext=".vrt") as file:
        rasterio.shutil.copy(dataset, file.name, driver="VRT")
        return ET.fromstring(file.read())


def _renumbered(element: ET.Element, number: int, colour: str) -> ET.Element:
    """Return a band of a VRT with another number, and with the name and the colour interpretation of the item."""
    band = copy.deepcopy(element)
    band.set("band", str(number))
    for tag, text in (
        ("ColorInterp", colour.capitalize() if colour in _COLOURS else "Undefined"),
        ("Description", colour),
    ):
        for old in band.findall(tag):
            band.remove(old)
        new = ET.Element(tag)
        new.text = text
        band.insert(0, new)
    return band
