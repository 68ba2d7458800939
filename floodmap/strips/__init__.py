"""Codes of a scene in strips of rows, in memory and on disk."""
