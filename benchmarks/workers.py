"""One scene over worker processes: `python benchmarks/workers.py [--side 20000] [--kill-worker] [--kill-client]`.

Compares a plain run, `--workers 2` and a Dask scheduler with two one-thread worker processes, on the same cores: ratio
of throughputs, SHA-256 of rasters and GeoPackage, and peak memory of each process. All runs are fresh processes.
`--kill-worker` kills a worker process twice in each run with workers. `--kill-client` kills the client in the middle,
and continues with `--resume`; these times contain the lost work. Linux only: processes are found in /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from throughput import command_line, peak_bytes, scene, tree

PORT = 8797
KILLS = 2
"""Number of worker processes that are killed in a run."""
SCHEDULER = f"tcp://127.0.0.1:{PORT}"
PLAIN, LOCAL, DASK = "plain", "--workers 2", "--scheduler"
OPTIONS = {PLAIN: [], LOCAL: ["--workers", "2"], DASK: ["--scheduler", SCHEDULER]}


@dataclass(frozen=True)
class Run:
    """One measured run."""

    seconds: float
    processor_seconds: float
    """Processor time of all processes; less noisy than `seconds` on a machine that does other work."""
    peaks: list[int]
    """Peak resident memory of each process in bytes, largest first."""
    sums: dict[str, str]
    """SHA-256 of rasters and GeoPackage, by the end of the file's name."""


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A scheduler and some workers of one thread each, as processes; yield the workers."""
    dask = [sys.executable, "-m", "dask"]
    log = (folder / "cluster.log").open("wb")
    common = {"stdout": log, "stderr": log}
    processes = [subprocess.Popen([*dask, "scheduler", "--port", str(PORT), "--no-dashboard"], **common)]
    try:
        time.sleep(3)
        for number in range(1, workers + 1):
            local = ["--local-directory", str(folder / f"dask{number}"), "--memory-limit", "0", "--no-dashboard"]
            processes.append(subprocess.Popen([*dask, "worker", SCHEDULER, "--nthreads", "1", *local], **common))
        time.sleep(5)
        yield processes[1:]
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        log.close()


def workers_of(kind: str, client: int, nannies: list[subprocess.Popen[bytes]]) -> list[int]:
    """Ids of the worker processes of a run."""
    roots, sign = ([client], b"floodmap.scaleout.workers.process") if kind == LOCAL else ([], b"multiprocessing")
    roots += [] if kind == LOCAL else [nanny.pid for nanny in nannies]
    found = [pid for root in roots for pid in tree(root)]
    return [pid for pid in found if sign in line_of(pid) and b"resource_tracker" not in line_of(pid)]


def line_of(pid: int) -> bytes:
    """Command line of a process; empty if the process has ended."""
    try:
        return command_line(pid)
    except OSError:
        return b""


def processor_seconds(pid: int) -> float:
    """Processor time of a process; 0 if the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def strips(out: Path) -> int:
    """Number of strips in the work folder."""
    return len(list(out.glob(".*/*.strip")))


def measure(
    kind: str, path: Path, out: Path, nannies: list[subprocess.Popen[bytes]], *, kill_worker: bool, kill_client: bool
) -> Run:
    """Run `floodmap segment`, kill what is asked for, and measure."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "floodmap_cli.main", "segment", str(path), "-o", str(out), "-q", *OPTIONS[kind]]
    peaks: dict[int, int] = {}
    busy: dict[int, float] = {}
    started, killed = time.monotonic(), 0
    client = subprocess.Popen(command)
    while client.poll() is None:
        watched = [pid for root in [client.pid, *(nanny.pid for nanny in nannies)] for pid in tree(root)]
        for pid in watched:
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
            busy[pid] = max(busy.get(pid, 0.0), processor_seconds(pid))
        due = kill_worker and kind != PLAIN and killed < KILLS and strips(out) > 2 * killed
        if due and (found := workers_of(kind, client.pid, nannies)):
            os.kill(found[0], signal.SIGKILL)
            killed += 1
            print(f"{kind}: killed a worker with {strips(out)} strips written")
        if kill_client and strips(out) > 1:
            kill_client = False
            print(f"{kind}: killed the client with {strips(out)} strips written")
            client.kill()
            client.wait()
            client = subprocess.Popen([*command, "--resume"])
        time.sleep(0.05)
    seconds = time.monotonic() - started
    if client.returncode:
        raise SystemExit(f"{kind}: floodmap segment failed with exit code {client.returncode}")
    files = [*out.glob("*.tif"), *out.glob("*.gpkg")]
    sums = {file.name.removeprefix(path.stem): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    shutil.rmtree(out)
    large = sorted((peak for peak in peaks.values() if peak > 100e6), reverse=True)
    return Run(seconds, sum(busy.values()), large, sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20_000, help="side of the synthetic scene in pixels")
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--repeat", type=int, default=1, help="runs of each kind; the fastest counts")
    parser.add_argument("--only", choices=["workers", "scheduler"], help="leave the other kind of workers out")
    parser.add_argument("--kill-worker", action="store_true", help="kill a worker process twice in each run")
    parser.add_argument("--kill-client", action="store_true", help="kill the client once, and continue with --resume")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = scene(options.folder, options.side)
    kinds = [PLAIN, *([LOCAL] if options.only != "scheduler" else []), *([DASK] if options.only != "workers" else [])]
    runs: dict[str, Run] = {}
    for kind in kinds * options.repeat:
        kills = {"kill_worker": options.kill_worker, "kill_client": options.kill_client and kind != PLAIN}
        if kind == DASK:
            with cluster(options.folder) as nannies:
                run = measure(kind, path, options.folder / "out", nannies, **kills)
        else:
            run = measure(kind, path, options.folder / "out", [], **kills)
        runs[kind] = min(run, runs.get(kind, run), key=lambda one: one.seconds)
        peaks = [round(peak / 1e6) for peak in run.peaks]
        print(f"{kind:12} {run.seconds:7.1f} s, processor {run.processor_seconds:.1f} s, peaks MB {peaks}", flush=True)
    for kind, run in list(runs.items())[1:]:
        same = "the same bytes" if run.sums == runs[PLAIN].sums else "OTHER BYTES"
        busy = runs[PLAIN].processor_seconds / run.processor_seconds
        print(
            f"{kind:12} {runs[PLAIN].seconds / run.seconds:.3f} times the throughput of the plain run "
            f"({busy:.3f} times by processor time), {same}"
        )


if __name__ == "__main__":
    main()
