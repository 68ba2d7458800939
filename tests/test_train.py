from __future__ import annotations

import csv
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy import ndimage
from test_dataset import make_source

import floodmap.training.loop
from floodmap.comparison.oracle import add_point
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.prompts import Prompts
from floodmap.models.registry import resolve
from floodmap.models.sam.common import SUREST
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.strips.codes import FLOOD
from floodmap.training.checkpoint import build
from floodmap.training.config import TrainConfig
from floodmap.training.distributed import ProcessGroup
from floodmap.training.loop import make_optimizer, schedule, train
from floodmap.training.loss import draw_interval, flood_loss
from floodmap.training.sampling import Batches, PairSampler
from floodmap.training.simulated_prompts import (
    cells_of,
    deepest_points,
    drop_flood,
    perturb_coarse,
    relabel_region,
    simulate_boxes,
    simulate_points,
)
from floodmap.training.trainer import Trainer, set_training, train_step
from floodmap.training.validation import Validation

# Not smaller: with 8 channels torch 2.15 writes past its memory in the backward pass of bfloat16 convolutions on CPUs.
CONFIG = TrainConfig(
    encoder=EncoderConfig(widths=(16, 16, 16, 32, 32, 32, 64), depths=(1, 1, 1, 1, 1, 1, 1), embed_dim=128),
    minutes=0.02,
    checkpoint_minutes=1.0, sizes=((64, 64, 2), (64, 96, 1)), size_shares=(0.5, 0.5),
)  # fmt: skip


@pytest.mark.slow
def test_training_writes_a_model_that_segments_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    source = make_source(side=128)
    weights = train(replace(CONFIG, steps=2), [source], source.samples, tmp_path)
    assert isinstance(load_segmenter(resolve(str(weights)), "cpu"), FloodSegmenter)
    with safe_open(weights, framework="pt") as file:
        assert '"steps"' in file.metadata()["scores"]
    train(replace(CONFIG, steps=4), [source], source.samples, tmp_path)
    with (tmp_path / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [2, 4]


@pytest.mark.slow
def test_a_run_by_the_clock_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    source = make_source(side=128)
    train(replace(CONFIG, minutes=0.001), [source], source.samples, tmp_path)
    with (tmp_path / "log.csv").open() as file:
        [row] = csv.DictReader(file)
    assert int(row["step"]) == 1


@pytest.mark.slow
def test_a_run_broken_off_and_resumed_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    source = make_source(side=128)
    config = replace(CONFIG, steps=6, checkpoint_steps=2)
    train(config, [source], source.samples, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        calls = count()
        step = floodmap.training.trainer.train_step

        def breaking_off(*args: object) -> float:
            if next(calls) == 3:  # after a checkpoint, in the middle of the next
                raise KeyboardInterrupt
            return step(*args)  # type: ignore[arg-type]

        patch.setattr(floodmap.training.loop, "train_step", breaking_off)
        with pytest.raises(KeyboardInterrupt):
            train(config, [source], source.samples, tmp_path / "broken")
    train(config, [source], source.samples, tmp_path / "broken")
    whole, broken = ((tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "broken"))
    without_minutes = [
        [[cell for i, cell in enumerate(line.split(",")) if i != 1] for line in log] for log in (whole, broken)
    ]
    assert without_minutes[0] == without_minutes[1] and len(whole) == 4
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_other_processes_draw_the_same_batches() -> None:
    sampler = PairSampler([make_source(side=128)])
    alone, helped = (Batches(sampler, replace(CONFIG, workers=workers), first=3) for workers in (0, 2))
    for number in range(3, 8):
        one, other = next(alone), next(helped)
        assert torch.equal(one.near.rgb, other.near.rgb) and torch.equal(one.near.rgb, alone[number].near.rgb)


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_was(tmp_path: Path) -> None:
    source = make_source(side=128)
    base = train(replace(CONFIG, steps=1), [source], source.samples, tmp_path / "base")
    config = replace(CONFIG, steps=3, what="decoder", ema_steps=1)
    tuned = train(config, [source], source.samples, tmp_path / "tuned", base)
    before, after = load_file(base), load_file(tuned)
    weights = [key for key in before if before[key].is_floating_point()]
    changed = {key.split(".")[0] for key in weights if not torch.equal(before[key], after[key])}
    assert "mask_decoder" in changed and "image_encoder" not in changed


def scored(iou: float) -> Validation:
    """A validation with this mean IoU."""
    return Validation(iou=iou, iou_unprompted=0.1, loss=1.0, histogram=np.ones((101, 2), np.int64))


@pytest.mark.slow
def test_training_stops_when_validation_has_stopped_gaining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(side=128)
    scores = iter([0.5, 0.9, 0.6, 0.9, 0.4, 0.9, 0.4, 0.9])  # on validation and on training pictures, by turns
    monkeypatch.setattr(floodmap.training.loop, "validate", lambda *_: scored(next(scores)))
    best = train(replace(CONFIG, steps=9, checkpoint_steps=1, patience=2), [source], source.samples, tmp_path)
    assert best.name == "best.safetensors"
    with safe_open(best, framework="pt") as file:
        assert '"val_iou": 0.6' in file.metadata()["scores"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


def test_the_loss_is_least_for_the_truth_and_ignores_what_is_not_scored() -> None:
    target = torch.zeros(2, 64, 64)
    target[0, :, 32:] = 1
    scored = torch.ones(2, 64, 64, dtype=torch.bool)
    scored[1, :32] = False
    truth = (target[:, ::4, ::4] - 0.5) * 20
    iou = torch.ones(2)
    best = flood_loss(truth, iou, target, scored)
    assert best < 0.01 < flood_loss(-truth, iou, target, scored)
    blind = truth.clone()
    blind[1, :8] = 10.0
    assert flood_loss(blind, iou, target, scored) == pytest.approx(float(best), abs=1e-4)


def test_points_and_boxes_are_drawn_where_they_belong() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(3, 64, 64)
    target[0, 10:30, 20:50] = 1
    target[1] = 1
    scored = torch.ones(3, 64, 64, dtype=torch.bool)
    guess = torch.zeros(3, 32, 32, dtype=torch.bool)
    guess[:, :, :16] = True
    right = []
    for _ in range(20):
        xy, labels = simulate_points(target, scored, guess, generator)
        for i in range(3):
            for (x, y), label in zip(xy[i].long().tolist(), labels[i].tolist(), strict=True):
                assert label == -1 or target[i, y, x] == label
                right += [guess[i, y // 2, x // 2] == label] if label >= 0 else []
    assert 0.03 < sum(map(int, right)) / len(right) < 0.25  # most points correct what is wrong
    boxes = simulate_boxes(target, scored, generator)
    assert ((boxes[0] - torch.tensor([20.0, 10.0, 50.0, 30.0])).abs() < 4).all()
    assert boxes[2].tolist() == [0, 0, 64, 64]


def test_points_one_by_one_lie_where_the_comparison_places_them() -> None:
    reference = np.zeros((3, 96, 96), np.uint8)
    reference[0, 8:40, 8:72], reference[1, 60:80, 12:40] = FLOOD, FLOOD
    guess = torch.zeros(3, 48, 48, dtype=torch.bool)
    guess[0, 4:20, 4:12], guess[0, 30:46, 4:44], guess[1] = True, True, torch.tensor(reference[1, ::2, ::2] > 0)
    target, scored = torch.tensor(reference).float(), torch.ones(3, 96, 96, dtype=torch.bool)
    for predicted in (None, guess):
        xy, labels = deepest_points(target, scored, predicted)
        for i in range(3):
            full = None if predicted is None else predicted[i].numpy().repeat(2, axis=0).repeat(2, axis=1)
            expected = add_point(Prompts.none(), full, reference[i])
            assert labels[i].tolist() == (expected.labels.tolist() or [-1])
            if len(expected.labels):
                depth = ndimage.distance_transform_edt(reference[i] if predicted is None else full != reference[i])
                (x, y), (a, b) = xy[i, 0].long().tolist(), expected.points_xy[0].astype(int)
                assert depth[y, x] > depth[b, a] - 4  # a cell


def test_relabelling_changes_one_region_of_one_colour() -> None:
    rgb, target = torch.full((1, 3, 128, 128), 90.0), torch.zeros(1, 128, 128)
    rgb[:, 0, 64:], rgb[:, 2, 20:60, 20:60] = 200.0, 220.0
    target[:, 20:60, 20:60] = 1
    scored = torch.ones(1, 128, 128, dtype=torch.bool)
    areas = {"water": (slice(20, 60), slice(20, 60)), "red field": (slice(64, 128), slice(0, 128))}
    seen = set()
    for seed in range(20):
        changed = relabel_region(cells_of(rgb), target, scored, 1.0, torch.Generator().manual_seed(seed)) != target
        for name, (rows, cols) in areas.items():
            if changed[0, rows, cols].float().mean() > 0.8:
                seen.add(name)
                changed[0, max(rows.start - 4, 0) : rows.stop + 4, max(cols.start - 4, 0) : cols.stop + 4] = False
                assert not changed.any()
    assert seen == set(areas)
    assert torch.equal(relabel_region(cells_of(rgb), target, scored, 0.0, torch.Generator()), target)


def test_perturbed_coarse_masks_are_wrong_in_places_and_within_the_largest_logit() -> None:
    coarse = torch.full((40, 1, 64, 96), -6.0)
    changed = perturb_coarse(coarse, 0.5, torch.Generator().manual_seed(0))
    assert changed.abs().max() <= SUREST
    touched = (changed != coarse).flatten(1).any(dim=1)
    assert 10 < touched.sum() < 30
    assert (changed[touched] > 0).any() and (changed[touched] < 0).any()
    # Wrong in regions, not speckled: neighbours differ little.
    assert changed.diff(dim=-1).abs().max() < 1.5
    assert torch.equal(perturb_coarse(coarse, 0.0, torch.Generator()), coarse)


def test_dropped_floods_are_dry_in_the_coarse_masks_of_some_views() -> None:
    coarse = torch.full((64, 1, 32, 32), 6.0)
    changed = drop_flood(coarse, 0.5, torch.Generator().manual_seed(0))
    lowered = (changed < coarse).flatten(1).any(dim=1)
    assert 20 < lowered.sum() < 44
    assert (changed <= coarse).all() and changed.min() >= -9.2
    assert (changed[lowered] < 0).float().mean() > 0.85
    assert torch.equal(drop_flood(coarse, 0.0, torch.Generator()), coarse)


@pytest.mark.slow
def test_no_run_ends_below_its_initial_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(side=128)
    base = train(replace(CONFIG, steps=1), [source], source.samples, tmp_path / "base")
    scores = iter([0.6, 0.3, 0.4, 0.3, 0.5, 0.3])  # on validation and on training pictures, by turns
    monkeypatch.setattr(floodmap.training.loop, "validate", lambda *_: scored(next(scores)))
    config = replace(CONFIG, steps=2, checkpoint_steps=1, patience=5)
    best = train(config, [source], source.samples, tmp_path / "tuned", base)
    before, after = load_file(base), load_file(best)
    assert all(torch.equal(before[key], after[key]) for key in before if before[key].is_floating_point())
    with (tmp_path / "tuned" / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [0, 1, 2]


@pytest.mark.slow
def test_settled_batch_norms_keep_their_statistics() -> None:
    model = FloodSam(CONFIG.encoder)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    rgb, scored = torch.rand(2, 3, 64, 64) * 255, torch.ones(2, 64, 64, dtype=torch.bool)
    set_training(model, settled=True)
    before = [m.running_mean.clone() for m in norms]
    model(rgb, scored)
    assert all(torch.equal(m.running_mean, mean) for m, mean in zip(norms, before, strict=True))
    set_training(model, settled=False)
    model(rgb, scored)
    assert all(not torch.equal(m.running_mean, mean) for m, mean in zip(norms, before, strict=True))


@pytest.mark.slow
def test_points_train_the_decoder_and_the_corrector_but_no_encoder(tmp_path: Path) -> None:
    source = make_source(side=128)
    first = train(replace(CONFIG, steps=1), [source], source.samples, tmp_path / "first")
    config = replace(
        CONFIG, steps=2, what="decoder", cached_batches=2, settled=1.0, prompt_shares=(0.0, 1.0, 0.0, 0.0)
    )  # fmt: skip
    before, after = load_file(first), load_file(train(config, [source], source.samples, tmp_path / "on", first))
    changed = {k for k, v in before.items() if v.is_floating_point() and not torch.equal(v, after[k])}
    assert {name.split(".")[0] for name in changed} == {"corrector", "mask_decoder", "point_maps", "prompt_encoder"}


def test_parts_of_a_view_are_whole_cells_and_at_least_half_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_interval(side, generator) for side in (32, 96, 256) for _ in range(50)]
    assert all(s.start % 32 == 0 and s.stop % 32 == 0 and s.start >= 0 for s in drawn)
    sides = [32] * 50 + [96] * 50 + [256] * 50
    assert all(s.stop <= side and s.stop - s.start >= side / 2 for s, side in zip(drawn, sides, strict=True))


@pytest.mark.slow
def test_parts_of_encoded_views_lie_elsewhere_each_time_but_are_as_large(tmp_path: Path) -> None:
    source = make_source(side=256)
    config = replace(CONFIG, what="decoder", cached_batches=1, sizes=((96, 128, 2),), size_shares=(1.0,))
    batches, chance = Batches(PairSampler([source]), config), torch.Generator().manual_seed(0)
    trainer = Trainer(build(config), config, batches, chance, torch.device("cpu"))
    trainer.cache_features(tmp_path, lambda *_: None)
    assert trainer._cache is not None
    drawn = [trainer._cache.draw(chance, trainer.device) for _ in range(8)]
    assert {tuple(batch.views.target.shape) for batch in drawn} == {(2, 96, 96)}
    assert {tuple(batch.encoded.embedding.shape[2:]) for batch in drawn} == {(6, 6)}
    assert any(not torch.equal(batch.coarse, drawn[0].coarse) for batch in drawn)


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [schedule(i / 100, warmup=0.03) for i in range(101)]
    assert rates.index(max(rates)) == 3 and rates[-1] < 0.02 and rates[0] > 0


def test_the_learning_rate_of_every_step_is_the_schedule_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []

    def step(trainer: Trainer, optimizer: torch.optim.Optimizer, group: object) -> float:
        rates.append([group["lr"] / group["rate"] for group in optimizer.param_groups])
        return 0.0

    monkeypatch.setattr(floodmap.training.loop, "train_step", step)
    monkeypatch.setattr(floodmap.training.loop, "validate", lambda *_: scored(0.5))
    source = make_source(side=128)
    config = replace(CONFIG, steps=10, learning_rate=1e-3, warmup=0.2)
    train(config, [source], source.samples, tmp_path)
    assert [rate[0] for rate in rates] == pytest.approx([1e-3 * schedule(i / 10, 0.2) for i in range(10)])
    assert all(one == pytest.approx(rate[0]) for rate in rates for one in rate) and len({r[0] for r in rates}) == 10


def test_biases_and_norms_do_not_decay() -> None:
    model, config = FloodSam(CONFIG.encoder), replace(CONFIG, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in make_optimizer(model, config).param_groups
              for p in group["params"]}  # fmt: skip
    assert len(decays) == len(names)
    flat = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
    assert {name for name, decay in decays.items() if decay == 0} == flat and any("bias" in name for name in flat)
    assert {decay for name, decay in decays.items() if name not in flat} == {0.05}


def test_the_loss_is_cross_entropy_and_dice_and_the_error_of_the_expected_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 16, 16, generator=generator)
    target, iou = torch.zeros(2, 64, 64), torch.tensor([0.3, 0.8])
    target[0, :, 24:] = 1  # the other picture is dry
    scored = torch.ones(2, 64, 64, dtype=torch.bool)
    truth, p = target[:, ::4, ::4].double().numpy(), 1 / (1 + np.exp(-logits.double().numpy()))
    cross = -(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    dice = 1 - (2 * (p * truth)[0].sum() + 1) / ((p + truth)[0].sum() + 1)  # of the flooded one alone
    hit, union = ((p > 0.5) & (truth > 0.5)).sum(axis=(1, 2)), ((p > 0.5) | (truth > 0.5)).sum(axis=(1, 2))
    error = ((iou.numpy() - hit / union) ** 2).mean()
    for dry_weight in (1.0, 3.0):
        weighted = (cross[0].sum() + dry_weight * cross[1].sum()) / cross.size
        found = float(flood_loss(logits, iou, target, scored, dry_weight))
        assert found == pytest.approx(weighted + dice + 0.05 * error, rel=1e-5)


@pytest.mark.slow
def test_dry_pictures_and_inconsistency_count_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(side=128)
    heard = []

    def loss(*args: object) -> torch.Tensor:
        heard.append(args[4])
        return flood_loss(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(floodmap.training.trainer, "flood_loss", loss)
    monkeypatch.setattr(floodmap.training.trainer, "consistency_loss", lambda *_: torch.tensor(0.25))
    losses = []
    for steadiness in (0.0, 1e-9, 8.0):  # the least above nothing, so that the same is drawn
        config = replace(
            CONFIG, steadiness=steadiness, dry_weight=2.5, prompt_shares=(1.0, 0.0, 0.0, 0.0), sizes=((64, 64, 2),),
            size_shares=(1.0,),
        )  # fmt: skip
        torch.manual_seed(0)
        model, chance = build(config).eval(), torch.Generator().manual_seed(0)
        trainer = Trainer(model, config, Batches(PairSampler([source]), config), chance, torch.device("cpu"))
        losses.append(sum(trainer.step() for _ in range(6)))
    heard_of_others = len(heard)
    config = replace(config, prompt_shares=(0.0, 1.0, 0.0, 0.0))  # points, which are learned from otherwise
    model, chance = build(config), torch.Generator().manual_seed(0)
    Trainer(model, config, Batches(PairSampler([source]), config), chance, torch.device("cpu")).step()
    assert set(heard) == {2.5} and len(heard) > heard_of_others
    steadied = (losses[2] - losses[1]) / (8.0 * 0.25 / 2)  # of the near views, which count half
    assert steadied == pytest.approx(round(steadied), abs=0.02) and 1 <= round(steadied) <= 5


@pytest.mark.slow
def test_a_small_network_learns_four_views_by_heart(tmp_path: Path) -> None:
    source = make_source(side=128)
    config = replace(
        CONFIG, steps=60, learning_rate=3e-3, sizes=((64, 64, 2),), size_shares=(1.0,), what="full",
        prompt_shares=(1.0, 0.0, 0.0, 0.0), ema_steps=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model, chance = build(config), torch.Generator().manual_seed(0)
    four = Batches(PairSampler([source]), config)
    trainer = Trainer(model, config, cycle([four[0], four[1]]), chance, torch.device("cpu"))  # type: ignore[arg-type]
    optimizer, group = make_optimizer(model, config), ProcessGroup("cpu")
    set_training(model, settled=False)
    losses = [train_step(trainer, optimizer, group) for _ in range(config.steps)]
    assert np.mean(losses[-4:]) < 0.35 * np.mean(losses[:4])
