"""Time and memory of `floodmap exposure` on many buildings over a large result: `python benchmarks/exposure.py`.

Makes a probability raster of blobs, buildings in longitude and latitude, and districts, then runs the command in a
process of its own. Prints the seconds, the seconds of processor time, and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window

CRS = "EPSG:32643"
ORIGIN = (500_000.0, 3_000_000.0)
BLOCK = 512
CHUNK = 100_000


def make_result(folder: Path, side: int) -> Path:
    """Write a probability raster of side x side pixels of 1 m, block by block, and its JSON report."""
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8", "nodata": 255, "crs": CRS,
        "transform": Affine(1, 0, ORIGIN[0], 0, -1, ORIGIN[1]), "tiled": True, "blockxsize": BLOCK,
        "blockysize": BLOCK, "compress": "deflate", "predictor": 2,
    }  # fmt: skip
    wave = np.sin(np.arange(side) / 171), np.sin(np.arange(side) / 133), np.cos(np.arange(side) / 2111)
    with rasterio.open(folder / "scene_probability.tif", "w", **profile) as dataset:
        for row in range(0, side, BLOCK):
            rows = slice(row, min(row + BLOCK, side))
            values = wave[0][rows, None] * wave[1][None] + wave[2][rows, None] * wave[2][None]
            percent = np.clip(30 + 40 * values, 0, 100).astype(np.uint8)
            percent[:, : side // 50] = 255
            dataset.write(percent, 1, window=Window(0, row, side, len(percent)))
    (folder / "scene.json").write_text(json.dumps({"settings": {"threshold": 0.5}, "source": {"name": "scene.tif"}}))
    return folder / "scene.json"


def make_buildings(path: Path, count: int, side: int) -> None:
    """Write turned rectangles of 6 to 20 m with an inner corner, in longitude and latitude."""
    rng = np.random.default_rng(0)
    outline = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.1], [0.1, 0.1], [0.1, 0.5], [-0.5, 0.5]])
    for first in range(0, count, CHUNK):
        number = min(CHUNK, count - first)
        middle = rng.uniform(0, side, (number, 1, 2))
        shape = outline[None] * rng.uniform(6, 20, (number, 1, 2))
        angle = rng.uniform(0, np.pi, number)
        turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
        xy = shape @ turn + middle
        polygons = shapely.polygons(np.stack([ORIGIN[0] + xy[..., 0], ORIGIN[1] - xy[..., 1]], axis=-1))
        frame = geopandas.GeoDataFrame({"building": ["yes"] * number}, geometry=polygons, crs=CRS).to_crs(4326)
        pyogrio.write_dataframe(frame, path, driver="GPKG", layer="buildings", append=first > 0)


def make_districts(path: Path, side: int) -> None:
    """Write 6 x 6 districts that reach a little beyond the scene."""
    edges = np.linspace(-0.02 * side, 1.02 * side, 7)
    boxes = [
        shapely.box(ORIGIN[0] + edges[i], ORIGIN[1] - edges[j + 1], ORIGIN[0] + edges[i + 1], ORIGIN[1] - edges[j])
        for j in range(6)
        for i in range(6)
    ]
    names = [f"district {number}" for number in range(len(boxes))]
    geopandas.GeoDataFrame({"name": names}, geometry=boxes, crs=CRS).to_crs(4326).to_file(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--buildings", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=20_000, help="pixels")
    parser.add_argument("--table", default=".xlsx", help="suffix of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = make_result(folder, options.side)
        make_buildings(folder / "buildings.gpkg", options.buildings, options.side)
        make_districts(folder / "districts.gpkg", options.side)
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "floodmap_cli.main", "exposure", result, "--buildings", folder / "buildings.gpkg",
             "--admin", folder / "districts.gpkg", "-o", folder / f"table{options.table}", "-q"],
            check=True,
        )  # fmt: skip
        seconds, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{options.buildings:,} buildings, {options.side:,} x {options.side:,} pixels: {seconds:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of processor time, {used.ru_maxrss * 1024 / 1e6:,.0f} MB at most"
    )


if __name__ == "__main__":
    main()
