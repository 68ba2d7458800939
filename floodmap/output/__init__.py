"""From strips of codes to rasters, polygons and reports."""
