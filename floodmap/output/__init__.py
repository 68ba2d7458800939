"""Output: strips of codes (one uint8 per pixel) in; rasters, polygons and reports out."""
