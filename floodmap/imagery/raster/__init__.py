"""One raster file: opening it, its files and members, its bands, values and georeference."""
