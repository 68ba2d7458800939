from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional as F

from floodmap.training.augment import Water, reflection
from floodmap.training.samples import Sample, Source
from floodmap.training.sampling import PairSampler
from floodmap.training.simulated_prompts import coarse_prompt


def make_source(*, from_above: bool = True, side: int = 400) -> Source:
    """A picture with a bright round lake, blue where it is flooded."""
    rows, cols = np.indices((side, side))
    lake = np.hypot(rows - side / 2, cols - side / 2.5) < side / 4
    rgb = np.where(lake, np.array([20, 40, 250])[:, None, None], np.array([90, 160, 30])[:, None, None])
    return Source(
        name="lake", samples=[Sample("a", rgb.astype(np.uint8), lake.astype(np.uint8))], share=1.0,
        from_above=from_above,
    )  # fmt: skip


def sampler(seed: int, *sources: Source) -> PairSampler:
    return PairSampler(sources, torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("from_above", [True, False])
def test_both_views_show_the_same_ground(from_above: bool) -> None:
    pairs = sampler(0, make_source(from_above=from_above)).batch(16, 96, 128)
    far = (F.avg_pool2d(pairs.far.target[:, None], 4)[:, 0] - 0.5) * 12
    seen = coarse_prompt(far, pairs)[:, 0] > 0
    real = F.avg_pool2d(pairs.near.target[:, None], 4)[:, 0] > 0.5
    scored = F.avg_pool2d(pairs.near.scored[:, None].float(), 4)[:, 0] == 1
    agree = ((seen == real) & scored).sum() / scored.sum()
    assert 0.1 < real[scored].float().mean() < 0.9 and agree > 0.97


@pytest.mark.slow
def test_small_pictures_may_be_seen_twice_from_near() -> None:
    source = replace(make_source(side=128), factor=(1.0, 1.0), zoom=(1.0, 1.0))
    pairs = sampler(5, source).batch(8, 96, 96)
    assert (pairs.factor == 1).all() and (pairs.near_xy == 0).all()
    torch.testing.assert_close(pairs.near.target, pairs.far.target, atol=0.01, rtol=0)


@pytest.mark.slow
def test_labels_stay_with_their_pixels() -> None:
    pairs = sampler(1, make_source()).batch(8, 96, 128)
    for views in (pairs.far, pairs.near):
        inside = views.scored & ((views.target < 0.01) | (views.target > 0.99))
        blue = views.rgb[:, 2] > views.rgb[:, 0]
        grey = (views.rgb.amax(1) - views.rgb.amin(1)) < 12  # recoloured to grey: nothing to see the lake by
        right = (blue == (views.target > 0.5)) | grey
        shares = sorted(float(one[known].float().mean()) for one, known in zip(right, inside, strict=True))
        assert shares[1] > 0.97  # one may be grey and noisy


def test_what_lies_outside_the_picture_is_black_and_not_scored() -> None:
    pairs = sampler(2, make_source(side=64)).batch(8, 128, 128)
    assert not pairs.far.scored.all() and pairs.far.scored.any()
    assert (pairs.far.rgb.amax(1)[~pairs.far.scored] == 0).all()


def test_the_same_seed_draws_the_same_pairs() -> None:
    first, again = (sampler(3, make_source(), make_source(from_above=False)).batch(3, 64, 64) for _ in range(2))
    torch.testing.assert_close(first.near.rgb, again.near.rgb)
    other = sampler(4, make_source(), make_source(from_above=False)).batch(3, 64, 64)
    assert not torch.equal(first.near.rgb, other.near.rgb)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [(3.0, 5.0), (1.0, 1.6)])
@pytest.mark.parametrize("from_above", [True, False])
def test_plain_views_are_the_pictures_own_pixels(factor: tuple[float, float], from_above: bool) -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((700, 900)) < 0.5).astype(np.uint8)
    sample = Sample("noise", np.full((3, 700, 900), 90, np.uint8), mask)
    source = Source(name="s", samples=[sample], share=1.0, from_above=from_above, factor=factor, plain=1.0)
    pairs = PairSampler([source], torch.Generator().manual_seed(0)).batch(8, 96, 128)
    times = 4 if factor[0] > 1 else 1
    assert pairs.factor.tolist() == [times] * 8
    for target, scored in zip(pairs.near.target, pairs.near.scored, strict=True):
        # Resampled noise would be anything between; and what is cut out is found in the picture, or in its mirror.
        seen = target.round()
        assert torch.allclose(target[scored], seen[scored], atol=1e-4)
        patch = seen[40:52, 40:52].numpy().astype(np.uint8)
        images = [patch, patch[:, ::-1]]
        if from_above:
            images += [one[::-1] for one in images] + [one.T for one in images] + [one.T[::-1] for one in images]
            images += [one[:, ::-1] for one in images]
        assert any((sliding_window_view(mask, (12, 12)) == one).all(axis=(2, 3)).any() for one in images)
    far = pairs.far.target[pairs.far.scored] * times**2
    assert torch.allclose(far, far.round(), atol=0.1)
    changed = [
        float((rgb[:, scored] - 90).abs().max()) for rgb, scored in zip(pairs.near.rgb, pairs.near.scored, strict=True)
    ]
    assert min(changed) < 0.1 and max(changed) > 1


@pytest.mark.slow
def test_near_views_can_be_sought_at_flood() -> None:
    pond = np.zeros((600, 600), np.uint8)
    pond[100:500, 100:350] = 1
    dry = np.zeros((600, 600), np.uint8)
    grey = np.full((3, 600, 600), 120, np.uint8)
    anywhere = Source(
        name="s", samples=[Sample("pond", grey, pond), Sample("dry", grey, dry)], share=1.0, from_above=True
    )
    flooded = [
        int((sampler(6, source).batch(24, 96, 128).near.target[:, 64, 64] > 0.5).sum())
        for source in (anywhere, replace(anywhere, wet=1.0))
    ]
    assert flooded[0] < 10 and flooded[1] > 20, flooded


def test_water_is_repainted_where_there_is_flood_and_nowhere_else() -> None:
    generator = torch.Generator().manual_seed(0)
    water = Water.draw(torch.tensor([1.0] * 11 + [0.0]), generator)
    flood, rgb = torch.zeros(12, 64, 64), torch.full((12, 3, 64, 64), 0.5)
    flood[:, :, 32:] = 1.0
    flood[3, :, :8] = 1.0  # has enough to lend
    rgb[3] = 0.9
    axis = torch.linspace(-1, 1, 64)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).expand(12, -1, -1, -1)
    painted = water.on(rgb.clone(), flood, place, 1.0)
    assert torch.equal(painted[flood[:, None].expand(-1, 3, -1, -1) == 0], rgb[flood[:, None].expand_as(rgb) == 0])
    assert torch.equal(painted[11], rgb[11])
    changed = (painted - rgb)[:11, ..., 32:].abs().mean(dim=(1, 2, 3))
    assert (changed > 0.005).all() and painted.min() >= 0 and painted.max() <= 1
    varied = painted[:11, ..., 32:].std(dim=(2, 3)).amin(dim=1) > 1e-3  # by waves or two colours, unless it is lent
    assert varied.sum() > 3 and not varied.all()


def test_still_water_shows_what_stands_behind_it_upside_down() -> None:
    rgb, flooded = torch.rand(3, 40, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(40, 8).bool()
    rgb = F.interpolate(rgb[None, :, ::8, :1], (40, 8), mode="nearest")[0]  # bands of eight rows
    flooded[16:36] = True
    sky = torch.tensor([0.9, 0.8, 0.7])[:, None, None]
    seen = reflection(rgb, flooded, sky, 12.0)
    torch.testing.assert_close(seen[:, 19], rgb[:, 12])
    assert torch.equal(seen[:, 19, 2], seen[:, 19, 5])
    torch.testing.assert_close(seen[:, 31], sky[:, 0].expand(3, 8))  # above what stands there
    flooded[:16] = True
    torch.testing.assert_close(reflection(rgb, flooded, sky, 12.0)[:, 10], sky[:, 0].expand(3, 8))  # no bank in sight


def test_places_are_drawn_alike_however_many_pictures_there_are_of_each() -> None:
    def plain(name: str, value: int, place: str) -> Sample:
        return Sample(name, np.full((3, 64, 64), value, np.uint8), np.zeros((64, 64), np.uint8), place)

    crowd = [plain(f"town {i}", 40, "town") for i in range(30)]
    source = Source(
        name="two places", samples=[*crowd, plain("field", 200, "field")], share=1.0, from_above=True, plain=1.0,
        factor=(1.0, 1.0), zoom=(1.0, 1.0),
    )  # fmt: skip
    rgb = torch.cat([sampler(seed, source).batch(24, 32, 32).near.rgb for seed in range(4)])
    bright = (rgb.mean(dim=(1, 2, 3)) > 120).float().mean()
    assert 0.35 < bright < 0.65
