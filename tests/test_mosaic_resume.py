"""Products of many frames that are resumed: no result of other content, settings or frames is reused or replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SceneFactory
from test_mosaic import percents, product, read

from floodmap.errors import OutputError
from floodmap.imagery.scene import Scene
from floodmap.scaleout.frames.frame_loop import MosaicProgress

DATED = {"TIFFTAG_DATETIME": "2024:05:01 10:00:00"}
"""Tags that keep the date of a frame when its file is written again."""


@pytest.fixture
def without_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames have no fingerprint, like those of a server that sends neither ETag nor Last-Modified."""
    monkeypatch.setattr(Scene, "fingerprint", None)


def frame_of(make_scene: SceneFactory, level: int, name: str = "f.tif", **how: Any) -> Path:
    """A frame of 90 x 60 pixels whose probability is `level` per cent everywhere."""
    pixels = percents((90, 60))
    pixels[2] = level
    return make_scene(pixels=pixels, name=name, tags=DATED, **how)


def interrupt_blending(frames: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until half of the strips are blended."""
    monkeypatch.setattr("floodmap.scaleout.frames.assembly.strip_rows", lambda width: 16)

    def stop(one: MosaicProgress) -> None:
        if one.stage == "blend" and one.share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        product(frames, out, progress=stop)


def test_a_finished_map_of_frames_without_fingerprint_is_not_taken_for_that_of_new_frames(
    make_scene: SceneFactory, tmp_path: Path, without_fingerprint: None
) -> None:
    frame = frame_of(make_scene, 10)
    product([frame], tmp_path / "out")
    frame_of(make_scene, 90)
    with pytest.raises(OutputError, match=r"f\.tif has no fingerprint, so changes .* add --overwrite"):
        product([frame], tmp_path / "out", resume=True)
    again = product([frame], tmp_path / "out", resume=True, overwrite=True)
    assert set(np.unique(read(again.probability_path))) == {90}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_strips_of_frames_without_fingerprint_are_blended_again(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_fingerprint: None, how: str
) -> None:
    frame = frame_of(make_scene, 10)
    interrupt_blending([frame], tmp_path / "out", monkeypatch)
    frame_of(make_scene, 90)
    result = product([frame], tmp_path / "out", **{how: True})
    assert set(np.unique(read(result.probability_path))) == {90}


def test_two_frames_of_one_name_without_fingerprint_are_both_used(
    make_scene: SceneFactory, tmp_path: Path, without_fingerprint: None
) -> None:
    frames = [frame_of(make_scene, level, f"{level}/f.tif") for level in (10, 90)]
    assert set(np.unique(read(product(frames, tmp_path / "out").probability_path))) == {50}


def test_a_run_whose_mask_has_no_fingerprint_is_not_resumed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, mask = frame_of(make_scene, 10), make_scene(bands=1, name="clouds.tif")
    monkeypatch.setattr("floodmap.scaleout.frames.overlay_files.of_input", lambda _: None)
    interrupt_blending([frame], tmp_path / "out", monkeypatch)
    with pytest.raises(OutputError, match=r"clouds\.tif has no fingerprint"):
        product([frame], tmp_path / "out", resume=True, mask=mask)
