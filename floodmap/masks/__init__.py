"""Reading of flood masks (rasters or polygons, written by any software) on any pixel grid."""
