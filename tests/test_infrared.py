"""Near infrared as a second source beside a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import SceneFactory
from fakes import ConstantSegmenter, FakeSegmenter

from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.models.infrared import SHADOW_EVIDENCE, Infrared, WithInfrared, with_infrared
from floodmap.models.prompts import Prompts
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.pipeline import segment_scene

COARSE = Affine(5, 0, 400000, 0, -5, 5200000)


def shore(dtype: str = "uint8", scale: int = 1) -> np.ndarray:
    """Land on the left, bright in near infrared; water on the right, dark in it. Their colours are the same."""
    pixels = np.full((4, 96, 128), 80 * scale, dtype)
    pixels[3] = 180 * scale
    pixels[3, :, 64:] = 20 * scale
    return pixels


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1), ("uint16", 40)])
def test_what_is_bright_in_near_infrared_is_dry_and_what_is_dark_is_water(
    make_scene: SceneFactory, dtype: str, scale: int
) -> None:
    path = make_scene(pixels=shore(dtype, scale), transform=COARSE, bands=4)
    with Scene.open(path) as scene:
        for probability in (0.2, 0.5, 0.8):
            model = with_infrared(ConstantSegmenter(probability), scene)
            (found,) = model.predict([scene.read(Window(0, 0, 96, 128))], [Prompts.none()])
            assert found.dtype == np.float32 and found[:, :64].max() < 0.1 and found[:, 64:].min() > 0.9


def test_where_shadows_are_seen_the_hint_is_weak_and_the_veto_is_not(make_scene: SceneFactory) -> None:
    path = make_scene(pixels=shore(), transform=Affine(0.1, 0, 400000, 0, -0.1, 5200000))
    with Scene.open(path) as scene:
        infrared = Infrared.of(scene)
        assert infrared is not None
        said = infrared.evidence(scene.read(Window(0, 0, 96, 128)))
    assert said.max() == pytest.approx(SHADOW_EVIDENCE) and said.min() < -2 * SHADOW_EVIDENCE


def test_a_person_s_points_count_more(make_scene: SceneFactory) -> None:
    point = Prompts(points_xy=np.array([[20.5, 40.5]], np.float32), labels=np.ones(1, np.int64))
    with Scene.open(make_scene(pixels=shore(), transform=COARSE)) as scene:
        tile = scene.read(Window(0, 0, 96, 128))
        (found,) = with_infrared(ConstantSegmenter(0.9), scene).predict([tile], [point])
    assert found[40, 20] == pytest.approx(0.9, abs=1e-3) and found[:, 64:].min() > 0.9


def test_outside_of_boxes_all_stays_dry(make_scene: SceneFactory) -> None:
    box = Prompts(boxes_xyxy=np.array([[70, 10, 90, 30]], np.float32), bounded=True)
    with Scene.open(make_scene(pixels=shore(), transform=COARSE)) as scene:
        tile = scene.read(Window(0, 0, 96, 128))
        (found,) = with_infrared(ConstantSegmenter(0.0), scene).predict([tile], [box])
    assert found.max() == 0


def test_a_model_that_fails_still_gives_no_number(make_scene: SceneFactory) -> None:
    with Scene.open(make_scene(pixels=shore(), transform=COARSE)) as scene:
        (found,) = with_infrared(ConstantSegmenter(float("nan")), scene).predict(
            [scene.read(Window(0, 0, 96, 128))], [Prompts.none()]
        )
    assert np.isnan(found).all()


def test_without_near_infrared_a_model_stays_as_it_is(make_scene: SceneFactory) -> None:
    model = FakeSegmenter()
    with Scene.open(make_scene()) as scene:
        assert with_infrared(model, scene) is model
    with Scene.open(
        make_scene(pixels=shore() * np.array([1, 1, 1, 0], np.uint8)[:, None, None], name="dark.tif")
    ) as scene:
        assert scene.nir_band == 4 and with_infrared(model, scene) is model


def test_nir_off_changes_nothing_and_the_report_says_whether_it_was_used(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    four, three = make_scene(pixels=shore(), transform=COARSE), make_scene(
        pixels=shore()[:3], transform=COARSE, name="rgb.tif"
    )  # fmt: skip
    runs = {"auto": (four, "auto"), "off": (four, "off"), "rgb": (three, "auto")}
    masks, used = {}, {}
    for name, (path, nir) in runs.items():
        options = SegmentOptions(scene=SceneOptions(nir=nir), prompts="none")  # type: ignore[arg-type]
        result = segment_scene(path, tmp_path / name, ConstantSegmenter(0.5), options)
        with rasterio.open(result.mask_path) as dataset:
            masks[name] = dataset.read(1)
        used[name] = json.loads(result.report_path.read_text())["source"]["near_infrared"]
    assert (masks["auto"][:, :64] == 0).all() and (masks["auto"][:, 64:] == 1).all()
    assert np.array_equal(masks["off"], masks["rgb"]) and (masks["rgb"] == 1).all()
    assert used == {
        "auto": {"band": 4, "used": True}, "off": {"band": None, "used": False}, "rgb": {"band": None, "used": False},
    }  # fmt: skip


def test_windows_meet_as_they_do_without_near_infrared(make_scene: SceneFactory) -> None:
    with Scene.open(make_scene(pixels=shore(), transform=COARSE)) as scene:
        model = with_infrared(FakeSegmenter(), scene)
        assert isinstance(model, WithInfrared)
        (whole,) = model.predict([scene.read(Window(0, 0, 96, 128))], [Prompts.none()])
        (part,) = model.predict([scene.read(Window(16, 32, 32, 64))], [Prompts.none()])
    assert np.array_equal(part, whole[16:48, 32:96])
