"""Opening of one raster file: its files and members, its bands, values and georeference."""
