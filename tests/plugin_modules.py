"""Modules of the QGIS plugin that need no QGIS, under a name that is not that of the library."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PLUGIN = Path(__file__).resolve().parents[1] / "qgis" / "floodmap"


def plugin_module(name: str) -> ModuleType:
    """Import a module such as `core.child`."""
    if "floodmap_plugin" not in sys.modules:
        place = importlib.util.spec_from_file_location(
            "floodmap_plugin", PLUGIN / "__init__.py", submodule_search_locations=[str(PLUGIN)]
        )
        assert place is not None and place.loader is not None
        package = importlib.util.module_from_spec(place)
        sys.modules["floodmap_plugin"] = package
        place.loader.exec_module(package)
    return importlib.import_module(f"floodmap_plugin.{name}")
