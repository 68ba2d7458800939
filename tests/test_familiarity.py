"""Out-of-distribution score: distance of scenes from the training data, and the warning to the user."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SceneFactory
from fakes import FakeSegmenter
from safetensors.torch import save_file
from test_segmenter import TINY, make_tile, resolved
from test_shipped import SAMPLE

from floodmap import inspection
from floodmap.imagery.scene import Scene
from floodmap.inference.strangeness import ood_warnings
from floodmap.models.digest import with_digest
from floodmap.models.familiarity import KEY, NEIGHBOUR, Familiarity
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.infrared import Infrared, WithInfrared
from floodmap.models.loading import load_segmenter
from floodmap.models.mirrored import Mirrored
from floodmap.models.registry import resolve
from floodmap.models.sam.flood_sam import FloodSam
from floodmap_cli.main import run


def views(seed: int, count: int = 60, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, 40)) @ np.random.default_rng(9).normal(size=(40, 80)) + shift
    return mixed.astype(np.float32)


def test_features_like_those_of_training_are_near_and_others_far() -> None:
    known = Familiarity.of(views(0), np.ones(60, np.float32))
    assert known.distances(views(0)[:NEIGHBOUR]).max() > 0  # the nearest is itself, the third is not
    near, far = known.distances(views(1)), known.distances(views(1, shift=60.0))
    assert far.min() > 1.5 * near.max()
    alone = known.distances(views(1)[4:5])
    np.testing.assert_allclose(alone, near[4:5], rtol=1e-5)


def test_a_source_of_many_pictures_does_not_outweigh_another() -> None:
    few, many = views(0, 20), views(1, 200, shift=9.0)
    weights = np.concatenate([np.full(20, 20**-0.5), np.full(200, 200**-0.5)]).astype(np.float32)
    known = Familiarity.of(np.concatenate([few, many]), weights)
    equal = Familiarity.of(np.concatenate([few, many]), np.ones(220, np.float32))
    middle = (few.mean() + many.mean()) / 2
    assert abs(known.centre.mean() - middle) < abs(equal.centre.mean() - middle)


def write_model(path: Path, limit: float | None) -> FloodSegmenter:
    torch.manual_seed(0)
    tensors = {name: value.half() for name, value in FloodSam(TINY).state_dict().items() if value.ndim}
    header = {"architecture": "flood_sam", "config": json.dumps({"encoder": asdict(TINY)})}
    save_file(tensors, path, metadata=with_digest(tensors, header))
    model = load_segmenter(resolved(path), "cpu", "float32")
    assert isinstance(model, FloodSegmenter) and model.familiarity is None
    if limit is None:
        return model
    seen = model.described([make_tile((64, 64), seed) for seed in range(40)])
    known = Familiarity.of(seen, np.ones(40, np.float32))
    tensors |= {name: torch.from_numpy(array) for name, array in known.arrays().items()}
    header |= {KEY: json.dumps({"limit": limit})}
    save_file(tensors, path, metadata=with_digest(tensors, header))
    model = load_segmenter(resolved(path), "cpu", "float32")
    assert isinstance(model, FloodSegmenter)
    return model


def test_a_model_without_training_features_warns_of_nothing(tmp_path: Path) -> None:
    assert write_model(tmp_path / "m.safetensors", None).ood_score([make_tile((64, 64))]) == 0


def test_training_features_in_the_file_of_the_weights_score_tiles(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors", 2.0)
    own, flat = make_tile((64, 64), 99), make_tile((64, 64))
    flat.rgb[:] = 128
    one, other = model.ood_score([own]), model.ood_score([flat])
    assert 0 < one < other
    assert model.ood_score([own, flat]) == pytest.approx((one + other) / 2, rel=1e-4)
    assert model.described([make_tile((70, 50))]).shape == model.described([own]).shape
    for wrapped in (Mirrored(model), WithInfrared(model, Infrared((0, 0), (1, 1), 1, 1))):
        assert wrapped.ood_score([own]) == one


class Stranger(FakeSegmenter):
    far = 1.3

    def ood_score(self, tiles: object) -> float:
        self.looked_at = len(tiles)  # type: ignore[arg-type]
        return self.far


def test_windows_all_over_the_scene_are_scored_but_no_unobserved_ones(make_scene: SceneFactory) -> None:
    model = Stranger()
    for shape_hw, count in (((90, 130), 1), ((600, 1300), 9), ((2000, 2600), 16)):
        with Scene.open(make_scene(shape_hw=shape_hw, name=f"{shape_hw[1]}.tif")) as scene:
            (line,) = ood_warnings(scene, model)
            assert model.looked_at == count and "1.3 times" in line and str(scene.path) in line
    pixels = np.full((3, 600, 1300), 90, np.uint8)
    pixels[:, :, :700] = 0
    with Scene.open(make_scene(pixels=pixels, nodata=0, name="half.tif")) as scene:
        ood_warnings(scene, model)
        assert 0 < model.looked_at < 9
    model.far = 0.9
    with Scene.open(make_scene(name="usual.tif")) as scene:
        assert ood_warnings(scene, model) == ()


def test_the_warning_stands_in_log_json_report_and_info(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, model = make_scene(name="s.tif"), Stranger()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda name, device: model)
    monkeypatch.setattr(inspection, "shipped_model", lambda: model)
    assert run(["segment", str(scene), "-o", str(tmp_path / "out"), "--report"]) == 0
    assert "unlike all that fake was trained on" in capsys.readouterr().err
    assert any("unlike all" in line for line in json.loads((tmp_path / "out" / "s.json").read_text())["warnings"])
    assert "unlike all" in (tmp_path / "out" / "s_report.html").read_text("utf-8")
    assert run(["info", str(scene), "--json"]) == 0
    said = capsys.readouterr()
    assert "unlike all" in said.err and "unlike all" in json.loads(said.out)[0]["warnings"][-1]


@pytest.mark.slow
def test_the_shipped_model_warns_of_noise_radar_and_maps_but_not_of_an_aerial_picture(make_scene: SceneFactory) -> None:
    model = load_segmenter(resolve("finetuned"), "cpu")
    with Scene.open(SAMPLE) as scene:
        assert ood_warnings(scene, model) == ()
    rng = np.random.default_rng(0)
    odd = {
        "noise": rng.integers(0, 256, (3, 512, 512), np.uint8),
        "radar": np.repeat(rng.gamma(1, 50, (1, 512, 512)).clip(0, 255).astype(np.uint8), 3, axis=0),
        "map": np.full((3, 512, 512), 255, np.uint8),
    }
    for number, colour in enumerate([(255, 0, 0), (0, 90, 255), (20, 20, 20)] * 8):
        for axis in (1, 2):
            line = np.swapaxes(odd["map"], 1, axis)[:, 21 * number + 3 * axis :][:, :2]
            line[:] = np.array(colour)[:, None, None]
    for name, pixels in odd.items():
        with Scene.open(make_scene(pixels=pixels, name=f"{name}.tif")) as scene:
            assert len(ood_warnings(scene, model)) == 1, name
