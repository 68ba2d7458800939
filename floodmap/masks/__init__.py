"""Reading of flood masks, rasters or polygons from any software, on any pixel grid."""
