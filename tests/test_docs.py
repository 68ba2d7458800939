"""The documents: every command in them runs, every link leads somewhere, and they stay readable."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from conftest import HANGS
from PIL import Image
from rasterio.enums import ColorInterp
from shapely.geometry import LineString, Point, box

import floodmap

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in [*DOCS.rglob("*.md"), ROOT / "README.md"] if "lab" not in path.parts)
BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
SIDE = 600


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks that a reader can run."""
    found = BLOCK.finditer(page.read_text("utf-8"))
    return [(one[2], re.sub(rf"^{one[1]}", "", one[3], flags=re.MULTILINE)) for one in found]


@pytest.fixture(scope="session")
def reader_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents suppose in the reader's folder."""
    folder = tmp_path_factory.mktemp("reader")
    for seed, name in enumerate(("scene", "scene2")):
        floodmap.sample(folder / f"{name}.tif", width=SIDE, height=SIDE, seed=seed + 3)
    (folder / "scenes").mkdir()
    (folder / "references").mkdir()
    for seed in range(3):
        scene, reference = floodmap.sample(folder / "scenes" / f"s{seed}.tif", width=320, height=320, seed=seed)
        reference.rename(folder / "references" / reference.name)
    (folder / "my-floods" / "images").mkdir(parents=True)
    (folder / "my-floods" / "masks").mkdir()
    for seed in range(6):
        scene, reference = floodmap.sample(folder / "t.tif", width=160, height=160, seed=seed, overwrite=True)
        with rasterio.open(scene) as rgb, rasterio.open(reference) as mask:
            pixels, flood = rgb.read(), mask.read(1)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "my-floods" / "images" / f"{seed}.png")
        Image.fromarray((flood == 1).astype(np.uint8)).save(folder / "my-floods" / "masks" / f"{seed}.png")
    for leftover in ("t.tif", "t_reference.tif"):
        (folder / leftover).unlink()
    _orthophotos(folder)
    _two_dates(folder)
    _satellite(folder)
    _vectors(folder)
    return folder


def _orthophotos(folder: Path) -> None:
    """Four overlapping frames of a scene."""
    (folder / "orthophotos").mkdir()
    with rasterio.open(folder / "scene.tif") as source:
        for number in range(4):
            window = rasterio.windows.Window(200 * (number % 2), 200 * (number // 2), 400, 400)
            profile = source.profile | {"width": 400, "height": 400, "transform": source.window_transform(window)}
            with rasterio.open(folder / "orthophotos" / f"{number}.tif", "w", **profile) as frame:
                frame.write(source.read(window=window))


def _two_dates(folder: Path) -> None:
    """Two scenes that overlap: the earlier one shows other water, and begins 40 pixels farther east."""
    for name, source, shift in (("monday", "scene2", 40), ("thursday", "scene", 0)):
        with rasterio.open(folder / "scene.tif") as place, rasterio.open(folder / f"{source}.tif") as pixels:
            profile = place.profile | {"transform": place.transform * rasterio.Affine.translation(shift, 0)}
            with rasterio.open(folder / f"{name}.tif", "w", **profile) as scene:
                scene.write(pixels.read())


def _satellite(folder: Path) -> None:
    with rasterio.open(folder / "scene.tif") as source:
        rgb, profile = source.read().astype(np.uint16), source.profile
    bands = np.stack([rgb[2], rgb[1], rgb[0], 255 - rgb[2]]) * np.uint16(20) + np.uint16(200)
    profile = {"driver": "GTiff", "count": 4, "dtype": "uint16", "height": SIDE, "width": SIDE, "crs": profile["crs"]}
    transform = rasterio.transform.from_origin(500_000, 2_000_000, 2, 2)
    with rasterio.open(folder / "satellite.tif", "w", transform=transform, nodata=0, **profile) as file:
        file.write(bands)
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
        for number, name in enumerate(("blue", "green", "red", "nir"), 1):
            file.set_band_description(number, name)


def _vectors(folder: Path) -> None:
    with rasterio.open(folder / "scene.tif") as source:
        left, bottom, right, top = source.bounds
        crs = source.crs
    width, height = right - left, top - bottom
    points = [Point(left + width * x, bottom + height * y) for x, y in ((0.3, 0.4), (0.7, 0.6))]
    geopandas.GeoDataFrame({"label": [1, 0]}, geometry=points, crs=crs).to_file(folder / "clicks.gpkg")
    cloud = box(left + 0.8 * width, bottom + 0.8 * height, right, top)
    geopandas.GeoDataFrame(geometry=[cloud], crs=crs).to_file(folder / "clouds.gpkg")
    inside = box(left + 0.1 * width, bottom + 0.1 * height, right - 0.1 * width, top - 0.1 * height)
    geopandas.GeoDataFrame(geometry=[inside], crs=crs).to_file(folder / "district.gpkg")
    halves = [box(left, bottom, left + width / 2, top), box(left + width / 2, bottom, right, top)]
    geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs=crs).to_file(folder / "districts.gpkg")
    houses = [point.buffer(8) for point in points]
    geopandas.GeoDataFrame(geometry=houses, crs=crs).to_file(folder / "buildings.gpkg")
    streets = [LineString([(left, bottom + 0.4 * height), (right, bottom + 0.5 * height)])]
    streets = geopandas.GeoDataFrame({"highway": ["track"]}, geometry=streets, crs=crs)
    streets.to_file(folder / "roads.gpkg", layer="roads")
    _corrections(folder, left, top, width, height)
    people = rasterio.transform.from_bounds(left, bottom, right, top, 4, 4)
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "float32", "crs": crs}
    with rasterio.open(folder / "people.tif", "w", transform=people, **profile) as file:
        file.write(np.full((1, 4, 4), 25.0, np.float32))
    lakes = [point.buffer(40) for point in points]
    geopandas.GeoDataFrame(geometry=lakes, crs=crs).to_file(folder / "water.gpkg")


def _corrections(folder: Path, left: float, top: float, width: float, height: float) -> None:
    """Squares on water and on dry ground of the scene."""
    with rasterio.open(folder / "scene_reference.tif") as file:
        reference, crs = file.read(1), file.crs
    rows = []
    for row, col in np.ndindex(20, 20):
        part = reference[row * 30 : row * 30 + 30, col * 30 : col * 30 + 30]
        if (part == part[0, 0]).all() and part[0, 0] <= 1:
            x, y = left + width * col / 20, top - height * row / 20
            rows.append({"label": int(part[0, 0]), "geometry": box(x, y - height / 20, x + width / 20, y)})
    geopandas.GeoDataFrame(rows, crs=crs).to_file(folder / "edits.gpkg")


@pytest.fixture
def reader_folder(reader_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with these files."""
    folder = tmp_path / "reader"
    folder.mkdir()
    subprocess.run(["cp", "-r", f"{reader_files}/.", str(folder)], check=True)
    monkeypatch.chdir(folder)
    return folder


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(kind == "sh" for kind, _ in blocks(page))], ids=ids)
def test_every_command_of_the_documents_runs(page: Path, reader_folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for _, text in (block for block in blocks(page) if block[0] == "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] == "make":  # `make` installs and tests: that is what runs this
                continue
            done = subprocess.run(
                ["sh", "-c", line], cwd=reader_folder, env={**os.environ, "PATH": path}, capture_output=True,
                text=True, timeout=HANGS,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(kind == "python" for kind, _ in blocks(page))], ids=ids)
def test_every_example_in_python_runs(page: Path, reader_folder: Path) -> None:
    names: dict[str, object] = {}
    for _, text in (block for block in blocks(page) if block[0] == "python"):
        exec(compile(text, ids(page), "exec"), names)


@pytest.mark.parametrize("page", [*PAGES, *sorted((DOCS / "lab").glob("*.md")), ROOT / "CONTRIBUTING.md"], ids=ids)
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    targets = [target for target in LINK.findall(text) if "//" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_lines_and_sentences_of_the_documents_are_short() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "check_docs.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
