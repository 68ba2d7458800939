"""The floodmap plugin of QGIS. It runs the program `floodmap`; it contains neither networks nor rasters of its own."""


def classFactory(iface):
    """Return the plugin. QGIS calls this function; `iface` is None in qgis_process."""
    from .plugin import FloodmapPlugin

    return FloodmapPlugin(iface)
