"""Polygon masks: polygons of flood and of unobserved areas, rasterized window by window on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from floodmap.errors import EvaluationError, MissingCRSError, VectorError
from floodmap.geo.crs import horizontal, is_placed, known_crs
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import readable
from floodmap.geo.turns import bounds_of, turned
from floodmap.geo.vectors import PARQUET, Vectors, read_parquet, read_vectors
from floodmap.geo.window import Window
from floodmap.masks.alignment import polygons_without_crs
from floodmap.masks.pairing import CEMS_FLOOD, CEMS_UNOBSERVED, is_one_file, layer_files
from floodmap.masks.rules import Codes, FloodRule, Reader
from floodmap.strips.codes import DRY, FLOOD, UNOBSERVED

_VERTICES = 4096
"""Number of vertices above which a polygon is cut into pieces.

The reason is speed: rasterio converts all vertices of a polygon again for each window.
"""
_MOST_PIXELS = 4_000_000_000
"""Largest number of pixels of a grid on which two polygon files are compared; more pixels would take hours."""


class PolygonMask:
    """Polygon file as a mask: flood inside polygons, dry outside, unobserved inside polygons of a second layer or file.

    The second layer is the layer `unobserved` of a file, such as a GeoPackage, that also has a layer `flood`. The
    second file is in the same folder; for its name, see `pairing.unobserved_files`.

    Args:
        path: the file with the flood polygons.
        permanent: True: polygons of a layer or file `permanent_water` beside the flood polygons are flood, too.
    """

    def __init__(self, path: Path, *, permanent: bool = False) -> None:
        self.path = path
        self._flood = (path, _flood_layer(path))
        self._unobserved = _beside(path, "unobserved")
        self._permanent = _beside(path, "permanent_water") if permanent else None
        own = self._read(self._flood, None)[1]
        self.crs = own if is_placed(own) else None

    def geometries(self, crs: Any) -> NDArray[np.object_]:
        """Return all polygons of the mask, of flood and of unobserved areas.

        Args:
            crs: target CRS. None: the CRS of the file.

        Returns:
            Shapely polygons, object (n,).
        """
        return np.concatenate([self._read(part, crs)[0].geometries for part in self._parts()])

    def on(self, grid: GeoGrid, rule: FloodRule, *, must_overlap: bool = True) -> Reader:
        """Return a function that reads the classes of a window of a target grid (see `rules.Reader`).

        A pixel belongs to a polygon if the polygon contains the centre of the pixel.

        Args:
            grid: the target grid.
            rule: definition of flood by an attribute of the flood polygons. Without an attribute in the rule, every
                polygon is flood, except the polygons of unobserved areas.
            must_overlap: False: polygons that do not touch the grid are no error.

        Raises:
            MissingCRSError: the file has a CRS and the grid has none, or the grid has a CRS and the file has none.
            EvaluationError: the rule has pixel values or a threshold, which only rasters can have; or the file lacks
                the attribute of the rule; or no polygon touches the grid.
            VectorError: the file cannot be reprojected to the CRS of the grid.
        """
        if (self.crs is None) != (grid.crs is None):
            if self.crs is None:
                raise polygons_without_crs(self.path, "the file it is compared with")
            raise MissingCRSError(
                f"{self.path} has a CRS, but the file it is compared with has none; assign it with: "
                "rio edit-info --crs EPSG:CODE FILE"
            )
        flood = self._read(self._flood, grid.crs)[0]
        others = self._unobserved, self._permanent
        unobserved, permanent = (self._read(part, grid.crs)[0] if part else _EMPTY for part in others)
        chosen = np.concatenate([flood.geometries[_is_flood(flood, rule, self.path)], permanent.geometries])
        span = grid.span_x
        every = np.concatenate([flood.geometries, permanent.geometries, unobserved.geometries])
        if must_overlap and len(every) and not len(_pieces(turned(every, grid.crs, span), grid, _VERTICES, cut=False)):
            raise EvaluationError(f"{self.path} does not overlap the file it is compared with; check the CRS of both")
        layers = [
            (_Rasterizer(_pieces(turned(geometries, grid.crs, span), grid, _VERTICES)), code)
            for geometries, code in ((chosen, FLOOD), (unobserved.geometries, UNOBSERVED))
        ]

        def read(window: Window) -> Codes:
            codes = np.full((window.height, window.width), DRY, np.uint8)
            for layer, code in layers:
                layer.burn(codes, window, code)
            return codes

        return read

    def close(self) -> None:
        """Do nothing, because no file is kept open."""

    def _parts(self) -> list[tuple[Path, str | None]]:
        return [part for part in (self._flood, self._unobserved, self._permanent) if part]

    def _read(self, part: tuple[Path, str | None], crs: CRS | None) -> tuple[Vectors, Any]:
        """Read one layer. Return the features (possibly none), and the CRS in the file (None if the layer has no CRS).

        Args:
            part: the layer to read: path of the file, and name of the layer (None for GeoParquet).
            crs: CRS of the returned geometries. None: the CRS of the layer.
        """
        path, layer = part
        if path.suffix.lower() in PARQUET:
            geometries, _, own = read_parquet(path)
            is_empty = (shapely.is_missing(geometries) | shapely.is_empty(geometries)).all()
            return _EMPTY if is_empty else read_vectors(path, crs=crs, polygons=True), own
        import pyogrio

        try:
            with readable(path) as name:
                about = pyogrio.read_info(name, layer=layer, force_feature_count=True)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise VectorError(f"{path} cannot be read as vector data: {' '.join(str(error).split())}") from error
        own = horizontal(known_crs(about["crs"])) if about["crs"] else None
        if not about["features"]:
            return _EMPTY, own
        return read_vectors(path, crs=crs, layer=layer, polygons=True), own


_EMPTY = Vectors(geometries=np.empty(0, dtype=object), attributes={}, crs=None)


def polygon_grid(a: PolygonMask, b: PolygonMask, resolution_m: float) -> GeoGrid:
    """Return a grid that covers the polygons of both files, in the CRS of `a`.

    At the centre of the grid, pixels are square on the ground.

    Args:
        a: the first polygon file.
        b: the second polygon file.
        resolution_m: side of a pixel in metres; if the files have no CRS, in the units of the coordinates.

    Raises:
        MissingCRSError: only one of the files has a CRS.
        EvaluationError: the files have no polygons; or the centre of the polygons' bounding box cannot be converted to
            longitude and latitude, as with a wrong CRS; or the grid would have more than `_MOST_PIXELS` pixels.
        VectorError: the polygons of `b` cannot be reprojected to the CRS of `a`.
    """
    if (a.crs is None) != (b.crs is None):
        bare, other = (a, b) if a.crs is None else (b, a)
        raise polygons_without_crs(bare.path, other.path)
    geometries = np.concatenate([a.geometries(None), b.geometries(a.crs)])
    if not len(geometries):
        raise EvaluationError(f"neither {a.path} nor {b.path} holds a polygon: there is no ground to compare them on")
    west, south, east, north = bounds_of(geometries, a.crs)
    crs = None if a.crs is None else CRS.from_user_input(a.crs)
    per_row = per_col = 1.0
    if crs is not None and is_placed(crs):
        unit = Affine((east - west) / 1000, 0, west, 0, (south - north) / 1000, north)
        metres = GeoGrid(crs, unit, (1000, 1000)).steps_m
        if metres is None:
            raise EvaluationError(f"{a.path} has coordinates that do not exist in its CRS ({crs})")
        per_col, per_row = 1000 * metres[0] / (east - west), 1000 * metres[1] / (north - south)
    step_x, step_y = resolution_m / per_col, resolution_m / per_row
    width, height = (max(1, int(np.ceil(size))) for size in ((east - west) / step_x, (north - south) / step_y))
    if width * height > _MOST_PIXELS:
        raise EvaluationError(
            f"{a.path} and {b.path} span {width} x {height} pixels of {resolution_m:g} m; give a coarser --resolution"
        )
    return GeoGrid(crs, Affine(step_x, 0, west, 0, -step_y, north), (height, width))


class _Rasterizer:
    """Rasterizer of polygons for windows of a grid.

    Args:
        pieces: shapely polygons, object (n,), in pixel coordinates of the grid (column, row).
    """

    def __init__(self, pieces: NDArray[np.object_]) -> None:
        self._pieces = pieces
        self._tree = shapely.STRtree(pieces)

    def burn(self, codes: Codes, window: Window, code: int) -> None:
        """Write one class to the pixels of a window: to every pixel whose centre is inside one of the polygons.

        Args:
            codes: the classes of the window's pixels, uint8 (height, width): FLOOD (1), DRY (0) or UNOBSERVED (255), as
                in a mask. The array is changed in place. Pixels outside the polygons keep their class.
            window: the window, in pixels of the grid.
            code: the class to write: FLOOD or UNOBSERVED.
        """
        box = shapely.box(window.col_off, window.row_off, window.col_end, window.row_end)
        hits = np.sort(self._tree.query(box))
        if len(hits):
            place = Affine.translation(window.col_off, window.row_off)
            rasterize(self._pieces[hits], out=codes, transform=place, default_value=code)


def _pieces(geometries: NDArray[np.object_], grid: GeoGrid, vertices: int, *, cut: bool = True) -> NDArray[np.object_]:
    """Return the polygons that touch a grid, object (n,), in pixel coordinates of the grid (column, row).

    Args:
        geometries: shapely polygons or multipolygons, object (m,), in the CRS of the grid.
        grid: the grid.
        vertices: number of vertices above which a polygon is cut into pieces (see `_cut`).
        cut: False: no polygon is cut.
    """
    inverse = ~grid.transform

    def to_pixels(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f

    parts: NDArray[np.object_] = shapely.get_parts(shapely.transform(geometries, to_pixels, interleaved=False))
    touching: NDArray[np.object_] = parts[shapely.intersects(parts, shapely.box(0, 0, grid.width, grid.height))]
    if not cut:
        return touching
    pieces = [piece for part in touching for piece in _cut(part, vertices)]
    return np.array(pieces, dtype=object)


def _cut(polygon: shapely.Geometry, vertices: int) -> Sequence[shapely.Geometry]:
    """Cut a polygon, in pixel coordinates of a grid, in halves until each piece has at most `vertices` vertices.

    A piece is not cut further if its bounding box is less than 16 pixels wide and less than 16 pixels high. The cuts
    run along the edges of pixels. The cuts do not change the rasterized result, because the edges do not pass through
    the centres of pixels.
    """
    west, north, east, south = polygon.bounds
    across = east - west >= south - north
    middle = float(np.floor((west + east) / 2 if across else (north + south) / 2))
    low, high = (west, east) if across else (north, south)
    if shapely.get_num_coordinates(polygon) <= vertices or not low < middle < high or high - low < 16:
        return [polygon]
    first = (west, north, middle, south) if across else (west, north, east, middle)
    second = (middle, north, east, south) if across else (west, middle, east, south)
    try:
        halves = shapely.intersection(polygon, [shapely.box(*first), shapely.box(*second)])
    except shapely.GEOSException:
        # Rounding to pixel coordinates can make a ring invalid. The whole polygon gives the same result, but slower.
        return [polygon]
    parts = shapely.get_parts(shapely.get_parts(halves))
    return [piece for part in parts if part.area > 0 for piece in _cut(part, vertices)]


def _flood_layer(path: Path) -> str | None:
    """Return the layer of flood: `flood`, that of Copernicus EMS, or the only one. None: GeoParquet has no layers."""
    if path.suffix.lower() in PARQUET:
        return None
    names = _layers(path)
    chosen = [name for name in names if name == "flood"] or [name for name in names if CEMS_FLOOD in name]
    if chosen or len(names) == 1:
        return [*chosen, *names][0]
    shown = ", ".join(names) or "none with geometries"
    raise VectorError(f"{path} has several layers ({shown}) and none is called flood; keep one of them")


def _beside(path: Path, layer: str) -> tuple[Path, str | None] | None:
    """Return path and layer name of another layer, such as `unobserved`, that belongs to a file of flood polygons.

    `PolygonMask` describes the names. The result is None if there is none; the layer name is None for GeoParquet.
    """
    names = [] if path.suffix.lower() in PARQUET else _layers(path)
    if {"flood", layer} <= set(names):
        return path, layer
    if layer == "unobserved" and len(names) > 1 and (cems := [name for name in names if CEMS_UNOBSERVED in name]):
        return path, cems[0]
    for sibling in layer_files(path, layer):
        if not is_one_file(sibling):
            continue
        if path.suffix.lower() in PARQUET:
            return sibling, None
        if layers := _layers(sibling):  # a file without geometries holds no ground
            return sibling, layers[0]
    return None


def _layers(path: Path) -> list[str]:
    import pyogrio

    try:
        with readable(path) as name:
            return [str(layer) for layer, kind in pyogrio.list_layers(name) if kind is not None]
    except pyogrio.errors.DataSourceError as error:
        raise VectorError(f"{path} cannot be read as vector data: {' '.join(str(error).split())}") from error


def _is_flood(vectors: Vectors, rule: FloodRule, path: Path) -> NDArray[np.bool_]:
    """Return which of n polygons are flood according to a rule, bool (n,). `path` is for error messages."""
    if rule.values or rule.threshold is not None:
        raise EvaluationError(f"{path} holds polygons; give flood polygons as attribute=value, such as class=water")
    if not rule.attribute or not len(vectors):
        return np.ones(len(vectors), bool)
    if rule.attribute not in vectors.attributes:
        has = ", ".join(vectors.attributes) or "no attribute at all"
        raise EvaluationError(f"{path} has no attribute {rule.attribute}; it has {has}")
    column = vectors.attributes[rule.attribute]
    return np.array([any(_equals(value, match) for match in rule.matches) for value in column], bool)


def _equals(value: Any, match: str) -> bool:
    """Return whether the value of an attribute equals a text given by the user; the number 1.0 equals the text "1"."""
    if isinstance(value, str):
        return value == match
    try:
        return bool(float(value) == float(match))
    except (TypeError, ValueError):
        return str(value) == match
