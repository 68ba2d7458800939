"""File names are taken literally, even where a library gives them another meaning."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from conftest import NORTH_UP, UTM, SceneFactory
from fakes import FakeSegmenter

from floodmap.api.scenes import segment
from floodmap.comparison.charts import histograms
from floodmap.errors import OutputError, SceneError, VectorError
from floodmap.evaluation.run import evaluate
from floodmap.geo import names
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.vectors import is_vector, read_vectors
from floodmap.inference.prompt_files import read_prompts
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run

ODD = [
    "a!b", "a;b", "a#b", "a%20b", "a?b", "{a}", "[a]", "a*", "a'\"b", "$a$", "a&b", "a|b", " a", "-a", "a:b", "file:x",
    "http:x", "a\nb", "🌊", "\u200f\u0645\u05d9", "e\u0301", "x.zip", "a\\b", "~", "<VRTDataset>",
]  # fmt: skip
DRIVERS = {"gpkg": "GPKG", "geojson": "GeoJSON", "shp": "ESRI Shapefile", "fgb": "FlatGeobuf", "gdb": "OpenFileGDB"}
WEST, NORTH = NORTH_UP.c, NORTH_UP.f
HERE, ELSEWHERE = shapely.box(WEST, NORTH - 24, WEST + 32, NORTH), shapely.box(WEST, NORTH - 5, WEST + 5, NORTH)


def write(path: Path, geometry: shapely.Geometry = HERE, **columns: int) -> Path:
    """Write a layer of one feature under any name: under a plain one first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = Path(tempfile.mkdtemp())
    values = {key: np.array([value], np.int32) for key, value in {"n": 1, **columns}.items()}
    frame = geopandas.GeoDataFrame(values, geometry=[geometry], crs=UTM)
    suffix = path.suffix
    frame.to_file(plain / f"made{suffix}", driver=DRIVERS[suffix[1:]], layer="made")
    for part in plain.iterdir():
        shutil.move(part, path.with_name(f"{path.stem}{part.suffix}"))
    plain.rmdir()
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """Commands get a fake model."""
    fake = FakeSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


@pytest.mark.slow
def test_a_result_never_replaces_a_file_outside_the_output_folder(
    make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(name="a!b.tif")
    work = tmp_path / "work"
    work.mkdir()
    for name in ("b.gpkg", "b_flood.shp", "b_flood.dbf"):
        (work / name).write_text("the user's own")
    monkeypatch.chdir(work)
    assert run(["segment", "../a!b.tif", "-o", "../out", "--format", "gpkg,shp", "--prompts", "none"]) == 0
    assert {*contents(work).values()} == {b"the user's own"} and len(contents(work)) == 3
    assert sqlite3.connect(tmp_path / "out" / "a!b.gpkg").execute("SELECT count(*) FROM flood").fetchone()[0] > 0
    assert (tmp_path / "out" / "a!b_flood.shp").exists() and (tmp_path / "out" / "a!b_flood.dbf").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, "gpkg") for name in ODD), *((name, suffix) for name in ("a!b", "a\nb") for suffix in DRIVERS)],
)
def test_a_vector_file_of_any_name_is_read_itself(
    name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    path = write(folder / f"{name}.{suffix}")
    for decoy in {*name.replace("\n", "!").replace(";", "!").split("!")} - {name, ""}:
        write(folder / f"{decoy}.{suffix}", ELSEWHERE)
    before = contents(tmp_path)
    monkeypatch.chdir(folder)
    for given in (path, Path(path.name), path.name):
        assert is_vector(given)
        assert shapely.equals(read_vectors(given).geometries[0], HERE)
    assert contents(tmp_path) == before


def test_a_vector_file_that_is_not_there_is_not_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "b.gpkg")
    monkeypatch.chdir(tmp_path)
    assert not is_vector("a!b.gpkg")
    with pytest.raises(VectorError, match="no such file"):
        read_vectors("a!b.gpkg")


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    monkeypatch.setattr(os, "link", no_links)
    for suffix in ("shp", "gdb"):
        assert shapely.equals(read_vectors(write(tmp_path / f"a!b.{suffix}")).geometries[0], HERE)
    with names.writable(tmp_path / "a!b.gdb") as plain:
        assert "!" not in str(plain)
        (plain / "new").write_text("new")
    assert (tmp_path / "a!b.gdb" / "new").read_text() == "new"


def test_names_that_only_gdal_knows_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "x.shp")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for part in tmp_path.glob("x.*"):
            if part.suffix != ".zip":
                archive.write(part, part.name)
    shutil.copy(tmp_path / "x.zip", tmp_path / "a!b.zip")
    member = f"/vsizip/{tmp_path}/x.zip/{path.name}"
    assert names.local_or_gdal(member) == member and "//" in member
    for given in (member, tmp_path / "x.zip", tmp_path / "a!b.zip", f"/vsizip/{tmp_path}/a!b.zip/x.shp"):
        assert shapely.equals(read_vectors(given).geometries[0], HERE)
    (tmp_path / "http:x").write_text("")
    assert names.local_or_gdal("http://x.org/a") == "http://x.org/a"
    assert names.local_or_gdal(str(tmp_path / "http:x")) == tmp_path / "http:x"


def test_what_gdal_writes_beside_a_file_that_it_reads_goes_elsewhere(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"n": [1]}, geometry=[HERE], crs=UTM)
    frame.to_file(tmp_path / "x.gml", driver="GML")
    (tmp_path / "x.xsd").unlink(missing_ok=True)
    before = contents(tmp_path)
    assert len(read_vectors(tmp_path / "x.gml")) == 1
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_paths_too_long_for_sqlite_will_do(make_scene: SceneFactory, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 3)
    area = write(deep / "area.gpkg", ELSEWHERE)
    flood_map = segment_scene(
        make_scene(), deep / "out", FakeSegmenter(), SegmentOptions(scene=SceneOptions(aoi=area), prompts="none")
    )
    assert len(flood_map.polygons()) > 0 and flood_map.report["pixels"]["outside"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["gpkg", "shp", "geojson", "fgb", "parquet"])
def test_results_of_any_name_are_read_again(formats: str, make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(name="a!b;c.tif")
    options = SegmentOptions(prompts="none", formats=(formats,))  # type: ignore[arg-type]
    flood_map = segment_scene(scene, tmp_path / "o!p.zip", FakeSegmenter(), options)
    assert len(flood_map.polygons()) == flood_map.report["polygons"]["flood"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--aoi", "--mask", "--prompts"])
def test_a_file_geodatabase_is_taken_for_a_file(
    option: str, make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, capsys
) -> None:
    area = write(tmp_path / "area.gdb", ELSEWHERE)
    args = ["segment", str(make_scene()), "-o", str(tmp_path / "out"), option, str(area)]
    assert run(args) == 0
    assert run([*args, "--resume"]) == 0
    assert run([*args[:-1], str(tmp_path)]) == 2
    assert "directory; give a file or a .gdb folder" in capsys.readouterr().err
    assert run([*args[:-1], str(tmp_path / "none.gdb")]) == 2
    shutil.rmtree(area)
    write(area, HERE)
    assert run([*args, "--resume"]) == 1  # it is another one


@pytest.mark.slow
def test_an_area_of_interest_in_an_archive_is_read_and_resumed_with_while_it_is_the_same(
    make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, capsys
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(write(tmp_path / "x.geojson", ELSEWHERE), "x.geojson")
    area = f"/vsizip/{tmp_path}/x.zip/x.geojson"
    args = ["segment", str(make_scene()), "-o", str(tmp_path / "out"), "--aoi", area, "--prompts", "none"]
    assert run(args) == 0
    with rasterio.open(tmp_path / "out" / "scene_mask.tif") as mask:
        assert (mask.read(1) != 255).sum() == 100
    assert run([*args, "--resume"]) == 0
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(write(tmp_path / "y.geojson"), "x.geojson")
    assert run([*args, "--resume"]) == 1 and "x.geojson (--aoi) has changed" in capsys.readouterr().err


def test_prompts_of_any_name_are_read_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "a!b.gpkg", shapely.Point(WEST + 5, NORTH - 5), label=1)
    write(tmp_path / "b.gpkg", shapely.Point(WEST + 9, NORTH - 9), label=0)
    prompts = read_prompts(path, GeoGrid(UTM, NORTH_UP, (48, 64)))
    assert prompts.labels.tolist() == [1] and prompts.points_xy.tolist() == [[10, 10]]


def test_predictions_references_and_errors_may_have_any_name(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(name="p!q.tif", pixels=np.ones((1, 48, 64), np.uint8))
    write(tmp_path / "a!b.gpkg", ELSEWHERE)
    monkeypatch.chdir(tmp_path)
    for decoy in ("b.gpkg", "d.gpkg"):
        Path(decoy).write_text("the user's own")
    evaluation = evaluate("p!q.tif", "a!b.gpkg", errors="c!d.gpkg")
    assert evaluation.scenes[0].iou == pytest.approx(100 / (48 * 64))
    assert Path("c!d.gpkg").stat().st_size > 10_000
    assert Path("b.gpkg").read_text() == Path("d.gpkg").read_text() == "the user's own"


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there alone")
def test_a_name_that_is_no_text_is_refused_before_the_first_window(
    make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, capsys
) -> None:
    scene, odd = make_scene(), tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    shutil.copy(scene, odd / "s.tif")
    (odd / "area.gpkg").write_bytes(write(tmp_path / "area.gpkg").read_bytes())
    for args in ((odd / "s.tif", "-o", tmp_path / "a"), (scene, "-o", odd / "b"),
                 (scene, "-o", tmp_path / "c", "--aoi", odd / "area.gpkg")):  # fmt: skip
        assert run(["segment", *map(str, args)]) == 1
        said = capsys.readouterr().err
        assert "not UTF-8" in said and said.count("\n") == 1
    assert not fake.tiles and sorted(path.name for path in odd.iterdir()) == ["area.gpkg", "s.tif"]
    assert run(["info", str(odd / "s.tif")]) == 1 and "not UTF-8" in capsys.readouterr().err


def test_a_name_too_long_for_its_results_is_refused_before_the_first_window(
    make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, capsys
) -> None:
    assert run(["segment", str(make_scene(name=f"{'n' * 250}.tif")), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "too long" in said and said.count("\n") == 1 and not fake.tiles


def test_temporary_files_have_nowhere_to_go_where_no_folder_has_a_plain_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names.os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="TMPDIR"):
        read_vectors(write(tmp_path / "a!b.gpkg"))


@pytest.mark.slow
def test_control_characters_come_through(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(name="a\x01b\ufffe.tif", shape_hw=(600, 1100))
    flood_map = segment_scene(scene, tmp_path / "out", FakeSegmenter(), SegmentOptions(prompts="none", report=True))
    with rasterio.open(flood_map.mask_path) as mask:
        assert mask.overviews(1) == [2, 4]
    assert flood_map.polygons()["source"][0] == scene.name == flood_map.report["source"]["name"]


@pytest.mark.slow
def test_names_of_models_stand_in_charts_as_they_are() -> None:
    svg = histograms({"IoU": {"$x_2$": np.array([0.5]), "_own": np.array([0.7]), "洪水": np.array([0.7])}})
    assert "$x_2$" in svg and "_own" in svg and "洪水" in svg


def test_an_area_given_as_text_from_python_is_taken_literally(make_scene: SceneFactory, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no such file"):
        segment(make_scene(), out=tmp_path / "out", aoi=str(tmp_path / "none.gpkg"))
