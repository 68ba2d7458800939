"""Forked processes: they work like their parent, or are refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS, SceneFactory

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no fork")]

BEGIN = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
import numpy as np
import torch
import floodmap
from floodmap.errors import FloodmapError
from floodmap.models.registry import resolve
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.models.loading import load_segmenter

scene, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(2)  # on one core, too

def forked(work, count=1):
    with ProcessPoolExecutor(count, mp_context=get_context("fork")) as pool:
        return list(pool.map(work, range(count)))
"""


def run(code: str, scene: Path, out: Path) -> str:
    """Output of a program, run in a process of its own because of its threads."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + code, str(scene), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_forked_after_a_run_does_all_that_its_parent_did(make_scene: SceneFactory, tmp_path: Path) -> None:
    code = """
model = load_segmenter(resolve("finetuned"))
def everything(number):
    one = floodmap.segment(scene, out=out / f"a{number}", formats=("gpkg", "parquet"))
    two = segment_scene(scene, out / f"b{number}", model, SegmentOptions(batch_size=2))
    scores = floodmap.evaluate(one.mask_path, two.mask_path)
    return one.report["pixels"], two.report["pixels"], len(floodmap.vectorize(one.mask_path)), len(scores.scenes)
parents = everything("parent")
for child in forked(everything, 2):
    print(child == parents)
"""
    assert run(code, make_scene(shape_hw=(600, 700)), tmp_path / "out").split() == ["True", "True"]


def test_a_process_forked_amid_a_run_is_refused_in_one_line(make_scene: SceneFactory, tmp_path: Path) -> None:
    code = """
going, over = Event(), Event()
def wait(_):
    going.set()
    over.wait()
def work(what):
    try:
        [lambda: floodmap.segment(scene, out=out / "child"), lambda: floodmap.Scene.open(scene),
         lambda: floodmap.evaluate(scene, scene), lambda: floodmap.vectorize(scene)][what]()
    except FloodmapError as error:
        return str(error)
thread = Thread(target=lambda: floodmap.segment(scene, out=out, progress=wait))
thread.start()
going.wait()
said = forked(work, 4)
over.set()
thread.join()
print(*said, sep="\\n")
print(forked(work))
"""
    *refused, afterwards = run(code, make_scene(), tmp_path / "out").splitlines()
    assert len(refused) == 4 and all('get_context("spawn")' in line for line in refused)
    assert afterwards == "[None]"
    assert (tmp_path / "out" / "scene.json").exists() and (tmp_path / "out" / "child" / "scene.json").exists()


def test_a_gpu_of_the_parent_is_not_the_childs(make_scene: SceneFactory, tmp_path: Path) -> None:
    code = """
torch.cuda.is_available = torch.cuda.is_initialized = lambda: True  # as on a machine that has one
def work(_):
    try:
        floodmap.segment(scene, out=out)
    except FloodmapError as error:
        return str(error)
print(*forked(work))
"""
    assert 'get_context("spawn")' in run(code, make_scene(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
