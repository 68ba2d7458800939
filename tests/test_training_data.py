"""Training data of the shipped model: `scripts/training_data.py`."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def training_data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import training_data

    return training_data


def write_index(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        rgb = np.full((40, 40, 3), 90, np.uint8)
        Image.fromarray(rgb).save(folder / row["file"])
        if row["mask"]:
            Image.fromarray(np.eye(40, dtype=np.uint8)).save(folder / row["mask"])
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def row(name: str, source: str, split: str, mask: str = "") -> dict[str, str]:
    about = {"split": split, "place": f"at {source}", "gsd_m": "0.2" if source == "coast" else ""}
    return {"file": f"{name}.png", "mask": mask, "source": source} | about


def test_a_source_is_rows_of_an_index_and_a_share_and_val_stays_out(training_data: ModuleType, tmp_path: Path) -> None:
    write_index(
        tmp_path / "nadir",
        [row("a", "coast", "train", "a_mask.png"), row("b", "coast", "val"), row("c", "town", "train")],
    )
    table = tmp_path / "shares.csv"
    table.write_text(
        "source,share,kind,plain,wet,repainted\ncoast,0.7,above,0.3,0.1,0.2\ntown,0.3,tile,0.5,0,0\nmoon,0,above,0,0,0\n"
    )
    coast, town = training_data.sources(tmp_path, table)
    assert [sample.name for sample in coast.samples] == ["a"] and coast.samples[0].place == "at coast"
    assert (coast.share, coast.wet, coast.repainted, coast.from_above) == (0.7, 0.1, 0.2, True)
    assert coast.samples[0].mask.sum() == 40 and not town.samples[0].mask.any()
    assert town.factor == (1.0, 1.6)
    assert (coast.samples[0].gsd_m, town.samples[0].gsd_m) == (0.2, 0.0)


def test_a_machine_with_a_gpu_needs_no_gdal_to_train() -> None:
    code = "import sys, train_finetuned; print(*{'rasterio', 'shapely', 'pyproj', 'geopandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_source_of_the_table_is_drawn_and_drawn_within_reason(training_data: ModuleType) -> None:
    with training_data.SHARES.open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["source"] for row in rows}) == len(rows)
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=0.1)
    assert all(row["kind"] in ("oblique", "above", "tile") for row in rows)


def test_labelled_ground_comes_painted_and_dry(training_data: ModuleType, tmp_path: Path) -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[10:20, 10:20] = 2
    where = {**row("tile", "town", "train"), "mask": "m.png", "mask_auto": "", "gsd_m": "0.1", "classes": "0 2"}
    write_index(tmp_path, [where])
    Image.fromarray(classes).save(tmp_path / "m.png")
    wet, dry = training_data._paint(tmp_path, where, 0, False)
    assert wet.place == dry.place == "at town"
    assert (wet.mask == 1).any() and not (wet.mask[10:20, 10:20] == 1).any() and not dry.mask.any()
    assert np.array_equal(dry.rgb, np.full((3, 40, 40), 90)) and not np.array_equal(wet.rgb, dry.rgb)
