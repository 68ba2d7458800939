"""Places on the ground: grids, windows, CRS, areas; GDAL and vector files."""
