"""Flood polygons from georeferenced aerial rasters: `floodmap.segment("scene.tif").polygons()`.

Names are imported when they are first used (PEP 562), so `import floodmap` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from floodmap.errors import FloodmapError
    from floodmap.evaluation import Evaluation, Scores, evaluate
    from floodmap.grid import Grid, Window
    from floodmap.pipeline import SegmentOptions, segment
    from floodmap.polygons import vectorize
    from floodmap.results import FloodMap
    from floodmap.scene import Scene, SceneOptions

    __version__: str

__all__ = [
    "Evaluation",
    "FloodMap",
    "FloodmapError",
    "Grid",
    "Scene",
    "SceneOptions",
    "Scores",
    "SegmentOptions",
    "Window",
    "__version__",
    "evaluate",
    "segment",
    "vectorize",
]

# No module may bear the name of a function below: importing it would put the module in the function's place.
_HOMES = {
    "Evaluation": "evaluation",
    "FloodMap": "results",
    "FloodmapError": "errors",
    "Grid": "grid",
    "Scene": "scene",
    "SceneOptions": "scene",
    "Scores": "evaluation",
    "SegmentOptions": "pipeline",
    "Window": "grid",
    "evaluate": "evaluation",
    "segment": "pipeline",
    "vectorize": "polygons",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("floodmap")
    except PackageNotFoundError:
        return "0+unknown"
