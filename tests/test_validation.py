"""Validation during training: scores of a model on whole pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.crs import CRS

import floodmap.training.validation
from floodmap.masks.labels import Labelled
from floodmap.masks.rules import FloodRule
from floodmap.training.labelled import fingerprint_of, pieces, sources
from floodmap.training.samples import Sample
from floodmap.training.validation import validate

PLACE = {"crs": CRS.from_epsg(32643), "transform": rasterio.transform.from_origin(500_000, 3_000_000, 0.5, 0.5)}
RULE = FloodRule(values=(1.0,))


class Spy(torch.nn.Module):
    """A stand-in for Meta's network that calls nothing flooded, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def encode(self, rgb: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        self.given.append((rgb, valid))
        return rgb

    def decode(self, encoded: torch.Tensor, masks: torch.Tensor | None) -> tuple[torch.Tensor]:
        return (torch.full((1, encoded.shape[2] // 4, encoded.shape[3] // 4), -1.0),)


def scene_of(folder: Path, rgb: np.ndarray, mask: np.ndarray, **profile: object) -> Labelled:
    """Write a placed scene and its mask."""
    shape = {"driver": "GTiff", "height": mask.shape[0], "width": mask.shape[1], "dtype": "uint8", **PLACE}
    one = Labelled(name="flood", image=folder / "flood.tif", label=folder / "flood_reference.tif")
    with rasterio.open(one.image, "w", count=len(rgb), **{**shape, **profile}) as file:
        file.write(rgb)
    with rasterio.open(folder / "flood_reference.tif", "w", count=1, **shape) as file:
        file.write(mask, 1)
    return one


def test_validation_hands_nodata_to_the_network_as_invalid_in_both_passes(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(100, 200, (3, 64, 64)).astype(np.uint8)
    rgb[:, :, 33:] = 0
    [sample] = pieces(scene_of(tmp_path, rgb, np.zeros((64, 64), np.uint8), nodata=0), RULE)
    model = Spy()
    validate(model, [sample], torch.device("cpu"))  # type: ignore[arg-type]
    (coarse_rgb, coarse), (_, fine) = model.given
    assert fine[0, :, :33].all() and not fine[0, :, 33:].any()
    assert coarse[0, :, :17].all() and not coarse[0, :, 17:].any()
    assert coarse_rgb[0, :, :, 16].min() >= 100  # the mean of the valid pixels alone


def test_pixels_are_valid_where_a_sample_says_nothing() -> None:
    model = Spy()
    rgb = np.arange(3 * 40 * 40, dtype=np.uint32).astype(np.uint8).reshape(3, 40, 40)
    validate(model, [Sample("a", rgb, np.zeros((40, 40), np.uint8))], torch.device("cpu"))  # type: ignore[arg-type]
    assert [int(valid.sum()) for _, valid in model.given] == [20 * 20, 40 * 40]
    assert torch.equal(model.given[1][0][0, :, :40, :40], torch.from_numpy(rgb).float())


def test_the_validation_iou_of_a_scene_counts_the_pixels_of_all_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.zeros((3, 32, 32), np.uint8)
    wet = np.zeros((32, 32), np.uint8)
    wet[:, :16] = 1
    dry = np.zeros_like(wet)

    def quarter(model: object, sample: Sample, device: object) -> tuple[torch.Tensor, torch.Tensor]:
        found = np.where(np.arange(32)[:, None] < 8, sample.mask == 1, False)
        logits = torch.from_numpy(np.where(found, 1.0, -1.0).astype(np.float32))
        return logits, logits

    monkeypatch.setattr(floodmap.training.validation, "sample_logits", quarter)
    cut = [Sample(f"a-{i}", rgb, wet if i == 0 else dry, picture="a") for i in range(10)]
    alone = [Sample("b", rgb, dry), Sample("b", rgb, dry)]  # samples without `picture` are pictures of their own
    assert validate(None, cut, torch.device("cpu")).iou == pytest.approx(0.25)  # type: ignore[arg-type]
    both = validate(None, [*cut, *alone], torch.device("cpu"))  # type: ignore[arg-type]
    assert both.iou == both.iou_unprompted == pytest.approx((0.25 + 1 + 1) / 3)


def test_a_photograph_is_no_piece_of_a_scene_whose_name_its_own_begins_with(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(1, 255, (3, 48, 48)).astype(np.uint8)
    scene = scene_of(tmp_path, rgb, np.zeros((48, 48), np.uint8))
    photo = Labelled(name="flood-1", image=tmp_path / "flood-1.png", label=tmp_path / "flood-1_mask.png")
    Image.fromarray(rgb.transpose(1, 2, 0)).save(photo.image)
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "flood-1_mask.png")
    samples = [piece for one in (scene, photo) for piece in pieces(one, RULE)]
    found = {source.name: [one.name for one in source.samples] for source in sources([scene, photo], samples)}
    assert found == {"scenes": ["flood"], "photographs": ["flood-1"]}


def test_the_fingerprint_of_labels_changes_with_the_attributes_of_a_shapefile(tmp_path: Path) -> None:
    image = tmp_path / "town.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    for suffix in (".shp", ".shx", ".dbf", ".prj"):
        (tmp_path / f"town{suffix}").write_bytes(b"first")
    labelled = [Labelled(name="town", image=image, label=tmp_path / "town.shp")]
    before = fingerprint_of(labelled)
    assert fingerprint_of(labelled) == before
    (tmp_path / "town.dbf").write_bytes(b"other")
    assert fingerprint_of(labelled) != before
