"""Catalogues: many scenes side by side, and one file with the polygons of all scenes and a row for each scene."""
