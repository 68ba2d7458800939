"""Adaptation of a model to corrections of one scene."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from shapely.geometry import LineString, Point, box

import floodmap
import floodmap.training.adaptation.run
from floodmap.analysis.review.edits import write_places
from floodmap.analysis.review.ranking import Place
from floodmap.errors import LabelError, ModelError, OutputError, VectorError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.models.calibration import Calibration
from floodmap.models.registry import resolve
from floodmap.models.training_record import picture_key
from floodmap.options import AdaptOptions
from floodmap.training.adaptation.corrections import DRY, FLOOD, KEPT, Corrections, read_corrections, without_ignored
from floodmap.training.adaptation.result import Adaptation
from floodmap.training.adaptation.run import _refined, adapt_model
from floodmap.training.adaptation.scoring import Score
from floodmap.training.adaptation.split import divide, undivided
from floodmap.training.adaptation.tuning import Tuning
from floodmap.training.samples import IGNORED
from floodmap_cli.main import cli, run

SIDE = 256
CRS = "EPSG:32632"
GRID = GeoGrid(rasterio.crs.CRS.from_string(CRS), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), (SIDE, SIDE))


def on_ground(left: float, top: float, right: float, bottom: float) -> shapely.Polygon:
    """A rectangle given in pixels of the scene."""
    return shapely.transform(box(left, top, right, bottom), GRID.to_crs)


def write(path: Path, shapes: list[shapely.Geometry], crs: str | None = CRS, **columns: list[object]) -> Path:
    frame = geopandas.GeoDataFrame(columns, geometry=shapes, crs=CRS)
    if crs is None:
        with pytest.warns(UserWarning, match="'crs' was not provided"):
            frame.set_crs(None, allow_override=True).to_file(path, layer="mine")
    else:
        frame.to_crs(crs).to_file(path, layer="mine")
    return path


def corrections(*given: tuple[tuple[float, float, float, float], int]) -> Corrections:
    shapes = np.array([box(*bounds) for bounds, _ in given], object)
    return Corrections(shapes=shapes, labels=np.array([label for _, label in given]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Brown ground with stripes of bright orange, which the shipped model calls dry."""
    random = np.random.default_rng(0)
    stripes = np.arange(SIDE)[None] // 32 % 2 == 1
    rgb = np.where(stripes[..., None], (235, 140, 20), (90, 75, 60)) * np.ones((SIDE, 1, 1))
    rgb = np.clip(rgb + random.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("scene") / "orange.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", crs=CRS, transform=GRID.transform
    ) as file:
        file.write(rgb.transpose(2, 0, 1))
    return path


@pytest.fixture(scope="module")
def edits(scene: Path) -> Path:
    """Rectangles on the stripes: orange is flood, brown is dry."""
    shapes, labels = [], []
    for number, left in enumerate(range(0, SIDE, 32)):
        for top in (8, 140):
            shapes.append(on_ground(left + 4, top, left + 28, top + 90))
            labels.append(number % 2)
    return write(scene.parent / "edits.gpkg", shapes, label=labels)


# The shipped model is sure that orange is dry: the default settings, which are careful, would need more of it.
BOLD = Tuning(steps=15, learning_rate=2e-3, old_predictions=0.0, pull=0.0)


def quick(**settings: float) -> partial[Tuning]:
    return partial(Tuning, **{"steps": 1, **settings})


def test_polygons_and_points_of_any_crs_become_labels(tmp_path: Path) -> None:
    shapes = [
        on_ground(10, 20, 30, 40),
        on_ground(100, 100, 120, 110),
        Point(*GRID.to_crs(np.array([[60.5, 70.5]]))[0]),
    ]
    path = write(tmp_path / "e.gpkg", shapes, "EPSG:4326", label=["flood", "0", "1"])
    found = read_corrections(path, GRID).drawn(GRID.whole)
    assert (found[21:39, 11:29] == FLOOD).all()
    assert (found[101:109, 101:119] == DRY).all()
    assert found[70, 60] == FLOOD and found[70, 70] == IGNORED
    assert abs(int((found == FLOOD).sum()) - 400 - 20) < 30
    assert abs(int((found == DRY).sum()) - 200) < 20


def test_later_polygons_lie_over_earlier_ones_and_unobserved_cuts() -> None:
    given = corrections(((0, 0, 50, 50), FLOOD), ((25, 0, 50, 50), DRY), ((0, 40, 50, 50), IGNORED))
    cut = without_ignored(given)
    drawn, expected = cut.drawn(GRID.whole), given.drawn(GRID.whole)
    assert (drawn == expected).all()
    assert (drawn == FLOOD).sum() == (drawn == DRY).sum() == 1000
    assert not shapely.intersection(*cut.shapes).area


def test_the_file_of_a_review_is_read_with_its_status_and_edits(tmp_path: Path) -> None:
    path = tmp_path / "review.gpkg"
    windows = [Window(0, 50 * number, 40, 40) for number in range(4)]
    write_places([Place(window, 1.0, 0.1) for window in windows], GRID, path)
    places = geopandas.read_file(path, layer="review")
    places["status"] = ["open", "accepted", "rejected", "redrawn"]
    places.to_file(path, layer="review")
    drawn = [on_ground(155, 5, 165, 15), on_ground(200, 200, 210, 210)]
    geopandas.GeoDataFrame({"class": ["Flood", "permanent water"]}, geometry=drawn, crs=CRS).to_file(
        path, layer="edits"
    )
    found = read_corrections(path, GRID).drawn(GRID.whole)
    assert [found[20, 50 * number + 20] for number in range(4)] == [IGNORED, KEPT, DRY, DRY]
    assert found[10, 160] == FLOOD and found[205, 205] == FLOOD


@pytest.mark.parametrize(
    ("columns", "shape", "message"),
    [
        ({"other": [1]}, on_ground(0, 0, 9, 9), "no field label or class"),
        ({"label": ["wet?"]}, on_ground(0, 0, 9, 9), "class wet\\? of feature 0 is not understood"),
        ({"label": [1]}, on_ground(900, 900, 990, 990), "none of its 1 corrections lies inside the scene"),
        ({"label": [1]}, LineString([(500_000, 5_000_000), (500_010, 4_999_990)]), "polygons and points"),
    ],
)  # fmt: skip
def test_corrections_that_cannot_be_used_are_refused(tmp_path: Path, columns, shape, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_corrections(write(tmp_path / "e.gpkg", [shape], **columns), GRID)


def test_corrections_without_a_crs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="has no CRS"):
        read_corrections(write(tmp_path / "e.gpkg", [on_ground(0, 0, 9, 9)], crs=None, label=[1]), GRID)


def test_parts_share_no_block_and_hold_their_share_of_both_classes() -> None:
    given = corrections(((0, 0, 1000, 200), FLOOD), ((0, 300, 1000, 1000), DRY))
    parts = divide(given, count=3, seed=0).parts
    inner = [shapely.union_all(part.blocks.shapes).buffer(-1) for part in parts]
    assert not any(shapely.intersects(inner[i], inner[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    for name, area in (("flood", 200_000), ("dry", 700_000)):
        held = [part.areas()[name] for part in parts]
        assert sum(held) == pytest.approx(area, abs=3)
        assert all(0.25 < one / area < 0.42 for one in held)
    again, other = (divide(given, count=3, seed=seed).parts[0].blocks.shapes for seed in (0, 1))
    assert shapely.equals(parts[0].blocks.shapes, again).all()
    assert len(other) != len(again) or not shapely.equals(other, again).all()


def test_two_places_with_flood_lie_in_two_parts() -> None:
    many = [((150 * i, 300, 150 * i + 90, 390), DRY) for i in range(7)]
    given = corrections(((0, 0, 90, 90), FLOOD), ((900, 0, 990, 90), FLOOD), *many)
    held = [part.areas()["flood"] for part in divide(given, count=3, seed=0).parts]
    assert sorted(held) == [0, 8100, 8100]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((((0, 0, 300, 300), FLOOD), ((0, 300, 8, 308), DRY)), "0 pixels of dry ground are left"),
        ((((0, 0, 60, 60), FLOOD),), "0 pixels of flood are left"),
    ],
)
def test_too_few_corrections_to_keep_some_out_are_refused(given, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        divide(corrections(*given), count=3, seed=0)
    assert not undivided(corrections(*given)).parts


def test_the_score_is_of_corrections_and_right_counts_ground_around_by_the_old_probability() -> None:
    def counted(**pixels: tuple[float, float]) -> np.ndarray:
        total = np.zeros((101, 2))
        for percent, dry_and_flood in pixels.items():
            total[int(percent[1:])] = dry_and_flood
        return total

    before = Score.of(counted(p0=(50, 100)), counted(p0=(1000, 0)))
    careful = Score.of(counted(p0=(50, 20), p90=(20, 80)), counted(p0=(1000, 0)))
    careless = Score.of(counted(p0=(50, 20), p90=(20, 80)), counted(p90=(1000, 0)))
    assert (before.iou, before.missed, before.false_flood) == (0, 1, 0)
    assert careful.iou == careless.iou == 80 / 120 and careful.missed == 0.2
    assert careless.right < careful.right / 5
    dry = Score.of(counted(p0=(75, 0), p60=(25, 0)), counted())
    assert (dry.iou, dry.value, dry.false_flood) == (None, 0.75, 0.25)


@pytest.mark.parametrize(("gain", "helped"), [(0.039, False), (0.041, True)])
def test_the_mean_gain_of_the_parts_decides(gain: float, helped: bool) -> None:
    score = Score(iou=0.5, right=0.5, missed=0.5, false_flood=0.0)
    found = Adaptation(
        path=None, base="finetuned", before=score, after=score, gain=gain, corrected={}, parts=3,
        changed_elsewhere=0.0, seconds=1.0,
    )  # fmt: skip
    assert found.helped is helped and found.line().startswith("it helped" if helped else "it did not help")


def test_the_calibration_is_joined_so_that_the_border_stays_where_it_was() -> None:
    percent = np.arange(101)
    counts = np.zeros((101, 2))
    too_sure = 1 / (1 + np.exp(-0.5 * np.log((percent + 0.5) / (100.5 - percent))))
    counts[:, 1], counts[:, 0] = 1000 * too_sure, 1000 * (1 - too_sure)
    old = Calibration(1.5, 0.6)
    new = _refined(old, counts)
    assert new.scale / old.scale == pytest.approx(0.5, abs=0.05)
    assert new.shift / new.scale == pytest.approx(old.shift / old.scale)


@pytest.mark.slow
def test_the_shipped_model_learns_a_colour_and_says_so(scene: Path, edits: Path, tmp_path: Path) -> None:
    out = tmp_path / "local.safetensors"
    done = adapt_model(scene, edits, out, AdaptOptions(parts=2), device="cpu", tuning=BOLD)
    assert done.helped and done.path == out
    assert done.before.iou < 0.2 and done.after.iou > done.before.iou + 0.3
    assert done.line().startswith(f"it helped: on corrections kept out IoU {done.after.iou:.3f}")
    with rasterio.open(scene) as file:
        mask, _ = floodmap.predict(file.read(), gsd_m=0.5, model=floodmap.load_model(out))
    called = mask.reshape(SIDE, -1, 32).mean(axis=(0, 2))
    assert called[1::2].min() > 0.6 and called[::2].max() < 0.2


@pytest.mark.slow
def test_the_file_keeps_all_but_decoder_and_calibration_and_records_the_run(
    scene: Path, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floodmap.training.adaptation.run, "Tuning", quick(steps=2))
    out = tmp_path / "local.safetensors"
    done = floodmap.adapt(scene, corrections=edits, out=out, even_if_worse=True, device="cpu")
    base = resolve("finetuned")
    old, new = load_file(base.path), load_file(out)
    changed = {name for name in old if not bool((old[name] == new[name]).all())}
    assert changed and all(name.startswith(("mask_decoder", "prompt_encoder")) for name in changed)
    with safe_open(base.path, "pt") as before, safe_open(out, "pt") as after:
        header, record = before.metadata(), json.loads(after.metadata()["adapted"])
        assert {key for key in header if header[key] != after.metadata()[key]} == {"calibration", "digest", "training"}
        (scale, shift), (own_scale, own_shift) = (
            json.loads(file.metadata()["calibration"]).values() for file in (before, after)
        )
    assert own_scale != scale and own_shift / own_scale == pytest.approx(shift / scale)
    assert record["scene"] == "orange" and record["base"] == "finetuned" and len(record["corrections"]) == 64
    assert record["after"]["iou"] == done.after.iou
    assert resolve(out).training.role_of(scene) == "train"
    assert picture_key(scene) in resolve(out).training.train >= base.training.train


@pytest.mark.slow
def test_nothing_is_written_unless_it_helped_or_is_wanted(
    scene: Path, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floodmap.training.adaptation.run, "Tuning", quick(learning_rate=0.0, calibrates=False))
    out = tmp_path / "local.safetensors"
    command = ["adapt", str(scene), "--corrections", str(edits), "-o", str(out), "--device", "cpu"]
    done = CliRunner().invoke(cli, command, standalone_mode=False)
    assert done.return_value == 1 and not any(tmp_path.iterdir())
    assert "it did not help" in done.stdout and "Nothing was written" in done.stdout
    done = CliRunner().invoke(cli, [*command, "--even-if-worse", "--json"], standalone_mode=False)
    found = json.loads(done.stdout)
    assert done.return_value == 0 and out.exists()
    assert found["helped"] is False and found["path"] == str(out)
    assert found["before"] == found["after"] and found["changed_elsewhere"] == 0


@pytest.mark.slow
def test_few_corrections_are_refused_or_used_unchecked(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(floodmap.training.adaptation.run, "Tuning", quick())
    few = write(
        tmp_path / "few.gpkg", [on_ground(36, 20, 60, 60), on_ground(4, 20, 28, 60)], **{"class": ["flood", "dry"]}
    )
    out = tmp_path / "local.safetensors"
    assert run(["adapt", str(scene), "--corrections", str(few), "-o", str(out), "--device", "cpu"]) == 1
    error = capsys.readouterr().err.strip()
    assert "few.gpkg: too few corrections" in error and "--even-if-worse" in error and "\n" not in error
    assert not out.exists()
    done = adapt_model(scene, few, out, AdaptOptions(even_if_worse=True), device="cpu")
    assert done.helped is None and out.exists() and "is not known" in done.line()


def test_other_weights_and_existing_files_are_refused(scene: Path, edits: Path, tmp_path: Path) -> None:
    out = tmp_path / "local.safetensors"
    (tmp_path / "meta.pth").write_bytes(b"0")
    with pytest.raises(ModelError, match="only floodmap's own network can be adapted"):
        adapt_model(scene, edits, out, AdaptOptions(base=str(tmp_path / "meta.pth")))
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        adapt_model(scene, edits, tmp_path / "local.pth", AdaptOptions())
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        adapt_model(scene, edits, out, AdaptOptions())
    assert out.read_bytes() == b"mine"
