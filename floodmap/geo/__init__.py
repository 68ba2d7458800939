"""Georeferencing: pixel grids, windows, CRS, areas on the ellipsoid, settings of GDAL, and vector files."""
