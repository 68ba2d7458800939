"""Many overlapping frames as one product: `floodmap mosaic` and `floodmap.mosaic`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import NORTH_UP, UTM, SceneFactory, kill, killed, picture
from fakes import ConstantSegmenter, FakeSegmenter
from numpy.typing import NDArray
from rasterio.warp import transform as warp_points
from shapely.geometry import box

import floodmap
from floodmap.api.mosaics import MosaicSettings
from floodmap.errors import MissingCRSError, ModelError, OutputError, PromptError, SceneError
from floodmap.geo.source_name import SourceName
from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.scaleout.frames.frame_loop import MosaicProgress
from floodmap.scaleout.frames.product import mosaic_frames
from floodmap_cli.main import run
from floodmap_cli.terminal import print_result

OTHER_UTM = "EPSG:32634"


class BlueSegmenter(FakeSegmenter):
    """Probability in per cent is the blue band; codes are then exactly the blue band."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        super().predict(tiles, prompts)
        return np.stack([tile.rgb[2] / np.float32(100) for tile in tiles])


def percents(shape_hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A picture whose blue band is a smooth surface of 1 to 100 per cent."""
    pixels = picture(3, shape_hw, seed=seed)
    rows, cols = np.indices(shape_hw)
    pixels[2] = np.round(50 + 49 * np.sin(rows / 23) * np.cos(cols / 31)).astype(np.uint8)
    return pixels


def product(
    frames: Sequence[Path | str | SourceName], out: Path, model: FakeSegmenter | None = None, **options: Any
) -> FloodMap:
    """Map frames without a rehearsal, which takes longer than small frames; `run` and `floodmap.mosaic` rehearse."""
    scene = {one.name: options.pop(one.name) for one in fields(SceneOptions) if one.name in options}
    how = {"product_crs": options.pop("product_crs", None), "name": options.pop("name", "mosaic")}
    how["progress"] = options.pop("progress", None)
    settings = {"prompts": "none", "tile_size": 64, "overlap": 8, "min_area_m2": 0.0, "simplify_m": 0.0, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("floodmap.scaleout.frames.product.rehearse", lambda *_: None)
        return mosaic_frames(
            [SourceName.of(frame) for frame in frames], out, model or BlueSegmenter(),
            SegmentOptions(scene=SceneOptions(**{"collar": "off", **scene}), **settings), **how,
        )  # fmt: skip


def tiles_of(make_scene: SceneFactory, pixels: NDArray[np.uint8], side: int, step: int, **how: Any) -> list[Path]:
    """Cut overlapping frames of `side` pixels out of a picture."""
    return [
        make_scene(
            pixels=pixels[:, row : row + side, col : col + side], name=f"frames/f{row:04d}_{col:04d}.tif",
            transform=NORTH_UP @ Affine.translation(col, row), **how,
        )
        for row in range(0, pixels.shape[1] - side + step, step)
        for col in range(0, pixels.shape[2] - side + step, step)
    ]  # fmt: skip


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every result but the JSON, by name."""
    files = [path for path in out.iterdir() if path.is_file() and path.suffix != ".json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_frames_of_one_grid_give_the_map_of_the_whole_scene(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = percents((150, 210))
    frames = tiles_of(make_scene, pixels, 90, 30)
    result = product(frames, tmp_path / "out")
    np.testing.assert_array_equal(read(result.probability_path), pixels[2])
    np.testing.assert_array_equal(read(result.mask_path), pixels[2] >= 50)
    with rasterio.open(result.mask_path) as dataset:
        assert dataset.crs == UTM and dataset.transform == NORTH_UP
    names = {"mosaic_mask.tif", "mosaic_probability.tif", "mosaic_mask.qml", "mosaic_probability.qml"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "mosaic.gpkg", "mosaic.json"}
    said = json.loads(result.report_path.read_text())
    assert said["frames"]["count"] == len(frames) == len(said["frames"]["segmented"]) and said["frames"]["failed"] == []
    assert said["windows"]["run"] >= len(frames) and said["source"]["name"] == f"{len(frames)} frames"


@pytest.mark.slow
def test_the_order_of_the_arguments_changes_no_byte(make_scene: SceneFactory, tmp_path: Path) -> None:
    places = NORTH_UP, NORTH_UP @ Affine.translation(20.3, 10.6), NORTH_UP @ Affine.scale(0.7)
    frames = [
        make_scene(pixels=percents((60, 80), seed=seed), name=f"f{seed}.tif", transform=place)
        for seed, place in enumerate(places)
    ]
    product(frames, tmp_path / "a")
    product(frames[::-1], tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_where_frames_disagree_the_map_has_no_step(make_scene: SceneFactory, tmp_path: Path) -> None:
    levels = np.full((3, 60, 700), 100, np.uint8)
    frames = []
    for number, (col, level) in enumerate(((0, 10), (300, 90), (350, 30), (900, 70))):
        levels[2] = level
        frames.append(make_scene(pixels=levels, name=f"f{number}.tif", transform=NORTH_UP @ Affine.translation(col, 0)))
    # Codes have steps of 1 per cent. Frames of 700 pixels, whose weights change over 512 pixels at most.
    row = read(product(frames, tmp_path / "out").probability_path)[30].astype(int)
    assert row[0] == 10 and row[-1] == 70 and row[250] == 10 and len(row) == 1600
    assert np.abs(np.diff(row)).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("place", ["shifted", "south up", "rotated", "coarser", "finer", "other zone", "geographic"])
def test_frames_on_another_grid_are_resampled_to_the_same_surface(
    make_scene: SceneFactory, tmp_path: Path, place: str
) -> None:
    def surface(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return 50 + 40 * np.sin((x - 500_000) / 20) * np.cos((y - 5_000_000) / 25)

    def corner(crs: str) -> tuple[float, float]:
        (x,), (y,) = warp_points(UTM, crs, [500_010.0], [4_999_990.0])
        return x, y

    third = {
        "shifted": (UTM, NORTH_UP @ Affine.translation(10.37, 5.81)),
        "south up": (UTM, NORTH_UP @ Affine.translation(10.37, 205.81) @ Affine.scale(1, -1)),
        "rotated": (UTM, Affine.translation(500_040, 5_000_000) @ Affine.rotation(-25) @ Affine.scale(0.5, -0.5)),
        "coarser": (UTM, NORTH_UP @ Affine.scale(1.6)),
        "finer": (UTM, NORTH_UP @ Affine.scale(0.21)),
        "other zone": (OTHER_UTM, Affine.translation(*corner(OTHER_UTM)) @ Affine.scale(0.5, -0.5)),
        "geographic": ("EPSG:4326", Affine.translation(*corner("EPSG:4326")) @ Affine.scale(6e-6, -4.5e-6)),
    }[place]
    shape_hw = (500, 600) if place == "finer" else (120, 150)
    lower = NORTH_UP @ Affine.translation(0, 100)
    frames, grids = [], [(UTM, NORTH_UP, (140, 160)), (UTM, lower, (60, 160)), (*third, shape_hw)]
    for number, (crs, transform, shape_hw) in enumerate(grids):
        rows, cols = np.indices(shape_hw) + 0.5
        xs, ys = transform @ (cols.ravel(), rows.ravel())
        if crs != UTM:
            xs, ys = map(np.array, warp_points(crs, UTM, xs, ys))
        pixels = np.full((3, *shape_hw), 100, np.uint8)
        pixels[2] = np.round(surface(xs, ys)).reshape(shape_hw)
        frames.append(make_scene(pixels=pixels, name=f"f{number}.tif", crs=crs, transform=transform))
    result = product(frames, tmp_path / "out")
    found = read(result.probability_path).astype(float)
    with rasterio.open(result.probability_path) as dataset:
        assert dataset.crs == UTM and (dataset.transform.a, dataset.transform.e) == (0.5, -0.5)
        rows, cols = np.indices(found.shape) + 0.5
        expected = surface(*(dataset.transform @ (cols, rows)))
    observed = found != 255
    assert np.abs(found - expected)[observed].max() <= 2
    assert observed.sum() >= 160 * 160
    beyond = observed.sum() - 160 * 160  # ground that only the third frame covers
    assert beyond > 0 or place in ("shifted", "finer")


def test_no_reason_enters_a_probability_and_all_observed_ground_is_kept(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    alpha = np.full((100, 120), 255)
    alpha[40:60, 30:90] = 0
    pixels = np.full((3, 100, 120), 100, np.uint8)
    pixels[2] = 20
    shifted = NORTH_UP @ Affine.translation(0.5, 0.5)
    first = make_scene(pixels=pixels[:, :4, :4], name="a.tif")  # the product has the pixels of this frame
    found = read(
        product([make_scene(pixels=pixels, alpha=alpha, transform=shifted), first], tmp_path / "out").mask_path
    )
    assert found.shape == (101, 121) and set(np.unique(found)) == {0, 255}
    assert (found == 255).sum() == 20 * 60 + 101 + 121 - 1  # the hole, and half pixels at two edges


def test_ground_is_unobserved_only_if_no_frame_observes_it_and_has_the_right_reason(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    pixels = percents((100, 200))
    holes = [np.full((100, 120), 255), np.full((100, 120), 255)]
    holes[0][20:80, 90:120] = 0  # columns 90 to 119 of the product
    holes[1][40:60, 0:40] = 0  # columns 80 to 119
    frames = [
        make_scene(
            pixels=pixels[:, :, col : col + 120], alpha=holes[number], name=f"f{number}.tif",
            transform=NORTH_UP @ Affine.translation(col, 0),
        )
        for number, col in enumerate((0, 80))
    ]  # fmt: skip
    cloud = box(500_000 + 75, 5_000_000 - 10, 500_000 + 85, 5_000_000)
    geopandas.GeoDataFrame(geometry=[cloud], crs=UTM).to_file(tmp_path / "cloud.gpkg")
    result = product(frames, tmp_path / "out", mask=tmp_path / "cloud.gpkg")
    found = read(result.probability_path)
    expected = pixels[2].copy()
    expected[40:60, 90:120] = 255
    expected[0:20, 150:170] = 255
    np.testing.assert_array_equal(found, expected)
    assert result.report["pixels"]["unobserved"] == {"nodata": 20 * 30, "mask": 20 * 20}
    reasons = geopandas.read_file(result.layer_paths[0], layer="unobserved")["reason"]
    assert set(reasons) == {"nodata", "mask"}


@pytest.mark.slow
def test_frames_outside_the_area_of_interest_are_not_segmented(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = percents((80, 240))
    frames = tiles_of(make_scene, pixels, 80, 80)
    district = box(500_000 + 20, 5_000_000 - 40, 500_000 + 60, 5_000_000)
    geopandas.GeoDataFrame(geometry=[district], crs=UTM).to_file(tmp_path / "district.gpkg")
    result = product(frames, tmp_path / "out", aoi=tmp_path / "district.gpkg")
    assert [one["name"] for one in result.report["frames"]["segmented"]] == ["f0000_0000.tif", "f0000_0080.tif"]
    assert result.report["frames"]["outside_aoi"] == ["f0000_0160.tif"] and result.report["frames"]["failed"] == []
    found = read(result.probability_path)
    np.testing.assert_array_equal(found[:, 40:120], pixels[2][:, 40:120])
    assert (found[:, :40] == 255).all() and (found[:, 120:] == 255).all()
    assert result.report["pixels"]["outside"] == 80 * 80 and result.report["observed_share"] == 1
    far = geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=UTM)
    far.to_file(tmp_path / "far.gpkg")
    with pytest.raises(SceneError, match="no frame overlaps the area of interest"):
        product(frames, tmp_path / "other", aoi=tmp_path / "far.gpkg")


@pytest.mark.slow
def test_a_frame_that_fails_is_reported_and_the_others_are_kept_until_it_is_repaired(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = percents((80, 200))
    frames = tiles_of(make_scene, pixels, 80, 60)
    whole = frames[1].read_bytes()
    frames[1].write_bytes(whole[:50])
    result = product(frames, tmp_path / "out")
    failed = result.report["frames"]["failed"]
    assert [one["name"] for one in failed] == ["f0000_0060.tif"] and "cannot be read" in failed[0]["why"]
    found = read(result.probability_path)
    np.testing.assert_array_equal(found[:, :80], pixels[2][:, :80])
    assert (found[:, 80:120] == 255).all()
    assert any("1 frame failed (f0000_0060.tif)" in line for line in result.report["warnings"])
    assert "go on with --resume" in caplog.text
    with pytest.raises(OutputError, match="holds an unfinished run of mosaic"):
        product(frames, tmp_path / "out")
    frames[1].write_bytes(whole)
    model = BlueSegmenter()
    result = product(frames, tmp_path / "out", model, resume=True)
    assert result.report["frames"]["failed"] == [] and {tile.rgb.shape[2] for tile in model.tiles} == {64}
    assert len(model.tiles) == result.report["windows"]["run"] / 3
    np.testing.assert_array_equal(read(result.probability_path), pixels[2])
    assert not (tmp_path / "out" / ".mosaic.floodmap").exists()


def test_ground_of_a_frame_whose_model_fails_has_the_reason_failed(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = percents((80, 140))
    pixels[0, :, 110:] = 250
    frames = tiles_of(make_scene, pixels, 80, 60)

    def fail(tile: Tile) -> None:
        if tile.rgb[0].max() == 250:
            raise RuntimeError("no luck")

    result = product(frames, tmp_path / "out", BlueSegmenter(fail), tile_size=128)
    assert [one["name"] for one in result.report["frames"]["failed"]] == ["f0000_0060.tif"]
    assert result.report["pixels"]["unobserved"] == {"failed": 80 * 60}
    with pytest.raises(ModelError, match="no luck"):
        product(frames, tmp_path / "other", BlueSegmenter(lambda tile: fail(replace(tile, rgb=tile.rgb * 0 + 250))))
    assert not (tmp_path / "other").exists()


def test_windows_that_fail_are_listed_in_pixels_of_the_product(
    make_scene: SceneFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = percents((64, 200))
    pixels[0, :, 190:] = 250
    last = make_scene(pixels=pixels[:, :, 80:], name="frames/z.tif", transform=NORTH_UP @ Affine.translation(80, 0))
    frames = [*tiles_of(make_scene, pixels, 64, 64)[:2], last]

    def fail(tile: Tile) -> None:
        if tile.rgb[0].max() == 250:
            raise RuntimeError("no luck")

    result = product(frames, tmp_path / "out", BlueSegmenter(fail), overlap=0)
    (failed,) = result.report["windows"]["failed"]
    assert failed["frame"] == "z.tif" and "no luck" in failed["why"]
    window = failed["window"]
    lost = read(result.mask_path)[:, window["col_off"] :] == 255
    assert lost.sum() == result.report["pixels"]["unobserved"]["failed"] > 0
    assert window["col_off"] + window["width"] == 200 and result.failed_windows == 1
    print_result(result, as_json=False, verbosity=0)
    assert "1 window FAILED, in whole or in part: unobserved unless another frame" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_and_resumed_gives_the_same_bytes(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = tiles_of(make_scene, percents((120, 120)), 90, 30)  # 4 frames with 4 windows each, and strips
    shifted = NORTH_UP @ Affine.translation(60.4, 90.3)
    frames.append(make_scene(pixels=percents((70, 90), 1), name="frames/z.tif", transform=shifted))
    monkeypatch.setattr("floodmap.scaleout.frames.assembly.strip_rows", lambda width: 16)

    def run_until_killed(out: Path, steps: int) -> None:
        left = iter(range(steps))

        def count(*_: object) -> None:
            if next(left, None) is None:
                kill()

        product(frames, out, BlueSegmenter(count), progress=lambda one: count() if one.stage == "blend" else None)

    whole = product(frames, tmp_path / "whole")
    for steps in (0, 5, 13, 24):
        out, model = tmp_path / str(steps), BlueSegmenter()
        assert killed(partial(run_until_killed, out, steps))
        assert not list(out.glob("*.tif"))
        result = product(frames, out, model, resume=True)
        assert digests(out) == digests(tmp_path / "whole"), steps
        reports = [{key: value for key, value in one.report.items() if key != "run"} for one in (result, whole)]
        assert json.loads(json.dumps(reports[0])) == json.loads(json.dumps(reports[1])), steps
        assert len(model.tiles) <= whole.report["windows"]["run"] - max(0, min(steps, 20) - 8)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_finished_work_is_not_done_again_and_changed_work_is_refused(make_scene: SceneFactory, tmp_path: Path) -> None:
    frames = tiles_of(make_scene, percents((60, 90)), 60, 30)
    product(frames, tmp_path / "out")
    before, model = digests(tmp_path / "out"), BlueSegmenter()
    assert product(frames, tmp_path / "out", model, resume=True).report["frames"]["count"] == 2
    assert model.tiles == [] and digests(tmp_path / "out") == before
    with pytest.raises(OutputError, match=r"mosaic_mask.tif exists already; replace it"):
        product(frames, tmp_path / "out")
    with pytest.raises(OutputError, match=r"cannot be resumed \(--threshold was 0.5, is now 0.7\)"):
        product(frames, tmp_path / "out", resume=True, threshold=0.7)
    with pytest.raises(OutputError, match=r"cannot be resumed \(the frames, or files of frames, have changed"):
        product(frames[:1], tmp_path / "out", resume=True)
    assert digests(tmp_path / "out") == before
    product(frames, tmp_path / "out", overwrite=True, threshold=0.7)
    assert digests(tmp_path / "out") != before


def test_equal_warnings_about_frames_are_one_line(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    frames = [make_scene(name=f"f{number}.tif", transform=coarse) for number in range(3)]
    monkeypatch.setattr(BlueSegmenter, "ood_score", lambda self, tiles: 2.0 if len(tiles) == 3 else 0.0)
    size, strange = product(frames, tmp_path / "out").report["warnings"]
    assert size.startswith(f"{frames[0]}") and size.endswith("(the same for 2 more frames)")
    assert strange.startswith("mosaic: its colours and textures are unlike all that fake was trained on")


def test_frames_without_a_place_are_refused_in_one_line(make_scene: SceneFactory, tmp_path: Path) -> None:
    photographs = []
    for number in range(3):
        path = make_scene(crs=None, transform=None, name=f"photos/{number}.jpg", driver="JPEG")
        _add_position(path)
        photographs.append(path)
    with pytest.raises(MissingCRSError, match=r"0.jpg is a photograph with a GPS .*OpenDroneMap \(the same for 2"):
        product(photographs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    plain = make_scene(crs=None, transform=None, name="plain.png", driver="PNG")
    with pytest.raises(MissingCRSError, match=r"plain.png has no CRS or no geotransform"):
        product([plain], tmp_path / "out")
    result = product([plain, make_scene()], tmp_path / "out")
    assert [one["name"] for one in result.report["frames"]["failed"]] == ["plain.png"]


def _add_position(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        exif = image.getexif()
        exif.get_ifd(0x8825).update({1: "N", 2: (12.0, 30.0, 0.0), 3: "E", 4: (77.0, 10.0, 0.0)})
        image.save(path, exif=exif)


def test_options_that_make_no_sense_are_refused(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene()
    with pytest.raises(PromptError, match="VRT"):
        product([scene], tmp_path / "out", prompts=tmp_path / "clicks.gpkg")
    with pytest.raises(SceneError, match="not a CRS"):
        product([scene], tmp_path / "out", product_crs="nonsense")
    with pytest.raises(OutputError, match="no name for files"):
        floodmap.mosaic([scene], out=tmp_path / "out", name="a/b", model=BlueSegmenter())
    far = make_scene(name="far.tif", transform=NORTH_UP @ Affine.translation(200_000, 200_000))
    with pytest.raises(SceneError, match=r"so far apart .* leave out the farthest frame, .*far.tif"):
        product([scene, make_scene(name="b.tif"), far], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_function_in_python_has_the_settings_of_segment(make_scene: SceneFactory, tmp_path: Path) -> None:
    known = {one.name for options in (SceneOptions, SegmentOptions) for one in fields(options)}
    assert set(MosaicSettings.__annotations__) == known - {"scene", "keep_features"}  # no points, so no corrections
    stages: list[MosaicProgress] = []
    frames = tiles_of(make_scene, percents((60, 90)), 60, 30)
    result = floodmap.mosaic(
        frames[0].parent, out=tmp_path / "out", name="flight", model=BlueSegmenter(), prompts="none", collar="off",
        progress=stages.append, report=True, threshold=0.6,
    )  # fmt: skip
    assert result.mask_path.name == "flight_mask.tif" and result.page_path.exists()
    assert (result.mask() == (result.probability() >= 0.595)).all()
    order = [one.stage for one in stages]
    assert order == sorted(order, key=["segment", "blend", "write"].index)
    assert [one.share for one in stages if one.stage == "segment"][-1] == 1 and stages[-1].stage == "write"
    given = [f"{frames[0].parent}/*.tif", *frames, result.mask_path]  # no frame twice, and no result
    again = floodmap.mosaic(given, out=tmp_path / "again", model=BlueSegmenter(), prompts="none", collar="off")
    assert again.report["frames"]["count"] == result.report["frames"]["count"] == len(frames)
    with pytest.raises(SceneError, match="no scene to segment: none is given"):
        floodmap.mosaic([], out=tmp_path / "none", model=BlueSegmenter())


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    fake = BlueSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


@pytest.mark.slow
def test_the_command_takes_folders_and_patterns_and_gives_exit_codes(
    make_scene: SceneFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_model: FakeSegmenter
) -> None:
    frames = tiles_of(make_scene, percents((60, 90)), 60, 30)
    out = tmp_path / "frames" / "results"
    assert run(["mosaic", str(tmp_path / "frames"), "-o", str(out), "--collar", "off"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("mosaic: ") and "ha of flood" in said.out and said.err == ""
    pattern = str(tmp_path / "frames" / "**" / "*.tif")
    assert run(["mosaic", pattern, "-o", str(out), "--json", "--resume", "--collar", "off"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"]["count"] == len(frames)
    frames[0].write_bytes(b"")
    assert run(["mosaic", str(tmp_path / "frames"), "-o", str(tmp_path / "broken")]) == 3
    said = capsys.readouterr()
    assert "f0000_0000.tif is empty" in said.err and (tmp_path / "broken" / "mosaic.json").exists()
    assert run(["mosaic", str(tmp_path / "missing.tif"), "-o", str(out)]) == 1
    assert run(["mosaic", "-o", str(out)]) == 2


def test_frames_of_one_name_in_several_folders_are_all_used(
    make_scene: SceneFactory, tmp_path: Path, fake_model: FakeSegmenter
) -> None:
    pixels = percents((60, 90))
    for number in range(2):
        make_scene(
            pixels=pixels[:, :, number * 30 : number * 30 + 60], name=f"{number}/flight/f.tif",
            transform=NORTH_UP @ Affine.translation(number * 30, 0),
        )  # fmt: skip
    out = tmp_path / "out"
    assert run(["mosaic", *(str(tmp_path / str(number) / "flight") for number in range(2)), "-o", str(out)]) == 0
    np.testing.assert_array_equal(read(out / "mosaic_probability.tif"), pixels[2])


@pytest.mark.slow
def test_many_frames_need_few_open_files(make_scene: SceneFactory, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    frames, spare = tiles_of(make_scene, percents((64, 166)), 64, 2), 24
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, limits[1]))
        result = product(frames, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert result.report["frames"]["count"] == len(frames) > 2 * spare and result.report["frames"]["failed"] == []


@pytest.mark.slow
def test_a_constant_model_gives_a_constant_map(make_scene: SceneFactory, tmp_path: Path) -> None:
    frames = tiles_of(make_scene, percents((100, 130)), 70, 30)
    frames.append(make_scene(name="z.tif", transform=NORTH_UP @ Affine.translation(20.4, 30.7) @ Affine.rotation(20)))
    result = product(frames, tmp_path / "out", ConstantSegmenter(0.495))
    assert set(np.unique(read(result.probability_path))) <= {50, 255}
