"""Training on a user's labelled imagery."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from safetensors import safe_open
from test_train import CONFIG, make_source

import floodmap.finetune
from floodmap.errors import LabelError, ModelError, OutputError
from floodmap.finetune import FineTuneOptions, curves_of, fine_tune, fingerprint_of, pieces, sources
from floodmap.frames import FloodRule
from floodmap.labels import Labelled, find_labels
from floodmap.models import resolve
from floodmap.segmenter import FloodSegmenter, load_segmenter
from floodmap.train import TrainConfig, train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = make_source(side=128)
    return train(replace(CONFIG, steps=1), [source], source.samples, tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(TrainConfig, sizes=CONFIG.sizes, size_shares=CONFIG.size_shares)
    monkeypatch.setattr(floodmap.finetune, "TrainConfig", small)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for i in range(4):
        rng = np.random.default_rng(i)
        mask = np.zeros((128, 128), np.uint8)
        mask[:, : 30 + 20 * i] = 1
        rgb = rng.integers(0, 120, (128, 128, 3)).astype(np.uint8)
        rgb[mask == 1] += np.uint8(100)
        Image.fromarray(rgb).save(tmp_path / "set" / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{i}.png")
    return tmp_path / "set"


def test_training_writes_weights_that_segment_and_say_what_they_are_made_of(
    data: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    options = FineTuneOptions(base=str(base), epochs=6, val_share=0.25)
    assert fine_tune(data, out, options) == out
    assert isinstance(load_segmenter(resolve(str(out)), "cpu"), FloodSegmenter)
    with safe_open(out, framework="pt") as file:
        told = json.loads(file.metadata()["training"])
    assert len(told["train"]) == 3 and len(told["val"]) == 1 and told["base"] == str(base)
    assert told["data"] == fingerprint_of(find_labels(data).labelled)
    log = curves_of(out)
    assert log is not None and len(log["loss"]) >= 1 and (tmp_path / "mine_run" / "curves.png").stat().st_size > 1000
    with pytest.raises(OutputError, match="exists already"):
        fine_tune(data, out, options)


def test_what_cannot_be_trained_is_refused_and_nothing_is_written(data: Path, base: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "mine.safetensors", FineTuneOptions(base=str(base))
    with pytest.raises(OutputError, match=r"end in \.safetensors"):
        fine_tune(data, tmp_path / "mine.pt", options)
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError):
        fine_tune(data, out, replace(options, base=str(tmp_path / "other.safetensors")))
    (data / "masks" / "1.png").unlink()
    with pytest.raises(LabelError, match="1 findings"):
        fine_tune(data, out, replace(options, strict=True))
    for i in (2, 3):
        (data / "masks" / f"{i}.png").unlink()
    with pytest.raises(LabelError, match="left to train on"):
        fine_tune(data, out, options)
    assert not out.exists() and not (tmp_path / "mine_run").exists()
    with pytest.raises(LabelError, match="above 0"):
        FineTuneOptions(epochs=0)


def test_an_unfinished_run_is_neither_lost_nor_mixed_with_another(data: Path, base: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "mine.safetensors", FineTuneOptions(base=str(base), epochs=1, val_share=0.25)
    fine_tune(data, out, options)
    out.unlink()
    with pytest.raises(OutputError, match="--resume"):
        fine_tune(data, out, options)
    with pytest.raises(OutputError, match="other data or settings"):
        fine_tune(data, out, replace(options, seed=5), resume=True)
    assert fine_tune(data, out, options, resume=True) == out


def test_scenes_are_cut_into_pieces_and_seen_from_above(tmp_path: Path) -> None:
    profile = {
        "driver": "GTiff", "width": 2000, "height": 300, "dtype": "uint8", "crs": CRS.from_epsg(32643),
        "transform": rasterio.transform.from_origin(500_000, 3_000_000, 0.5, 0.5),
    }  # fmt: skip
    rgb = np.random.default_rng(0).integers(1, 255, (3, 300, 2000)).astype(np.uint8)
    mask = np.zeros((300, 2000), np.uint8)
    mask[:, 1500:] = 1
    mask[:10] = 255
    with rasterio.open(tmp_path / "river.tif", "w", count=3, **profile) as file:
        file.write(rgb)
    with rasterio.open(tmp_path / "river_reference.tif", "w", count=1, **profile) as file:
        file.write(mask, 1)
    [one] = find_labels(tmp_path).labelled
    found = list(pieces(one, FloodRule(values=(1.0,))))
    assert [piece.name for piece in found] == ["river-0", "river-1"]
    assert all(piece.rgb.shape[1:] == piece.mask.shape and (piece.mask[:10] == 255).all() for piece in found)
    assert sum(int((piece.mask == 1).sum()) for piece in found) > 0
    assert [source.from_above for source in sources([one], found)] == [True]


def test_the_fingerprint_depends_on_pixels_not_on_places(data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    before = fingerprint_of(find_labels(data).labelled)
    data.rename(moved)
    assert fingerprint_of(find_labels(moved).labelled) == before
    (moved / "masks" / "0.png").write_bytes((moved / "masks" / "1.png").read_bytes())
    assert fingerprint_of(find_labels(moved).labelled) != before
    assert fingerprint_of([Labelled(name="x", image=moved / "images" / "0.png", label=None)]) != before
