"""Codes of a scene (one uint8 per pixel, see `strips.codes`) in strips of full rows, in memory and on disk."""
