"""Time of acquisition of a raster, from the tags of the file."""

from __future__ import annotations

from datetime import UTC, datetime

from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from floodmap.geo.source_name import SourceName

_DATE_TAGS = ("EXIF_DateTimeOriginal", "TIFFTAG_DATETIME", "EXIF_DateTime")


def date_of(dataset: DatasetReader | WarpedVRT, name: SourceName) -> datetime:
    """Return the time of acquisition in UTC, see `acquired_at`.

    If it is not known, the result is the time of the last modification of the local file that is or contains the
    raster. Without a local file, the result is 1970-01-01.
    """
    if (acquired := acquired_at(dataset, name)) is not None:
        return acquired
    file = name.container
    return datetime.fromtimestamp(file[0].stat().st_mtime if file and file[0].exists() else 0, UTC)


def acquired_at(dataset: DatasetReader | WarpedVRT, name: SourceName) -> datetime | None:
    """Return the time of acquisition in UTC, from the first tag of `_DATE_TAGS` in the raster that can be parsed.

    Tags have no time zone; UTC is assumed. The date of a STAC item is preferred. None: neither is there.
    """
    if name.acquired is not None:
        return name.acquired.replace(tzinfo=UTC) if name.acquired.tzinfo is None else name.acquired.astimezone(UTC)
    tags = dataset.tags()
    for tag in _DATE_TAGS:
        try:
            return datetime.strptime(tags.get(tag, ""), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
