from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from floodmap.errors import ModelError
from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.models.backends.dispatch import TileBatch
from floodmap.models.flood_segmenter import FloodSegmenter, cpu_batches
from floodmap.models.loading import load_segmenter, pick_device
from floodmap.models.mask_prompts import mask_logits
from floodmap.models.prompts import Prompts, pick_prompts
from floodmap.models.registry import ResolvedModel, resolve
from floodmap.models.sam.common import Encoded
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.meta_sam import Sam
from floodmap.models.sam.vit import VitShape, vit_encoder
from floodmap.models.sam_segmenter import SamSegmenter, prompt_sets, tokens

TINY = EncoderConfig(stem=16, widths=(16, 16, 16, 16, 16, 16, 32), depths=(1, 1, 1, 1, 1, 1, 1), embed_dim=64)


def save_tiny(path: Path, **header: str) -> ResolvedModel:
    """A tiny model with random weights, as training writes it."""
    torch.manual_seed(0)
    state = {k: v.half() if v.is_floating_point() else v for k, v in FloodSam(TINY).state_dict().items()}
    config = json.dumps({"encoder": asdict(TINY)})
    save_file(state, path, metadata={"architecture": "flood_sam", "config": config, **header})
    return resolved(path)


def resolved(path: Path) -> ResolvedModel:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ResolvedModel(path=path, name=path.stem, architecture=None, sha256=digest)


@pytest.fixture
def segmenter(tmp_path: Path) -> FloodSegmenter:
    loaded = load_segmenter(save_tiny(tmp_path / "tiny.safetensors"), "cpu", "float32")
    assert isinstance(loaded, FloodSegmenter)
    return loaded


def make_tile(shape_hw: tuple[int, int], seed: int = 0) -> Tile:
    generator = np.random.default_rng(seed)
    rgb = generator.integers(0, 256, (3, *shape_hw), np.uint8)
    return Tile(Window(0, 0, *shape_hw), rgb, np.zeros(shape_hw, np.uint8))


@pytest.mark.parametrize("shape_hw", [(1, 1), (33, 70), (64, 64)])
def test_every_pixel_of_a_tile_of_any_size_gets_a_probability(
    segmenter: FloodSegmenter, shape_hw: tuple[int, int]
) -> None:
    (probability,) = segmenter.predict([make_tile(shape_hw)], [Prompts.none()])
    assert probability.shape == shape_hw and probability.dtype == np.float32
    assert probability.min() >= 0 and probability.max() <= 1


def test_a_batch_gives_what_its_tiles_give_alone(segmenter: FloodSegmenter) -> None:
    tiles = [make_tile(shape_hw, seed) for seed, shape_hw in enumerate([(64, 96), (32, 40), (64, 96)])]
    point = Prompts(points_xy=np.array([[40.0, 20.0]]), labels=np.array([1]))
    for prompts in ([Prompts.none()] * 3, [Prompts.none(), point, Prompts.from_mask(np.full((8, 12), 0.9))]):
        together = segmenter.predict(tiles, prompts)
        for i in range(3):
            alone = segmenter.predict(tiles[i : i + 1], prompts[i : i + 1])[0]
            np.testing.assert_allclose(together[i], alone, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batches"), [(1, [1]), (2, [4]), (4, [4]), (7, [4, 4]), (13, [4, 4, 4, 1])])
def test_small_tiles_are_run_together_and_none_is_mixed_up(
    segmenter: FloodSegmenter, monkeypatch: pytest.MonkeyPatch, count: int, batches: list[int]
) -> None:
    tiles = [make_tile((64, 96), seed) for seed in range(count)]
    prompts = [Prompts.from_mask(np.full((8, 12), seed / count)) for seed in range(count)]
    expected = [segmenter.predict([tile], [prompt])[0] for tile, prompt in zip(tiles, prompts, strict=True)]
    seen: list[int] = []
    own = segmenter._probabilities
    monkeypatch.setattr(segmenter, "_probabilities", lambda sent, *rest: seen.append(len(sent.rgb)) or own(sent, *rest))
    for one, alone in zip(segmenter.predict(tiles, prompts), expected, strict=True):
        np.testing.assert_allclose(one, alone, atol=1e-4)
    assert sorted(seen) == sorted(batches)


def test_tiles_with_points_and_large_tiles_are_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small, other, large = make_tile((64, 64)), make_tile((32, 64)), make_tile((128, 128))
    point = Prompts(points_xy=np.array([[40.0, 20.0]]), labels=np.array([1]))
    mask = Prompts.from_mask(np.zeros((8, 8)))
    prompts = [mask, point, mask, Prompts.none(), mask, mask, mask]
    monkeypatch.setattr("floodmap.models.flood_segmenter.SHARED", 4 * 128 * 128)
    batches = cpu_batches([small, small, small, small, other, large, large], prompts)
    assert sorted(map(sorted, batches)) == [[0, 2], [1], [3], [4], [5], [6]]


def test_windows_side_by_side_leave_the_number_of_threads_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, used = torch.get_num_threads(), set[int]()
    torch.set_num_threads(4)
    try:
        segmenter = load_segmenter(save_tiny(tmp_path / "tiny.safetensors"), "cpu", "float32")
        own = segmenter._probabilities
        monkeypatch.setattr("floodmap.models.flood_segmenter.SHARED", 0)

        def see(*args: Any) -> torch.Tensor:
            used.add(torch.get_num_threads())
            return own(*args)

        monkeypatch.setattr(segmenter, "_probabilities", see)
        segmenter.predict([make_tile((64, 64))] * 2, [Prompts.none()] * 2)
        assert used == {2} and torch.get_num_threads() == 4
        segmenter.predict([make_tile((64, 64))], [Prompts.none()])
        assert used == {2, 4}
        monkeypatch.setattr("floodmap.models.flood_segmenter.SHARED", 64 * 64 + 1)  # small tiles are not worth sharing
        segmenter.predict([make_tile((64, 64))], [Prompts.none()])
        assert used == {1, 2, 4}
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "prompts",
    [
        Prompts(points_xy=np.array([[40.0, 20.0], [3.0, 3.0]]), labels=np.array([1, 0])),
        Prompts(boxes_xyxy=np.array([[4.0, 4.0, 60.0, 40.0], [10.0, 30.0, 70.0, 60.0]])),
        Prompts.from_mask(np.linspace(0, 1, 96).reshape(8, 12)),
    ],
)
def test_prompts_of_every_kind_reach_the_model(segmenter: FloodSegmenter, prompts: Prompts) -> None:
    tile = make_tile((64, 96))
    plain, prompted = (segmenter.predict([tile], [p])[0] for p in (Prompts.none(), prompts))
    assert np.abs(plain - prompted).max() > 1e-6


def test_tiles_with_points_are_run_at_three_scales_and_others_at_their_own(
    segmenter: FloodSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], list[list[float]]]] = []
    own = segmenter._probabilities

    def see(pictures: TileBatch, prompts: Sequence[Prompts]) -> torch.Tensor:
        seen.append((tuple(pictures.rgb.shape), prompts[0].points_xy.tolist()))
        return own(pictures, prompts)

    monkeypatch.setattr(segmenter, "_probabilities", see)
    tile, point = make_tile((64, 96)), Prompts(points_xy=np.array([[48.0, 20.0]]), labels=np.array([1]))
    segmenter.predict([tile], [Prompts.none()])
    assert [shape for shape, _ in seen] == [(1, 3, 64, 96)]
    seen.clear()
    segmenter.predict([tile], [point])
    assert [shape for shape, _ in seen] == [(1, 3, 64, 96), (1, 3, 45, 67), (1, 3, 90, 134)]
    assert [points for _, [points] in seen] == [pytest.approx(xy, abs=0.3) for xy in ((48, 20), (33.6, 14), (67.2, 28))]
    boxed = Prompts(points_xy=point.points_xy, labels=point.labels, boxes_xyxy=np.array([[0.0, 0.0, 90.0, 60.0]]))
    seen.clear()
    segmenter.predict([make_tile((64, 800))], [boxed])
    assert [shape[-1] for shape, _ in seen] == [800, 560]  # beyond SAM's frame boxes have no place


def test_ground_that_is_not_observed_does_not_bleed_into_other_scales(segmenter: FloodSegmenter) -> None:
    tile, point = make_tile((64, 96)), Prompts(points_xy=np.array([[10.0, 20.0]]), labels=np.array([1]))
    reason = tile.reason.copy()
    reason[:, 50:] = 255
    results = []
    for value in (0, 255):
        rgb = tile.rgb.copy()
        rgb[:, :, 50:] = value
        results.append(segmenter.predict([replace(tile, rgb=rgb, reason=reason)], [point])[0][:, :50])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


@pytest.mark.slow
def test_half_precision_means_about_the_same_with_all_prompts(tmp_path: Path, segmenter: FloodSegmenter) -> None:
    half = load_segmenter(save_tiny(tmp_path / "half.safetensors"), "cpu", "bfloat16")
    prompts = Prompts(
        points_xy=np.array([[40.0, 30.0], [10.0, 8.0]]), labels=np.array([1, 0]),
        boxes_xyxy=np.array([[5.0, 5, 60, 60]]),
        mask=np.full((16, 16), 0.3, np.float32),
    )  # fmt: skip
    (expected,) = segmenter.predict([make_tile((64, 64))], [prompts])
    assert np.abs(half.predict([make_tile((64, 64))], [prompts])[0] - expected).max() < 0.1


def test_what_lies_in_no_box_is_dry(segmenter: FloodSegmenter) -> None:
    boxes = Prompts(boxes_xyxy=np.array([[4.0, 4.0, 60.0, 40.0], [10.0, 30.0, 70.0, 60.0]]))
    probability = segmenter.predict([make_tile((64, 96))], [boxes])[0]
    inside = boxes.bounds((64, 96))
    assert inside.sum() == 56 * 36 + 60 * 30 - 50 * 10
    assert (probability[~inside] == 0).all() and (probability[inside] > 0).all()


def test_a_coarse_likelihood_becomes_logits_over_the_tile_and_dry_beyond_it() -> None:
    logits = mask_logits(torch.full((1, 5, 7), 0.9), (40, 56), (16, 16))
    assert logits.shape == (1, 1, 16, 16)
    torch.testing.assert_close(logits[0, 0, :10, :14], torch.full((10, 14), 0.9).logit())
    assert (logits[0, 0, 10:] < -5).all() and (logits[0, 0, :, 14:] < -5).all()


def test_calibration_scales_and_shifts_the_logits_and_mask_prompts_mean_the_same(tmp_path: Path) -> None:
    plain = load_segmenter(save_tiny(tmp_path / "plain.safetensors"), "cpu", "float32")
    header = json.dumps({"scale": 0.5, "shift": 0.25})
    calibrated = load_segmenter(save_tiny(tmp_path / "one.safetensors", calibration=header), "cpu", "float32")
    assert isinstance(plain, FloodSegmenter) and isinstance(calibrated, FloodSegmenter)
    tile, coarse = make_tile((64, 96)), torch.linspace(0.1, 0.9, 96).view(8, 12)
    for own, other in ((None, None), (coarse, (coarse.logit() * 0.5 + 0.25).sigmoid())):
        raw, found = (
            torch.from_numpy(model.predict([tile], [Prompts(mask=None if mask is None else mask.numpy())])[0])
            for model, mask in ((plain, own), (calibrated, other))
        )
        torch.testing.assert_close(found, (raw.logit() * 0.5 + 0.25).sigmoid(), atol=1e-4, rtol=0)


def test_every_box_is_a_prompt_of_its_own_with_the_points_inside_it() -> None:
    sets = prompt_sets(
        Prompts(
            points_xy=np.array([[5.0, 5.0], [50.0, 50.0], [90.0, 5.0], [91.0, 6.0]]),
            labels=np.array([1, 0, 1, 0]),
            boxes_xyxy=np.array([[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 60.0, 60.0]]),
        )
    )
    assert [(len(s.boxes_xyxy), s.labels.tolist()) for s in sets] == [(1, [1]), (1, [0]), (0, [1, 0])]
    assert prompt_sets(Prompts.none()) == []


@pytest.mark.slow
def test_sam_floods_what_is_prompted_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Sam(vit_encoder(VitShape(embed_dim=16, depth=1, num_heads=2, global_attention=())))
    path = tmp_path / "tiny.pth"
    path.write_bytes(b"")
    sam = SamSegmenter(resolved(path), network, torch.device("cpu"), torch.float32)
    box = Prompts(boxes_xyxy=np.array([[4.0, 4.0, 60.0, 40.0]]))
    tiles = [make_tile((300, 500)), make_tile((300, 500), 1)]
    probability = sam.predict(tiles, [Prompts.none(), box])
    assert [one.shape for one in probability] == [(300, 500)] * 2
    assert (probability[0] == 0).all() and (probability[1] > 0).any()
    np.testing.assert_allclose(sam.predict(tiles[1:], [box])[0], probability[1], atol=1e-4)
    sam.offloads = True  # what a batch is filled up with on a GPU changes nothing
    np.testing.assert_allclose(sam.predict(tiles[1:], [box])[0], probability[1], atol=1e-4)


def flooding_sam(tmp_path: Path) -> SamSegmenter:
    """Meta's SAM with a stub network that floods the whole tile for every prompt."""
    path = tmp_path / "stub.pth"
    path.write_bytes(b"")
    network = Sam(vit_encoder(VitShape(embed_dim=16, depth=1, num_heads=2, global_attention=())))
    network.encode = lambda rgb, _: Encoded(torch.zeros(len(rgb), 1, 1, 1), None, (1024, 1024))  # type: ignore[method-assign]
    network.best_masks = lambda images, *_: torch.full((len(images), 256, 256), 5.0)  # type: ignore[method-assign]
    return SamSegmenter(resolved(path), network, torch.device("cpu"), torch.float32)


def test_what_lies_in_no_box_of_a_user_is_dry_with_meta_s_sam_too(tmp_path: Path) -> None:
    sam, tile = flooding_sam(tmp_path), make_tile((64, 96))
    box = Prompts(boxes_xyxy=np.array([[4.0, 4.0, 60.0, 40.0]]))
    inside = box.bounds((64, 96))
    probability = sam.predict([tile], [box])[0]
    assert (probability[~inside] == 0).all() and (probability[inside] > 0.9).all()


def test_boxes_that_are_picked_from_a_likelihood_do_not_limit_flood(tmp_path: Path) -> None:
    likely = np.zeros((64, 96), np.float32)
    likely[10:40, 10:40] = 1.0
    picked = pick_prompts(likely, np.ones(likely.shape, bool))
    assert len(picked.boxes_xyxy)
    sam = flooding_sam(tmp_path)
    assert (sam.predict([make_tile((64, 320))], [picked])[0] > 0.9).all()


def test_weights_from_before_there_were_maps_of_points_still_load(tmp_path: Path) -> None:
    state = {k: v for k, v in FloodSam(TINY).state_dict().items() if not k.startswith("point_maps.")}
    config = json.dumps({"encoder": asdict(TINY)})
    save_file(state, tmp_path / "old.safetensors", metadata={"architecture": "flood_sam", "config": config})
    point = Prompts(points_xy=np.array([[40.0, 20.0]]), labels=np.array([1]))
    old = load_segmenter(resolved(tmp_path / "old.safetensors"), "cpu", "float32")
    assert np.isfinite(old.predict([make_tile((64, 96))], [point])).all()


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = save_tiny(tmp_path / "whole.safetensors").path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    foreign = save_tiny(tmp_path / "foreign.safetensors", architecture="unet").path
    other = save_tiny(tmp_path / "other.safetensors", config=json.dumps({"encoder": {"embed_dim": 32}})).path
    text = tmp_path / "text.pth"
    text.write_text("no weights here")
    weights = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(2)}, weights)
    for path in (cut, foreign, other, text, weights):
        with pytest.raises(ModelError, match=path.name) as caught:
            load_segmenter(resolved(path), "cpu")
        assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="--device cpu"):
        pick_device("cuda:99")


def test_points_and_boxes_are_moved_from_corners_to_the_centres_of_pixels(
    segmenter: FloodSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centre of pixel (3, 5) is (3.5, 5.5) in `Prompts`, which count from the image's corner, and (3, 5) in SAM."""
    heard = []

    def decode(encoded: Encoded, *, points: Any, boxes: Any, masks: Any) -> tuple[torch.Tensor, None]:
        heard.append((points[0].tolist(), points[1].tolist(), boxes.tolist()))
        return torch.zeros(1, 32, 32), None

    monkeypatch.setattr(segmenter.network, "decode", decode)
    prompts = Prompts(
        points_xy=np.array([[3.5, 5.5]], np.float32), labels=np.array([1]),
        boxes_xyxy=np.array([[0.5, 1.5, 30.5, 40.5]], np.float32),
    )  # fmt: skip
    segmenter.predict([make_tile((64, 64))], [prompts])
    assert heard[0] == ([[[3, 5]]], [[1]], [[0, 1, 30, 40]])
    placed, kinds = tokens([prompts], scale=2.0)
    assert placed.tolist() == [[[6.5, 10.5], [0.5, 2.5], [60.5, 80.5]]] and kinds.tolist() == [[1, 2, 3]]


@pytest.mark.slow
@pytest.mark.parametrize("pointed", [True, False])
def test_the_last_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, pointed: bool) -> None:
    monkeypatch.setattr("floodmap.models.flood_segmenter.SHARED", 1)  # several threads for a tile of any size
    rng, before = np.random.default_rng(0), torch.get_num_threads()
    rgb = np.repeat(np.repeat(rng.integers(0, 256, (3, 40, 40)).astype(np.uint8), 8, axis=1), 8, axis=2)
    tile = Tile(Window(0, 0, 320, 320), rgb, np.zeros((320, 320), np.uint8), gsd_m=0.3)
    points = {"points_xy": np.array([[100, 100], [200, 50]]), "labels": np.array([1, 0])} if pointed else {}
    prompts = Prompts(mask=rng.random((80, 80), np.float32), **points)
    found = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            segmenter = load_segmenter(resolve("finetuned"), "cpu", "bfloat16")
            found.append(segmenter.predict([tile], [prompts])[0].copy())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
