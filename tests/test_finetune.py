"""Training on a user's labelled imagery."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from PIL import Image
from rasterio.crs import CRS
from safetensors import safe_open
from safetensors.torch import load_file
from test_train import CONFIG, make_source, scored

import floodmap.training.finetune
import floodmap.training.loop
from floodmap.errors import LabelError, ModelError, OutputError
from floodmap.masks.labels import Labelled, find_labels
from floodmap.masks.rules import FloodRule
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.meta_sam import Sam
from floodmap.models.sam.vit import VIT, VitShape, vit_encoder
from floodmap.models.training_record import TrainedModel, curves_of
from floodmap.options import FineTuneOptions
from floodmap.training.config import TrainConfig
from floodmap.training.finetune import fine_tune
from floodmap.training.labelled import fingerprint_of, pieces, sources
from floodmap.training.loop import Checkpoint, train
from floodmap_cli.main import cli


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = make_source(side=128)
    return train(replace(CONFIG, steps=1), [source], source.samples, tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(TrainConfig, sizes=CONFIG.sizes, size_shares=CONFIG.size_shares)
    monkeypatch.setattr(floodmap.training.finetune, "TrainConfig", small)


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


@pytest.mark.slow
def test_training_writes_weights_that_segment_and_record_their_data(data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    options = FineTuneOptions(base=str(base), epochs=6, val_share=0.25)
    seen: list[Checkpoint] = []
    model = fine_tune(data, out, options, on_checkpoint=seen.append)
    assert model == TrainedModel.read(out) and model.path == out and model.run_folder.is_dir()
    assert len(model.train) == 3 and len(model.val) == 1 and model.val_iou >= model.val_iou_before
    assert (
        model.val_iou_before == pytest.approx(seen[0].val_iou, abs=1e-4)
        and math.isnan(seen[0].loss)
        and seen[-1].share == 1
    )
    assert "min left" in str(seen[1]) and "min left" not in str(seen[-1])
    record, (first, *_) = resolve(str(out)).training, sorted((data / "images").iterdir())
    assert record is not None and record.role_of(first) in ("train", "val") and len(record.train) == 3
    assert record.role_of(data / "masks" / "0.png") is None
    assert isinstance(load_segmenter(resolve(str(out)), "cpu"), FloodSegmenter)
    with safe_open(out, framework="pt") as file:
        told = json.loads(file.metadata()["training"])
    assert len(told["train"]) == 3 and len(told["val"]) == 1 and told["base"] == str(base)
    assert told["data"] == fingerprint_of(find_labels(data).labelled)
    log = curves_of(out)
    assert log is not None and len(log["loss"]) == len(seen)
    assert {"loss", "val_loss", "train_iou", "val_iou"} < set(log) and (
        tmp_path / "mine_run" / "curves.png"
    ).stat().st_size > 1000
    with pytest.raises(OutputError, match="exists already"):
        fine_tune(data, out, options)


def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validation is better than the last; without a gain a run would keep its initial weights."""
    rank = count(1)
    monkeypatch.setattr(floodmap.training.loop, "validate", lambda *_: scored(next(rank) / 100))


@pytest.fixture
def tiny_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a very small SAM in Meta's format."""
    shape = VitShape(embed_dim=32, depth=2, num_heads=2, global_attention=())
    monkeypatch.setitem(VIT, "vit_tiny", shape)
    monkeypatch.setattr(floodmap.training.finetune, "SAM_PAIRS", 1)
    always_better(monkeypatch)
    torch.manual_seed(0)
    torch.save(Sam(vit_encoder(shape)).state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["decoder", "lora", "full"])
def test_metas_sam_is_trained_and_then_knows_floods(data: Path, tiny_sam: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "mine.safetensors"
    options = FineTuneOptions(base=str(tiny_sam), what=what, epochs=1, val_share=0.25, views=1)  # type: ignore[arg-type]
    fine_tune(data, out, options)
    segmenter = load_segmenter(resolve(str(out)), "cpu")
    assert isinstance(segmenter, FloodSegmenter) and segmenter.knows_floods
    before = torch.load(tiny_sam, weights_only=True)
    after = load_file(out)
    assert set(after) == set(before)  # adapters are merged
    changed = {name for name in before if not torch.equal(before[name].half(), after[name])}
    encoder = {name for name in changed if name.startswith("image_encoder")}
    adapted = {f"image_encoder.blocks.{i}.attn.qkv.weight" for i in range(2)}
    assert encoder == {"decoder": set(), "lora": adapted}.get(what, encoder) and any("mask_dec" in n for n in changed)
    assert what != "full" or len(encoder) > 10
    floodmap.segment(data / "images" / "1.png", out=tmp_path / "out", model=str(out))
    assert (tmp_path / "out" / "1_mask.tif").exists()
    if what == "decoder":
        again = tmp_path / "again.safetensors"
        fine_tune(data, again, replace(options, base=str(out)))  # what was trained can be trained further
        assert again.exists()


@pytest.mark.slow
def test_adapters_are_for_attention(data: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="works only with a SAM encoder"):
        fine_tune(data, tmp_path / "mine.safetensors", FineTuneOptions(base=str(base), what="lora"))


@pytest.mark.slow
def test_a_decoder_learns_from_encodings_on_disk(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_better(monkeypatch)
    out = tmp_path / "mine.safetensors"
    options = FineTuneOptions(base=str(base), what="decoder", epochs=4, val_share=0.25, views=2)
    calls = count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floodmap.training.finetune, "find_swapped_masks", lambda *_: [])
        encode = FloodSam.encode
        patch.setattr(FloodSam, "encode", lambda *args: (next(calls), encode(*args))[1])
        fine_tune(data, out, options)
    assert next(calls) == 2  # one batch, far and near; validation, which encodes as well, is left out here
    assert not list((tmp_path / "mine_run").glob("encodings*"))


@pytest.mark.slow
def test_several_processes_train_one_model(data: Path, base: Path, tmp_path: Path) -> None:
    program = (
        "import sys, torch.distributed; from functools import partial; from pathlib import Path\n"
        "import floodmap.training.finetune as f\n"
        "f.TrainConfig = partial(f.TrainConfig, sizes=((64, 64, 2),), size_shares=(1.0,))\n"
        "options = f.FineTuneOptions(base=sys.argv[3], epochs=6, val_share=0.25)\n"
        "f.fine_tune(Path(sys.argv[1]), Path(sys.argv[2]), options)\n"
        "torch.distributed.destroy_process_group()\n"
    )
    (tmp_path / "two.py").write_text(program)
    out = tmp_path / "mine.safetensors"
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "two.py")]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(data), str(out), str(base)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert isinstance(load_segmenter(resolve(str(out)), "cpu"), FloodSegmenter)
    saved = torch.load(tmp_path / "mine_run" / "last.pt", weights_only=True)
    assert len(saved["draws"]) == 2 and not torch.equal(*saved["draws"])


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_unfinished_run_is_neither_lost_nor_mixed_with_another(data: Path, base: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "mine.safetensors", FineTuneOptions(base=str(base), epochs=1, val_share=0.25)
    fine_tune(data, out, options)
    out.unlink()
    with pytest.raises(OutputError, match="--resume"):
        fine_tune(data, out, options)
    with pytest.raises(OutputError, match="other data or settings"):
        fine_tune(data, out, replace(options, seed=5), resume=True)
    assert fine_tune(data, out, options, resume=True).path == out


@pytest.mark.slow
def test_overwrite_with_resume_goes_on_with_the_run_it_fits_and_replaces_any_other(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "mine.safetensors", FineTuneOptions(base=str(base), epochs=1, val_share=0.25)
    out.write_bytes(b"an older result")
    found: list[bool] = []

    def broken_off(config: object, source: object, validation: object, folder: Path, *_: object) -> None:
        found.append((folder / "last.pt").exists())
        (folder / "last.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(floodmap.training.finetune, "train", broken_off)
    for changed, resume in ((options, False), (options, True), (replace(options, seed=5), True), (options, False)):
        with pytest.raises(KeyboardInterrupt):
            fine_tune(data, out, changed, overwrite=True, resume=resume)
    assert found == [False, True, False, False]


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


@pytest.mark.slow
def test_the_command_prints_a_line_a_checkpoint_and_before_and_after(data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    words = ["train", str(data), "-o", str(out), "--base", str(base), "--epochs", "2", "--val-share", "0.25"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert lines[0].startswith("step 0: validation loss ") and "on training pictures" in lines[0]
    assert re.match(r"step \d+: loss \d\.\d+, validation loss .* IoU .* on validation", lines[-1])
    assert re.search(r"mean IoU 0\.\d{3}, before 0\.\d{3}, on 1 pictures it was not trained on", done.stdout)
    told = CliRunner().invoke(cli, ["models", "info", str(out), "--json"], catch_exceptions=False)
    training = json.loads(told.stdout)["training"]
    assert training["train_pictures"] == 3 and training["val_pictures"] == 1 and "keys" not in training
