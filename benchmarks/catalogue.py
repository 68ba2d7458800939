"""Many small scenes: worker processes side by side against one process: `python benchmarks/catalogue.py`.

Writes synthetic scenes, and segments them in four ways, each in a process of its own:

- catalogue: `floodmap segment FOLDER --workers 2 --catalogue FILE`
- folder: `floodmap segment FOLDER`
- folder with catalogue: `floodmap segment FOLDER --catalogue FILE`
- loop: a Python loop over `floodmap.segment` with a model loaded once

Prints for each way the time, the processor time and the largest resident memory of a process, and then the ratios of
the times to that of the catalogue. Masks must have the same bytes. One scene more is damaged: it must not stop the
others. Run it on an idle machine; the processor time is less sensitive to other processes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import floodmap

LOOP = """
import sys
from pathlib import Path
import floodmap
model = floodmap.load_model("finetuned", device="cpu")
for path in sorted(Path(sys.argv[1]).glob("*.tif")):
    try:
        floodmap.segment(path, out=sys.argv[2], model=model)
    except floodmap.FloodmapError as error:
        print(error, file=sys.stderr)
"""


@dataclass(frozen=True)
class Way:
    """A command, and what it needed."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    code: int
    digests: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-loop", action="store_true", help="leave out the Python loop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scenes(folder / "scenes", options.scenes, options.side)
        ways = [measured(*one) for one in commands(folder, options)]
    for way in ways:
        print(
            f"{way.name:22} {way.seconds:7.1f} s {way.cpu_seconds:8.1f} s processor time {way.peak_mb:6.0f} MB, "
            f"{way.seconds / options.scenes:.3f} s a scene, exit code {way.code}"
        )
    assert all(way.digests == ways[0].digests for way in ways), "masks differ"
    assert len(ways[0].digests) == options.scenes
    for way in ways[1:]:
        print(f"time of {way.name} / time of {ways[0].name}: {way.seconds / ways[0].seconds:.2f}")


def write_scenes(folder: Path, count: int, side: int) -> None:
    """Write synthetic scenes, and a damaged one."""
    folder.mkdir()
    for seed in range(count):
        _, reference = floodmap.sample(folder / f"s{seed:04d}.tif", width=side, height=side, seed=seed)
        reference.unlink()
    (folder / "damaged.tif").write_bytes(b"II*\0 damaged")


def commands(folder: Path, options: argparse.Namespace) -> list[tuple[str, Path, list[str]]]:
    """Return name, output folder and command line of each way."""
    segment = [sys.executable, "-m", "floodmap_cli.main", "segment", str(folder / "scenes"), "--device", "cpu", "-q"]
    spread = ["--workers", str(options.workers), "--catalogue", str(folder / "spread.gpkg")]
    ways = [
        ("catalogue", folder / "spread", [*segment, "-o", str(folder / "spread"), *spread]),
        ("folder", folder / "folder", [*segment, "-o", str(folder / "folder")]),
        ("folder with catalogue", folder / "one", [*segment, "-o", str(folder / "one"), "--catalogue",
                                                   str(folder / "one.gpkg")]),
    ]  # fmt: skip
    loop = ("loop", folder / "loop", [sys.executable, "-c", LOOP, str(folder / "scenes"), str(folder / "loop")])
    return ways if options.no_loop else [*ways, loop]


def measured(name: str, out: Path, command: list[str]) -> Way:
    """Run a command, and return what it needed, with the processes that it started."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while done.poll() is None:
        peak = max([peak, *map(resident_mb, family(done.pid))])
        time.sleep(0.2)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*_mask.tif")}
    return Way(name, seconds, cpu, peak, done.returncode, digests)


def family(pid: int) -> list[int]:
    """Return a process and its children, on Linux."""
    try:
        found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return [pid]
    return [pid, *(int(child) for children in found for child in children)]


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB (10^6 bytes)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


if __name__ == "__main__":
    main()
