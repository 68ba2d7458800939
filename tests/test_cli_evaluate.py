"""The command `floodmap evaluate`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from floodmap.evaluation.run import evaluate
from floodmap_cli.main import run


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = array.shape
    place = {"crs": "EPSG:32643", "transform": from_origin(500_000, 3_000_000, 1, 1)}
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="uint8", height=height, width=width, nodata=255, **place
    ) as file:
        file.write(array.astype(np.uint8), 1)
    return path


def squares(size: int) -> np.ndarray:
    mask = np.zeros((40, 50), np.uint8)
    mask[5 : 5 + size, 5 : 5 + size] = 1
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions of three scenes, and references of two of them and of another."""
    for name, size in (("a", 10), ("b", 20), ("c", 5)):
        write(tmp_path / "out" / f"{name}_mask.tif", squares(size))
    for name, size in (("a", 12), ("b", 20), ("z", 5)):
        write(tmp_path / "refs" / f"{name}_reference.tif", squares(size))
    return tmp_path / "out", tmp_path / "refs"


def test_table_goes_to_stdout_and_what_is_unpaired_to_stderr(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", *map(str, folders)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["scene", "observed", "IoU", "Dice"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b", "mean", "95", "pooled", "95"]
    assert lines[1].split()[1:4] == ["100.0", "%", f"{100 / 144:.3f}"]
    assert "unpaired prediction" in err
    assert "c_mask.tif" in err
    assert "z_reference.tif" in err


def test_one_pair_is_one_line_without_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / "x_mask.tif", squares(10)), write(tmp_path / "x_reference.tif", squares(12))]
    assert run(["evaluate", *map(str, files)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[1].split()[0] == "x"
    assert out[1].split()[-1] == "-0.004"


def test_json_is_what_the_library_says(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", *map(str, folders), "--json", "--tolerance", "2", "--seed", "5"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(json.dumps(evaluate(*folders, tolerance_m=2, seed=5).to_json()))
    assert report["scenes"][0]["tolerance"] == 2
    assert report["unpaired"]["predictions"] == [str(folders[0] / "c_mask.tif")]


@pytest.mark.slow
def test_csv_and_errors_are_written_and_not_overwritten(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, layer = tmp_path / "scores.csv", tmp_path / "wrong.gpkg"
    command = ["evaluate", *map(str, folders), "--csv", str(table), "--errors", str(layer)]
    assert run(command) == 0
    with table.open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a", "b", "mean of 2", "pooled of 2"]
    assert geopandas.read_file(layer, layer="errors")["kind"].tolist() == ["false_negative"]
    before = table.read_bytes(), layer.read_bytes()
    capsys.readouterr()
    assert run(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0
    assert (table.read_bytes(), layer.read_bytes()) == before


def test_values_and_threshold_reach_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = write(tmp_path / "p.tif", squares(10) * 80)
    r = write(tmp_path / "r.tif", squares(10) * 3)
    assert run(["evaluate", str(p), str(r), "--threshold", "0.5", "--reference-value", "2,3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"][0]["iou"] == 1
    assert run(["evaluate", str(p), str(r)]) == 1
    assert "--flood-value" in capsys.readouterr().err


def test_ignored_values_are_those_of_the_reference_and_what_means_nothing_in_the_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.where(squares(10) == 1, 5, 3).astype(np.uint8)  # classes: 0 not labelled, 3 dry, 5 flood, 9 cloud
    truth[:, 40:], truth[35:] = 0, 9
    guess = squares(12)
    guess[30:35] = 9
    files = [write(tmp_path / "x_mask.tif", guess), write(tmp_path / "x_reference.tif", truth)]
    command = ["evaluate", *map(str, files), "--flood-value", "1", "--reference-value", "5", "--json"]
    assert run([*command, "--ignore-value", "0", "--ignore-value", "9"]) == 0
    scene = json.loads(capsys.readouterr().out)["scenes"][0]
    assert (scene["tp"], scene["fp"], scene["fn"], scene["tn"]) == (100, 44, 0, 30 * 40 - 144)
    assert run([*command, "--ignore-value", "0,9"]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"][0] == scene


def test_refusals_exit_1_with_one_line_and_usage_exits_2(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(tmp_path / "absent.tif"), str(folders[1])]) == 1
    err = capsys.readouterr().err
    assert err.startswith("floodmap: error: ")
    assert len(err.splitlines()) == 1
    assert run(["evaluate", str(folders[0])]) == 2
    assert run(["evaluate", *map(str, folders), "--tolerance", "-1"]) == 2
    assert run(["evaluate", *map(str, folders), "--resolution", "0"]) == 2
    capsys.readouterr()
    for command in (["evaluate", *map(str, folders)], ["vectorize", str(folders[0] / "a_mask.tif"), "-o", "x.gpkg"]):
        assert run([*command, "--threshold", "70"]) == 2
        assert "for 70 per cent write 0.7" in capsys.readouterr().err
        assert run([*command, "--ignore-value", "cloud"]) == 2
        assert "is no value to ignore" in capsys.readouterr().err


def test_a_refused_pair_is_named_and_the_exit_code_is_1(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[1] / "b_reference.tif").write_bytes(b"broken")
    assert run(["evaluate", *map(str, folders)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "floodmap: error: b: " in err


def test_help_teaches_without_loading_geopandas_or_torch() -> None:
    program = (
        "import sys; from floodmap_cli.main import run; code = run(['evaluate', '--help']); "
        "sys.exit(code or bool({'torch', 'geopandas', 'rasterio'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "x_reference.tif" in result.stdout
