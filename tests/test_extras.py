"""floodmap without its optional packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS, SceneFactory

from floodmap._runtime.extras import EXTRAS

WITHOUT = f"""
import sys
for name in {[*EXTRAS, "tensorboardX", "rioxarray", "xarray"]!r}:
    sys.modules[name] = None  # as if it were not installed
from floodmap_cli.main import main
main()
"""


def floodmap_without(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that cannot import any optional package."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=HANGS
    )


@pytest.mark.slow
def test_scenes_are_segmented_scored_and_reported_on_without_optional_packages(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene = make_scene(shape_hw=(200, 260))
    done = floodmap_without("segment", scene, "-o", "out", "--report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "scene_report.html").read_text("utf-8").count('<svg class="chart"') == 2
    for command in (
        ("info", scene),
        ("evaluate", "out/scene_mask.tif", "out/scene.gpkg"),
        ("vectorize", "out/scene_mask.tif", "-o", "again.gpkg"),
    ):
        done = floodmap_without(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("segment", "scene.tif", "--format", "gpkg,parquet"), "the format parquet needs pyarrow, which is not "
         "installed; run: pip install 'floodmap[parquet]'"),
        (("train", "."), "training needs matplotlib, which is not installed; run: pip install 'floodmap[train]'"),
        (("compare", "."), "comparing models needs matplotlib, which is not installed; run: pip install "
         "'floodmap[train]'"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_how_to_install_it(
    make_scene: SceneFactory, tmp_path: Path, command: tuple[str, ...], line: str
) -> None:
    make_scene(name="scene.tif", folder=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = floodmap_without(*command, cwd=tmp_path)
    said = [text for text in done.stderr.splitlines() if "error" in text]
    assert done.returncode == 1 and said == [f"floodmap: error: {line}"], done.stderr
    assert sorted(tmp_path.rglob("*")) == before
