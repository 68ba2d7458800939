"""The panel of QGIS Desktop: segment a scene, correct it with clicks, go through the places of a review."""
