"""Overviews of the rasters, compared with a block-by-block count of the pixels below each of theirs."""

from __future__ import annotations

import math
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

import floodmap.output.cog
import floodmap.output.pyramid
from floodmap.errors import OutputError
from floodmap.geo.geogrid import UNPLACED, GeoGrid
from floodmap.output.cog import overview_levels, write_rasters

UTM = CRS.from_epsg(32643)
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 3_000_000)
Codes = NDArray[np.uint8]


def written(codes: Codes, out_dir: Path, *, step: int = 300, **options: Any) -> tuple[Path, Path]:
    strips = [(row, codes[row : row + step]) for row in range(0, len(codes), step)]
    grid = GeoGrid(options.pop("crs", UTM), options.pop("transform", HALF_METRE), codes.shape)
    return write_rasters(strips, out_dir, "s", grid=grid, **{"threshold": 50, "tags": {}, **options})


def scene(shape_hw: tuple[int, int], seed: int = 0) -> Codes:
    """Codes in blobs of every value, with noise that makes ties."""
    rng = np.random.default_rng(seed)
    height, width = shape_hw
    coarse = rng.choice(np.array([0, 20, 50, 100, 251, 252, 255], np.uint8), (height // 8 + 1, width // 8 + 1))
    codes = np.kron(coarse, np.ones((8, 8), np.uint8))[:height, :width]
    noise = rng.random(shape_hw) < 0.3
    codes[noise] = rng.choice(np.array([3, 49, 51, 255], np.uint8), int(noise.sum()))
    return codes


def expected(codes: Codes, level: int) -> tuple[Codes, Codes]:
    """One overview level, pixel by pixel."""
    side, (height, width) = 2**level, codes.shape
    rows, cols = math.ceil(height / side), math.ceil(width / side)
    nothing = 101
    padded = np.full((rows * side, cols * side), nothing)
    padded[:height, :width] = np.where(codes > 100, 255, codes)
    blocks = padded.reshape(rows, side, cols, side).swapaxes(1, 2).reshape(rows, cols, side * side)
    seen = blocks < nothing
    counts = np.stack([(blocks == 255).sum(-1), (seen & (blocks >= 50)).sum(-1), (blocks < 50).sum(-1)])
    # argmax takes the first of equals: unobserved before flood before dry.
    mask = np.array([255, 1, 0])[counts.argmax(axis=0)]
    mean = np.floor(np.where(seen, blocks, 0).sum(-1) / np.maximum(seen.sum(-1), 1) + 0.5)
    return mask.astype(np.uint8), np.where(mask == 255, 255, mean).astype(np.uint8)


def levels_of(path: Path) -> list[Codes]:
    with rasterio.open(path) as source:
        levels, count = [source.read(1)], len(source.overviews(1))
    for level in range(count):
        with rasterio.open(path, overview_level=level) as source:
            levels.append(source.read(1))
    return levels


@pytest.mark.slow
@pytest.mark.parametrize("shape_hw", [(700, 1301), (513, 40), (1025, 301)])
def test_every_level_sums_up_the_pixels_beneath(tmp_path: Path, shape_hw: tuple[int, int]) -> None:
    codes = scene(shape_hw)
    masks, probabilities = (levels_of(path) for path in written(codes, tmp_path))
    assert len(masks) == len(probabilities) == 1 + overview_levels(shape_hw[1], shape_hw[0])
    for level, (mask, probability) in enumerate(zip(masks, probabilities, strict=True)):
        want_mask, want_probability = expected(codes, level)
        np.testing.assert_array_equal(mask, want_mask)
        np.testing.assert_array_equal(probability, want_probability)


@pytest.mark.slow
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 60, 255])))
@settings(deadline=None, max_examples=60)
def test_ground_half_unobserved_or_more_is_unobserved_at_every_level(codes: Codes) -> None:
    pyramid = list(floodmap.output.pyramid.pyramid(codes, 50, 3))
    for level, (mask, probability) in enumerate(pyramid):
        np.testing.assert_array_equal(mask == 255, probability == 255)
        for (row, col), value in np.ndenumerate(mask):
            block = codes[row << level : (row + 1) << level, col << level : (col + 1) << level]
            share = (block == 255).mean()
            assert value == 255 or share < 0.5
            assert value != 255 or share > 0


def test_rasters_are_valid_cogs_with_their_tags_and_styles(tmp_path: Path) -> None:
    paths = written(scene((700, 600)), tmp_path, tags={"MODEL": "finetuned", "Grüße": "ü & <x>"})
    assert [path.name for path in paths] == ["s_mask.tif", "s_probability.tif"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "s_mask.qml", "s_mask.tif", "s_probability.qml", "s_probability.tif",
    ]  # fmt: skip
    for path in paths:
        with rasterio.open(path) as source:
            structure = source.tags(ns="IMAGE_STRUCTURE")
            assert structure["LAYOUT"] == "COG" and structure["COMPRESSION"] == "DEFLATE"
            assert (source.nodata, source.dtypes, source.block_shapes) == (255, ("uint8",), [(512, 512)])
            assert (source.crs, source.transform, source.overviews(1)) == (UTM, HALF_METRE, [2])
            assert source.tags()["MODEL"] == "finetuned" and source.tags()["Grüße"] == "ü & <x>"
            assert source.descriptions[0].startswith("flood ")


@pytest.mark.parametrize(
    "transform",
    [Affine(0.5, 0, 5e5, 0, 0.5, 3e6), Affine.translation(5e5, 3e6) * Affine.rotation(20) * Affine.scale(0.5, -0.4)],
    ids=["south-up", "rotated"],
)
def test_any_transform_is_kept(tmp_path: Path, transform: Affine) -> None:
    codes = scene((600, 530))
    for path in written(codes, tmp_path, transform=transform):
        with rasterio.open(path) as source:
            assert source.transform.almost_equals(transform, 1e-9)
    np.testing.assert_array_equal(levels_of(tmp_path / "s_mask.tif")[0], expected(codes, 0)[0])


def test_a_scene_without_georeference_gets_none(tmp_path: Path) -> None:
    path, _ = written(scene((600, 530)), tmp_path, crs=None, transform=Affine.identity())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with rasterio.open(path) as source:
            assert source.crs is None and source.transform.is_identity
    assert [warning.category for warning in caught] == [NotGeoreferencedWarning]


def test_a_single_pixel_has_no_overviews(tmp_path: Path) -> None:
    for code, values in ((77, (1, 77)), (252, (255, 255)), (0, (0, 0))):
        paths = written(np.full((1, 1), code, np.uint8), tmp_path, overwrite=True)
        assert tuple(int(levels_of(path)[0][0, 0]) for path in paths) == values
        assert all(len(levels_of(path)) == 1 for path in paths)


@pytest.mark.slow
def test_bytes_depend_neither_on_strips_nor_on_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = scene((1100, 1400))
    first = [path.read_bytes() for path in written(codes, tmp_path / "a")]
    assert first == [path.read_bytes() for path in written(codes, tmp_path / "b", step=1)]
    copy = rasterio.shutil.copy
    monkeypatch.setattr(rasterio.shutil, "copy", lambda *args, **kwargs: copy(*args, **{**kwargs, "num_threads": 1})
                        if "num_threads" in kwargs else copy(*args, **kwargs))  # fmt: skip
    assert first == [path.read_bytes() for path in written(codes, tmp_path / "c")]


def test_levels_deeper_than_a_band_are_right() -> None:
    assert [overview_levels(side, 1) for side in (1, 512, 513, 1024, 1025, 20_000)] == [0, 0, 1, 1, 2, 6]
    codes = scene((300, 1), seed=4)
    for level, pair in enumerate(floodmap.output.pyramid.pyramid(codes, 50, 9)):
        for got, want in zip(pair, expected(codes, level), strict=True):
            np.testing.assert_array_equal(got, want)


def test_large_footprints_do_not_overflow() -> None:
    for code, values in ((100, (1, 100)), (255, (255, 255)), (0, (0, 0))):
        *_, (mask, probability) = floodmap.output.pyramid.pyramid(np.full((1024, 1024), code, np.uint8), 50, 10)
        assert (int(mask[0, 0]), int(probability[0, 0])) == values


def test_existing_rasters_are_refused_and_replaced_on_request(tmp_path: Path) -> None:
    before = written(np.zeros((4, 4), np.uint8), tmp_path)[0].read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        written(np.full((4, 4), 90, np.uint8), tmp_path)
    assert (tmp_path / "s_mask.tif").read_bytes() == before
    written(np.full((4, 4), 90, np.uint8), tmp_path, overwrite=True)
    assert (levels_of(tmp_path / "s_mask.tif")[0] == 1).all()


@pytest.mark.parametrize("height", [3, 5])
def test_strips_that_do_not_cover_the_scene_leave_nothing_behind(tmp_path: Path, height: int) -> None:
    strips = [(0, np.zeros((4, 4), np.uint8))]
    with pytest.raises(OutputError, match="rows"):
        write_rasters(strips, tmp_path, "s", grid=GeoGrid(None, UNPLACED, (height, 4)), threshold=50, tags={})
    assert list(tmp_path.iterdir()) == []


def test_an_error_among_the_strips_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def strips() -> Any:
        yield 0, np.zeros((4, 4), np.uint8)
        raise KeyError("window")

    with pytest.raises(KeyError):
        write_rasters(strips(), tmp_path, "s", grid=GeoGrid(None, UNPLACED, (8, 4)), threshold=50, tags={})
    assert list(tmp_path.iterdir()) == []


def test_rasters_can_be_written_outside_the_main_thread(tmp_path: Path) -> None:
    thread = threading.Thread(target=written, args=(np.zeros((4, 4), np.uint8), tmp_path))
    thread.start()
    thread.join()
    assert (tmp_path / "s_mask.tif").exists()
