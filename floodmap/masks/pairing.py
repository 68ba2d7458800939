"""Which prediction belongs to which reference, by the names of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from floodmap.errors import EvaluationError

Side = Literal["prediction", "reference"]

RASTERS = (".tif", ".tiff", ".png", ".vrt", ".img", ".jp2", ".bmp", ".gif")
"""Suffixes of rasters that hold masks, best first. JPEG is not among them: it blurs classes, so a .jpg is a picture."""
VECTORS = (".gpkg", ".fgb", ".parquet", ".geoparquet", ".shp", ".gdb", ".geojson", ".json")
"""Suffixes of polygon files, best first."""

_ROLES: dict[Side, tuple[str, ...]] = {
    "prediction": ("_mask", "_prediction", "_pred", "", "_flood"),
    "reference": ("_reference", "_truth", "_gt", "_labels", "_label", "_mask", "", "_flood"),
}
"""How a file may end to be one side's file of a scene, best first; `scene` itself may end like that, too."""

_FOREIGN: dict[Side, tuple[str, ...]] = {
    "prediction": ("_reference", "_truth", "_gt", "_labels", "_label", "_probability", "_unobserved"),
    "reference": ("_probability", "_unobserved", "_prediction", "_pred"),
}
"""Ends of files that are never that side's: they go with another file, or belong to the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prediction and its reference."""

    name: str
    """Name of the scene."""
    prediction: Path
    """A raster or polygon file."""
    reference: Path
    """A raster or polygon file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What pairs, and what does not."""

    pairs: tuple[Pair, ...]
    """Sorted by name."""
    unpaired_predictions: tuple[Path, ...] = ()
    """Predictions without a reference."""
    unpaired_references: tuple[Path, ...] = ()
    """References without a prediction."""


def is_one_file(path: Path) -> bool:
    """Whether a path is a file, or a folder that is looked at as one: a file geodatabase."""
    return path.is_file() or (path.suffix.lower() == ".gdb" and path.is_dir())


def pair_files(
    prediction: Path, reference: Path, *, is_imagery: Callable[[Path], bool], probabilities: bool = False
) -> Pairs:
    """Pair two files, or the files of two folders by name.

    `x_mask.tif`, `x.tif`, `x.gpkg` ... of the predictions go with `x_reference.tif`, `x_mask.png`, `x.tif`, `x.gpkg`
    ... of the references. Of several files of a scene the best is taken: the more telling name, then a raster before
    polygons. One folder may hold both sides, and imagery beside them.

    Args:
        prediction: a file, or a folder of files.
        reference: a file, or a folder of files.
        is_imagery: says of a raster with a bare name (`x.tif`) whether it is a picture rather than a mask.
        probabilities: take `x_probability.tif` rather than `x_mask.tif` as the prediction.

    Raises:
        EvaluationError: a file or folder is missing, or nothing pairs.
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
        raise EvaluationError(_nothing_pairs(prediction, predicted, reference, referenced))
    return Pairs(
        pairs=tuple(Pair(name=name, prediction=predicted[name], reference=referenced[name]) for name in names),
        unpaired_predictions=_unpaired(predicted, names),
        unpaired_references=_unpaired(referenced, names),
    )


def _by_scene(path: Path, side: Side, is_imagery: Callable[[Path], bool], probabilities: bool) -> dict[str, Path]:
    """The best file of each scene, by the scene's name."""
    best: dict[str, tuple[tuple[int, int, str], Path]] = {}
    for file in [path] if is_one_file(path) else sorted(path.iterdir()):
        suffix = file.suffix.lower()
        scene = _scene(file, side, probabilities)
        if scene is None or file.name.startswith(".") or suffix not in RASTERS + VECTORS or not is_one_file(file):
            continue
        # floodmap's own x.json is a report; a .json beside it that holds polygons is called .geojson by most.
        if file != path and (suffix == ".json" or (scene == file.stem and suffix in RASTERS and is_imagery(file))):
            continue
        rank = (_rank(file, side, probabilities), (RASTERS + VECTORS).index(suffix), file.name)
        if scene not in best or rank < best[scene][0]:
            best[scene] = (rank, file)
    return {scene: file for scene, (_, file) in best.items()}


def reference_name(file: Path) -> str | None:
    """Name of the scene whose reference a file would be (`x` of `x_reference.tif`); None where it can be none."""
    return _scene(file, "reference", False)


def _roles(side: Side, probabilities: bool) -> tuple[str, ...]:
    return (("_probability",) if side == "prediction" and probabilities else ()) + _ROLES[side]


def _end(file: Path, ends: Iterable[str]) -> str | None:
    """The longest of some endings that the file's name has, with something before it."""
    stem = file.stem
    fitting = [end for end in ends if stem.lower().endswith(end) and len(stem) > len(end)]
    return max(fitting, key=len, default=None)


def _scene(file: Path, side: Side, probabilities: bool) -> str | None:
    roles = _roles(side, probabilities)
    if _end(file, (end for end in _FOREIGN[side] if end not in roles)):
        return None
    return file.stem[: len(file.stem) - len(_end(file, roles) or "")]


def _rank(file: Path, side: Side, probabilities: bool) -> int:
    roles = _roles(side, probabilities)
    return roles.index(_end(file, roles) or "")


def _unpaired(files: dict[str, Path], names: list[str]) -> tuple[Path, ...]:
    # Where a scene is itself called river_mask, its river_mask.gpkg looks like the mask of a scene called river.
    return tuple(file for scene, file in sorted(files.items()) if scene not in names and file.stem not in names)


def _nothing_pairs(prediction: Path, predicted: dict[str, Path], reference: Path, referenced: dict[str, Path]) -> str:
    def some(path: Path, files: dict[str, Path]) -> str:
        names = [file.name for file in files.values()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{path} has {', '.join(names[:3]) or 'no raster or polygon file'}{more}"

    scene = next(iter(predicted), "x")
    return (
        f"no prediction pairs with a reference: {some(prediction, predicted)}; {some(reference, referenced)}; "
        f"the reference of {scene} would be called {scene}_reference.tif, {scene}_mask.png, {scene}.tif or {scene}.gpkg"
    )
