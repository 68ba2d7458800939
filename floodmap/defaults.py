"""What commands and functions take where nothing is said, each written here once; and which thresholds they take."""

from __future__ import annotations

from typing import Final

from floodmap.errors import EvaluationError

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


def check_threshold(threshold: float) -> None:
    """Refuse what is no share from 0.01 to 1.

    Raises:
        EvaluationError: with what to write instead.
    """
    if not 0.01 <= threshold <= 1:
        instead = f"; for {threshold:g} per cent write {threshold / 100:g}" if 1 < threshold <= 100 else ""
        raise EvaluationError(f"threshold {threshold:g} is not a share from 0.01 to 1{instead}")
