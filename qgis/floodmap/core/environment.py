"""Environment variables of the program. QGIS sets some for its own libraries, and others would break or mislead it."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Dict, Iterable, List, Mapping

PREFIXES = ("PYTHON", "PIP_", "QGIS_", "PROJ_", "DYLD_")
"""Beginnings of the names of variables that are left out."""
NAMES = ("VIRTUAL_ENV", "GDAL_DATA", "GDAL_DRIVER_PATH", "LD_LIBRARY_PATH", "__PYVENV_LAUNCHER__")
"""Names of variables that are left out."""
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Names of variables that are left out if they point into QGIS. A company's own certificates stay."""
SYSTEM = ("/", "/usr", "/usr/local", "/opt")
"""Prefixes of a QGIS that is part of the system. What lies below them is not QGIS alone."""


def child_environment(environment: Mapping[str, str], qgis_folders: Iterable[str] = ()) -> Dict[str, str]:
    """Return the environment for the program.

    Args:
        environment: the environment of QGIS.
        qgis_folders: folders of the installation of QGIS.
    """
    folders = _roots(environment, qgis_folders)
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(PREFIXES)
        and name.upper() not in NAMES
        and not (name.upper() in CERTIFICATES and _inside(value, folders))
    }
    return {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"}


def _roots(environment: Mapping[str, str], qgis_folders: Iterable[str]) -> List[PurePath]:
    named = [environment.get(name, "") for name in ("OSGEO4W_ROOT", "QGIS_PREFIX_PATH", "PYTHONHOME")]
    folders = [os.path.normpath(folder) for folder in (*qgis_folders, *named) if folder]
    return [Path(folder) for folder in folders if Path(folder).as_posix() not in SYSTEM]


def _inside(path: str, folders: List[PurePath]) -> bool:
    """Return whether a path is in one of the folders, or in a folder that is called after QGIS."""
    place = Path(os.path.normpath(path))
    if any(folder == place or folder in place.parents for folder in folders):
        return True
    return any(part.lower().startswith(("qgis", "osgeo4w")) for part in path.replace("\\", "/").split("/"))
