"""Optional packages, and the extras of floodmap (`pip install 'floodmap[...]'`) that install the packages."""

from __future__ import annotations

from importlib.util import find_spec

from floodmap.errors import MissingPackageError

EXTRAS = {
    "pyarrow": "parquet",
    "matplotlib": "train",
    "accelerate": "multi-gpu",
    "rioxarray": "xarray",
    "pystac": "remote",
    "stac_geoparquet": "stac",
    "fpdf": "pdf",
    "distributed": "dask",
    "exactextract": "exposure",
    "xlsxwriter": "exposure",
}
"""Mapping from the name of an optional package to the extra of floodmap that installs the package."""


def require(package: str, what: str) -> None:
    """Raise MissingPackageError if an optional package is not installed.

    Args:
        package: name of the package, a key of `EXTRAS`.
        what: the feature that needs the package; the error message begins with this text.
    """
    if find_spec(package) is None:
        raise MissingPackageError(
            f"{what} needs {package}, which is not installed; run: pip install 'floodmap[{EXTRAS[package]}]'"
        )
