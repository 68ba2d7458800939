"""What commands and functions take where nothing is said."""

from __future__ import annotations

OUTPUT_FOLDER = "floodmap_output"
"""Results go into this folder in the current one."""
