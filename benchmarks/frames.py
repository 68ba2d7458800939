"""Two hundred overlapping frames as one product: `python benchmarks/frames.py [--kill] [--mixed] [--side 12000]`.

The frames are cut from a synthetic scene with 60 % overlap. Each frame has its own light (gain and offset of each
band), and every third frame has a hole of nodata. The product of `floodmap mosaic` and the map of the whole scene by
`floodmap segment` are scored against the same reference. Memory is measured as in `throughput.py`: the sum of the peaks
of all processes. With `--kill`, the run is killed twice and resumed, and the SHA-256 of the results are compared. Linux
only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import array_bounds
from rasterio.warp import Resampling, calculate_default_transform, reproject
from rasterio.windows import Window
from throughput import peak_bytes, scene, tree

import floodmap

STEP = 0.4
"""Distance between neighbouring frames as a share of their side: 60 % overlap."""
GAIN, OFFSET = 0.15, 12
"""Largest change of the gain, and largest offset in grey values, of a band of a frame."""
HOLE = 0.25
"""Side of a hole as a share of the frame's side."""


@dataclass(frozen=True)
class Run:
    """One measured run."""

    seconds: float
    peak_bytes: int


def cut(source: Path, folder: Path, grid: tuple[int, int], *, mixed: bool) -> list[Path]:
    """Cut `grid` (rows, columns) frames out of a scene, unless they exist; with `mixed`, resample most of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    with rasterio.open(source) as dataset:
        height, width = (int(side / (1 + STEP * (n - 1))) for side, n in zip(dataset.shape, grid, strict=True))
        for row in np.linspace(0, dataset.height - height, grid[0]).round().astype(int):
            for col in np.linspace(0, dataset.width - width, grid[1]).round().astype(int):
                path = folder / f"frame_{len(paths):04d}.tif"
                light = rng.uniform(1 - GAIN, 1 + GAIN, (3, 1, 1)), rng.uniform(-OFFSET, OFFSET, (3, 1, 1))
                corner = [int(rng.integers(0, side * (1 - HOLE))) for side in (height, width)]
                if not path.exists():
                    window = Window(int(col), int(row), width, height)
                    pixels = dataset.read(window=window)
                    seen = (pixels != 0).any(axis=0)
                    if len(paths) % 3 == 0:
                        seen[corner[0] :, corner[1] :][: int(height * HOLE), : int(width * HOLE)] = False
                    lit = np.clip(np.round(pixels * light[0] + light[1]), 1, 255).astype(np.uint8) * seen
                    place = {"crs": dataset.crs, "transform": dataset.window_transform(window)}
                    if mixed and len(paths) % 4:
                        lit, place = resampled(lit, place, len(paths) % 4)
                    shape = {"height": lit.shape[1], "width": lit.shape[2]}
                    with rasterio.open(path.with_suffix(".part"), "w", **dataset.profile | shape | place) as frame:
                        frame.write(lit)
                    path.with_suffix(".part").replace(path)
                paths.append(path)
    return paths


def resampled(pixels: np.ndarray, place: dict[str, Any], kind: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Resample a frame: 1: to the next UTM zone; 2: to pixels of 1.3 times the size; 3: by a part of a pixel.

    Args:
        pixels: uint8 (3, height, width), 0 is nodata.
        place: CRS and transform.
        kind: 1, 2 or 3.

    Returns:
        Pixels, and CRS and transform.
    """
    crs, transform = place["crs"], place["transform"]
    height, width = pixels.shape[1:]
    if kind == 1:
        crs = CRS.from_epsg(crs.to_epsg() + 1)
        bounds = array_bounds(height, width, transform)
        transform, width, height = calculate_default_transform(place["crs"], crs, width, height, *bounds)
    elif kind == 2:
        transform, height, width = transform @ Affine.scale(1.3), int(height / 1.3), int(width / 1.3)
    else:
        transform = transform @ Affine.translation(0.37, 0.61)
    found = np.zeros((3, height, width), np.uint8)
    source = {"src_crs": place["crs"], "src_transform": place["transform"], "src_nodata": 0}
    target = {"dst_crs": crs, "dst_transform": transform, "dst_nodata": 0}
    reproject(pixels, found, **source, **target, resampling=Resampling.bilinear)
    return found, {"crs": crs, "transform": transform}


def steps(path: Path, frames: list[Path]) -> float:
    """Mean step of the probability across the lines on which frames end, divided by the mean step elsewhere."""
    with rasterio.open(path) as dataset:
        percent = dataset.read(1)
        values = np.where(percent == 255, np.nan, percent.astype(np.float32))
        lines: tuple[set[int], set[int]] = set(), set()
        for frame in frames:
            with rasterio.open(frame) as one:
                left, top = (round(at) for at in ~dataset.transform @ one.transform @ (0, 0))
                for found, ends in zip(lines, ((top, top + one.height), (left, left + one.width)), strict=True):
                    found |= {end - 1 for end in ends}
    sums = np.zeros((2, 2))
    for axis, found in enumerate(lines):
        change = np.abs(np.diff(values, axis=axis))
        inside = np.isin(np.arange(change.shape[axis]), list(found))
        for kind in (0, 1):
            part = change.compress(inside == kind, axis=axis)
            sums[kind] += np.nansum(part), np.isfinite(part).sum()
    return float((sums[1, 0] / sums[1, 1]) / (sums[0, 0] / sums[0, 1]))


def command(*arguments: object) -> list[str]:
    """Command line of floodmap in a fresh process."""
    return [sys.executable, "-m", "floodmap_cli.main", *map(str, arguments), "-q"]


def measure(arguments: list[str]) -> Run:
    """Run a command; measure its time and memory."""
    started, peaks = time.monotonic(), {}
    process = subprocess.Popen(arguments)
    while process.poll() is None:
        for pid in tree(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(arguments)}")
    return Run(time.monotonic() - started, sum(peaks.values()))


def kill_after(arguments: list[str], out: Path, frames: int) -> None:
    """Run a command, and kill it when the work folder holds a number of finished frames."""
    process = subprocess.Popen(arguments)
    while process.poll() is None and len(list(out.glob(".mosaic.floodmap/frames/*.codes"))) < frames:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def digests(out: Path, name: str) -> dict[str, str]:
    """SHA-256 of rasters and GeoPackage."""
    files = (f"{name}_mask.tif", f"{name}_probability.tif", f"{name}.gpkg")
    return {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in files}


def report(out: Path, name: str, reference: Path) -> float:
    """Print the IoU of a result; returns it."""
    iou = floodmap.evaluate(out / f"{name}_mask.tif", reference).pooled.iou
    summary = json.loads((out / f"{name}.json").read_text())
    print(f"{name:>16}: IoU {iou:.4f}, {summary['observed_share']:.2%} observed", flush=True)
    return iou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=12_000, help="of the scene, in pixels")
    parser.add_argument("--grid", type=int, nargs=2, default=(10, 20), help="rows and columns of frames")
    parser.add_argument("--folder", type=Path, default=Path("runs/frames"))
    parser.add_argument("--mixed", action="store_true", help="frames of several CRS, pixel sizes and pixel corners")
    parser.add_argument("--kill", action="store_true", help="kill and resume the run, and compare the results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    whole = scene(options.folder, options.side)
    reference = whole.with_name(f"{whole.stem}_reference.tif")
    folder = f"{options.side}_{options.grid[0]}x{options.grid[1]}{'_mixed' if options.mixed else ''}"
    frames = cut(whole, options.folder / folder, tuple(options.grid), mixed=options.mixed)
    out = options.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    runs = {
        "one frame": measure(command("segment", frames[len(frames) // 2], "-o", out)),
        "scene": measure(command("segment", whole, "-o", out)),
        "product": measure(command("mosaic", frames[0].parent, "-o", out)),
    }
    for name, run in runs.items():
        print(f"{name:>16}: {run.seconds:.1f} s, peak {run.peak_bytes / 1e6:.0f} MB", flush=True)
    ious = [report(out, name, reference) for name in (whole.stem, "mosaic")]
    print(f"IoU of the product minus that of the scene: {ious[1] - ious[0]:+.4f} (limit -0.01)")
    seams = [] if options.mixed else [steps(out / f"{name}_probability.tif", frames) for name in ("mosaic", whole.stem)]
    if seams:
        print(f"steps at the edges of frames against elsewhere: {seams[0]:.3f} (in the scene's map: {seams[1]:.3f})")
    product = runs["product"].peak_bytes
    for name in ("one frame", "scene"):
        print(f"peak memory of the product against {name}: {product / runs[name].peak_bytes:.3f} (limit 1.2)")
    if options.kill:
        killed = options.folder / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        resumed = command("mosaic", frames[0].parent, "-o", killed, "--resume")
        for share in (0.3, 0.7):
            kill_after(resumed, killed, int(share * len(frames)))
        measure(resumed)
        same = digests(out, "mosaic") == digests(killed, "mosaic")
        print(f"killed twice and resumed: {'the same' if same else 'OTHER'} bytes")


if __name__ == "__main__":
    main()
