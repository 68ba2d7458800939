"""Simulation of a run with `--scheduler`: workers, a shared bucket, and a client that joins and writes.

`simulate` follows the code of a run. Chunks are cut by `scaleout.workers.job`, and begun and joined in the order of
`scaleout.workers.pool.in_order`. What is begun shares cores and bytes a second with all else that runs at that moment.
Figures of a machine (`Rates`) are measured by `scale.py`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, inf

from floodmap.inference.coarse_map import coarse_rows
from floodmap.inference.coarse_pass import COARSE_OVERLAP, COARSE_STEP, COARSE_TILE
from floodmap.inference.scales import coarse_factor
from floodmap.inference.tiling import Grid
from floodmap.scaleout.workers.job import Chunk, chunk_length, cut

MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Figures of a machine and of a kind of scene. Seconds are processor time of one core that is alone busy."""

    client_start_s: float
    """Time until the client asks the workers for their model, in seconds."""
    worker_start_s: float
    """Time in which a worker imports torch and loads the model."""
    open_s: float
    """Time in which the client opens the scene and rehearses the results, after the workers have loaded the model."""
    coarse_s: float
    """Coarse pass, per megapixel of the scene."""
    windows_s: float
    """Windows, per megapixel of the scene."""
    worker_cores: float
    """Number of cores that a worker keeps busy, if they are free: one computes, another may read ahead."""
    join_s: float
    """Joining and appending of strips by the client, per megapixel."""
    results_s: float
    """Rasters and outlines by the process that writes results, per megapixel."""
    results_cores: float
    """Number of cores that this process keeps busy if they are free."""
    last_s: float
    """What remains of the results after the last strip, per megapixel: simplified outlines, vector files."""
    end_s: float
    """End of the processes, whatever the size of the scene."""
    crowded: float
    """Speed of a core if all cores of the machine are busy, as a share of its speed alone."""
    read_bytes: float
    """Bytes that a worker reads from the scene, per megapixel."""
    message_bytes: float
    """Bytes that a worker sends to the client, per megapixel."""
    written_bytes: float
    """Bytes of all results, per megapixel."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Machines of a run."""

    workers: int
    """Number of workers, each with one thread."""
    cores: int | None = None
    """Cores that workers and client share; None: each worker has its own cores, and the client has its own machine."""
    bucket_bytes_s: float = inf
    """Bytes a second that the bucket with the scene gives to all workers together."""
    client_bytes_s: float = inf
    """Bytes a second of the client's network."""
    request_s: float = 0.0
    """Time in which a worker waits for the bucket, per megapixel of the scene."""


@dataclass(frozen=True)
class Times:
    """Result of a simulation, in seconds."""

    total: float
    workers_busy: float
    """Share of the workers' time, from the first chunk to the last, in which they computed."""
    client_busy: float
    """Share of the same time in which the client joined strips."""


@dataclass(eq=False)
class Work:
    """Something that runs: for `wait` seconds without a core, then `core_s` seconds of cores."""

    kind: str
    core_s: float
    cores: float = 1.0
    """Number of cores that it keeps busy if they are free."""
    bytes_: float = 0.0
    """Bytes that it moves while it computes."""
    wait: float = 0.0
    chunk: int = -1
    done: bool = False


@dataclass
class Machines:
    """All work that runs now, and the time."""

    site: Site
    crowded: float
    now: float = 0.0
    running: list[Work] = field(default_factory=list)

    def begin(self, work: Work) -> Work:
        """Begin some work; work without length ends at the next step."""
        self.running.append(work)
        return work

    def step(self) -> list[Work]:
        """Let the time pass until something ends; return what ended."""
        speeds = {one: self._speed(one) for one in self.running}
        pause = min(one.wait if one.wait > 0 else one.core_s / speeds[one] for one in self.running)
        self.now += pause
        for one in self.running:
            if one.wait > 0:
                one.wait = one.wait - pause if one.wait - pause > 1e-9 else 0.0
            else:
                share = min(1.0, pause * speeds[one] / one.core_s) if one.core_s else 1.0
                one.core_s, one.bytes_ = one.core_s * (1 - share), one.bytes_ * (1 - share)
                one.done = one.core_s < 1e-9
        ended = [one for one in self.running if one.done]
        self.running = [one for one in self.running if not one.done]
        return ended

    def _speed(self, work: Work) -> float:
        """Return the core seconds that some work gets in a second."""
        site, busy = self.site, [one for one in self.running if one.wait <= 0]
        speed = work.cores
        if site.cores is not None:
            wanted = sum(one.cores for one in busy)
            crowd = min(1.0, max(0.0, (wanted - 1) / max(1, site.cores - 1)))
            speed *= min(1.0, site.cores / wanted) * (1 - crowd * (1 - self.crowded)) if wanted else 1.0
        if work.bytes_ and work.kind != "join" and site.bucket_bytes_s < inf:
            readers = sum(one.kind in ("coarse", "windows") for one in busy)
            speed = min(speed, site.bucket_bytes_s / readers * work.core_s / work.bytes_)
        if work.bytes_ and work.kind == "join" and site.client_bytes_s < inf:
            speed = min(speed, site.client_bytes_s * work.core_s / work.bytes_)
        return speed


def simulate(height: int, width: int, rates: Rates, site: Site) -> Times:
    """Simulate a run from the start of the command to its end.

    Args:
        height: height of the scene, in pixels.
        width: width of the scene, in pixels.
        rates: figures of the machines.
        site: number of workers, and what they share.
    """
    machines = Machines(site, rates.crowded, now=rates.client_start_s)
    for _ in range(site.workers):
        machines.begin(Work("start", rates.worker_start_s))
    while machines.running:
        machines.step()
    machines.now += rates.open_s
    begun, run = machines.now, Run(Grid(height=height, width=width), rates, machines)
    run.to_end()
    lasted = run.ended - begun
    return Times(machines.now + rates.end_s, run.computed / (site.workers * lasted), run.joined / lasted)


class Run:
    """Chunks of a run, in the order in which the client begins and joins them."""

    def __init__(self, scene: Grid, rates: Rates, machines: Machines) -> None:
        factor = coarse_factor(max(scene.height, scene.width))
        self.coarse = Grid(
            height=ceil(scene.height / factor), width=ceil(scene.width / factor), tile_size=COARSE_TILE,
            overlap=COARSE_OVERLAP, step=COARSE_STEP,
        )  # fmt: skip
        self.scene, self.rates, self.machines, workers = scene, rates, machines, machines.site.workers
        self.rows = [*scene.row_offsets, scene.height]
        self.coarse_rows = [*self.coarse.row_offsets, self.coarse.height]
        self.coarse_chunks = cut(self.coarse, 0, 1)
        self.chunks = cut(scene, 0, chunk_length(scene, len(self.rows) - 1, workers))
        self.next, self.coarse_end, self.computed, self.joined, self.ended = 0, 0, 0.0, 0.0, 0.0
        self.begun: deque[Work] = deque()
        self.joining: Work | None = None
        self.results = [0.0]
        self.writing: Work | None = None

    def to_end(self) -> None:
        """Run all chunks, and write the results."""
        while True:
            self._client()
            self._results()
            if not self.machines.running:
                break
            before, computing = self.machines.now, self._computing()
            ended = self.machines.step()
            self.computed += computing * (self.machines.now - before)
            self.joined += (self.machines.now - before) * (self.joining is not None)
            for work in ended:
                self._ended(work)
        self.machines.begin(Work("last", self.rates.last_s * self._megapixels(0, -1)))
        self.machines.step()

    def _client(self) -> None:
        """Begin chunks and join a finished one, as `in_order` does; nothing while the client joins."""
        workers = self.machines.site.workers
        while self.joining is None:
            while self._computing() < workers and len(self.begun) < 2 * workers + 1 and self._ready():
                self.begun.append(self.machines.begin(self._chunk(self.next)))
                self.next += 1
            if not self.begun or not self.begun[0].done:
                return
            first = self.begun.popleft()
            megapixels = self._size(first.chunk) * (first.kind == "windows")
            sent = megapixels * self.rates.message_bytes
            self.joining = self.machines.begin(
                Work("join", self.rates.join_s * megapixels, bytes_=sent, chunk=first.chunk)
            )

    def _results(self) -> None:
        if self.writing is None and self.results:
            self.writing = self.machines.begin(
                Work("results", self.rates.results_s * self.results.pop(0), self.rates.results_cores)
            )

    def _ended(self, work: Work) -> None:
        if work.kind == "results":
            self.writing = None
        if work.kind == "join":
            self.joining, self.ended = None, self.machines.now
            if work.chunk < len(self.coarse_chunks):
                self.coarse_end = self.coarse_chunks[work.chunk].end
            else:
                self.results.append(self._size(work.chunk))

    def _ready(self) -> bool:
        """Return True if there is a next chunk, and its part of the coarse map is complete."""
        number = self.next - len(self.coarse_chunks)
        if number < 0:
            return True
        if number >= len(self.chunks):
            return False
        first, end = self._rows(self.chunks[number])
        needed = coarse_rows(first, end, self.scene.height, self.coarse.height).stop
        return bool(needed <= (self.coarse_rows[self.coarse_end] if self.coarse_end else 0))

    def _chunk(self, number: int) -> Work:
        coarse, megapixels = number < len(self.coarse_chunks), self._size(number)
        rates, wait = self.rates, self.machines.site.request_s * megapixels / 2
        seconds = (rates.coarse_s if coarse else rates.windows_s) * megapixels
        return Work(
            "coarse" if coarse else "windows", seconds, rates.worker_cores, rates.read_bytes * megapixels / 2, wait,
            number,
        )  # fmt: skip

    def _size(self, number: int) -> float:
        """Megapixels of the scene in a chunk of the coarse pass or of windows."""
        n_coarse = len(self.coarse_chunks)
        if number < n_coarse:
            one = self.coarse_chunks[number]
            share = (self.coarse_rows[one.end] - self.coarse_rows[one.first]) / self.coarse.height
            return share * self._megapixels(0, -1)
        one = self.chunks[number - n_coarse]
        return self._megapixels(one.first, one.end)

    def _megapixels(self, first: int, end: int) -> float:
        return (self.rows[end] - self.rows[first]) * self.scene.width / MEGA

    def _rows(self, chunk: Chunk) -> tuple[int, int]:
        return self.rows[chunk.first], self.rows[chunk.end - 1] + self.scene.shape_hw[0]

    def _computing(self) -> int:
        return sum(not one.done for one in self.begun)
