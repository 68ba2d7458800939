"""Any name for scenes, outputs, areas of interest and prompts: results lie where they belong, and nothing else changes.

`FLOODMAP_NAMES=200 pytest tests/test_names_fuzz.py` tries 200 sets of names instead of a few.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import geopandas
import pytest
import rasterio
import shapely
from conftest import NORTH_UP, UTM, SceneFactory
from fakes import FakeSegmenter

from floodmap_cli.main import run

COUNT = int(os.environ.get("FLOODMAP_NAMES", "8"))
SEED = int(os.environ.get("FLOODMAP_NAMES_SEED", "0"))
SPECIAL = "!;#%?{}[]()*'\"$&|:<>\\`^~@=+,. -_\n\t"
WORDS = (
    "a", "b", "flut", "2024", "scene", "вода", "洪水", "فيضان", "מים", "ñandú", "e\u0301", "o\u0308", "🌊", "\u200f",
    "👩\u200d🔬", "\u00a0", ".zip", ".tar", ".gpkg", "file:", "http:", "vsizip", "C:", "%20", "$HOME", "..", "&amp;",
    "<b>", "]]>", "--", "a!b", "x;y", "{0}", "~", "con", "NUL", "null", "$x^2$", "\\n",
)  # fmt: skip
LAYERS = ("{}.gpkg", "{}_flood.shp", "{}_flood.geojson", "{}_flood.fgb", "{}_flood.parquet")


def any_name(rng: random.Random, most_bytes: int = 160) -> str:
    """A name of printable Unicode, signs that mean something somewhere more often than others."""
    parts: list[str] = []
    for _ in range(rng.randint(1, 9)):
        kind = rng.random()
        if kind < 0.45:
            parts.append(rng.choice(WORDS))
        elif kind < 0.85:
            parts.append(rng.choice(SPECIAL))
        else:
            letter = chr(rng.randint(*rng.choice([(0x20, 0x2FF), (0x300, 0xD7FF), (0x1F300, 0x1F9FF)])))
            parts.append(letter if letter.isprintable() and letter != "/" else "x")
    name = "".join(parts)
    while len(name.encode()) > most_bytes:
        name = name[:-1]
    return name if name not in (".", "..") and name.strip("\n\t ") else f"x{name}"


def listing(folder: Path, *, but: Path) -> dict[str, tuple[int, int, str]]:
    """Everything beneath a folder: size, time of the last change, and hash."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) != but]
        for name in (*folders, *files):
            path = Path(place, name)
            about = path.lstat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            size, changed = (about.st_size, about.st_mtime_ns) if path.is_file() else (0, 0)
            found[str(path)] = size, changed, digest
    return found


def lay_decoys(names: list[str], root: Path, work: Path, out: Path) -> None:
    """Put files of the user's wherever a library that splits names would look for one."""
    for name in names:
        for sign in ("!", ";", "#", "?", ":", "%", "//", "\n"):
            for part in {name.split(sign)[0], name.split(sign)[-1], name.partition(sign)[2], name.replace(sign, "")}:
                decoy = work / part.lstrip("/") if not part.startswith(str(root)) else Path(part)
                inside = decoy.is_relative_to(out) or ".." in decoy.parts
                if part in ("", name) or inside or os.path.lexists(decoy):
                    continue
                with suppress(OSError, ValueError):
                    if decoy.parent.is_dir():
                        decoy.write_text("the user's own")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """The model of every command line."""
    fake = FakeSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


def write_layer(path: Path, plain: Path, frame: geopandas.GeoDataFrame) -> None:
    """Write a GeoPackage under any name, by way of a plain one."""
    frame.to_file(plain / "made.gpkg", driver="GPKG")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(plain / "made.gpkg", path)


def check(out: Path, stem: str, plain: Path, *, report: bool) -> None:
    """Open the results, under plain names where their reader would not take theirs literally."""
    with rasterio.open(out / f"{stem}_mask.tif") as mask, rasterio.open(out / f"{stem}_probability.tif") as probability:
        assert mask.shape == probability.shape == (48, 64) and mask.read(1).max() <= 255
    assert (out / f"{stem}.json").stat().st_size > 500
    for number, pattern in enumerate(LAYERS):
        path = out / pattern.format(stem)
        for part in out.iterdir():
            if part.stem == path.stem:
                shutil.copy(part, plain / f"{number}{part.suffix}")
        copy = plain / f"{number}{path.suffix}"
        frame = geopandas.read_parquet(copy) if path.suffix == ".parquet" else geopandas.read_file(copy, layer=0)
        assert len(frame) > 0 and frame.geom_type.isin(["Polygon", "MultiPolygon"]).all()
    assert (out / f"{stem}_report.html").exists() == report
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") and not path.name.startswith(stem)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COUNT))
def test_any_name_will_do_and_nothing_outside_the_output_folder_changes(
    number: int, make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    rng = random.Random(SEED * 100_000 + number)
    root, plain, work = tmp_path / "root", tmp_path / "plain", tmp_path / "root" / "work"
    for folder in (plain, work):
        folder.mkdir(parents=True)
    monkeypatch.chdir(work)
    stem, near = any_name(rng), rng.random() < 0.5
    folders = {role: (work if near else root) / any_name(rng) for role in ("in", "out", "aoi")}
    out = folders["out"] if folders["out"] not in (folders["in"], folders["aoi"]) else folders["out"] / "x"
    scene = make_scene(name="made.tif", folder=plain)
    source = folders["in"] / f"{stem}.tif"
    source.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scene, source)
    aoi, prompts = folders["aoi"] / f"{any_name(rng)}.gpkg", folders["aoi"] / f"{any_name(rng)}p.gpkg"
    west, north = NORTH_UP.c, NORTH_UP.f
    area = shapely.box(west - 5, north - 30, west + 60, north + 5)
    point = shapely.Point(west + 5, north - 5)
    write_layer(aoi, plain, geopandas.GeoDataFrame({"a": [1]}, geometry=[area], crs=UTM))
    write_layer(prompts, plain, geopandas.GeoDataFrame({"label": [1]}, geometry=[point], crs=UTM))
    report = rng.random() < 0.3
    given = {path: os.path.relpath(path, work) if near else str(path) for path in (source, out, aoi, prompts)}
    args = [f"--output={given[out]}", "--format=gpkg,shp,geojson,fgb,parquet", *(["--report"] if report else [])]
    args += [f"--aoi={given[aoi]}"] if rng.random() < 0.7 else []
    args += [f"--prompts={given[prompts]}" if rng.random() < 0.4 else "--prompts=none"]
    results = [f"{given[out]}/{pattern.format(stem)}" for pattern in (*LAYERS, "{}_mask.tif", "{}.json")]
    lay_decoys([*results, *given.values()], root, work, out)

    before = listing(root, but=out)
    code = run(["segment", *args, "--", given[source]])
    said = capsys.readouterr()
    assert listing(root, but=out) == before, said.err
    if code == 0:
        check(out, stem, plain, report=report)
    else:
        assert code in (1, 2) and not fake.tiles and not out.exists(), said.err
        pytest.skip(f"refused: {said.err.strip()}")
