"""Time of each stage of a run without the model: `python benchmarks/stages.py SCENE REFERENCE [--folder FOLDER]`.

SCENE is segmented by a model that returns REFERENCE, a mask on the scene's grid as `floodmap sample` writes it. Strips,
outlines and files are those of a perfect model, at hardly any cost. Printed are core-milliseconds per megapixel of the
scene, without the time of that model.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy import ndimage

import floodmap.inference.prompting
import floodmap.output.finishing
import floodmap.output.polygons
import floodmap.output.vector_files
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.mosaic import Mosaic
from floodmap.models.prompts import Prompts
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.strips.journal import Journal

STAGES: list[tuple[str, Any, str]] = [
    ("read and stretch", Scene, "read"),
    ("read, coarse pass", Scene, "shrunk"),
    ("prompts", floodmap.inference.prompting, "crop_coarse"),
    ("blend", Mosaic, "add"),
    ("journal", Journal, "append"),
    ("rasters", floodmap.output.finishing, "write_rasters"),
    ("outlines and areas", floodmap.output.polygons, "polygonize"),
    ("layers", floodmap.output.vector_files, "write_layers"),
]


class ReferenceModel:
    """A model that returns the reference, and 0.5 everywhere in the coarse pass, so that every window is run."""

    name, sha256, runs_on, training = "known", "0" * 64, "cpu", None
    knows_floods, multiple, any_size, offloads, best_batch_size = True, 32, True, False, 1

    def __init__(self, reference: Path) -> None:
        with rasterio.open(reference) as raster:  # read whole: windowed reads would share GDAL's cache with the scene
            self.flood = raster.read(1) == 1

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """See `floodmap.models.protocol.Segmenter`."""
        return [self._one(tile, prompt) for tile, prompt in zip(tiles, prompts, strict=True)]

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """See `floodmap.models.protocol.Segmenter`; 0."""
        return 0.0

    def _one(self, tile: Tile, prompt: Prompts) -> NDArray[np.float32]:
        if prompt.mask is None:
            return np.full(tile.reason.shape, 0.5, np.float32)
        shores = ndimage.uniform_filter(self.flood[tile.window.slices].astype(np.float32), 9)
        return 0.02 + 0.96 * shores


def timed(function: Callable[..., Any], stage: str, spent: Counter[str]) -> Callable[..., Any]:
    """Wrap a function so that it adds the processor time of its thread to `spent`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.thread_time() - begun

    return wrapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/stages"))
    options = parser.parse_args()
    spent: Counter[str] = Counter()
    for stage, owner, name in STAGES:
        setattr(owner, name, timed(getattr(owner, name), stage, spent))
    model = ReferenceModel(options.reference)
    model.predict = timed(model.predict, "model", spent)  # type: ignore[method-assign]
    begun = time.process_time()
    result = segment_scene(options.scene, options.folder, model, SegmentOptions(overwrite=True))
    spent["total"] = time.process_time() - begun - spent.pop("model")
    spent["other, GDAL's threads too"] = 2 * spent["total"] - spent.total()
    with rasterio.open(result.mask_path) as mask:
        megapixels = mask.width * mask.height / 1e6
    shutil.rmtree(options.folder)
    print(f"{megapixels:.0f} megapixels, core-ms per megapixel")
    for stage, seconds in spent.most_common():
        print(f"{stage:26} {1000 * seconds / megapixels:6.1f}")


if __name__ == "__main__":
    main()
