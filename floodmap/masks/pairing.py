"""Pairing of predictions with references by file name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from floodmap.errors import EvaluationError

Side = Literal["prediction", "reference"]

CEMS_FLOOD, CEMS_UNOBSERVED, CEMS_PERMANENT = "observedEventA", "notAnalysedA", "hydrographyA"
"""Parts of the names of layers of Copernicus EMS: flood, ground that was not analysed, and permanent water."""

RASTERS = (".tif", ".tiff", ".png", ".vrt", ".img", ".jp2", ".bmp", ".gif")
"""Suffixes of raster masks, in order of preference.

JPEG is not in the list, because JPEG compression blurs classes. A .jpg is always a picture.
"""
VECTORS = (".gpkg", ".fgb", ".parquet", ".geoparquet", ".shp", ".gdb", ".geojson", ".json")
"""Suffixes of polygon files, in order of preference."""

_ROLES: dict[Side, tuple[str, ...]] = {
    "prediction": ("_mask", "_prediction", "_pred", "", "_flood"),
    "reference": ("_reference", "_truth", "_gt", "_labels", "_label", "_mask", "", "_flood"),
}
"""Endings of the file names (without suffix) of predictions and of references, in order of preference.

Example: `x_mask.tif` may be the prediction or the reference of the scene `x`. The empty ending is that of `x.tif`. The
name of a scene may have one of these endings, too. An example is a scene with the name `river_mask`.
"""

_CEMS = ("_cems_v1", *(f"_{layer}_v1" for layer in (
    "observedeventa", "notanalyseda", "hydrographya", "imagefootprinta", "areaofinteresta", "source",
)))  # fmt: skip
"""Endings of the files of a result in the schema of Copernicus EMS, in lower case: further files of the same result."""

_EXCLUDED: dict[Side, tuple[str, ...]] = {
    "prediction": (
        "_reference",
        "_truth",
        "_gt",
        "_labels",
        "_label",
        "_probability",
        "_unobserved",
        "_change",
        *_CEMS,
    ),
    "reference": ("_probability", "_unobserved", "_prediction", "_pred", "_change"),
}
"""For each side, endings of the names of files that do not belong to it: files of the other side, or other results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Prediction and reference of one scene."""

    name: str
    """Name of the scene."""
    prediction: Path
    """Raster or polygon file with the prediction."""
    reference: Path
    """Raster or polygon file with the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of a prediction and a reference, and files without a counterpart."""

    pairs: tuple[Pair, ...]
    """Pairs, sorted by name of the scene."""
    unpaired_predictions: tuple[Path, ...] = ()
    """Predictions without a reference."""
    unpaired_references: tuple[Path, ...] = ()
    """References without a prediction."""


_RESULT_ENDS = ("_mask", "_probability", "_flood", "")
"""Endings of the names of results of `floodmap segment`, without suffix, in front of which is the name of the scene."""


def unobserved_files(path: Path) -> list[Path]:
    """Return paths where the unobserved areas of a file of flood polygons may be; see `layer_files`."""
    return layer_files(path, "unobserved")


def layer_files(path: Path, layer: str) -> list[Path]:
    """Return paths where another layer of a file of flood polygons may be, in order of preference.

    Example: for `x_flood.shp` and the layer `unobserved`, `x_flood_unobserved.shp` (`floodmap vectorize -o
    x_flood.shp`), then `x_unobserved.shp` (`floodmap segment`). For `x.shp`, only `x_unobserved.shp`. For
    `x_observedEventA_v1.shp` of Copernicus EMS, `x_notAnalysedA_v1.shp`.
    """
    if CEMS_FLOOD in path.stem:
        other = {"unobserved": CEMS_UNOBSERVED, "permanent_water": CEMS_PERMANENT}.get(layer)
        return [path.with_name(path.name.replace(CEMS_FLOOD, other))] if other else []
    stems = dict.fromkeys((path.stem, path.stem.removesuffix("_flood")))
    return [path.with_name(f"{stem}_{layer}{path.suffix}") for stem in stems]


def report_beside(mask: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the path and the content of the JSON report of floodmap beside one of its results.

    The report of `x_mask.tif`, `x_probability.tif`, `x_flood.shp` and `x.gpkg` is `x.json`. The result is None if there
    is no report, or if it cannot be read.
    """
    for end in _RESULT_ENDS:
        path = mask.with_name(f"{mask.stem.removesuffix(end)}.json")
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("pixels"), dict):
            return path, content
    return None


def scene_name(file: Path) -> str:
    """Return the name of the scene of a mask or of polygons: `x` for `x_mask.tif`, `x_reference.png` or `x.gpkg`."""
    return _scene(file, "prediction", True) or _scene(file, "reference", False) or file.stem


def is_one_file(path: Path) -> bool:
    """Return whether a path is a file, or a file geodatabase (a folder with the suffix .gdb)."""
    return path.is_file() or (path.suffix.lower() == ".gdb" and path.is_dir())


def pair_files(
    prediction: Path, reference: Path, *, is_imagery: Callable[[Path], bool], probabilities: bool = False
) -> Pairs:
    """Pair two files, or pair the files of two folders by name.

    Predictions named `x_mask.tif`, `x.tif`, `x.gpkg` ... are paired with references named `x_reference.tif`,
    `x_mask.png`, `x.tif`, `x.gpkg` ... Of several predictions (or references) of a scene, the file with the earliest
    ending in `_ROLES` is used; among equal endings, a raster is preferred to polygons. One folder may contain
    predictions, references and imagery.

    Args:
        prediction: a file, or a folder of files.
        reference: a file, or a folder of files.
        is_imagery: function that returns True if a raster is a picture and no mask. The argument is the path of a
            raster without one of the endings, such as `x.tif`.
        probabilities: True: `x_probability.tif` is preferred to `x_mask.tif` as the prediction.

    Returns:
        The pairs, and the files without a counterpart.

    Raises:
        EvaluationError: a file or folder is missing, or no prediction has a reference.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise EvaluationError(f"{path} does not exist; give a raster, a polygon file or a folder of them")
    if is_one_file(prediction) and is_one_file(reference):
        name = _scene(prediction, "prediction", probabilities) or prediction.stem
        return Pairs(pairs=(Pair(name=name, prediction=prediction, reference=reference),))
    predicted = _by_scene(prediction, "prediction", is_imagery, probabilities)
    referenced = _by_scene(reference, "reference", is_imagery, False)
    names = sorted(predicted.keys() & referenced.keys())
    if not names:
        raise EvaluationError(_no_pairs_text(prediction, predicted, reference, referenced))
    return Pairs(
        pairs=tuple(Pair(name=name, prediction=predicted[name], reference=referenced[name]) for name in names),
        unpaired_predictions=_unpaired(predicted, names),
        unpaired_references=_unpaired(referenced, names),
    )


def _by_scene(path: Path, side: Side, is_imagery: Callable[[Path], bool], probabilities: bool) -> dict[str, Path]:
    """Find one prediction file, or one reference file, of each scene, and return a dictionary: scene name -> file.

    Of several files of a scene, the file with the lowest `_rank` is used. Among files of equal rank, rasters are
    preferred to polygons.

    Args:
        path: a file, or a folder of files.
        side: "prediction" or "reference".
        is_imagery: see `pair_files`.
        probabilities: see `pair_files`.
    """
    best: dict[str, tuple[tuple[int, int, str], Path]] = {}
    for file in [path] if is_one_file(path) else sorted(path.iterdir()):
        suffix = file.suffix.lower()
        scene = _scene(file, side, probabilities)
        if scene is None or file.name.startswith(".") or suffix not in RASTERS + VECTORS or not is_one_file(file):
            continue
        # x.json is the report of floodmap. In a folder, polygon files in JSON must have the suffix .geojson.
        if file != path and (suffix == ".json" or (scene == file.stem and suffix in RASTERS and is_imagery(file))):
            continue
        rank = _order(file, side, probabilities)
        if scene not in best or rank < best[scene][0]:
            best[scene] = (rank, file)
    return {scene: file for scene, (_, file) in best.items()}


def reference_name(file: Path) -> str | None:
    """Return the name of the scene of a reference file, such as `x` for `x_reference.tif`.

    The result is None if the file cannot be a reference.
    """
    return _scene(file, "reference", False)


def reference_order(file: Path) -> tuple[int, int, str]:
    """Return the place of a file among the references of a scene; the file with the lowest place is used."""
    return _order(file, "reference", False)


def _order(file: Path, side: Side, probabilities: bool) -> tuple[int, int, str]:
    return _rank(file, side, probabilities), (RASTERS + VECTORS).index(file.suffix.lower()), file.name


def _roles(side: Side, probabilities: bool) -> tuple[str, ...]:
    return (("_probability",) if side == "prediction" and probabilities else ()) + _ROLES[side]


def _matching_end(file: Path, ends: Iterable[str]) -> str | None:
    """Return the longest of `ends` with which a file name ends, such as `_mask` for `x_mask.tif`; None without a match.

    The file name is compared without its suffix. An ending that is the whole name does not match, because the name of
    the scene would be empty.
    """
    stem = file.stem
    fitting = [end for end in ends if stem.lower().endswith(end) and len(stem) > len(end)]
    return max(fitting, key=len, default=None)


def _scene(file: Path, side: Side, probabilities: bool) -> str | None:
    """Return the name of the scene of a prediction or reference file; None if the file does not belong to `side`."""
    roles = _roles(side, probabilities)
    if _matching_end(file, (end for end in _EXCLUDED[side] if end not in roles)):
        return None
    return file.stem[: len(file.stem) - len(_matching_end(file, roles) or "")]


def _rank(file: Path, side: Side, probabilities: bool) -> int:
    """Return the position, from 0, of the ending of a file name in the list of endings `_roles(side, probabilities)`.

    A file with a lower position is preferred. Example: the endings of predictions begin with `_mask` and `_prediction`,
    so `x_mask.tif` has the position 0. If `probabilities` is True, `_probability` comes first, and `x_mask.tif` has the
    position 1.
    """
    roles = _roles(side, probabilities)
    return roles.index(_matching_end(file, roles) or "")


def _unpaired(files: dict[str, Path], names: list[str]) -> tuple[Path, ...]:
    # river_mask.gpkg may be the file of a scene called river_mask, and also has the name of a mask of a scene river.
    return tuple(file for scene, file in sorted(files.items()) if scene not in names and file.stem not in names)


def _no_pairs_text(prediction: Path, predicted: dict[str, Path], reference: Path, referenced: dict[str, Path]) -> str:
    def listing(path: Path, files: dict[str, Path]) -> str:
        names = [file.name for file in files.values()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{path} has {', '.join(names[:3]) or 'no raster or polygon file'}{more}"

    scene = next(iter(predicted), "x")
    return (
        f"no prediction pairs with a reference: {listing(prediction, predicted)}; {listing(reference, referenced)}; "
        f"the reference of {scene} would be called {scene}_reference.tif, {scene}_mask.png, {scene}.tif or {scene}.gpkg"
    )
