"""What commands and functions take where nothing is said: each is written here once."""

from __future__ import annotations

from typing import Final

OUTPUT_FOLDER = "floodmap_output"
"""Results go into this folder in the current one."""
MODEL = "finetuned"
"""The shipped model."""
TILE_SIZE = 1024
"""Longest side of a window, in pixels."""
OVERLAP = 24
"""Pixels shared by neighbouring windows."""
THRESHOLD = 0.5
"""Flood where the probability is at least this."""
FORMAT: Final = "gpkg"
"""The vector format that is written."""
