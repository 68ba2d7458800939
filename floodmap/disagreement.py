"""Where a prediction and its reference disagree, as polygons to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from floodmap.grid import Window
from floodmap.masks import DRY, FLOOD, Frame, Reader

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_STRIP = 512
"""Rows read at a time."""
_KINDS = {"false_positive": (FLOOD, DRY), "false_negative": (DRY, FLOOD)}
"""Kind of a disagreement: what the prediction says, what the reference says."""


def disagreement(prediction: Reader, reference: Reader, frame: Frame, *, scene: str) -> GeoDataFrame:
    """PLACEHOLDER"""
    raise NotImplementedError


def write_disagreement(layers: Sequence[GeoDataFrame], path: Path, *, overwrite: bool) -> None:
    """PLACEHOLDER"""
    raise NotImplementedError


def _strips(
    prediction: Reader, reference: Reader, frame: Frame, kind: str
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    predicted, referenced = _KINDS[kind]
    for row in range(0, frame.height, _STRIP):
        strip = Window(row, 0, min(_STRIP, frame.height - row), frame.width)
        wrong = (prediction(strip) == predicted) & (reference(strip) == referenced)
        yield row, np.where(wrong, 100, 0).astype(np.uint8)
