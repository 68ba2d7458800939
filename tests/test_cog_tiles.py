"""Replaced tiles of both rasters, compared byte by byte with rasters written as a whole from the changed codes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from test_cog import Codes, levels_of, scene, written

import floodmap.output.cog
from floodmap.correction import cog_tiles
from floodmap.correction.cog_layout import LayoutError, read_layout
from floodmap.correction.cog_tiles import replace_tiles, rewritten_rasters
from floodmap.errors import OutputError
from floodmap.geo.window import Window

ROTATED = Affine.translation(5e5, 3e6) * Affine.rotation(20) * Affine.scale(0.5, -0.4)
NOISE = np.random.default_rng(1).integers(0, 101, (2500, 2500)).astype(np.uint8)
Pair = tuple[Path, Path]


def changed(codes: Codes, boxes: list[Window], fill: Any) -> Codes:
    """A copy of codes with other values in the boxes: one value, or those of an array in the same place."""
    codes = codes.copy()
    for box in boxes:
        codes[box.slices] = fill[box.slices] if isinstance(fill, np.ndarray) else fill
    return codes


def rewritten(base: Pair, codes: Codes, boxes: list[Window], folder: Path, threshold: int = 50) -> Pair | None:
    out = (folder / "new_mask.tif", folder / "new_probability.tif")
    done = rewritten_rasters(
        *base, *out, boxes=boxes, codes_of=lambda window: codes[window.slices], threshold=threshold
    )  # fmt: skip
    assert done == all(path.exists() for path in out) == any(path.exists() for path in out)
    return out if done else None


def digests(paths: Pair | None) -> list[str]:
    assert paths, "the layout was refused"
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def check(codes: Codes, boxes: list[Window], fill: Any, folder: Path, **options: Any) -> None:
    """Assert that replaced tiles give the bytes of rasters written as a whole."""
    new = changed(codes, boxes, fill)
    base = written(codes, folder / "base", **options)
    whole = digests(written(new, folder / "whole", **options))
    assert digests(rewritten(base, new, boxes, folder, options.get("threshold", 50))) == whole
    assert not (new != codes).any() or digests(base) != whole, "the change must reach the files"


@pytest.mark.parametrize(
    ("shape_hw", "box"),
    [
        ((1, 1), Window(0, 0, 1, 1)),
        ((300, 200), Window(10, 20, 30, 40)),
        ((512, 512), Window(100, 100, 200, 100)),
        ((513, 40), Window(512, 39, 1, 1)),
        ((40, 1025), Window(0, 500, 40, 525)),
    ],
)
@pytest.mark.parametrize("fill", [3, NOISE], ids=["smaller", "larger"])
def test_small_scenes_have_the_bytes_of_a_whole_write(
    tmp_path: Path, shape_hw: tuple[int, int], box: Window, fill: Any
) -> None:
    check(scene(shape_hw), [box], fill, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "boxes",
    [
        [Window(0, 700, 1, 1)],  # at the top
        [Window(1400, 0, 301, 100)],  # in the lower left corner
        [Window(1200, 2400, 500, 101)],  # at the lower right
        [Window(511, 511, 2, 2)],  # in four tiles
        [Window(100, 100, 900, 900), Window(600, 500, 700, 1000), Window(0, 2490, 10, 11)],  # some overlap
        [Window(-50, -50, 100, 100), Window(1690, 2400, 100, 500)],  # beyond the scene
        [Window(0, 0, 1701, 2501)],  # everything
    ],
    ids=["top", "corner", "end", "four", "several", "beyond", "all"],
)
def test_boxes_anywhere_have_the_bytes_of_a_whole_write(tmp_path: Path, boxes: list[Window]) -> None:
    codes = scene((1701, 2501))
    new = codes.copy()
    for box in boxes:
        part = new[max(0, box.row_off) : box.row_end, max(0, box.col_off) : box.col_end]
        part[:] = 100 - np.minimum(part, 100)
    whole = digests(written(new, tmp_path / "whole"))
    assert digests(rewritten(written(codes, tmp_path / "base"), new, boxes, tmp_path)) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "fill",
    [0, 100, 255, 253, 101, 170, 200, NOISE, NOISE + np.uint8(100)],
    ids=["dry", "flood", "nodata", "mask", "permanent 1", "permanent 70", "permanent 100", "noise", "permanent noise"],
)
def test_any_codes_have_the_bytes_of_a_whole_write(tmp_path: Path, fill: Any) -> None:
    codes = scene((900, 1100))
    codes[300:700, 200:600] = 160
    check(codes, [Window(350, 400, 300, 500)], fill, tmp_path, permanent=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"transform": ROTATED},
        {"crs": None, "transform": Affine.identity()},
        {"threshold": 20},
        {"tags": {"MODEL": "finetuned", "Grüße": "ü & <x>" * 500}},
    ],
    ids=["rotated", "no georeference", "threshold", "tags"],
)
def test_headers_are_kept(tmp_path: Path, options: dict[str, Any]) -> None:
    check(scene((1100, 700)), [Window(500, 300, 200, 50)], NOISE, tmp_path, **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_boxes_have_the_bytes_of_a_whole_write(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(500, 1300, 2)
    corners = rng.integers(0, (height, width), (3, 2))
    boxes = [
        Window(int(row), int(col), *map(int, rng.integers(1, (height - row + 1, width - col + 1))))
        for row, col in corners
    ]
    check(scene((int(height), int(width))), boxes, NOISE, tmp_path)


@pytest.mark.slow
def test_a_big_tiff_has_the_bytes_of_a_whole_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = rasterio.shutil.copy

    def big(*args: Any, **options: Any) -> None:
        copy(*args, **(options | ({"bigtiff": "YES"} if options["driver"] == "COG" else {})))

    monkeypatch.setattr(floodmap.output.cog.rasterio.shutil, "copy", big)
    codes, boxes = scene((1100, 1400)), [Window(500, 1000, 200, 400)]
    check(codes, boxes, NOISE, tmp_path)
    assert (tmp_path / "new_mask.tif").read_bytes()[:4] == b"II+\0"


def test_the_rasters_may_be_replaced_in_place(tmp_path: Path) -> None:
    codes, boxes = scene((600, 700)), [Window(100, 100, 50, 50)]
    new = changed(codes, boxes, 88)
    base = written(codes, tmp_path / "base")
    assert rewritten_rasters(*base, *base, boxes=boxes, codes_of=lambda window: new[window.slices], threshold=50)
    assert digests(base) == digests(written(new, tmp_path / "whole"))
    assert len(list((tmp_path / "base").iterdir())) == 4, "two rasters and two styles, no temporary file"


def test_every_level_of_the_new_raster_is_read(tmp_path: Path) -> None:
    codes, boxes = scene((700, 1301)), [Window(100, 100, 500, 50)]
    new = changed(codes, boxes, 100)
    paths = rewritten(written(codes, tmp_path / "base"), new, boxes, tmp_path)
    assert paths
    for path, whole in zip(paths, written(new, tmp_path / "whole"), strict=True):
        for values, expected in zip(levels_of(path), levels_of(whole), strict=True):
            np.testing.assert_array_equal(values, expected)
        with rasterio.open(path) as source:
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_codes_are_asked_for_in_windows_that_do_not_overlap(tmp_path: Path) -> None:
    codes = scene((1100, 1300))
    windows: list[Window] = []

    def codes_of(window: Window) -> Codes:
        windows.append(window)
        return codes[window.slices]

    base = written(codes, tmp_path)
    boxes = [Window(500, 500, 300, 100), Window(400, 600, 200, 700)]
    assert rewritten_rasters(*base, *base, boxes=boxes, codes_of=codes_of, threshold=50)
    assert windows == [Window(0, 0, 512, 1300), Window(512, 0, 512, 1300)]


def test_codes_of_another_shape_are_an_error(tmp_path: Path) -> None:
    base = written(scene((600, 700)), tmp_path)
    with pytest.raises(ValueError, match="shape"):
        rewritten_rasters(
            *base, *base, boxes=[Window(0, 0, 9, 9)], codes_of=lambda window: np.zeros((9, 9), np.uint8), threshold=50
        )


def recompressed(path: Path, **options: Any) -> None:
    """Replace a raster by a copy of the same pixels that is laid out in another way."""
    copy = path.with_name("copy.tif")
    rasterio.shutil.copy(path, copy, **({"driver": "COG", "compress": "DEFLATE", "blocksize": 512} | options))
    copy.replace(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_a_tile(path: Path) -> None:
    """Set the offset and the size of the first tile to 0: GDAL's notation of a tile that is not stored."""
    content = bytearray(path.read_bytes())
    with path.open("rb") as file:
        level = read_layout(file).levels[0]
    for array in (level.offsets, level.sizes):
        struct.pack_into("<I", content, array.position, 0)
    path.write_bytes(content)


def edited_by_gdal(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.write(np.ones((100, 100), np.uint8), 1, window=((0, 100), (0, 100)))


def without_leaders(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"BLOCK_LEADER=SIZE_AS_UINT4", b"BLOCK_LEADER=NONE_OF_UINT4"))


def known_as_edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"INCOMPATIBLE_EDITION=NO\n ", b"INCOMPATIBLE_EDITION=YES\n"))


def damaged(path: Path) -> None:
    """Overwrite the compressed data of the only tile of the last overview, which is to be decompressed."""
    with path.open("rb") as file:
        layout = read_layout(file)
    content = bytearray(path.read_bytes())
    begin = int(layout.offsets[-1])
    content[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: recompressed(path, compress="LZW"),
        lambda path: recompressed(path, driver="GTiff", tiled=True, copy_src_overviews="NO"),
        lambda path: recompressed(path, blocksize=256),
        lambda path: recompressed(path, overviews="NONE"),
        edited_by_gdal, cut, lengthened, emptied, without_a_tile, without_leaders, known_as_edited,
        damaged,
    ],
    ids=[
        "LZW", "no COG", "small tiles", "no overviews", "edited", "cut", "lengthened", "empty", "no tile", "no leaders",
        "known as edited", "damaged",
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", [0, 1], ids=["mask", "probability"])
def test_a_raster_laid_out_otherwise_is_refused_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[Path], None], which: int
) -> None:
    codes = scene((600, 1100))
    base = written(codes, tmp_path)
    spoil(base[which])
    before = sorted(tmp_path.iterdir())
    assert rewritten(base, codes, [Window(0, 0, 9, 9)], tmp_path) is None
    assert sorted(tmp_path.iterdir()) == before


def test_rasters_of_two_sizes_are_refused(tmp_path: Path) -> None:
    mask, _ = written(scene((300, 200)), tmp_path / "one")
    _, probability = written(scene((300, 201)), tmp_path / "other")
    assert rewritten((mask, probability), scene((300, 200)), [Window(0, 0, 9, 9)], tmp_path) is None


def test_many_changes_are_left_to_a_whole_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = scene((600, 700))
    base = written(codes, tmp_path)
    monkeypatch.setattr(cog_tiles, "MOST_PIXELS", 512 * 512)
    assert rewritten(base, codes, [Window(0, 0, 512, 512)], tmp_path)
    for path in tmp_path.glob("new_*"):
        path.unlink()
    assert rewritten(base, codes, [Window(0, 0, 512, 513)], tmp_path) is None


def test_offsets_too_large_for_the_file_are_refused(tmp_path: Path) -> None:
    path, _ = written(scene((600, 700)), tmp_path)
    with path.open("rb") as file:
        layout = read_layout(file)
    with pytest.raises(LayoutError, match="4294967295"):
        layout.patch(bytearray(layout.start), np.full_like(layout.sizes, 2**30))


@pytest.mark.slow
def test_any_damage_to_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    path, _ = written(scene((600, 700)), tmp_path)
    content = path.read_bytes()
    with path.open("rb") as file:
        start = read_layout(file).start
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(content)
        spoilt[int(rng.integers(start))] = int(rng.integers(256))
        path.write_bytes(spoilt)
        try:
            replace_tiles(path, tmp_path / "copy.tif", {})
        except LayoutError:
            refused += 1
        else:
            assert (tmp_path / "copy.tif").read_bytes() == spoilt, "without changes the copy is the same"
    assert refused > 25


def test_a_folder_that_is_missing_is_one_clear_error(tmp_path: Path) -> None:
    codes = scene((300, 200))
    base = written(codes, tmp_path)
    out = (tmp_path / "none" / "mask.tif", tmp_path / "none" / "probability.tif")
    with pytest.raises(OutputError, match="cannot be written"):
        rewritten_rasters(
            *base, *out, boxes=[Window(0, 0, 9, 9)], codes_of=lambda window: codes[window.slices], threshold=50
        )
