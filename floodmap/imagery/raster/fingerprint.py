"""Fingerprint of a raster: SHA-256 of pixels, bands and georeference.

If the fingerprint of a scene has changed since an earlier run, the run is not resumed and the results are not reused.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import warnings
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from floodmap._runtime.hashes import hash_of
from floodmap.errors import RemoteError, SceneError
from floodmap.geo.gdal import ARCHIVE_ERRORS, closed_by, gdal_env_of
from floodmap.geo.names import has_gdal_name
from floodmap.geo.remote import RemoteFile, look
from floodmap.geo.source_name import SourceName
from floodmap.geo.urls import IN_ARCHIVE, without_queries
from floodmap.geo.vectors import PARQUET, SUFFIXES, is_vector
from floodmap.imagery.raster.anatomy import anatomy

if TYPE_CHECKING:
    from floodmap.imagery.raster.source import Source

WHOLE_BYTES = 2**30
"""Largest total size of a raster's files, in bytes, with which every file is hashed whole.

If the total is larger, a file of more than 1 MiB is not hashed whole: pieces, size and modification time are hashed."""
_IN_ARCHIVE = re.compile(r"/vsi(zip|tar)/")
_MAX_DEPTH = 8
"""Largest depth of VRTs inside VRTs."""
_SIDECARS = re.compile(r"\.aux\.xml$|\.prj$|\.wld$|\.(tf|pg|jg|gf|bp)wx?$|\.imd$|\.rp[bc]$|_rpc\.txt$", re.IGNORECASE)
"""Pattern of the ends of the names of sidecar files with statistics or a georeference. These files are not hashed, but
the georeference is.

Of world files, the pattern has only the common suffixes, such as .wld and .tfw. Most suffixes of world files are three
letters that end in w. A pattern of all such suffixes would match rasters, too: .raw and .ecw."""
_OVERVIEWS = re.compile(r"\.ovr(\.msk)?$", re.IGNORECASE)
_IGNORED_TAGS = ("Metadata", "Histograms")
"""XML elements of a VRT that do not affect the pixels. These elements are not hashed."""
_BESIDE = {
    ".shp": (".shx", ".dbf", ".prj", ".cpg"),
    ".tab": (".dat", ".map", ".id", ".ind"),
    ".gml": (".xsd", ".gfs"),
}
"""For a vector file with the suffix in the key, the suffixes of the other files that belong to the vector file.
These files have the same stem as the vector file: `a.shx` belongs to `a.shp`."""
_SINGLE = frozenset({*SUFFIXES, *PARQUET, ".kmz", ".gpx", ".zip"} - {*_BESIDE})
"""Suffixes of vector files that need no other file in their folder.

For a suffix neither here nor in `_BESIDE`, `_PARTS` is used, except for .vrt; see `_vector_members`."""
_PARTS = (".shp", ".qpj", ".mif", ".mid", ".csvt", *(part for parts in _BESIDE.values() for part in parts))
_UNCOMMITTED = ("-wal", "-journal")
"""Endings that SQLite adds to the name of a database, such as a GeoPackage, for the names of two temporary files.
The file `-wal` contains changes that are not yet written to the database. The file `-journal` contains the old content
of changed pages of the database; SQLite undoes an interrupted change with it."""


class _NoFingerprint(Exception):
    """Raised if a file gets no fingerprint, because no property is known that would change with the content."""


def fingerprint(name: SourceName, source: Source, *, with_overviews: bool) -> str | None:
    """Compute the SHA-256 of an open raster from the content of the files, the georeference and the bands.

    Files inside archives and files at URLs are not always hashed whole. For a file inside a zip archive, the checksum
    (CRC-32) and the size from the archive's directory are hashed. For a URL, headers of the server's response and the
    first `remote.HEAD_BYTES` of the file are hashed. Modification times of local files are hashed only for rasters of
    more than `WHOLE_BYTES`.

    Not hashed are the name of a local raster, and statistics and histograms in sidecar files (.aux.xml) and in VRTs. A
    raster that is renamed therefore keeps its fingerprint.

    Args:
        name: name of the raster.
        source: the open raster.
        with_overviews: whether overview files (.ovr) are used, and are therefore hashed.

    Returns:
        64 hexadecimal digits; None if a change of the raster cannot be detected.
    """
    if source.anatomy.is_service:
        return None
    files = [file for file in source.anatomy.files if not _SIDECARS.search(str(file))]
    files = [file for file in files if with_overviews or not _OVERVIEWS.search(str(file))]
    files = [*{str(file.opened): file for file in [name, *files]}.values()]  # a path may be relative
    digest = hashlib.sha256(_metadata(source).encode())
    whole = sum(file.path.stat().st_size for file in files if file.path and file.path.is_file()) <= WHOLE_BYTES
    for file in files:
        try:
            remote = source.remote_files.get(str(file.opened))
            digest.update(_of_remote(file, remote) if file.is_remote else _content(file, whole=whole))
        except (_NoFingerprint, OSError, ValueError):
            return None
    return digest.hexdigest()


def of_input(name: Path | str) -> str | None:
    """Compute the SHA-256 of the files of a mask, an area of interest or prompts.

    Files that belong to the given file are hashed, too: the rasters or vector files of a VRT, sidecars, and the other
    files of a Shapefile.

    Args:
        name: a file, a .gdb folder, or a name that only GDAL opens, such as `/vsizip/areas.zip/aoi.geojson`.

    Returns:
        64 hexadecimal digits; None if a change of the file cannot be detected.
    """
    source = SourceName.of(name if has_gdal_name(name) else Path(name))
    digest = hashlib.sha256()
    try:
        for part in {str(part.opened): part for part in _parts(source)}.values():
            digest.update(_content(part, whole=True))
    except (_NoFingerprint, SceneError, RemoteError, OSError, ValueError):
        return None
    return digest.hexdigest()


def _parts(name: SourceName) -> list[SourceName]:
    """Return the files to hash of a mask, an area of interest or prompts. The first is the file itself.

    The exception is a .gdb folder, of which all files except .lock files are returned.
    """
    if name.path is not None and name.path.is_dir():  # readers write lock files into a .gdb folder
        return [SourceName.of(part) for part in sorted(name.path.iterdir()) if part.suffix != ".lock"]
    if not name.is_remote and is_vector(name.given if name.path is None else name.path):
        return _vector_parts(name)
    try:
        with ExitStack() as stack, warnings.catch_warnings(), gdal_env_of(name):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            structure = anatomy(closed_by(stack, rasterio.open(name.opened)), name, (1,), stack)
    except RasterioError:
        return _vector_parts(name)
    if structure.is_service:
        raise _NoFingerprint
    return [name, *(file for file in structure.files if not _is_statistics(file.path))]


def _vector_parts(name: SourceName, depth: int = 0) -> list[SourceName]:
    """Return the files to hash of a vector file. `depth` is the number of VRTs that contain the file."""
    suffix = Path(name.label).suffix.lower()
    if suffix in _SINGLE:
        return [name]
    if name.path is None:
        if name.container is not None:  # the other parts are in the same archive
            return [name, SourceName.of(name.container[0])]
        if suffix and not _IN_ARCHIVE.match(str(name.opened)):
            raise _NoFingerprint  # files beside a file at a URL are not listed
        return [name]
    if suffix == ".vrt":
        return [name, *_vector_members(name.path, depth)]
    stem, wanted = name.path.stem.casefold(), _BESIDE.get(suffix, _PARTS)
    beside = sorted(file for file in name.path.parent.iterdir() if file.stem.casefold() == stem and file.is_file())
    return [name, *(SourceName.of(file) for file in beside if file.suffix.lower() in wanted)]


def _vector_members(vrt: Path, depth: int) -> Iterator[SourceName]:
    """Yield the files to hash of all vector files to which an OGR VRT refers.

    OGR is the part of GDAL for vector files. OGR opens a VRT as one vector file, and reads the features from the vector
    files to which the VRT refers. The word "members" in the name of this function means these files, not the members of
    a VRT mosaic. `depth` is the number of VRTs that contain `vrt`. If `vrt` is not XML, nothing is yielded.

    Raises:
        _NoFingerprint: the VRT contains another VRT as text, or VRTs are nested too deep (`_MAX_DEPTH`).
    """
    try:
        root = ET.fromstring(vrt.read_bytes())
    except ET.ParseError:
        return
    for element in root.iter("SrcDataSource"):
        text = element.text or ""
        if text.startswith("<") or depth > _MAX_DEPTH:
            raise _NoFingerprint
        inside = element.get("relativeToVRT") == "1"
        yield from _vector_parts(SourceName.of(vrt.absolute().parent / text if inside else text), depth + 1)


def _is_statistics(path: Path | None) -> bool:
    """Return whether a file is an .aux.xml sidecar of only statistics and histograms, such as QGIS writes."""
    if path is None or not path.name.endswith(".aux.xml"):
        return False
    try:
        root = ET.fromstring(path.read_bytes())
    except ET.ParseError:
        return False
    parts = [part for child in root for part in (child if child.tag.endswith("Band") else [child])]
    return all(part.tag in _IGNORED_TAGS and part.get("domain") is None for part in parts)


def _metadata(source: Source) -> str:
    """Return one text of all properties that affect how a raster is read, such as dtype, georeference and palette."""
    palette = None if source.palette is None else source.palette.tolist()
    crs = None if source.grid.crs is None else source.grid.crs.to_wkt()
    shape, place = (*source.grid.shape_hw, source.dataset.count), tuple(source.grid.transform)[:6]
    return repr((shape, str(source.dtype), crs, place, source.nodata, source.has_mask, palette))


def _content(name: SourceName, *, whole: bool) -> bytes:
    """Return bytes that change if the content of an input changes. For most inputs the bytes are a SHA-256.

    Args:
        name: name of the input: a file, a folder, the XML text of a VRT, a URL, or a file inside an archive.
        whole: True: local files are hashed whole. False: of a local file of more than 1 MiB, only pieces, the size and
            the modification time are hashed.

    Raises:
        _NoFingerprint: no property of the input is known that would change with the content.
    """
    if name.path is not None:
        return _of_path(name.path, whole=whole)
    if name.given.startswith("<"):
        return _of_vrt(without_queries(name.given).encode())
    if name.is_remote:
        return _of_remote(name, look(name))
    if name.container is None:
        raise _NoFingerprint
    file, inside = name.container
    return _of_member(file, inside, whole=whole)


def _of_path(path: Path, *, whole: bool) -> bytes:
    if path.is_dir():  # a raster or layers in a folder: .zarr, .gdb
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        return b"".join(str(file.relative_to(path)).encode() + _of_path(file, whole=whole) for file in inside)
    if not path.is_file():
        return b"missing"
    if path.suffix.lower() == ".vrt":
        return _of_vrt(path.read_bytes())
    changes = [Path(f"{path}{ending}") for ending in _UNCOMMITTED]
    return b"".join(hash_of(file, whole=whole) for file in [path, *changes] if file == path or _has_bytes(file))


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _of_vrt(text: bytes) -> bytes:
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return hashlib.sha256(text).digest()
    for parent in [*root.iter()]:
        for child in [child for child in parent if child.tag in _IGNORED_TAGS]:
            parent.remove(child)
    return hashlib.sha256(ET.tostring(root)).digest()


def _of_member(file: Path, inside: str, *, whole: bool) -> bytes:
    """Return bytes that change with the content of one raster or vector file in an archive or container.

    `file` is the archive or container, and `inside` is the name in it (see `SourceName.container`). The word "member"
    in the name of this function does not mean a member of a VRT mosaic.

    If `file` is a zip archive, the bytes are the checksum and the size of `inside`, as text. If `file` is a tar
    archive, the bytes are the SHA-256 of `inside`. For any other file, such as a NetCDF file of several rasters, the
    bytes are the name `inside`, and then bytes that change with the content of `file`. The same holds if the archive
    is damaged, or has no file of the name `inside`, for example because `inside` is a folder.
    """
    with suppress(*ARCHIVE_ERRORS):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                known = {info.filename: info for info in archive.infolist()}
            if info := known.get(inside):
                return f"{info.CRC} {info.file_size}".encode()
        elif inside and tarfile.is_tarfile(file):
            with tarfile.open(file) as tar:
                found = [member for member in tar if member.name.removeprefix("./") == inside and member.isfile()]
                if found and (stream := tar.extractfile(found[-1])):
                    return hashlib.file_digest(stream, "sha256").digest()  # type: ignore[arg-type]
    return inside.encode() + _of_path(file, whole=whole)


def _of_remote(name: SourceName, file: RemoteFile | None) -> bytes:
    """Return bytes that change with the content of a remote file, from the server's headers and the first bytes."""
    if file is None or not file.has_version:
        raise _NoFingerprint
    archive = IN_ARCHIVE.match(str(name.opened))
    inside = archive[2] or "" if archive else ""
    return repr((file.etag, file.modified, file.length, inside)).encode() + file.head
