"""Places that are worth a look, ranked by the expected error."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, picture, scene_factory
from fakes import FakeSegmenter
from shapely import box

from floodmap.analysis.exposure.run import exposure
from floodmap.analysis.flood_map import open_flood_map
from floodmap.analysis.review.buildings import uncertain_buildings
from floodmap.analysis.review.codes import open_result_codes
from floodmap.analysis.review.ranking import STEPS, cell_side, expected_errors, ranked
from floodmap.analysis.review.run import apply_review, review, undo_review
from floodmap.errors import OutputError, SceneError, VectorError
from floodmap.geo.geogrid import UNPLACED, GeoGrid
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.pages.settings import origin_table
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap.strips.codes import REASONS
from floodmap_cli.main import run

SHAPE = (400, 300)


def codes(**spots: tuple[int, int, int]) -> np.ndarray:
    """Sure dry ground, with squares of 40 pixels: row, column, and per cent."""
    found = np.zeros(SHAPE, np.uint8)
    for row, col, percent in spots.values():
        found[row : row + 40, col : col + 40] = percent
    return found


def strips(values: np.ndarray, rows: int = 400):
    return iter([(row, values[row : row + rows]) for row in range(0, len(values), rows)])


def places(values: np.ndarray, threshold: int = 50, crs=UTM, **how):
    grid = GeoGrid(crs, NORTH_UP if crs else UNPLACED, SHAPE)
    cells = expected_errors(strips(values), grid, threshold=threshold, side=cell_side(SHAPE))
    return ranked(cells, SHAPE, **how)


def test_the_least_certain_place_comes_first() -> None:
    found = places(codes(sure=(20, 20, 97), doubtful=(200, 200, 55), dry=(300, 20, 30)))
    ranks = [
        next(rank for rank, place in enumerate(found) if row <= place.window.row_off + 16 < row + 40)
        for row in (200, 300, 20)
    ]
    assert ranks[0] == 0 and ranks == sorted(ranks)
    errors = [place.error for place in found]
    assert errors == sorted(errors, reverse=True) and 0.95 < sum(place.share for place in found) <= 1


def test_a_place_is_a_hundredth_of_the_scene_and_places_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    found = places(rng.integers(20, 80, SHAPE).astype(np.uint8), count=30)
    seen = np.zeros(SHAPE, int)
    for place in found:
        seen[place.window.slices] += 1
        assert place.window.height * place.window.width <= 0.011 * SHAPE[0] * SHAPE[1]
    assert len(found) == 30 and seen.max() == 1


def test_errors_are_square_metres_or_pixels() -> None:
    values = codes(doubtful=(200, 200, 40))
    pixels, metres = places(values, crs=None), places(values)
    assert sum(place.error for place in pixels) == pytest.approx(1600 * 0.4, rel=1e-3)
    assert sum(place.error for place in metres) == pytest.approx(1600 * 0.4 * 0.25, rel=1e-2)  # pixels of 0.5 m


def test_unobserved_ground_and_certain_ground_have_no_place() -> None:
    assert places(codes(hidden=(20, 20, 255), failed=(200, 200, 252))) == []
    assert places(codes(sure=(20, 20, 100))) == []


def test_the_threshold_decides_what_is_wrong() -> None:
    values = codes(wet=(20, 20, 60), wetter=(200, 200, 80))
    at_50, at_90 = places(values)[0], places(values, threshold=90)[0]
    assert at_50.window.row_off < 100 < at_90.window.row_off


def test_strips_make_no_difference() -> None:
    values = np.random.default_rng(1).integers(0, 101, SHAPE).astype(np.uint8)
    grid, side = GeoGrid(UTM, NORTH_UP, SHAPE), cell_side(SHAPE)
    whole = expected_errors(strips(values), grid, threshold=50, side=side)
    cut = expected_errors(strips(values, 7), grid, threshold=50, side=side)
    assert np.allclose(whole.sums, cut.sums)


@pytest.mark.parametrize("shape", [(3, 3), (1, 500), (500, 2), (9, 1000)])
def test_scenes_of_any_shape_have_places(shape: tuple[int, int]) -> None:
    grid, side = GeoGrid(None, UNPLACED, shape), cell_side(shape)
    values = np.full(shape, 45, np.uint8)
    found = ranked(expected_errors(strips(values, 5), grid, threshold=50, side=side), shape)
    assert found and all(place.window.row_end <= shape[0] and place.window.col_end <= shape[1] for place in found)
    assert STEPS >= 1


# The file of a review, and edits.


@pytest.fixture(scope="module")
def model_result(tmp_path_factory: pytest.TempPathFactory) -> FloodMap:
    """A result with flood, permanent water, two kinds of unobserved ground, and doubtful ground."""
    folder = tmp_path_factory.mktemp("model")
    make_scene = scene_factory(folder)
    alpha = np.full((200, 220), 255)
    alpha[:25, :30] = 0
    pixels = picture(3, (200, 220), seed=4)
    scene = make_scene(pixels=pixels, alpha=alpha, name="scene.tif", crs=UTM)
    west, north = NORTH_UP.c, NORTH_UP.f
    cloud, lake = box(west + 60, north - 100, west + 90, north - 80), box(west, north - 60, west + 40, north - 30)
    for name, shape in (("cloud", cloud), ("lake", lake)):
        geopandas.GeoDataFrame(geometry=[shape], crs=UTM).to_file(folder / f"{name}.gpkg")
    options = SegmentOptions(
        scene=SceneOptions(collar="off", mask=folder / "cloud.gpkg"), prompts="none", tile_size=128, overlap=16,
        min_area_m2=0.0, simplify_m=0.0, permanent_water=folder / "lake.gpkg", formats=("gpkg", "fgb"),
    )  # fmt: skip
    return segment_scene(scene, folder / "out", FakeSegmenter(), options)


@pytest.fixture
def result(model_result: FloodMap, tmp_path: Path) -> FloodMap:
    """A copy of the result, in the folder of the test."""
    shutil.copytree(model_result.report_path.parent, tmp_path / "out")
    return open_flood_map(tmp_path / "out")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def decide(path: Path, statuses: dict[int, str], edits: list[tuple[str, object]] = ()) -> None:
    """Set the status of places by rank, and draw edits, as a person does in QGIS."""
    places = geopandas.read_file(path, layer="review")
    for rank, status in statuses.items():
        places.loc[places["rank"] == rank, "status"] = status
    places.to_file(path, layer="review")
    if edits:
        names, shapes = zip(*edits, strict=True)
        table = geopandas.GeoDataFrame({"class": names, "note": ""}, geometry=list(shapes), crs=UTM)
        table.to_file(path, layer="edits")


def test_the_codes_of_a_result_are_those_of_its_run(result: FloodMap) -> None:
    with open_result_codes(result) as codes:
        found = np.concatenate([part for _, part in codes.strips()])
    pixels = result.report["pixels"]
    assert {name: np.count_nonzero(found == code) for code, name in REASONS.items() if (found == code).any()} == (
        pixels["unobserved"]
    )
    assert np.count_nonzero((found > 100) & (found < 250)) == pixels["permanent_water"] > 0
    assert np.count_nonzero((found >= 50) & (found <= 100)) == pixels["flood"]


def test_places_are_written_with_status_and_forms(result: FloodMap) -> None:
    done = review(result, count=5)
    places = geopandas.read_file(done.path, layer="review")
    assert list(places["rank"]) == [1, 2, 3, 4, 5] and set(places.status) == {"open"} and places.crs == UTM
    assert places.error_m2.is_monotonic_decreasing and len(geopandas.read_file(done.path, layer="edits")) == 0
    with closing(sqlite3.connect(done.path)) as database:
        styles = dict(database.execute("SELECT f_table_name, styleQML FROM layer_styles"))
    assert "ValueMap" in styles["review"] and "permanent water" in styles["edits"]
    with pytest.raises(OutputError, match="--overwrite"):
        review(result)


def test_nothing_changes_without_edits_and_undo_gives_the_same_bytes(result: FloodMap) -> None:
    folder = result.report_path.parent
    before = digests(folder)
    review(result)
    done = apply_review(result)
    after = digests(folder)
    same = [name for name in before if name != "scene.json"]
    assert [after[name] for name in same] == [before[name] for name in same]
    assert done.report["review"]["pixels_changed"] == 0 and done.report["pixels"] == result.report["pixels"]
    assert done.report["windows"] == result.report["windows"]
    undo_review(result)
    assert {name: digest for name, digest in digests(folder).items() if name != "scene_review.gpkg"} == before
    assert not (folder / "scene_model").exists()


def test_rejected_and_redrawn_places_and_edits_change_the_result(result: FloodMap) -> None:
    folder, path = result.report_path.parent, review(result).path
    before, old = digests(folder), result.mask()
    places = geopandas.read_file(path, layer="review").geometry
    west, north = NORTH_UP.c, NORTH_UP.f
    drawn = box(west + 70, north - 40, west + 80, north - 30)  # columns 140 to 160, rows 60 to 80
    decide(path, {1: "rejected", 2: "redrawn", 3: "accepted"},
           [("flood", places[1].buffer(-1)), ("unobserved", drawn)])  # fmt: skip
    done = apply_review(folder / "scene")
    mask, about = done.mask(), done.report["review"]
    first, second = (slice_of(places[index]) for index in (0, 1))
    assert not (mask[first] == 1).any() and np.array_equal(mask[first] == 255, old[first] == 255)
    assert (mask[second] == 1).mean() == pytest.approx((12 / 16) ** 2)
    assert (mask[60:80, 140:160] == 255).all()
    changed = mask != old
    changed[first], changed[second], changed[60:80, 140:160] = False, False, False
    assert not changed.any()
    assert about["places"] == {"open": len(places) - 3, "accepted": 1, "rejected": 1, "redrawn": 1}
    assert about["edits"] == 2 and about["method"] == "Semi-automatic extraction"
    assert about["pixels_changed"] == np.count_nonzero(mask != old)
    assert "1 redrawn; 2 polygons" in dict(origin_table(done.report))["Reviewed"]
    assert np.count_nonzero(mask == 1) == done.report["pixels"]["flood"]
    flood = geopandas.read_file(folder / "scene.gpkg", layer="flood")
    assert flood.area.sum() == pytest.approx(0.25 * done.report["pixels"]["flood"])
    assert ((done.probability() >= 0.5) == np.isin(mask, (1, 2))).all()
    again = apply_review(folder / "scene")  # begins with the result of the model again
    assert np.array_equal(again.mask(), mask)
    undo_review(folder)
    assert {name: digest for name, digest in digests(folder).items() if name in before} == {
        **before,
        "scene_review.gpkg": digests(folder)["scene_review.gpkg"],
    }


def test_changed_pixels_are_those_whose_class_in_the_mask_changes(result: FloodMap) -> None:
    old, path = result.mask(), review(result).path
    west, north = NORTH_UP.c, NORTH_UP.f
    wet, hidden = box(west + 5, north - 99, west + 105, north - 65), box(west, north - 40, west + 30, north)
    decide(path, {}, [("permanent water", wet), ("unobserved", hidden)])
    done = apply_review(result)
    mask = done.mask()
    assert ((old == 1) & (mask == 2)).any() and ((old == 255) & (mask == 255)).any()
    assert done.report["review"]["pixels_changed"] == np.count_nonzero(mask != old)


def slice_of(shape: object) -> tuple[slice, slice]:
    west, south, east, north = shape.bounds
    (left, top), (right, bottom) = ~NORTH_UP @ (west, north), ~NORTH_UP @ (east, south)
    return slice(round(top), round(bottom)), slice(round(left), round(right))


def test_a_scene_that_was_segmented_again_is_reviewed_anew(result: FloodMap, model_result: FloodMap) -> None:
    folder = result.report_path.parent
    decide(review(result).path, {1: "rejected"})
    apply_review(result)
    for file in model_result.report_path.parent.iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    again = apply_review(folder)
    assert again.report["review"]["places"]["rejected"] == 1
    undo_review(folder)
    assert open_flood_map(folder).report == model_result.report


def test_an_interrupted_review_can_be_undone(result: FloodMap, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = result.report_path.parent
    before = digests(folder)
    decide(review(result).path, {1: "rejected"})
    monkeypatch.setattr("floodmap.output.finishing.write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        apply_review(folder)
    assert not (folder / "scene.json").exists()
    undo_review(folder / "scene")
    after = digests(folder)
    assert {name: after[name] for name in before} == before


def test_wrong_files_are_one_line(result: FloodMap, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="write the places to look at first"):
        apply_review(result)
    with pytest.raises(SceneError, match="has not been reviewed"):
        undo_review(result)
    with pytest.raises(SceneError, match="no result"):
        review(tmp_path)
    path = review(result).path
    decide(path, {1: "perhaps"})
    with pytest.raises(VectorError, match="status is 'perhaps'; it can be open, accepted"):
        apply_review(result)
    assert open_flood_map(result.report_path.parent).report == result.report


def test_the_command_writes_applies_and_undoes(result: FloodMap, capsys: pytest.CaptureFixture[str]) -> None:
    name = str(result.report_path.parent / "scene")
    assert run(["review", name, "--count", "4"]) == 0
    assert "4 places with" in capsys.readouterr().out
    decide(Path(f"{name}_review.gpkg"), {1: "rejected"})
    assert run(["review", name, "--apply"]) == 0 and "changed by the review" in capsys.readouterr().out
    assert run(["review", name, "--undo"]) == 0 and "the result of the model" in capsys.readouterr().out
    assert run(["review", name, "--apply", "--undo"]) == 2
    assert run(["review", name, "--apply", "--count", "4"]) == run(["review", name, "--undo", "-o", "x.gpkg"]) == 2


# Uncertain buildings.


def house(col: float, row: float, side: float = 6) -> object:
    """Square polygon in the CRS of `NORTH_UP`, from column, row and side in pixels."""
    (west, north), (east, south) = NORTH_UP @ (col, row), NORTH_UP @ (col + side, row + side)
    return box(west, south, east, north)


@pytest.fixture
def town(tmp_path: Path) -> FloodMap:
    """A result of 400 x 300 pixels: probabilities of 45 % in a large field, 40 % and 90 % in two small ones."""
    values = codes(yard=(200, 200, 40), pond=(300, 20, 90))
    values[20:140, 20:140] = 45
    values[0:10, 290:300] = 255
    folder = tmp_path / "town"
    folder.mkdir()
    mask = np.where(values == 255, 255, values >= 50).astype(np.uint8)
    for ending, pixels in (("probability", values), ("mask", mask)):
        with rasterio.open(
            folder / f"scene_{ending}.tif", "w", driver="GTiff", width=300, height=400, count=1, dtype="uint8",
            crs=UTM, transform=NORTH_UP, nodata=255,
        ) as dataset:  # fmt: skip
            dataset.write(pixels, 1)
    hidden = geopandas.GeoDataFrame({"reason": ["nodata"]}, geometry=[house(290, 0, 10)], crs=UTM)
    hidden.to_file(folder / "scene.gpkg", layer="unobserved")
    report = {
        "name": "scene", "settings": {"threshold": 0.5, "permanent_water": None}, "run": {"formats": ["gpkg"]},
        "pixels": {"unobserved": {"nodata": 100}, "outside": 0},
    }  # fmt: skip
    (folder / "scene.json").write_text(json.dumps(report))
    return open_flood_map(folder)


def write_houses(path: Path, shapes: list[object], crs: str = UTM) -> Path:
    geopandas.GeoDataFrame(geometry=shapes, crs=UTM).to_crs(crs).to_file(path)
    return path


HOUSES = (
    *(house(col, 210) for col in (205, 215, 225)),  # 40 %: uncertain
    house(30, 30), house(50, 30),  # 45 %: uncertain
    house(30, 310),  # 90 %: certainly wet
    house(250, 100),  # certainly dry
    house(292, 2),  # unobserved
)  # fmt: skip


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_places_with_uncertain_buildings_come_first(town: FloodMap, tmp_path: Path, crs: str) -> None:
    houses = write_houses(tmp_path / "houses.gpkg", list(HOUSES), crs)
    plain = review(town, out=tmp_path / "plain.gpkg")
    done = review(town, out=tmp_path / "ranked.gpkg", buildings=houses)
    assert 20 <= plain.places[0].window.row_off + 16 < 140  # the large field has the largest expected errors
    first, second, *others = geopandas.read_file(done.path, layer="review").itertuples()
    assert (first.buildings_uncertain, second.buildings_uncertain) == (3, 2) and others
    assert first.geometry.contains(house(215, 210).centroid) and second.geometry.contains(house(30, 30).centroid)
    assert {one.buildings_uncertain for one in others} == {0}
    errors = [one.error_m2 for one in others]
    assert errors == sorted(errors, reverse=True) and done.buildings_uncertain == done.buildings_listed == 5
    assert plain.buildings_uncertain is None
    assert "buildings_uncertain" not in geopandas.read_file(plain.path, layer="review")


def test_uncertain_buildings_are_those_between_two_figures_of_exposure(town: FloodMap, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    shapes = [house(col, row, side) for col, row, side in rng.uniform((-5, -5, 2), (300, 400, 30), (300, 3))]
    shapes += [shape.centroid for shape in shapes[:100]]
    houses = write_houses(tmp_path / "houses.gpkg", shapes)
    total = exposure(town, buildings=houses).total
    found = uncertain_buildings(town, houses, None, side=7)
    between = total["buildings_touched_upper"] - total["buildings_touched_lower"]
    assert found.sum() == between > 50
    assert found.shape == (58, 43)


def test_buildings_without_a_place_or_a_scene_are_told(
    town: FloodMap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = write_houses(tmp_path / "far.gpkg", [house(10_000, 10_000)])
    done = review(town, out=tmp_path / "far_review.gpkg", buildings=far)
    assert "no building of" in caplog.text and "check its CRS" in caplog.text
    assert [place.window for place in done.places] == [
        place.window for place in review(town, out=tmp_path / "plain.gpkg").places
    ]
    lines = geopandas.GeoDataFrame(geometry=[house(30, 30).boundary], crs=UTM)
    lines.to_file(tmp_path / "lines.gpkg")
    with pytest.raises(VectorError, match="buildings are polygons or points"):
        review(town, out=tmp_path / "lines_review.gpkg", buildings=tmp_path / "lines.gpkg")
    assert not (tmp_path / "lines_review.gpkg").exists()


def test_the_command_ranks_by_buildings(town: FloodMap, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, houses = str(town.report_path.parent / "scene"), str(write_houses(tmp_path / "houses.gpkg", list(HOUSES)))
    assert run(["review", name, "--buildings", houses]) == 0
    assert capsys.readouterr().out.rstrip().endswith("and 5 of 5 uncertain buildings")
    assert run(["review", name, "--buildings", houses, "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = printed["places"]
    assert printed["buildings_uncertain"] == 5
    assert [row["buildings_uncertain"] for row in rows[:3]] == [3, 2, 0]
    assert run(["review", name, "--buildings", str(tmp_path / "none.gpkg")]) == 2
    assert run(["review", name, "--buildings", houses, "--apply"]) == 2
    assert run(["review", name, "--buildings-layer", "houses"]) == 2
