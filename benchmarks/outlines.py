"""Time and memory of vectorizing large masks: `python benchmarks/outlines.py [--sides 10000 20000 50000]`.

A pattern of ponds and ragged shores, 10,000 pixels a side, is tiled in mirrored copies. So masks of all sizes have the
same length of outlines a pixel, and floods extend over many copies. Every size runs in a process of its own. Printed
are time, peak memory (VmHWM, without the pattern) and their growth with size. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator

import geopandas  # noqa: F401  imported beforehand: the import takes as long as a small mask
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage
from throughput import peak_bytes

from floodmap.geo.geogrid import GeoGrid
from floodmap.output.polygons import polygonize

SIDE = 10_000
ROWS = 1000


def pattern() -> NDArray[np.uint8]:
    """Codes uint8 (SIDE, SIDE), a quarter of them flood."""
    rng, total = np.random.default_rng(0), np.zeros((SIDE, SIDE), np.float32)
    for cells, height in ((20, 1.0), (100, 0.4), (500, 0.15)):
        coarse = rng.standard_normal((cells, cells), np.float32)
        total += height * ndimage.zoom(coarse, SIDE / cells, order=1, mode="nearest", grid_mode=True)
    return np.where(total > np.quantile(total[::50, ::50], 0.75), np.uint8(90), np.uint8(5))


def strips(one: NDArray[np.uint8], copies: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield first row and codes of the strips of `copies` x `copies` mirrored patterns, from top to bottom."""
    for row in range(0, copies * SIDE, ROWS):
        down, first = divmod(row, SIDE)
        part = one[first : first + ROWS] if down % 2 == 0 else one[SIDE - first - ROWS : SIDE - first][::-1]
        yield row, np.concatenate([part if across % 2 == 0 else part[:, ::-1] for across in range(copies)], axis=1)


def measure(side: int) -> None:
    """Vectorize one size; print seconds, bytes, polygons and vertices."""
    one = pattern()
    before, begun = peak_bytes_now(), time.perf_counter()
    grid = GeoGrid(CRS.from_epsg(32633), Affine(0.3, 0, 500_000, 0, -0.3, 5_000_000), (side, side))
    layers = polygonize(
        strips(one, side // SIDE), grid=grid,
        threshold=50, min_area_m2=2.25, simplify_m=0.3, model=None, source=None,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    print(seconds, peak_bytes("self") - before, len(layers.flood), layers.flood.count_coordinates().sum())


def peak_bytes_now() -> int:
    """Resident memory of this process now, in bytes; resets VmHWM to it."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_bytes("self")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 20_000, 50_000], help="multiples of 10,000")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one)
        return
    print(f"{'Gpx':>5} {'s/Gpx':>7} {'peak MB':>8} {'polygons':>9} {'bytes a vertex':>15}")
    rates = []
    for side in options.sides:
        output = subprocess.run(
            [sys.executable, __file__, "--one", str(side)], check=True, capture_output=True, text=True
        ).stdout.split()
        seconds, peak, polygons, vertices = float(output[0]), *map(int, output[1:])
        rates.append(seconds / side**2 * 1e9)
        print(
            f"{side**2 / 1e9:5.1f} {rates[-1]:7.1f} {peak / 1e6:8.0f} {polygons:9} {peak / vertices:15.0f}", flush=True
        )
    print(f"time a pixel, largest against smallest: {rates[-1] / rates[0]:.2f} times")


if __name__ == "__main__":
    main()
