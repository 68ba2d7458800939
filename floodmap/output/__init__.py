"""Writing of the results of a run: rasters, polygons and reports, from strips of codes (one uint8 per pixel)."""
