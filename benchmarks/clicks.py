"""Corrections by points: `python benchmarks/clicks.py [--data DATA] [--scene SCENE]`.

With DATA, the folder described in docs/model-card.md: mean IoU on the val pictures of flood-area, automatic and with
one to five simulated points. Each point lies in the largest error that is left, where it is farthest from its edge. It
is taken from the reference, so these are oracle scores.

With SCENE: the scene is segmented with `--keep-features`. Then points are set one after the other: seconds until the
results are written, in a process that has the model loaded already, and for the last point by a command of its own. The
results with the points taken out again must have the same bytes as before, and no pixel outside of the windows of
points may change.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from accuracy import flood_area
from numpy.typing import NDArray
from shapely.geometry import Point

from floodmap.comparison.oracle import add_point
from floodmap.imagery.scene import Scene
from floodmap.inference.loop import segment_whole
from floodmap.inference.prompting import joined, make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.tiling import Grid
from floodmap.models.infrared import with_infrared
from floodmap.models.loading import load_segmenter
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.models.registry import resolve
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene

POINTS, CLICKS = 5, 12


def iou(codes: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    """IoU of flood; pixels that are not scored are left out."""
    found, flood, scored = (codes >= 50) & (codes <= 100), mask == 1, mask <= 1
    return float((found & flood).sum() / max(((found | flood) & scored).sum(), 1))


def with_points(data: Path, model: Segmenter) -> None:
    """Print the mean IoU on flood-area val with 0 to `POINTS` points from the reference."""
    scores = []
    for one in flood_area(data):
        with Scene.open(one.path) as scene:
            grid, segmenter = Grid(height=scene.height, width=scene.width, multiple=model.multiple), model
            segmenter = with_infrared(model, scene)
            automatic = make_prompter(scene, segmenter, "auto", exhaustive=False)
            points, of_picture = Prompts.none(), []
            for number in range(POINTS + 1):
                prompter = joined(points, automatic) if number else automatic
                codes = segment_whole(scene, grid, segmenter, prompter, exhaustive=False, proof=Proof())
                of_picture.append(iou(codes, one.mask))
                points = add_point(points, (codes >= 50) & (codes <= 100), one.mask)
        scores.append(of_picture)
    means = np.mean(scores, axis=0)
    print(f"flood-area val, {len(scores)} pictures: mean IoU by number of points (oracle)")
    for number, mean in enumerate(means):
        print(f"{number} points: {mean:.4f} ({mean - means[0]:+.4f})")


def digests(out: Path, name: str) -> dict[str, str]:
    """SHA-256 of the files of a result, without the JSON, whose dates differ."""
    files = sorted(path for path in out.glob(f"{name}*") if path.is_file() and path.suffix != ".json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_points(path: Path, scene: Path, places: list[tuple[int, int, int]]) -> None:
    """Write points (column, row, label) of a scene as a GeoPackage."""
    with rasterio.open(scene) as dataset:
        where = [Point(dataset.transform * (col + 0.5, row + 0.5)) for col, row, _ in places]
        crs = dataset.crs
    frame = geopandas.GeoDataFrame({"label": [label for *_, label in places]}, geometry=where, crs=crs)
    frame.to_file(path, driver="GPKG")


def clicked_places(probability: Path, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Places (column, row, label) in observed ground; the label contradicts the result."""
    with rasterio.open(probability) as dataset:
        codes = dataset.read(1)
    places: list[tuple[int, int, int]] = []
    while len(places) < CLICKS + 1:
        row, col = int(rng.integers(codes.shape[0])), int(rng.integers(codes.shape[1]))
        if codes[row, col] <= 100:
            places.append((col, row, int(codes[row, col] < 50)))
    return places


def by_command(scene: Path, out: Path, clicks: Path) -> float:
    """Seconds that `floodmap segment --resume` takes, with the start of Python."""
    begun = time.monotonic()
    program = Path(sys.executable).with_name("floodmap")
    subprocess.run([program, "segment", scene, "-o", out, "--resume", "--prompts", clicks, "-q"], check=True)
    return time.monotonic() - begun


def timed(scene: Path, model: Segmenter) -> None:
    """Print the seconds of clicks on a scene, and check the promises."""
    with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
        out, clicks, name = Path(folder) / "out", Path(folder) / "clicks.gpkg", scene.stem
        begun = time.monotonic()
        segment_scene(scene, out, model, SegmentOptions(keep_features=True, batch_size=4), name=name)
        print(f"first run: {time.monotonic() - begun:.1f} s")
        before = digests(out, name)
        with rasterio.open(out / f"{name}_probability.tif") as dataset:
            old = dataset.read(1)
        places = clicked_places(out / f"{name}_probability.tif", np.random.default_rng(0))
        windows = 0
        for number in range(1, CLICKS + 1):
            write_points(clicks, scene, places[:number])
            begun = time.monotonic()
            result = segment_scene(
                scene, out, model, SegmentOptions(resume=True, prompts=clicks, batch_size=4), name=name
            )
            seconds = time.monotonic() - begun
            about, before_it = result.report["correction"], windows
            windows = about["windows"]
            print(
                f"{number} points, model loaded: {seconds:.2f} s; {windows - before_it} new windows, "
                f"{about['pixels_changed']} pixels changed in all"
            )
        write_points(clicks, scene, places)
        print(f"{len(places)} points, by a command of its own: {by_command(scene, out, clicks):.2f} s")
        with rasterio.open(out / f"{name}_probability.tif") as dataset:
            differ = np.argwhere(dataset.read(1) != old)
        distance = np.min([np.abs(differ - (row, col)).max(axis=1) for col, row, _ in places], axis=0)
        print(f"farthest changed pixel from any point: {int(distance.max())} pixels along a side of the window")
        clicks.unlink()
        segment_scene(scene, out, model, SegmentOptions(resume=True, batch_size=4), name=name)
        print("same bytes without points:", digests(out, name) == before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scene", type=Path)
    options = parser.parse_args()
    model = load_segmenter(resolve("finetuned"), "cpu")
    if options.data:
        with_points(options.data, model)
    if options.scene:
        timed(options.scene, model)


if __name__ == "__main__":
    main()
