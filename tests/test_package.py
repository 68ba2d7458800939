"""The package as a whole: lazy names, import directions, metadata, and the wheel check."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import HANGS

import floodmap

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FUNCTIONS = {"segment": "api", "evaluate": "evaluation.run", "vectorize": "output.polygons"}


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANGS)
    return done.stdout


def test_importing_floodmap_imports_nothing_heavy() -> None:
    loaded = json.loads(python("import floodmap, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert "floodmap" in loaded
    heavy = {"torch", "geopandas", "pandas", "numpy", "rasterio", "shapely", "scipy", "click", "rich"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("name", floodmap.__all__)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert name in dir(floodmap)
    assert getattr(floodmap, name) is not None


def test_public_names_and_their_homes_agree() -> None:
    assert set(floodmap._HOMES) | {"__version__"} == set(floodmap.__all__)
    tree = ast.parse(Path(floodmap.__file__).read_text("utf-8"))
    typed = {
        (alias.name, node.module.removeprefix("floodmap."))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("floodmap.")
        for alias in node.names
    }
    assert typed == set(floodmap._HOMES.items())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        floodmap.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        exec("from floodmap import nonsense")


def test_no_module_bears_the_name_of_a_public_name() -> None:
    modules = {path.stem for path in (ROOT / "floodmap").iterdir()}
    assert not modules & set(floodmap.__all__)


@pytest.mark.slow
def test_functions_are_functions_whatever_was_imported_first() -> None:
    names = ", ".join(FUNCTIONS)
    code = "import sys\n"
    for order in itertools.permutations(FUNCTIONS.values()):
        code += "for name in [n for n in sys.modules if n.split('.')[0] == 'floodmap']: del sys.modules[name]\n"
        code += "".join(f"import floodmap.{module}\n" for module in order)
        code += f"from floodmap import {names}\nprint(*[f.__name__ for f in ({names})], floodmap.{order[0]}.__name__)\n"
    expected = [f"{' '.join(FUNCTIONS)} floodmap.{order[0]}" for order in itertools.permutations(FUNCTIONS.values())]
    assert python(code).splitlines() == expected


def test_version_is_that_of_the_project() -> None:
    assert floodmap.__version__ == PYPROJECT["project"]["version"]


def imported_modules(path: Path) -> set[str]:
    """Top-level names of a module's imports, those inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


EXTRAS = ("train", "parquet", "multi-gpu", "xarray", "remote", "dask", "stac", "exposure", "pdf")


@pytest.mark.slow
def test_every_third_party_import_is_a_declared_dependency() -> None:
    distributions = {"segment_anything": "segment-anything", "affine": "rasterio", "PIL": "pillow"}
    distributions |= {"triton": "torch"}  # which brings it where it can use it; elsewhere floodmap does without
    distributions |= {"dask": "distributed", "psutil": "distributed"}  # which needs both
    distributions |= {"fpdf": "fpdf2", "fontTools": "fpdf2"}  # which needs fontTools itself
    distributions |= {"pandas": "geopandas", "tensorboardX": "tensorboardx", "xarray": "rioxarray"}
    distributions |= {"stac_geoparquet": "stac-geoparquet"}
    optional = PYPROJECT["project"]["optional-dependencies"]
    extras = [line for name in EXTRAS for line in optional[name]]
    declared = {line.split(">")[0].strip() for line in (*PYPROJECT["project"]["dependencies"], *extras)}
    for path in [*(ROOT / "floodmap").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        tops = {name.split(".")[0] for name in imported_modules(path)} - {"floodmap", "floodmap_cli", "__future__"}
        third = {distributions.get(top, top) for top in tops - set(sys.stdlib_module_names)}
        assert third <= declared, f"{path.name} imports {third - declared}"


def test_commands_import_each_other_relatively() -> None:
    for path in (ROOT / "cli").rglob("*.py"):
        assert not {name for name in imported_modules(path) if name.split(".")[0] in ("cli", "floodmap_cli")}, path.name


@pytest.fixture
def check_wheel():
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "scripts" / "check_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_tree(root: Path) -> None:
    commands = ("cli/floodmap_cli/__init__.py", "cli/floodmap_cli/main.py")
    for name in ("floodmap/__init__.py", "floodmap/errors.py", "floodmap/py.typed", *commands):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    weights = ("weights/finetuned.safetensors", "weights/finetuned.json")
    for name in (*weights, "output/styles/extra.qml", "output/templates/comparison.html"):
        (root / "floodmap" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "floodmap" / name).write_text("x")
    for name in ("flood", "unobserved", "mask", "probability"):
        (root / "floodmap" / "output" / "styles" / f"{name}.qml").write_text("x")


def write_wheel(path: Path, root: Path, *, leave_out: str = "", add: str = "") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            name = file.relative_to(root).as_posix().removeprefix("cli/")
            if file.is_file() and name != leave_out and name.startswith("floodmap"):
                archive.writestr(name, file.read_text())
        if add:
            archive.writestr(add, "x")
        archive.writestr("floodmap-0.dist-info/METADATA", "License-File: LICENSE\n")
        archive.writestr("floodmap-0.dist-info/entry_points.txt", "floodmap = floodmap_cli.main:main\n")


def test_a_complete_wheel_passes_the_wheel_check(tmp_path: Path, check_wheel) -> None:
    write_tree(tmp_path / "tree")
    write_wheel(tmp_path / "x.whl", tmp_path / "tree")
    assert check_wheel.problems(tmp_path / "x.whl", tmp_path / "tree") == []


@pytest.mark.parametrize(
    "name",
    ["floodmap/errors.py", "floodmap_cli/main.py", "floodmap/weights/finetuned.safetensors",
     "floodmap/output/styles/extra.qml", "floodmap/py.typed"],
)  # fmt: skip
def test_the_wheel_check_names_what_is_missing(tmp_path: Path, check_wheel, name: str) -> None:
    write_tree(tmp_path / "tree")
    write_wheel(tmp_path / "x.whl", tmp_path / "tree", leave_out=name)
    assert check_wheel.problems(tmp_path / "x.whl", tmp_path / "tree") == [f"missing: {name}"]


def test_the_wheel_check_finds_what_does_not_belong(tmp_path: Path, check_wheel) -> None:
    write_tree(tmp_path / "tree")
    write_wheel(tmp_path / "x.whl", tmp_path / "tree", add="tests/test_grid.py")
    assert check_wheel.problems(tmp_path / "x.whl", tmp_path / "tree") == ["foreign: tests/test_grid.py"]
