"""What more workers bring: `python benchmarks/scale.py [--side 20000] [--workers 1 2 4] [--plan-only FIGURES.json]`.

Runs `segment --scheduler` on small synthetic scenes with one and with two one-thread workers, and measures the figures
of this machine (`simulation.Rates`). Then simulates and runs a large scene with 1, 2 and 4 workers, and prints the
ratio of the simulated to the measured time of the command. At the end it prints a plan for 40 million square
kilometres. `--plan-only` reads figures that `--figures` wrote, and prints the plan. Linux only, on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from bisect import bisect_left
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import rasterio
from rasterio.windows import Window
from simulation import MEGA, Machines, Rates, Run, Site, simulate
from throughput import scene, tree
from workers import DASK, SCHEDULER, cluster, line_of, processor_seconds, workers_of

from floodmap.inference.tiling import Grid

SIDES = 4_000, 8_000
"""Sides of the scenes on which the figures are measured, in pixels. The difference gives what grows with the scene."""
PIXELS = 440e12
"""40 million square kilometres at 0.3 m."""
SCENES, COUNTS = (20_000, 100_000, 400_000), (1, 4, 16, 64, 256)
"""Sides of scenes, and numbers of workers, in the plan."""
GPU_MEGAPIXELS_S = 400 / 10.8
"""Megapixels a second of one H200 with the shipped model, all windows (docs/performance.md)."""
REQUESTS = 1073 / 400
"""Requests for a megapixel of a scene on a web server (`remote.py`)."""


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars, assumptions of the plan: orders of magnitude of public clouds in 2026."""

    core_hour: float = 0.02
    """One virtual core for an hour, at the price of machines that may be taken back."""
    gpu_hour: float = 3.5
    gigabyte_month: float = 0.023
    """A gigabyte of object storage for a month."""
    million_requests: float = 0.4
    """A million GET requests."""


@dataclass(frozen=True)
class Sample:
    """State of the processes at one moment."""

    at: float
    workers_s: float
    client_s: float
    results_s: float
    """Processor time so far."""
    read: int
    """Bytes that the workers have read so far."""
    strips: int
    """Bytes of the strips in the journal. Workers send them as they are."""


@dataclass(frozen=True)
class Measured:
    """A run of `segment --scheduler`. Times in seconds."""

    seconds: float
    client_start: float
    worker_start: float
    opened: float
    coarse: list[float]
    """Time of each chunk of the coarse pass."""
    windows: list[float]
    """Time of each chunk of windows."""
    tail: float
    """Time from the end of the last chunk to the end of the command."""
    workers_s: float
    client_s: float
    results_s: float
    """Processor time from the first chunk to the last; of the results, to the end."""
    read: float
    sent: float
    written: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20_000, help="side of the large scene in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--figures", type=Path, help="JSON file to which the figures of this machine are written")
    parser.add_argument("--plan-only", type=Path, metavar="FIGURES", help="print the plan from such a file")
    options = parser.parse_args()
    if options.plan_only:
        print_plan(Rates(**json.loads(options.plan_only.read_text())))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    large = scene(options.folder, options.side)
    rates = figures(large, options.folder)
    if options.figures:
        options.figures.write_text(json.dumps(asdict(rates), indent=1))
    for name, value in asdict(rates).items():
        print(f"{name:16} {value:.4g}")
    for count in options.workers:
        expected = simulate(options.side, options.side, rates, Site(workers=count, cores=os.cpu_count()))
        run = measure(large, count, options.folder)
        print(
            f"{count} workers: simulated {expected.total:.1f} s, measured {run.seconds:.1f} s, "
            f"ratio {expected.total / run.seconds:.3f}",
            flush=True,
        )
    print_plan(rates)


def figures(large: Path, folder: Path) -> Rates:
    """Measure the figures of this machine on parts of a scene."""
    small, middle = (cropped(large, folder, side) for side in SIDES)
    measure(small, 1, folder)  # the first run reads programs from disk
    short, long, crowded = measure(small, 1, folder), measure(middle, 1, folder), measure(middle, 2, folder)
    grown, megapixels = (SIDES[1] ** 2 - SIDES[0] ** 2) / MEGA, SIDES[1] ** 2 / MEGA
    computing = sum(long.coarse) + sum(long.windows)
    last = max(0.0, (long.tail - short.tail) / grown)
    return Rates(
        client_start_s=long.client_start, worker_start_s=long.worker_start, open_s=long.opened,
        coarse_s=long.workers_s * sum(long.coarse) / computing / megapixels,
        windows_s=long.workers_s * sum(long.windows) / computing / megapixels,
        worker_cores=long.workers_s / computing, join_s=long.client_s / megapixels,
        results_s=long.results_s / megapixels - last, results_cores=writing_cores(middle, folder), last_s=last,
        end_s=long.tail - last * megapixels, crowded=min(1.0, long.workers_s / crowded.workers_s),
        read_bytes=long.read / megapixels, message_bytes=long.sent / megapixels,
        written_bytes=long.written / megapixels,
    )  # fmt: skip


def cropped(large: Path, folder: Path, side: int) -> Path:
    """Return the upper left corner of a scene as a file; it is written if it does not exist."""
    path = folder / f"{large.stem}_{side}.tif"
    if not path.exists():
        with rasterio.open(large) as source:
            profile = source.profile | {"width": side, "height": side}
            with rasterio.open(path, "w", **profile) as target:
                target.write(source.read(window=Window(0, 0, side, side)))
    return path


def measure(path: Path, count: int, folder: Path) -> Measured:
    """Segment a scene on a fresh cluster, and measure."""
    from distributed import Client

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "floodmap_cli.main", "segment", str(path), "-o", str(out), "-q", *OPTIONS]
    with cluster(folder, count) as nannies, Client(SCHEDULER) as client:
        client.wait_for_workers(count)
        client.get_task_stream()  # the scheduler begins to keep records
        begun = time.time()
        run, samples = subprocess.Popen(command), list[Sample]()
        while run.poll() is None:
            samples.append(sample(run.pid, nannies, out))
            time.sleep(0.05)
        ended = time.time()
        tasks = sorted(client.get_task_stream(), key=lambda task: task["startstops"][0]["start"])
    if run.returncode:
        raise SystemExit(f"floodmap segment failed with exit code {run.returncode}")
    written = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    shutil.rmtree(out)
    return told(path, count, tasks, samples, begun, ended, written)


OPTIONS = ["--scheduler", SCHEDULER]
SEAM_BYTES = 5
"""Bytes of a pixel in the rows that two chunks share."""
NO_RATES = Rates(**dict.fromkeys((one.name for one in fields(Rates)), 1.0))
WRITING = """
import sys, time, floodmap
def report(progress):
    global begun
    if progress.stage == "write":
        begun = time.time(), time.process_time()
floodmap.segment(sys.argv[1], out=sys.argv[2], progress=report)
print((time.process_time() - begun[1]) / (time.time() - begun[0]))
"""
"""Program that segments a scene and prints how many cores the writing of the results keeps busy."""


def writing_cores(path: Path, folder: Path) -> float:
    """Return the number of cores that the writing of the results keeps busy, once all strips are there."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", WRITING, str(path), str(out)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def at(samples: list[Sample], moment: float) -> Sample:
    """Return the first sample that is not earlier than a moment."""
    return samples[min(bisect_left([one.at for one in samples], moment), len(samples) - 1)]


def sample(client: int, nannies: list[subprocess.Popen[bytes]], out: Path) -> Sample:
    """Return the state of the processes now."""
    workers = workers_of(DASK, client, nannies)
    results = [pid for pid in tree(client) if b"floodmap.output.worker" in line_of(pid)]
    return Sample(
        time.time(), sum(map(processor_seconds, workers)), processor_seconds(client),
        sum(map(processor_seconds, results)), sum(map(read_bytes, workers)), strip_bytes(out),
    )  # fmt: skip


def strip_bytes(out: Path) -> int:
    """Bytes of all strips in the work folder of a run."""
    try:
        return sum(strip.stat().st_size for strip in out.glob(".*/*.strip"))
    except OSError:  # the folder is being deleted
        return 0


def read_bytes(pid: int) -> int:
    """Bytes that a process has read by system calls; 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    except OSError:
        return 0


def told(
    path: Path, count: int, tasks: list[dict[str, Any]], samples: list[Sample], begun: float, ended: float, written: int
) -> Measured:
    """Make the figures of a run from the scheduler's records and the samples."""
    spans = [(one["startstops"][-1]["start"], one["startstops"][-1]["stop"]) for one in tasks]
    with rasterio.open(path) as source:
        run = Run(Grid(height=source.height, width=source.width), NO_RATES, Machines(Site(workers=count), 1.0))
    n_coarse, n_windows = len(run.coarse_chunks), len(run.chunks)
    opening = count + 1  # facts of each worker, and the score of the scene; at the end, each worker closes the scene
    assert len(spans) == opening + n_coarse + n_windows + count, "the scheduler ran other calls"
    seam = 2 * run.scene.overlap * run.scene.width * SEAM_BYTES
    coarse, windows = spans[opening : opening + n_coarse], spans[opening + n_coarse : len(spans) - count]
    facts, first, last = spans[:count], coarse[0][0], max(stop for _, stop in windows)
    before, after = at(samples, first), at(samples, last)
    return Measured(
        seconds=ended - begun, client_start=facts[0][0] - begun,
        worker_start=sum(stop - start for start, stop in facts) / count,
        opened=first - max(stop for _, stop in facts), coarse=[stop - start for start, stop in coarse],
        windows=[stop - start for start, stop in windows], tail=ended - last,
        workers_s=after.workers_s - before.workers_s, client_s=after.client_s - before.client_s,
        results_s=max(one.results_s for one in samples), read=after.read - before.read,
        sent=max(one.strips for one in samples) + n_windows * seam, written=written,
    )  # fmt: skip


def print_plan(rates: Rates, prices: Prices = Prices()) -> None:
    """Print what one scene on many workers takes, and what 40 million square kilometres take."""
    worker_s = rates.coarse_s + rates.windows_s
    join, results = worker_s / rates.join_s, worker_s * rates.results_cores / rates.results_s
    print(f"one worker: {1 / worker_s:.2f} megapixels a core-second")
    print(f"the client joins what {join:.0f} workers compute, and writes what {results:.0f} workers compute")
    for side in SCENES:
        for count in COUNTS:
            times = simulate(side, side, rates, Site(workers=count))
            print(
                f"{side:>7} pixels a side, {count:>4} workers: {times.total:8.0f} s, "
                f"{side**2 / MEGA / times.total:7.1f} megapixels a second, workers busy {times.workers_busy:.0%}"
            )
    megapixels, own = PIXELS / MEGA, rates.join_s + rates.results_s + rates.last_s
    hours = megapixels * (worker_s + own) / rates.crowded / 3600
    read, written = megapixels * rates.read_bytes / 1e12, megapixels * rates.written_bytes / 1e12
    print(f"40 million km2 at 0.3 m: {hours:,.0f} core-hours, {hours * prices.core_hour:,.0f} dollars")
    print(f"GPUs: {(gpu := megapixels / GPU_MEGAPIXELS_S / 3600):,.0f} hours, {gpu * prices.gpu_hour:,.0f} dollars")
    print(
        f"read {read:,.0f} TB, {(requests := megapixels * REQUESTS) / 1e6:,.0f} million requests, "
        f"{requests / 1e6 * prices.million_requests:,.0f} dollars"
    )
    print(f"messages, if one client joined all: {megapixels * rates.message_bytes / 1e12:,.0f} TB")
    print(f"results {written:,.0f} TB, {written * 1000 * prices.gigabyte_month:,.0f} dollars a month")


if __name__ == "__main__":
    main()
