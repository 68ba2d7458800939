"""Flood masks, as rasters or polygons, of any tool, read on any grid."""
