"""Runs killed at random moments, and damaged rasters by the hundred, each in a process of its own.

Moments and limits are of processor time, which does not depend on what else the machine does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANGS, SceneFactory
from fakes import FakeSegmenter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and /proc of Linux"),
]

KILLS = 20
DAMAGED = int(os.environ.get("FLOODMAP_DAMAGED", "150"))
"""Number of damaged rasters."""
PRELOADED = [
    "torch", "segment_anything.modeling", "geopandas", "pyogrio", "pyarrow.pandas_compat", "floodmap.inspection",
    "floodmap.pipeline", "floodmap.catalogue.finding", "floodmap.models.registry", "floodmap.output.polygons",
    "floodmap.output.vector_files", "floodmap_cli.commands.info", "floodmap_cli.loading", "floodmap_cli.many",
    "floodmap_cli.commands.segment", "fakes", "test_chaos",
]  # fmt: skip
"""Modules that the processes of these tests share. Without them, each process takes three seconds to import them."""
SECONDS = 20
"""Most processor time a damaged raster may take."""
MEMORY = 2 * 10**9
"""Most memory it may take, in bytes."""


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    for name in PRELOADED:  # the server ignores names that do not exist
        assert importlib.util.find_spec(name) is not None, name
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def digests(out: Path) -> dict[str, str]:
    wanted = (".tif", ".gpkg", ".qml")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if p.suffix in wanted}


def work(seconds: float) -> None:
    """Keep the processor busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def segment(scene: Path, out: Path, killed_after: float, answer: Connection) -> None:
    """Segment, killed after so many seconds of processor time if given; sends how many it took."""
    from floodmap.options import SegmentOptions
    from floodmap.pipeline import segment_scene

    # The system ends a process that leaves SIGPROF alone, as it does with SIGKILL.
    signal.setitimer(signal.ITIMER_PROF, killed_after)
    begun = time.process_time()
    options = SegmentOptions(tile_size=128, overlap=16, prompts="none", resume=True)
    # A little slower than it could be: most of the time is then spent on windows, as in a real run.
    segment_scene(scene, out, FakeSegmenter(lambda _: work(0.002)), options)
    answer.send(time.process_time() - begun)


def run(context: ForkServerContext, target: Callable[..., None], *args: object) -> tuple[int | None, Any]:
    """Exit code of a process (None where it hangs), and what it sent."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, theirs))
    process.start()
    theirs.close()
    process.join(HANGS)
    if process.is_alive():
        process.kill()
        return None, None
    return process.exitcode, ours.recv() if process.exitcode == 0 and ours.poll() else None


def test_runs_killed_at_random_moments_end_in_the_bytes_of_an_undisturbed_one(
    make_scene: SceneFactory, tmp_path: Path, processes: ForkServerContext
) -> None:
    scene = make_scene(shape_hw=(900, 1100))
    code, seconds = run(processes, segment, scene, tmp_path / "whole", 0)
    expected = digests(tmp_path / "whole")
    assert code == 0 and len(expected) == 5
    rng = random.Random(0)

    def kill_and_resume(out: Path, after: float) -> tuple[int | None, list[str], list[str]]:
        """Exit code of the second run, files that differ, and what was left."""
        while (code := run(processes, segment, scene, out, after)[0]) == 0:
            after *= 0.9  # it took less than the first
            shutil.rmtree(out)
        assert code == -signal.SIGPROF
        code, _ = run(processes, segment, scene, out, 0)
        found = digests(out)
        differing = sorted(name for name in expected if found.get(name) != expected[name])
        return code, differing, sorted(path.name for path in out.glob(".*"))

    outs, moments = [tmp_path / f"out{n}" for n in range(KILLS)], [rng.uniform(0.001, seconds) for _ in range(KILLS)]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        ended = list(executor.map(kill_and_resume, outs, moments))
    assert ended == [(0, [], [])] * KILLS


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Truncated, with flipped bytes anywhere, with flipped bytes in its head and tags, or with a part exchanged."""
    content = bytearray(whole)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(content[: rng.randrange(len(content))])
    if kind == 3:
        length = rng.randrange(1, 2000)
        to = rng.randrange(max(1, len(content) - length))
        content[to : to + length] = rng.randbytes(length)
        return bytes(content)
    # Tags of these small files lie in the first or the last kilobyte.
    places = range(len(content)) if kind == 1 else [*range(400), *range(len(content) - 800, len(content))]
    for _ in range(rng.choice([1, 3, 20])):
        content[rng.choice(places)] = rng.choice([0, 1, 255, 0x7F, rng.randrange(256)])
    return bytes(content)


def try_commands(scene: Path, out: Path, answer: Connection) -> None:
    """Exit codes and output of both commands, and their peak of additional memory."""
    import resource

    import floodmap_cli.loading as models
    from floodmap import inspection, pipeline
    from floodmap_cli.main import run as main

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, resource.RLIM_INFINITY))
    assert callable(models.load) and callable(inspection.shipped_model)
    models.load, inspection.shipped_model = lambda model, device: FakeSegmenter(), FakeSegmenter
    pipeline.rehearse = lambda *_: None  # of what is written, which no damage to a scene changes
    said, before = io.StringIO(), peak_bytes()
    with redirect_stderr(said), redirect_stdout(said):
        codes = [main(["info", str(scene)]), main(["segment", str(scene), "-o", str(out), "--prompts", "none", "-q"])]
    answer.send((codes, said.getvalue(), peak_bytes() - before))


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def wholes(make_scene: SceneFactory) -> Iterator[bytes]:
    shape = {"shape_hw": (300, 400)}
    yield make_scene(**shape, name="a.tif").read_bytes()
    yield make_scene(**shape, name="b.tif", compress="deflate", tiled=True, blockxsize=128, blockysize=128).read_bytes()
    yield make_scene(**shape, name="c.tif", dtype="uint16", compress="lzw", predictor=2, nodata=0).read_bytes()
    yield make_scene(**shape, name="d.tif", alpha=np.full((300, 400), 255), overviews=(2, 4)).read_bytes()
    yield make_scene(**shape, name="e.tif", compress="jpeg", photometric="ycbcr", mask=np.ones((300, 400))).read_bytes()


def test_damaged_rasters_give_a_clear_line_or_a_result_and_nothing_else(
    make_scene: SceneFactory, tmp_path: Path, processes: ForkServerContext
) -> None:
    files, rng, faults = list(wholes(make_scene)), random.Random(1), []
    scenes = [tmp_path / "damaged" / f"{number}.tif" for number in range(DAMAGED)]
    outs = [tmp_path / "out" / str(number) for number in range(DAMAGED)]
    scenes[0].parent.mkdir()
    for number, scene in enumerate(scenes):
        scene.write_bytes(damaged(files[number % len(files)], rng))
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        answers = executor.map(partial(run, processes, try_commands), scenes, outs)
    for number, (out, (code, answer)) in enumerate(zip(outs, answers, strict=True)):
        if answer is None:
            ends = {None: "hangs", -signal.SIGXCPU: f"takes more than {SECONDS} s of processor time"}
            faults.append((number, ends.get(code, f"died with {code}")))
            continue
        codes, said, memory = answer
        if "unexpected" in said or "Traceback" in said or not set(codes) <= {0, 1, 3}:
            faults.append((number, said.strip().splitlines()[-1][:200]))
        if memory > MEMORY:
            faults.append((number, f"took {memory / 1e9:.1f} GB"))
        if codes[1] == 1 and out.exists() and any(os.scandir(out)):
            faults.append((number, "left something behind"))
    assert not faults
