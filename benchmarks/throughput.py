"""Speed and peak memory on whole scenes: `python benchmarks/throughput.py [--sides 5000 20000] [--folder FOLDER]`.

Synthetic scenes are generated once and kept in the folder. Every run is a fresh `floodmap segment`; its memory is the
sum of the peaks (VmHWM) of all its processes. Linux only: the peaks are read from /proc.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from floodmap.synthetic.sample import write_sample

LARGEST = 20_000
"""Side of the largest scene that is painted, in pixels, at a megapixel a second; larger ones are tiled from it."""
ROWS = 512
"""Rows of the scenes' blocks."""


@dataclass(frozen=True)
class Run:
    """One measured run."""

    side: int
    seconds: float
    peak_bytes: int
    windows_peak_bytes: int
    """Peak until the last window is done, without polygons, whose memory grows with their number."""
    report: dict[str, Any]
    """The run's JSON report."""

    @property
    def megapixels_per_second(self) -> float:
        """Scene pixels over wall time, start-up included."""
        return self.side**2 / 1e6 / self.seconds


def scene(folder: Path, side: int) -> Path:
    """Path of the scene of that size; written if it does not exist."""
    path = folder / f"synthetic_{side}.tif"
    if not path.exists():
        print(f"generating {path} ...", file=sys.stderr)
        if side <= LARGEST:
            write_sample(path, width=side, height=side, seed=5)
        else:
            lay_out(scene(folder, LARGEST), path, side)
    return path


def lay_out(one: Path, path: Path, side: int) -> None:
    """Tile mirrored copies of a scene to a larger one, cropped at the right and at the bottom."""
    partial = path.with_suffix(".part")
    with rasterio.open(one) as source:
        period = source.width // ROWS * ROWS
        profile = source.profile | {"width": side, "height": side, "bigtiff": "yes", "num_threads": 2}
        with rasterio.open(partial, "w", **profile) as target:
            for row in range(0, side, ROWS):
                down, first = divmod(row, period)
                rows = min(ROWS, side - row)
                top = first if down % 2 == 0 else period - first - rows
                part = source.read(window=Window(0, top, period, rows))
                part = part if down % 2 == 0 else part[:, ::-1]
                copies = [part if across % 2 == 0 else part[..., ::-1] for across in range(-(-side // period))]
                target.write(np.concatenate(copies, axis=2)[..., :side], window=Window(0, row, side, rows))
    partial.replace(path)


def measure(path: Path, side: int, out: Path, extra: list[str]) -> Run:
    """Run `floodmap segment`; measure its time and memory."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "floodmap_cli.main", "segment", str(path), "-o", str(out), "-q", *extra]
    started = time.monotonic()
    process = subprocess.Popen(command)
    peaks: dict[int, int] = {}
    scratch, finishing, windows_peak = out / f".{path.stem}.floodmap" / "scratch", False, 0
    while process.poll() is None:
        for pid in tree(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        finishing = finishing or scratch.exists()
        if not finishing:
            windows_peak = sum(peaks.values())
        time.sleep(0.05)
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"floodmap segment failed with exit code {process.returncode}")
    summary = json.loads((out / f"{path.stem}.json").read_text())
    shutil.rmtree(out)
    return Run(side, seconds, sum(peaks.values()), windows_peak, summary)


def tree(pid: int) -> list[int]:
    """Ids of a process and of its descendants that run a program of their own.

    Importing torch starts `ldconfig` with vfork. Until its program begins, that process has its parent's memory, which
    would count twice.
    """
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
            own = [child for child in children if command_line(child) != command_line(pid)]
        except OSError:
            continue
        for child in own:
            found += tree(child)
    return found


def command_line(pid: int) -> bytes:
    """Command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def peak_bytes(pid: int | str) -> int:
    """VmHWM of a process, its peak resident memory, in bytes; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    parser.add_argument("extra", nargs="*", help="options for floodmap segment, after --")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = []
    print(f"{'side':>6} {'seconds':>8} {'MP/s':>6} {'peak MB':>8} {'windows':>8} {'flood':>6}")
    for side in options.sides:
        run = measure(scene(options.folder, side), side, options.folder / "out", options.extra)
        runs.append(run)
        flood_share = run.report["flood_share_of_observed"]
        print(
            f"{run.side:>6} {run.seconds:>8.1f} {run.megapixels_per_second:>6.2f} "
            f"{run.peak_bytes / 1e6:>8.0f} {run.windows_peak_bytes / 1e6:>8.0f} {flood_share:>6.1%}"
        )
    first, last = runs[0], runs[-1]
    print(
        f"{last.side} against {first.side}: memory {last.peak_bytes / first.peak_bytes:.3f} times, until the last "
        f"window {last.windows_peak_bytes / first.windows_peak_bytes:.3f} times, "
        f"time per pixel {first.megapixels_per_second / last.megapixels_per_second:.3f} times"
    )


if __name__ == "__main__":
    main()
