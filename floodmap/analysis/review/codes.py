"""Codes of a result, read from its rasters and its layer of unobserved ground."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.io import DatasetReader

from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import readable
from floodmap.geo.vectors import read_layer, read_parquet, reprojected
from floodmap.geo.window import Window
from floodmap.options import in_percent
from floodmap.output.results import FloodMap, open_result
from floodmap.strips.codes import FIRST_REASON, NODATA, OUTSIDE, PERMANENT, PERMANENT_CODE, REASONS

ROWS = 512
"""Number of rows that are read at a time: the height of a block of the rasters."""

Codes = NDArray[np.uint8]


@contextmanager
def open_result_codes(flood_map: FloodMap) -> Iterator[ResultCodes]:
    """Context manager: open the rasters of a result."""
    with open_result(flood_map.probability_path) as percent, open_result(flood_map.mask_path) as mask:
        yield ResultCodes(flood_map, percent, mask)


class ResultCodes:
    """The rasters of a result as codes (one uint8 per pixel).

    Rasters do not contain the reason of unobserved pixels. It is that of the polygon of the layer `unobserved` in which
    the pixel lies. A pixel in no polygon is outside of the area of interest if there is one, else it has the most
    frequent reason of the scene.
    """

    def __init__(self, flood_map: FloodMap, percent: DatasetReader, mask: DatasetReader) -> None:
        self._percent, self._mask, self._lock = percent, mask, Lock()
        self.grid = GeoGrid.of(percent)
        self.threshold = in_percent(float(flood_map.report["settings"]["threshold"]))
        pixels = flood_map.report["pixels"]
        by_count = sorted(pixels["unobserved"], key=lambda name: pixels["unobserved"][name])
        codes = {name: code for code, name in REASONS.items()}
        self._other = OUTSIDE if pixels["outside"] else codes[by_count[-1]] if by_count else NODATA
        self._shapes, self._codes = self._unobserved(flood_map, codes)
        self._tree = shapely.STRtree(self._shapes)

    def strips(self) -> Iterator[tuple[int, Codes]]:
        """Yield first row and codes, uint8 (rows, width), of strips from top to bottom."""
        for row in range(0, self.grid.height, ROWS):
            window = Window(row, 0, min(ROWS, self.grid.height - row), self.grid.width)
            with self._lock:  # rasters and polygons are written by two threads, and GDAL's datasets serve one
                codes = np.asarray(self._percent.read(1, window=window.to_rasterio()))
                permanent = self._mask.read(1, window=window.to_rasterio()) == PERMANENT
            codes += PERMANENT_CODE * permanent.view(np.uint8)
            hidden = codes >= FIRST_REASON
            yield row, np.where(hidden, self._reasons(window), codes) if hidden.any() else codes

    def _reasons(self, window: Window) -> Codes:
        """Return the reason of every pixel of a window, if it is unobserved."""
        bounds = (window.col_off, window.row_off, window.col_end, window.row_end)
        near = self._tree.query(shapely.box(*bounds), predicate="intersects")
        # The margin keeps clipped edges away from the centres of pixels.
        clipped = shapely.clip_by_rect(self._shapes[near], bounds[0] - 1, bounds[1] - 1, bounds[2] + 1, bounds[3] + 1)
        shapes = [(shape, int(code)) for shape, code in zip(clipped, self._codes[near], strict=True) if shape.area]
        where = Affine.translation(window.col_off, window.row_off)
        shape_hw = (window.height, window.width)
        if not shapes:
            return np.full(shape_hw, self._other, np.uint8)
        return np.asarray(rasterize(shapes, shape_hw, fill=self._other, transform=where, dtype=np.uint8))

    def _unobserved(self, flood_map: FloodMap, codes: dict[str, int]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
        """Return the polygons of unobserved ground in pixels (column, row), and the code of the reason of each."""
        path = flood_map.layer_paths[0 if flood_map.layer_paths[0].suffix == ".gpkg" else 1]
        if path.suffix == ".parquet":
            geometries, columns, crs = read_parquet(path)
        else:
            with readable(path) as name:
                geometries, columns, crs = read_layer(path, name, "unobserved" if path.suffix == ".gpkg" else None)
        if self.grid.crs is not None and crs is not None:
            geometries = reprojected(geometries, crs, self.grid.crs, path)
        in_pixels = shapely.transform(geometries, self.grid.to_pixels)
        reasons = columns.get("reason", np.empty(0, object))
        return np.asarray(in_pixels, object), np.array([codes.get(reason, NODATA) for reason in reasons], np.int64)
