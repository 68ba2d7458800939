"""Flood polygons from georeferenced aerial rasters: `floodmap.segment("scene.tif").polygons()`.

Each public name is imported at the first use of the name (PEP 562). `import floodmap` therefore loads no large package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from floodmap.analysis.change_files import Change
    from floodmap.analysis.exposure.run import Exposure, exposure
    from floodmap.analysis.review.run import Review, apply_review, review, undo_review
    from floodmap.api.catalogues import segment_many
    from floodmap.api.changes import change
    from floodmap.api.descriptions import info, sample
    from floodmap.api.labelled import adapt, compare, train
    from floodmap.api.mosaics import mosaic
    from floodmap.api.scenes import Prediction, load_model, predict, segment
    from floodmap.catalogue.rows import SceneRow
    from floodmap.catalogue.run import Catalogue, ScenesProgress
    from floodmap.comparison.run import Comparison
    from floodmap.errors import FloodmapError
    from floodmap.evaluation.run import evaluate
    from floodmap.evaluation.scores import Scores
    from floodmap.evaluation.summary import Evaluation
    from floodmap.geo.window import Window
    from floodmap.imagery.scene import Scene
    from floodmap.inference.loop import Progress
    from floodmap.inference.tiling import Grid
    from floodmap.models.prompts import Prompts
    from floodmap.models.training_record import TrainedModel
    from floodmap.options import FineTuneOptions, SceneOptions, SegmentOptions
    from floodmap.output.polygons import vectorize
    from floodmap.output.products.cems_of_mask import vectorize_cems
    from floodmap.output.products.model_item import model_item
    from floodmap.output.results import FloodMap
    from floodmap.training.adaptation.result import Adaptation

    __version__: str

__all__ = [
    "Adaptation",
    "Catalogue",
    "Change",
    "Comparison",
    "Evaluation",
    "Exposure",
    "FineTuneOptions",
    "FloodMap",
    "FloodmapError",
    "Grid",
    "Prediction",
    "Progress",
    "Prompts",
    "Review",
    "Scene",
    "SceneOptions",
    "SceneRow",
    "ScenesProgress",
    "Scores",
    "SegmentOptions",
    "TrainedModel",
    "Window",
    "__version__",
    "adapt",
    "apply_review",
    "change",
    "compare",
    "evaluate",
    "exposure",
    "info",
    "load_model",
    "model_item",
    "mosaic",
    "predict",
    "review",
    "sample",
    "segment",
    "segment_many",
    "train",
    "undo_review",
    "vectorize",
    "vectorize_cems",
]

# Module of each public name. No module directly in this package may have the name of a function below: the import of
# such a module would replace the function `floodmap.NAME` by the module.
_HOMES = {
    "Adaptation": "training.adaptation.result",
    "Catalogue": "catalogue.run",
    "Change": "analysis.change_files",
    "Comparison": "comparison.run",
    "Evaluation": "evaluation.summary",
    "Exposure": "analysis.exposure.run",
    "FineTuneOptions": "options",
    "FloodMap": "output.results",
    "FloodmapError": "errors",
    "Grid": "inference.tiling",
    "Prediction": "api.scenes",
    "Progress": "inference.loop",
    "Prompts": "models.prompts",
    "Review": "analysis.review.run",
    "Scene": "imagery.scene",
    "SceneOptions": "options",
    "SceneRow": "catalogue.rows",
    "ScenesProgress": "catalogue.run",
    "Scores": "evaluation.scores",
    "SegmentOptions": "options",
    "TrainedModel": "models.training_record",
    "Window": "geo.window",
    "adapt": "api.labelled",
    "apply_review": "analysis.review.run",
    "change": "api.changes",
    "compare": "api.labelled",
    "evaluate": "evaluation.run",
    "exposure": "analysis.exposure.run",
    "info": "api.descriptions",
    "load_model": "api.scenes",
    "model_item": "output.products.model_item",
    "mosaic": "api.mosaics",
    "predict": "api.scenes",
    "review": "analysis.review.run",
    "sample": "api.descriptions",
    "segment": "api.scenes",
    "segment_many": "api.catalogues",
    "train": "api.labelled",
    "undo_review": "analysis.review.run",
    "vectorize": "output.polygons",
    "vectorize_cems": "output.products.cems_of_mask",
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
