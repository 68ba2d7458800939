"""Labelled imagery: layouts, findings of the audit, and splits."""

from __future__ import annotations

import warnings
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from floodmap.errors import EvaluationError, LabelError
from floodmap.imagery.scene import Scene
from floodmap.masks.audit import audit, near_duplicates, picture_hash, split_labels
from floodmap.masks.labels import find_labels, read_label
from floodmap.training.labelled import fingerprint_of


def picture(path: Path, seed: int, side: int = 48) -> NDArray[np.uint8]:
    """Smooth blobs of colour, as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    image.save(path)
    return np.asarray(image)


def mask(path: Path, values: tuple[int, ...] = (0, 1), side: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.linspace(0, len(values), side, endpoint=False).astype(int)
    Image.fromarray(np.repeat(np.array(values, np.uint8)[rows][:, None], side, axis=1)).save(path)


def data_set(
    folder: Path, names: tuple[str, ...] = ("a", "b", "c", "d"), images: str = "images", masks: str = "masks"
) -> Path:
    for seed, name in enumerate(names):
        picture(folder / images / f"{name}.jpg", seed)
        mask(folder / masks / f"{name}.png")
    return folder


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("Image", "Mask"), ("imgs", "labels")])
def test_folders_of_any_usual_name_are_found(tmp_path: Path, images: str, masks: str) -> None:
    labels = find_labels(data_set(tmp_path, images=images, masks=masks))
    assert [one.name for one in labels.labelled] == ["a", "b", "c", "d"]
    assert [one.label.name for one in labels.labelled if one.label] == ["a.png", "b.png", "c.png", "d.png"]
    assert labels.strays == ()


def test_scenes_beside_references_are_found(tmp_path: Path) -> None:
    picture(tmp_path / "river.tif", 1)
    mask(tmp_path / "river_reference.tif")
    picture(tmp_path / "town.tif", 2)
    (tmp_path / "town.gpkg").touch()
    labels = find_labels(tmp_path)
    found = {one.name: one.label.name for one in labels.labelled if one.label}
    assert found == {"river": "river_reference.tif", "town": "town.gpkg"}


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        (("scene_gt.tif", "scene_mask.tif"), "scene_gt.tif"),
        (("scene_labels.png", "scene_mask.png"), "scene_labels.png"),
        (("scene_flood.tif", "scene_mask.tif", "scene_truth.tif"), "scene_truth.tif"),
        (("scene.gpkg", "scene_mask.png"), "scene_mask.png"),
        (("scene.json", "scene_flood.png"), "scene_flood.png"),
    ],
)
def test_of_several_labels_of_a_scene_the_one_that_evaluate_takes_is_used_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: tuple[str, ...], chosen: str
) -> None:
    for name in ("scene.tif", *labels):
        (tmp_path / name).touch()
    found = find_labels(tmp_path)
    assert [(one.name, one.label) for one in found.labelled] == [("scene", tmp_path / chosen)]
    assert found.strays == ()
    assert ("scene.json" in labels) != (f"{chosen} is used" in caplog.text)


@pytest.mark.parametrize("other", ["scene.gpkg", "scene_flood.png", "scene_label.tif"])
def test_a_mask_that_floodmap_wrote_is_no_label_where_there_is_another(tmp_path: Path, other: str) -> None:
    picture(tmp_path / "scene.tif", 1)
    (tmp_path / "scene.json").touch()
    shape = {"count": 1, "height": 48, "width": 48, "dtype": "uint8"}
    place = {"crs": "EPSG:32643", "transform": Affine(1, 0, 500_000, 0, -1, 3_000_000)}
    with rasterio.open(tmp_path / "scene_mask.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(np.ones((1, 48, 48), np.uint8))
        file.update_tags(TIFFTAG_SOFTWARE="floodmap 1.0")
    [alone] = find_labels(tmp_path).labelled
    assert alone.label == tmp_path / "scene_mask.tif"
    (tmp_path / other).touch()
    [one] = find_labels(tmp_path).labelled
    assert one.label == tmp_path / other


def test_a_mask_of_the_pictures_own_name_is_used_before_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_set(tmp_path, ("a",))
    mask(tmp_path / "masks" / "a_mask.png")
    labels = find_labels(tmp_path)
    assert labels.labelled[0].label == tmp_path / "masks" / "a.png" and not caplog.messages
    assert labels.strays == (tmp_path / "masks" / "a_mask.png",)


def test_a_scene_with_its_own_label_stays_a_scene_although_it_is_named_like_a_label(tmp_path: Path) -> None:
    for name in ("river.tif", "river_reference.tif", "river_flood.tif", "river_flood_reference.tif"):
        (tmp_path / name).touch()
    found = {one.name: one.label.name for one in find_labels(tmp_path).labelled if one.label}
    assert found == {"river": "river_reference.tif", "river_flood": "river_flood_reference.tif"}


def test_a_file_geodatabase_is_a_label_and_no_folder_of_pictures(tmp_path: Path) -> None:
    place = {"crs": "EPSG:32643", "transform": Affine(1, 0, 500_000, 0, -1, 3_000_000)}
    shape = {"count": 3, "height": 48, "width": 48, "dtype": "uint8"}
    with rasterio.open(tmp_path / "town.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(np.random.default_rng(0).integers(40, 200, (3, 48, 48)).astype(np.uint8))
    water = geopandas.GeoDataFrame(geometry=[shapely.box(500_000, 2_999_952, 500_048, 2_999_976)], crs="EPSG:32643")
    water.to_file(tmp_path / "town.gdb", driver="OpenFileGDB")
    result = audit(find_labels(tmp_path))
    assert not result.findings and [one.name for one in result.usable] == ["town"]
    with Scene.open(result.usable[0].image) as scene:
        assert read_label(result.usable[0], scene, result.rule)[0].sum() == 24 * 48
    before = fingerprint_of(result.usable)
    water.iloc[:0].to_file(tmp_path / "town.gdb", driver="OpenFileGDB", geometry_type="Polygon")
    assert fingerprint_of(result.usable) != before


def test_splits_come_from_folders_or_a_file(tmp_path: Path) -> None:
    data_set(tmp_path / "one" / "Train", ("a", "b"))
    data_set(tmp_path / "one" / "valid", ("c",))
    by_folder = find_labels(tmp_path / "one")
    assert {one.name: one.split for one in by_folder.labelled} == {
        "Train/a": "train",
        "Train/b": "train",
        "valid/c": "val",
    }
    data_set(tmp_path / "two", ("a", "b", "c"))
    (tmp_path / "two" / "splits.csv").write_text("name,split\na.jpg,train\nb,val\n")
    by_file = find_labels(tmp_path / "two")
    assert [one.split for one in by_file.labelled] == ["train", "val", None]


def test_pictures_that_splits_csv_does_not_name_are_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_set(tmp_path)
    (tmp_path / "splits.csv").write_text("name,split\na,train\nb,val\n")
    find_labels(tmp_path)
    [told] = caplog.messages
    assert "2 of 4 pictures" in told and "such as c" in told
    caplog.clear()
    (tmp_path / "splits.csv").write_text("name,split\na,train\nb,val\nc,test\nd,train\n")
    find_labels(tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name\na\n", "columns name and split"),
        ("name,split\na,later\n", "'later'"),
        ("name,split\nz,train\n", "lists z"),
    ],
)
def test_a_wrong_splits_file_is_refused(tmp_path: Path, content: str, told: str) -> None:
    data_set(tmp_path)
    (tmp_path / "splits.csv").write_text(content)
    with pytest.raises(LabelError, match=told):
        find_labels(tmp_path)


def test_a_folder_without_labelled_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="images/ and masks/"):
        find_labels(tmp_path)
    with pytest.raises(LabelError, match="not a folder"):
        find_labels(tmp_path / "nowhere")


def test_the_audit_says_what_is_wrong_with_which_picture(tmp_path: Path) -> None:
    names = ("empty", "full", "good", "lost", "other", "small", "torn", "unscored", "values")
    data_set(tmp_path, names)
    masks = tmp_path / "masks"
    mask(masks / "empty.png", (0,))
    mask(masks / "full.png", (1,))
    (masks / "lost.png").unlink()
    mask(masks / "small.png", side=40)
    (masks / "torn.png").write_bytes(b"not a picture")
    mask(masks / "unscored.png", (255,))
    mask(masks / "values.png", (0, 1, 7))
    mask(masks / "stray.png")
    result = audit(find_labels(tmp_path))
    assert {(one.kind, one.name) for one in result.findings} == {
        ("empty", "empty"), ("full", "full"), ("missing mask", "lost"), ("size", "small"), ("unreadable", "torn"),
        ("unscored", "unscored"), ("values", "values"), ("stray mask", "stray.png"),
    }  # fmt: skip
    assert [one.name for one in result.usable] == ["empty", "full", "good", "other"]
    assert result.table().count("\n") == len(result.findings) - 1


def test_what_is_not_flood_is_dry_where_it_is_said_what_is_flood(tmp_path: Path) -> None:
    """Land cover of classes 0 to 9, in which 5 is water and 0 not labelled."""
    data_set(tmp_path)
    for name in "abcd":
        mask(tmp_path / "masks" / f"{name}.png", (0, 1, 5, 9))
    with pytest.raises(EvaluationError, match=r"--flood-value.*--ignore-value"):
        audit(find_labels(tmp_path))
    for ignored, counts in ((None, {0: 36, 1: 12}), ("0", {0: 24, 1: 12, 255: 12}), (("0", "9,1"), {1: 12, 255: 36})):
        result = audit(find_labels(tmp_path), flood_value="5", ignore_values=ignored)
        assert {one.kind for one in result.findings} <= {"full"} and len(result.usable) == 4
        with Scene.open(result.usable[0].image) as scene:
            codes = read_label(result.usable[0], scene, result.rule)[0]
        assert dict(zip(*np.unique(codes[:, 0], return_counts=True), strict=True)) == counts


def test_values_that_are_no_class_settle_as_unobserved(tmp_path: Path) -> None:
    """-1, undeclared nodata and 255 beside 0 and 1, of whatever type: 1 is flood, and these are not dry."""
    data_set(tmp_path)
    for name, odd, dtype in (("a", -1, "int16"), ("b", -9999, "float32"), ("c", 1e20, "float64"), ("d", 255, "int16")):
        values = np.repeat(np.array([0, 1, odd], dtype), 16)[:, None].repeat(48, axis=1)
        (tmp_path / "masks" / f"{name}.png").unlink()
        profile = {"driver": "GTiff", "count": 1, "height": 48, "width": 48, "dtype": dtype}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(tmp_path / "masks" / f"{name}.tif", "w", **profile) as file:
                file.write(values, 1)
    result = audit(find_labels(tmp_path))
    assert not result.findings and len(result.usable) == 4 and result.flood_values == (1.0,)
    for one in result.usable:
        with Scene.open(one.image) as scene:
            assert read_label(one, scene, result.rule)[0][::16, 0].tolist() == [0, 1, 255], one.name


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    data_set(tmp_path, ("a", "b", "c", "d", "e"))
    Image.fromarray(picture(tmp_path / "images" / "a.jpg", 0)).resize((48, 48)).save(
        tmp_path / "images" / "e.jpg", quality=60
    )
    result = audit(find_labels(tmp_path))
    assert [(one.kind, one.name) for one in result.findings] == [("duplicate", "e")]
    for seed in range(8):
        train, val = split_labels(result.usable, result.groups, val_share=0.3, seed=seed)
        assert len(train) + len(val) == 5 and train and val
        assert ("a" in {one.name for one in val}) == ("e" in {one.name for one in val})


def test_one_picture_cannot_be_split(tmp_path: Path) -> None:
    result = audit(find_labels(data_set(tmp_path, ("only",))))
    with pytest.raises(LabelError, match="is left to train on"):
        split_labels(result.usable, result.groups, val_share=0.2, seed=0)


def test_hashes_tell_pictures_apart_but_not_their_copies(tmp_path: Path) -> None:
    for seed in range(12):
        picture(tmp_path / f"{seed}.png", seed)
    Image.open(tmp_path / "3.png").resize((200, 150)).save(tmp_path / "copy.jpg", quality=50)
    groups = near_duplicates([picture_hash(path) for path in (*sorted(tmp_path.glob("*.png")), tmp_path / "copy.jpg")])
    assert len(set(groups.tolist())) == 12


def test_a_flood_value_that_occurs_in_no_mask_is_refused(tmp_path: Path) -> None:
    for folder, bands in (("images", 3), ("masks", 1)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            pixels = np.random.default_rng(ord(name)).integers(0, 3, (32, 32)).astype("uint8")
            picture = pixels if bands == 1 else np.stack([pixels * 80] * 3, axis=-1)
            Image.fromarray(picture).save(tmp_path / folder / f"{name}.png")
    with pytest.raises(LabelError, match=r"--flood-value 77 occurs in no mask of .*; they hold 0, 1, 2"):
        audit(find_labels(tmp_path), flood_value="77")
    assert len(audit(find_labels(tmp_path), flood_value="2").usable) == 2
