"""One raster file: how it is opened, what it is made of, where it lies."""
