"""Opening of one raster: files, members of a VRT mosaic, bands, values and georeference."""
