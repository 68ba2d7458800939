from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SceneFactory
from safetensors.torch import save_file
from test_segmenter import TINY, make_tile, resolved

from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.prompts import Prompts
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.ground import MAX_GSD_M, MIN_GSD_M, OCTAVES, GroundScale
from floodmap.training.samples import Sample, Source
from floodmap.training.sampling import PairSampler

SCALED = replace(TINY, scaled=True)


def learned(network: FloodSam) -> FloodSam:
    """The network with random vectors of ground sample distance, as if trained."""
    assert network.ground_scale is not None
    torch.nn.init.normal_(network.ground_scale.weight, std=0.3)
    return network.eval()


def test_every_octave_has_its_vectors_and_what_lies_between_is_mixed() -> None:
    scale = GroundScale(dim=4, count=2)
    torch.nn.init.normal_(scale.weight)
    octaves = MIN_GSD_M * 2.0 ** torch.arange(OCTAVES)
    first, second = scale(octaves)
    assert first.shape == second.shape == (OCTAVES, 4)
    assert len(first.unique(dim=0)) == OCTAVES
    between, _ = scale(octaves[3:4] * 2**0.5)
    torch.testing.assert_close(between[0], (first[3] + first[4]) / 2)
    ends, _ = scale(torch.tensor([MIN_GSD_M / 9, MAX_GSD_M * 9, 0.0]))
    torch.testing.assert_close(ends[:2], first[[0, -1]])
    assert not any(torch.equal(ends[2], one) for one in first)


@torch.no_grad()
def test_a_network_untrained_on_scale_predicts_the_same_at_any_resolution() -> None:
    torch.manual_seed(0)
    network = FloodSam(SCALED).eval()
    plain = FloodSam(TINY).eval()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "ground_scale" not in name})
    rgb, valid = torch.rand(2, 3, 64, 64) * 255, torch.ones(2, 64, 64, dtype=torch.bool)
    expected, _ = plain(rgb, valid)
    for told in (None, torch.tensor([0.05, 2.0])):
        torch.testing.assert_close(network(rgb, valid, gsd_m=told)[0], expected)
    learned(network)
    assert not torch.equal(network(rgb, valid, gsd_m=torch.tensor([0.05, 2.0]))[0], expected)


@torch.no_grad()
def test_the_resolution_of_each_picture_stays_with_it() -> None:
    network = learned(FloodSam(SCALED))
    rgb, valid = torch.rand(1, 3, 64, 64).expand(3, -1, -1, -1) * 255, torch.ones(3, 64, 64, dtype=torch.bool)
    encoded = network.encode(rgb, valid, torch.tensor([0.05, 2.0, 0.0]))
    all_logits, _ = network.decode(encoded)
    for number, gsd_m in enumerate((0.05, 2.0, 0.0)):
        part = slice(number, number + 1)
        torch.testing.assert_close(network.decode(encoded[part])[0], all_logits[part], atol=1e-4, rtol=1e-4)
        alone, _ = network(rgb[part], valid[part], gsd_m=torch.tensor([gsd_m]))
        torch.testing.assert_close(alone, all_logits[part], atol=1e-4, rtol=1e-4)
    assert encoded.crop(slice(0, 32), slice(0, 32)).ground is encoded.ground


def scaled_segmenter(path: Path) -> FloodSegmenter:
    torch.manual_seed(0)
    state = {name: value.half() for name, value in learned(FloodSam(SCALED)).state_dict().items() if value.ndim}
    config = json.dumps({"encoder": asdict(SCALED)})
    save_file(state, path, metadata={"architecture": "flood_sam", "config": config})
    loaded = load_segmenter(resolved(path), "cpu", "float32")
    assert isinstance(loaded, FloodSegmenter)
    return loaded


def test_tiles_give_the_model_their_resolution_at_every_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = scaled_segmenter(tmp_path / "scaled.safetensors")
    tiles = [replace(make_tile((64, 64)), gsd_m=gsd_m) for gsd_m in (0.05, 2.0, 0.0)]
    found = segmenter.predict(tiles, [Prompts.none()] * 3)
    assert all(not np.allclose(found[i], found[i - 1]) for i in range(3))
    told: list[float] = []
    encode = FloodSam.encode

    def heard(self: FloodSam, rgb: torch.Tensor, valid: torch.Tensor, gsd_m: torch.Tensor) -> object:
        told.extend(gsd_m.tolist())
        return encode(self, rgb, valid, gsd_m)

    monkeypatch.setattr(FloodSam, "encode", heard)
    point = Prompts(points_xy=np.array([[40.0, 20.0]]), labels=np.array([1]))
    segmenter.predict(tiles[:1], [point])
    assert told == pytest.approx([0.05, 0.05 / 0.7, 0.05 / 1.4])


def test_tiles_and_far_views_of_a_scene_have_their_own_pixel_size(make_scene: SceneFactory) -> None:
    with Scene.open(make_scene(shape_hw=(90, 130), name="placed.tif")) as scene:
        assert scene.gsd_m is not None
        tile = scene.read(Window(0, 0, 64, 64))
        assert tile.gsd_m == tile.part(Window(8, 8, 16, 16)).gsd_m == scene.gsd_m
        assert scene.shrunk(Window(0, 0, 20, 30), 4).gsd_m == 4 * scene.gsd_m
    with Scene.open(make_scene(shape_hw=(90, 130), name="plain.tif", crs=None, transform=None)) as scene:
        assert scene.read(Window(0, 0, 64, 64)).gsd_m == scene.shrunk(Window(0, 0, 20, 30), 4).gsd_m == 0


def test_views_have_noisy_pixel_sizes_and_some_have_none() -> None:
    rgb, mask = np.full((3, 600, 600), 90, np.uint8), np.zeros((600, 600), np.uint8)
    source = Source(
        name="s", samples=[Sample("a", rgb, mask, gsd_m=0.1)], share=1.0, from_above=True, zoom=(2.0, 2.0),
        factor=(4.0, 4.0), rim=9.0,
    )  # fmt: skip
    pairs = PairSampler([source], torch.Generator().manual_seed(0)).batch(200, 32, 32)
    near, far = pairs.near.gsd_m, pairs.far.gsd_m
    told = near > 0
    assert 0.6 < told.float().mean() < 0.9
    torch.testing.assert_close(far, 4 * near)
    unknown = replace(source, samples=[Sample("a", rgb, mask)])
    assert (PairSampler([unknown]).batch(8, 32, 32).near.gsd_m == 0).all()
    assert near[told].log().mean().exp() == pytest.approx(0.2, rel=0.05)
