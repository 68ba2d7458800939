"""Reading of flood masks: rasters or polygons of any software, warped or rasterized to the pixels of a target grid."""
