"""The QGIS plugin without QGIS: command lines, environment, events, the process, names of files, the zip, Qt 6."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import HANGS, SceneFactory
from fakes import FakeSegmenter
from plugin_modules import PLUGIN, plugin_module

from floodmap_cli.main import COMMANDS, cli, run

arguments, child, environment = (plugin_module(f"core.{name}") for name in ("arguments", "child", "environment"))
events, finding, results = (plugin_module(f"core.{name}") for name in ("events", "finding", "results"))
ROOT = PLUGIN.parents[1]


def test_a_command_line_has_an_option_for_each_value_that_is_given() -> None:
    options = [
        ("--output", "out dir"), ("--threshold", 0.5), ("--min-area", None), ("--overwrite", True),
        ("--report", False), ("--nodata", "-9999"), ("--model", ""), ("--table", ["a.csv", "b.csv"]), ("--rim", 30.0),
    ]  # fmt: skip
    assert arguments.command_line(["floodmap"], "segment", ["s.tif"], options) == [
        "floodmap", "segment", "s.tif", "--output=out dir", "--threshold=0.5", "--overwrite", "--nodata=-9999",
        "--table=a.csv", "--table=b.csv", "--rim=30", "--progress=json",
    ]  # fmt: skip


def test_a_scene_whose_name_begins_like_an_option_stays_a_scene() -> None:
    line = arguments.command_line(["floodmap"], "segment", ["-x.tif"], [])
    assert line[2] == os.path.join(".", "-x.tif")


@pytest.mark.parametrize("name", ["segment", "evaluate", "vectorize", "review", "change", "exposure"])
def test_each_command_that_the_plugin_runs_has_progress(name: str) -> None:
    if name not in COMMANDS:
        pytest.skip(f"floodmap has no command {name} yet")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert {"--progress", "--json"} <= {option for one in command.params for option in one.opts}


def test_what_belongs_to_qgis_is_not_in_the_environment_of_the_program() -> None:
    given = {
        "PATH": "/bin", "HOME": "/home/a", "PYTHONHOME": "/q", "PYTHONPATH": "/q", "VIRTUAL_ENV": "/v",
        "PIP_INDEX_URL": "x", "QGIS_PREFIX_PATH": "/opt/qgis", "PROJ_LIB": "/q", "PROJ_DATA": "/q", "GDAL_DATA": "/q",
        "LD_LIBRARY_PATH": "/q", "DYLD_LIBRARY_PATH": "/q", "DYLD_FRAMEWORK_PATH": "/q", "GDAL_CACHEMAX": "64",
        "https_proxy": "http://proxy:3128",
    }  # fmt: skip
    kept = environment.child_environment(given)
    added = {"PYTHONUTF8", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE"}
    assert set(kept) == {"PATH", "HOME", "GDAL_CACHEMAX", "https_proxy"} | added


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/opt/qgis/share/cert.pem", False), ("/Applications/QGIS.app/Contents/certs/cacert.pem", False),
        (r"C:\OSGeo4W\bin\curl-ca-bundle.crt", False), ("/usr/lib/ssl/cert.pem", True), ("/etc/company.pem", True),
    ],
)  # fmt: skip
def test_certificates_of_qgis_are_left_out_and_others_stay(path: str, kept: bool) -> None:
    assert ("SSL_CERT_FILE" in environment.child_environment({"SSL_CERT_FILE": path}, ["/opt/qgis", "/usr"])) == kept


def test_events_of_a_real_run_are_understood(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    scene, out = str(make_scene()), str(tmp_path / "out")
    assert run(["segment", scene, "-o", out, "--prompts", "none", "--json", "--progress", "json"]) == 0
    assert run(["segment", scene, "-o", out, "--progress", "json"]) == 1
    said = capsys.readouterr()
    found = [events.parse(line) for line in said.err.splitlines()]
    assert [one.kind for one in found if one.kind == "done"] == ["done", "done"]
    steps = [one for one in found if one.kind == "progress"]
    assert steps[0].text == "Computing windows: 1 of 1 windows" and steps[-1].share == 1
    assert [one.level for one in found if "--overwrite" in one.text] == ["error"]
    name = results.scene_name(said.out[: said.out.rindex("]") + 1])
    assert name == "scene"
    layers = results.result_layers(out, name, results.read_report(out, name))
    assert [layer.key for layer in layers] == ["FLOOD", "UNOBSERVED", "PROBABILITY", "MASK_RASTER"]
    assert all(Path(layer.source.split("|")[0]).is_file() for layer in layers)
    assert results.result_of(layers[-1].source) == results.result_of(f"{out}/scene.gpkg") == f"{out}/scene.json"


@pytest.mark.parametrize(
    ("line", "kind", "level", "text"),
    [
        ("floodmap: error: x.tif: no such file", "message", "error", "x.tif: no such file"),
        ("Error: No such option '--a'", "message", "error", "No such option '--a'"),
        ("{broken", "message", "info", "{broken"), ("[1, 2]", "message", "info", "[1, 2]"),
        ('{"event": "message", "level": "loud", "text": "a"}', "message", "info", "a"),
        ('{"event": "progress", "done": 3, "total": 0}', "progress", "info", ""),
    ],
)  # fmt: skip
def test_lines_that_are_no_events_are_messages(line: str, kind: str, level: str, text: str) -> None:
    event = events.parse(line)
    assert (event.kind, event.level, event.text, event.share) == (kind, level, text, None)


def test_the_last_run_that_was_finished_is_found_again(tmp_path: Path) -> None:
    assert results.latest_run(str(tmp_path / "none")) is results.latest_run(str(tmp_path)) is None
    for run_name, files in {"run_2": ["a.json", "a_mask.tif"], "run_9": ["a.json"], "run_10": [], "other": []}.items():
        (tmp_path / run_name).mkdir()
        for file in files:
            (tmp_path / run_name / file).touch()
    found = results.latest_run(str(tmp_path))
    assert (found["OUTPUT_FOLDER"], found["NAME"]) == (str(tmp_path / "run_2"), "a")
    (tmp_path / "run_10" / "b.json").touch()
    (tmp_path / "run_10" / "b_mask.tif").touch()
    assert results.latest_run(str(tmp_path))["NAME"] == "b"


def python_run(code: str, **given: Any) -> Any:
    """Run Python code as a child."""
    lines: list[str] = []
    on_line = given.pop("on_line", lines.append)
    is_cancelled = given.pop("is_cancelled", lambda: False)
    return child.run([sys.executable, "-c", code], dict(os.environ), on_line, is_cancelled, **given), lines


def test_a_run_gives_its_output_its_lines_and_its_code() -> None:
    ended, lines = python_run("import sys; print('out ä'); print('a\\nb', file=sys.stderr); sys.exit(3)")
    assert (ended.code, ended.output.strip(), ended.cancelled) == (3, "out ä", False)
    assert [line.strip() for line in lines] == ["a", "b"]


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        child.run([str(tmp_path / "missing")], {}, print, lambda: False)


CHILD_OF_CHILD = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"
PARENT = (
    "import subprocess, sys, time, signal\n{stubborn}\n"
    "child = subprocess.Popen([sys.executable, '-c', {child!r}])\n{then}"
)


def is_alive(pid: int) -> bool:
    """Whether a process is still there after a while: a killed process ends a little after the signal."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
@pytest.mark.parametrize("stubborn", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN)"], ids=["polite", "stubborn"])
def test_cancel_ends_the_program_and_its_children(stubborn: str) -> None:
    pids: list[int] = []
    code = PARENT.format(stubborn=stubborn, child=CHILD_OF_CHILD, then="time.sleep(600)")
    begun = time.monotonic()
    ended, _ = python_run(
        code, on_line=lambda line: pids.append(int(line)) if line.strip().isdigit() else None,
        is_cancelled=lambda: bool(pids), grace_s=1.0,
    )  # fmt: skip
    assert ended.cancelled and not is_alive(pids[0])
    assert time.monotonic() - begun < HANGS


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
def test_a_child_that_outlives_the_program_is_ended_too() -> None:
    code = PARENT.format(stubborn="", child=CHILD_OF_CHILD, then="time.sleep(1)")
    ended, lines = python_run(code)
    assert ended.code == 0 and not is_alive(int(lines[0]))


def test_an_error_in_the_reader_of_lines_leaves_no_process() -> None:
    pids: list[int] = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise ValueError(line)

    with pytest.raises(ValueError):
        python_run(CHILD_OF_CHILD, on_line=refuse)
    assert pids and not is_alive(pids[0])


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.name == "nt", reason="names of programs differ on Windows")
def test_the_chosen_program_comes_before_that_of_the_plugin_and_that_before_path(tmp_path: Path) -> None:
    own, other = make_program(tmp_path / "env/bin/floodmap"), make_program(tmp_path / "path/floodmap")
    chosen = make_program(tmp_path / "chosen")
    found = {"PATH": str(other.parent)}
    folder = str(tmp_path / "env")
    assert finding.find_program("", folder, found).path == str(other)  # the environment is not complete
    (tmp_path / "env" / finding.COMPLETE).touch()
    assert finding.find_program("", folder, found).path == str(own)
    assert finding.find_program(str(chosen), folder, found).path == str(chosen)
    with pytest.raises(finding.NoProgramError, match=r"does not exist.*floodmap:install"):
        finding.find_program(str(tmp_path / "gone"), folder, found)
    with pytest.raises(finding.NoProgramError, match=r"not on this machine.*floodmap:install"):
        finding.find_program("", str(tmp_path / "none"), {"PATH": str(tmp_path)})


def test_a_python_that_is_too_old_is_passed_over_and_named() -> None:
    versions = {"a": (3, 9), "b": None, "c": (3, 12), "d": (3, 13)}
    assert finding.pick_python(list(versions), versions.get) == ("c", (3, 12))
    with pytest.raises(finding.NoProgramError, match=r"3\.11 or later.*a \(3\.9\), b \(does not run\)"):
        finding.pick_python(["a", "b"], versions.get)


def test_an_offline_installation_never_asks_an_index(tmp_path: Path) -> None:
    make, install = finding.install_lines("python3.12", str(tmp_path), str(tmp_path / "wheels"))
    assert make == ["python3.12", "-m", "venv", "--clear", str(tmp_path)]
    assert "--no-index" in install and install[-1] == "floodmap"
    assert "--no-index" not in finding.install_lines("python3.12", str(tmp_path))[1]
    assert "no folder" in finding.wheel_problem(str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    assert "make wheelhouse" in finding.wheel_problem(str(tmp_path / "wheels"))


def test_modules_are_written_for_the_python_of_old_qgis_and_import_nothing_foreign() -> None:
    allowed = {*sys.stdlib_module_names, "qgis", "processing"}
    for path in PLUGIN.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.split(".")[0] for name in names} <= allowed, path
            assert not any(name.startswith(("PyQt", "osgeo")) for name in names), path
            assert not isinstance(node, ast.Attribute) or node.attr != "exec_", path


def test_the_zip_is_small_whole_and_the_same_every_time(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_plugin.py"
    made = []
    for name in ("a", "b"):
        subprocess.run([sys.executable, script, tmp_path / name], check=True, capture_output=True, timeout=HANGS)
        made += [path.read_bytes() for path in (tmp_path / name).iterdir()]
    assert len(made) == 2 and made[0] == made[1] and len(made[0]) < 1_000_000
    with zipfile.ZipFile(next((tmp_path / "a").iterdir())) as archive:
        names = set(archive.namelist())
    modules = {f"floodmap/{path.relative_to(PLUGIN).as_posix()}" for path in PLUGIN.rglob("*.py")}
    assert names == modules | {"floodmap/metadata.txt", "floodmap/LICENSE", "floodmap/icon.svg"}


def test_the_metadata_names_the_versions_of_qgis_and_the_version_of_floodmap() -> None:
    import floodmap

    parser = configparser.ConfigParser(interpolation=None)
    parser.read(PLUGIN / "metadata.txt", encoding="utf-8")
    general = parser["general"]
    assert (general["qgisMinimumVersion"], general["qgisMaximumVersion"]) == ("3.22", "4.99")
    assert general["hasProcessingProvider"] == "yes" and general["supportsQt6"] == "True"
    assert general["version"] == floodmap.__version__
    assert "GENERAL PUBLIC LICENSE" in (PLUGIN / "LICENSE").read_text() and "GPL-2.0-or-later" in general["license"]


def test_all_modules_import_under_qt_6() -> None:
    if importlib.util.find_spec("PyQt6") is None:
        pytest.skip("PyQt6 is not installed (pip install PyQt6)")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "qt6_imports.py", PLUGIN], capture_output=True, text=True, timeout=HANGS
    )
    if "libEGL" in done.stderr or "libGL" in done.stderr:
        pytest.skip(f"PyQt6 lacks a library of the system: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) == len(list(PLUGIN.rglob("*.py")))


@pytest.mark.parametrize(
    ("module", "command"),
    [("bandit", ["-q", "-r", str(PLUGIN)]), ("detect_secrets", ["scan", "--all-files", str(PLUGIN)])],
)
def test_scanners_of_the_plugin_repository_find_nothing(module: str, command: list[str]) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    done = subprocess.run([sys.executable, "-m", module, *command], capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stdout
    if module == "detect_secrets":
        assert json.loads(done.stdout)["results"] == {}
