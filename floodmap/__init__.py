"""Flood polygons from georeferenced aerial rasters: `floodmap.segment("scene.tif").polygons()`.

Names are imported when they are first used (PEP 562), so `import floodmap` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from floodmap.api import Prediction, load_model, predict, segment
    from floodmap.errors import FloodmapError
    from floodmap.evaluation.run import evaluate
    from floodmap.evaluation.scores import Scores
    from floodmap.evaluation.summary import Evaluation
    from floodmap.geo.window import Window
    from floodmap.imagery.scene import Scene
    from floodmap.inference.tiling import Grid
    from floodmap.models.prompts import Prompts
    from floodmap.options import SceneOptions, SegmentOptions
    from floodmap.output.polygons import vectorize
    from floodmap.output.results import FloodMap

    __version__: str

__all__ = [
    "Evaluation",
    "FloodMap",
    "FloodmapError",
    "Grid",
    "Prediction",
    "Prompts",
    "Scene",
    "SceneOptions",
    "Scores",
    "SegmentOptions",
    "Window",
    "__version__",
    "evaluate",
    "load_model",
    "predict",
    "segment",
    "vectorize",
]

# No module may bear the name of a function below: importing it would put the module in the function's place.
_HOMES = {
    "Evaluation": "evaluation.summary",
    "FloodMap": "output.results",
    "FloodmapError": "errors",
    "Grid": "inference.tiling",
    "Prediction": "api",
    "Prompts": "models.prompts",
    "Scene": "imagery.scene",
    "SceneOptions": "options",
    "Scores": "evaluation.scores",
    "SegmentOptions": "options",
    "Window": "geo.window",
    "evaluate": "evaluation.run",
    "load_model": "api",
    "predict": "api",
    "segment": "api",
    "vectorize": "output.polygons",
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
