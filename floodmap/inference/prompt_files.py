"""Point and box prompts of a user, read from vector files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.errors import PromptError
from floodmap.geo.downloads import local_file
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import readable
from floodmap.geo.source_name import SourceName
from floodmap.geo.turns import turned
from floodmap.geo.vectors import PARQUET, read_vectors
from floodmap.models.prompts import Prompts

_WORDS = {"1": 1, "flood": 1, "flooded": 1, "true": 1, "0": 0, "dry": 0, "false": 0}


def read_prompts(path: Path | str, grid: GeoGrid, *, may_be_empty: bool = False) -> Prompts:
    """Read a user's prompts from a vector file: points, and polygons whose bounding boxes become box prompts.

    Every point needs a value in the field `label`: 1, "flood" or true means flood; 0, "dry" or false means dry. All
    layers of the file are read. Points outside the scene are left out. Boxes are clipped to the scene.

    Args:
        path: GeoJSON, GeoPackage or another format that OGR reads, in any CRS (see `read_vectors`); a remote file is
            downloaded.
        grid: grid of the scene's pixels. If the grid has no CRS, the file is not reprojected: the coordinates in the
            file must be in the coordinate system of the grid's transform.
        may_be_empty: True: a file without features is no error, and gives no prompts.

    Returns:
        Prompts in pixels of the scene.

    Raises:
        VectorError: the file cannot be read.
        PromptError: a point has no usable label, a geometry is neither a point nor a polygon, or all prompts lie
            outside the scene.
    """
    if SourceName.of(path).is_remote:
        with local_file(path) as file:
            return read_prompts(file, grid, may_be_empty=may_be_empty)
    if may_be_empty and _is_empty(path):
        return Prompts.none()
    points: list[NDArray[np.float64]] = []
    labels: list[int] = []
    boxes: list[NDArray[np.float64]] = []
    span, count = grid.span_x, 0
    for layer in filled_layers(path):
        vectors = read_vectors(path, crs=grid.crs, layer=layer)
        column = next((values for name, values in vectors.attributes.items() if name.lower() == "label"), None)
        for index, geometry in enumerate(vectors.geometries):
            count += int(shapely.get_num_geometries(geometry))
            near = turned(shapely.get_parts(geometry), grid.crs, span)
            parts = [grid.to_pixels(shapely.get_coordinates(part)) for part in near]
            if geometry.geom_type in ("Point", "MultiPoint"):
                points += parts
                labels += [_parse_label(path, column, index)] * len(parts)
            elif geometry.geom_type in ("Polygon", "MultiPolygon"):
                boxes += [np.concatenate([xy.min(axis=0), xy.max(axis=0)]) for xy in parts]
            else:
                raise PromptError(f"{path} holds a {geometry.geom_type}; prompts are points and polygons")
    scene = Prompts(
        points_xy=np.reshape(points, (-1, 2)).astype(np.float32),
        labels=np.array(labels, np.int64),
        boxes_xyxy=np.reshape(boxes, (-1, 4)).astype(np.float32),
    )
    inside = scene.within(grid.whole)
    if not len(inside.points_xy) and not len(inside.boxes_xyxy):
        raise PromptError(f"{path}: none of its {count} prompts lies inside the scene; is its CRS right?")
    return inside


def _is_empty(path: Path | str) -> bool:
    """Return True if a file can be opened, and none of its layers has features."""
    if Path(path).suffix.lower() in PARQUET:
        return False
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with readable(path) as name:
            layers = [str(layer) for layer, kind in pyogrio.list_layers(name) if kind is not None]
            counts = [pyogrio.read_info(name, layer=layer, force_feature_count=True)["features"] for layer in layers]
    except (DataLayerError, DataSourceError):
        return False
    return bool(layers) and not any(counts)


def filled_layers(path: Path | str) -> list[str | None]:
    """Return the names of the layers to read: the spatial layers of the file that contain features.

    A layer is spatial if the file declares a geometry type for it. Attribute tables, such as the table `layer_styles`
    of QGIS, are not spatial. If the file has only one spatial layer, this layer is returned, even if it has no
    features.

    The result is [None], which means the default layer, in three cases:

    - The file is GeoParquet, a format without names of layers.
    - The file cannot be opened, or has no spatial layer.
    - The file has several spatial layers, and none of them has features.

    In the last two cases, `read_vectors` raises an error that tells the user what is wrong.
    """
    if Path(path).suffix.lower() in PARQUET:
        return [None]
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with readable(path) as name:
            layers = [str(layer) for layer, kind in pyogrio.list_layers(name) if kind is not None]
            if len(layers) > 1:
                layers = [
                    layer for layer in layers
                    if pyogrio.read_info(name, layer=layer, force_feature_count=True)["features"]
                ]  # fmt: skip
    except (DataLayerError, DataSourceError):
        layers = []
    return [*layers] or [None]


def _parse_label(path: Path | str, column: NDArray[Any] | None, index: int) -> int:
    if column is None:
        raise PromptError(f"{path} has no field named label; give every point one: 1 or flood, 0 or dry")
    value = column[index]
    # A number is text, an integer or a float: a float in layers that mix points with polygons, whose labels are NaN.
    word = str(int(value)) if isinstance(value, (float, np.floating)) and value in (0, 1) else str(value)
    if word.strip().lower() not in _WORDS:
        raise PromptError(f"{path}: label {value} of feature {index} is not understood; give 1 or flood, 0 or dry")
    return _WORDS[word.strip().lower()]
