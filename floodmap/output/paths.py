"""Names of the files that a run writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from floodmap.options import SegmentOptions

EVERY_FILE = {"sheet": True, "permanent": True, "pdf": True, "stac": True, "cems": True}
"""Arguments of `result_paths` for all files that a run can write."""
CEMS_LAYERS = ("observedEventA", "notAnalysedA", "hydrographyA", "imageFootprintA", "areaOfInterestA", "source")
"""Layers in the schema of Copernicus EMS Rapid Mapping. The last one is a table without geometry; `hydrographyA` is
written only with permanent water."""
CEMS_VERSION = "v1"
"""Version of the product, the last part of the names of layers and files."""
TABLE_SUFFIXES = {"shp": "dbf", "geojson": "csv", "fgb": "csv", "parquet": "parquet"}
"""Suffix of the file of a table without geometry, by vector format. In a GeoPackage, the table is a layer."""


def wanted_files(options: SegmentOptions) -> dict[str, bool]:
    """Return the arguments of `result_paths` that say which files a run with these options writes."""
    return {
        "sheet": options.report, "permanent": options.permanent_water is not None, "pdf": options.pdf,
        "stac": options.stac, "cems": options.schema == "cems",
    }  # fmt: skip


def result_paths(
    out: Path,
    name: str,
    formats: Iterable[str],
    *,
    sheet: bool = False,
    permanent: bool = False,
    pdf: bool = False,
    stac: bool = False,
    cems: bool = False,
) -> list[Path]:
    """Return the paths of the files that a run writes, without files that belong to another file (`.qml`, `.dbf`).

    Args:
        out: folder of the results.
        name: beginning of the file names.
        formats: vector formats (`options.FORMATS`).
        sheet: True: include the HTML report.
        permanent: True: include the files of permanent water.
        pdf: True: include the PDF report.
        stac: True: include the STAC item.
        cems: True: include the vector files in the schema of Copernicus EMS.

    Returns:
        Paths of mask, probability raster, JSON report, vector files, vector files in the schema of Copernicus EMS, HTML
        report, PDF report and STAC item, in this order.
    """
    formats = list(formats)
    rasters = [out / f"{name}_mask.tif", out / f"{name}_probability.tif", out / f"{name}.json"]
    each = ["_flood", "_unobserved", *(["_permanent_water"] if permanent else [])]
    vectors = [out / f"{name}{layer}.{one}" for one in formats for layer in ([""] if one == "gpkg" else each)]
    handed_over = [path for one in formats for path in cems_paths(out, name, one, permanent=permanent)] if cems else []
    pages = [(sheet, page_path_of(out, name)), (pdf, pdf_path_of(out, name)), (stac, stac_path_of(out, name))]
    every = [*rasters, *vectors, *handed_over, *(path for wanted, path in pages if wanted)]
    return list(dict.fromkeys(every))  # GeoJSON and FlatGeobuf share a table


def page_path_of(out: Path, name: str) -> Path:
    """Return the path of a scene's HTML report in the folder `out`; `name` is the beginning of the file name."""
    return out / f"{name}_report.html"


def pdf_path_of(out: Path, name: str) -> Path:
    """Return the path of a scene's PDF report in the folder `out`; `name` is the beginning of the file name."""
    return out / f"{name}_report.pdf"


def stac_path_of(out: Path, name: str) -> Path:
    """Return the path of a scene's STAC item in the folder `out`; `name` is the beginning of the file name."""
    return out / f"{name}_stac.json"


def cems_layers(*, permanent: bool) -> tuple[str, ...]:
    """Return the names of the layers of Copernicus EMS that are written, with or without permanent water."""
    return tuple(layer for layer in CEMS_LAYERS if permanent or layer != "hydrographyA")


def cems_paths(out: Path, name: str, form: str, *, permanent: bool) -> list[Path]:
    """Return the paths of the files in the schema of Copernicus EMS.

    The names are those of Rapid Mapping: name of the product, layer, and version, such as
    `EMSR773_AOI01_DEL_PRODUCT_observedEventA_v1.shp`.

    Args:
        out: folder of the results.
        name: beginning of the file names.
        form: vector format (`options.FORMATS`).
        permanent: True: there is a layer of permanent water.

    Returns:
        One path for a GeoPackage. For any other format a path for each layer, in the order of `cems_layers`.
    """
    if form == "gpkg":
        return [out / f"{name}_cems_{CEMS_VERSION}.gpkg"]
    return [
        out / f"{name}_{layer}_{CEMS_VERSION}.{TABLE_SUFFIXES[form] if layer == 'source' else form}"
        for layer in cems_layers(permanent=permanent)
    ]
