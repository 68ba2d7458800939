"""Command line: start-up, exit codes, messages, shared options; commands `models` and `sample`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import HANGS

import floodmap
from floodmap.errors import OutputError, SceneError
from floodmap.inference.tiling import Grid
from floodmap.models import registry as models
from floodmap.options import FineTuneOptions, SceneOptions, SegmentOptions
from floodmap_cli import main as frame
from floodmap_cli import options
from floodmap_cli.log import StderrHandler, configure_logging
from floodmap_cli.main import COMMANDS, cli, run
from floodmap_cli.terminal import progress_bar

HEAVY = {"torch", "torchvision", "segment_anything", "geopandas", "pandas", "numpy", "rasterio", "scipy", "rich"}


@pytest.fixture(autouse=True)
def quiet_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore this process's logging after a command."""
    monkeypatch.delenv("FLOODMAP_DEBUG", raising=False)
    root, own, show = logging.getLogger(), logging.getLogger("floodmap"), warnings.showwarning
    levels = root.level, own.level
    yield
    logging.captureWarnings(False)
    warnings.showwarning = show
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, StderrHandler)]
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Replace `floodmap info` by a function."""

    def install(body: Callable[[], Any]) -> None:
        stand_in = click.command("info")(options.verbosity_options(lambda verbosity: body()))
        monkeypatch.setattr(frame.LazyGroup, "get_command", lambda self, ctx, name: stand_in)

    return install


def modules_after(*args: str) -> set[str]:
    """Top-level modules that are loaded in a fresh process after a command."""
    code = (
        "import sys, json\nfrom floodmap_cli.main import run\n"
        f"code = run({list(args)!r})\nprint(json.dumps([code, *sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANGS)
    code, *names = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["models", "list"], ["sample", "--help"]], ids=" ".join)
def test_light_command_lines_import_nothing_heavy(args: list[str]) -> None:
    assert not modules_after(*args) & HEAVY


def test_the_help_lists_every_command_without_importing_one(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda *args: pytest.fail("a command was imported"))
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"  {name}" in out and text in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists_and_explains_itself(name: str, capsys) -> None:
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: floodmap {name} ")


@pytest.mark.slow
def test_the_script_and_the_module_run() -> None:
    for start in (["-m", "floodmap_cli.main"], ["-c", "from floodmap_cli.main import main; main()"]):
        done = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, timeout=HANGS)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("floodmap ")


@pytest.mark.parametrize(
    "args",
    [[], ["nonsense"], ["--nonsense"], ["models", "nonsense"], ["models", "pull"], ["sample"], ["sample", "x", "-qv"]],
    ids=" ".join,
)
def test_wrong_usage_exits_2_with_its_message_on_standard_error(args: list[str], capsys) -> None:
    assert run(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: floodmap" in captured.err


def test_a_floodmap_error_is_one_line_and_exits_1(command, capsys) -> None:
    def fail() -> None:
        raise SceneError("scene.tif is\n  no raster")

    command(fail)
    assert run(["info"]) == 1
    assert capsys.readouterr() == ("", "floodmap: error: scene.tif is no raster\n")


def test_an_error_that_is_an_oserror_too_is_one_line(command, capsys) -> None:
    def fail() -> None:
        raise OutputError("out.gpkg exists; pass --overwrite to replace it")

    command(fail)
    assert run(["info"]) == 1
    assert capsys.readouterr().err == "floodmap: error: out.gpkg exists; pass --overwrite to replace it\n"


def test_an_unexpected_exception_is_one_line_that_says_how_to_see_more(command, capsys) -> None:
    command(lambda: 1 // 0)
    assert run(["info"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("floodmap: error: unexpected ZeroDivisionError: ")
    assert "-vv" in err and "FLOODMAP_DEBUG=1" in err


@pytest.mark.parametrize("debug", ["-vv", "FLOODMAP_DEBUG"])
def test_the_traceback_is_shown_where_it_is_asked_for(command, capsys, monkeypatch, debug: str) -> None:
    command(lambda: 1 // 0)
    monkeypatch.setenv("FLOODMAP_DEBUG", "1" if debug == "FLOODMAP_DEBUG" else "0")
    assert run(["info", *(["-vv"] if debug == "-vv" else [])]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert "floodmap: error: unexpected ZeroDivisionError" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("interrupt", "line"),
    [
        (KeyboardInterrupt(), "floodmap: interrupted"),
        (KeyboardInterrupt("go on with --resume"), "floodmap: interrupted: go on with --resume"),
        (click.Abort(), "floodmap: interrupted"),
    ],
    ids=repr,
)
def test_an_interruption_exits_130_and_passes_on_what_the_command_advises(
    command, capsys, interrupt: BaseException, line: str
) -> None:
    def stop() -> None:
        raise interrupt

    command(stop)
    assert run(["info"]) == 130
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize("leave", [lambda: 3, lambda: click.get_current_context().exit(3)])
def test_a_command_chooses_its_exit_code(command, leave: Callable[[], int]) -> None:
    command(leave)
    assert run(["info"]) == 3


@pytest.mark.skipif(os.name != "posix", reason="pipes close differently")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_early_is_no_error(lines: int) -> None:
    code = (
        "import sys, click\nfrom floodmap_cli import main\n"
        f"body = click.command()(lambda: [click.echo('x' * 100) for _ in range({lines})] and None)\n"
        "main.LazyGroup.get_command = lambda self, ctx, name: body\n"
        "sys.stdin.readline()\nsys.exit(main.run(['info']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    _, err = process.communicate(b"go\n", timeout=HANGS)
    assert err == b""
    assert process.returncode == 1


LEVELS = [("", "INFO"), ("warning: ", "WARNING"), ("error: ", "ERROR")]


def log_everything() -> None:
    for name in ("floodmap.imagery.scene", "rasterio._err"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "%s says\n  %s", name, logging.getLevelName(level))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-q"], [f"{level}floodmap.imagery.scene says {name}" for level, name in LEVELS[2:]]),
        ([], [f"{level}floodmap.imagery.scene says {name}" for level, name in LEVELS[1:]]),
        (["-v"], [f"{level}floodmap.imagery.scene says {name}" for level, name in LEVELS]),
    ],
)
def test_the_log_is_single_lines_of_floodmaps_own(command, capsys, flags: list[str], expected: list[str]) -> None:
    command(log_everything)
    assert run(["info", *flags]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"floodmap: {line}" for line in expected]


def test_what_other_libraries_log_and_warn_is_shown_at_vv_alone(command, capsys) -> None:
    def complain() -> None:
        log_everything()
        warnings.warn("an old habit", stacklevel=1)

    command(complain)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(["info"]) == 0
        assert "rasterio" not in (err := capsys.readouterr().err) and "habit" not in err
        assert run(["info", "-vv"]) == 0
        assert "rasterio" in (err := capsys.readouterr().err) and "habit" in err


def test_logging_set_up_twice_writes_once(capsys) -> None:
    configure_logging(0)
    configure_logging(0)
    logging.getLogger("floodmap.x").warning("once")
    assert capsys.readouterr().err == "floodmap: warning: once\n"


def parse(decorator: Callable[..., Any], *args: str) -> dict[str, Any]:
    """Parameters that a command with these options gets."""
    received: dict[str, Any] = {}
    command = click.command()(decorator(lambda **values: received.update(values)))
    result = CliRunner().invoke(command, args, standalone_mode=False)
    if result.exception:
        raise result.exception
    return received


def refusal(decorator: Callable[..., Any], *args: str) -> str:
    with pytest.raises(click.UsageError) as error:
        parse(decorator, *args)
    return error.value.format_message()


scene_options, format_option = options.options_of(SceneOptions), options.options_of(SegmentOptions, "formats")


@pytest.mark.parametrize("kind", [SceneOptions, SegmentOptions, FineTuneOptions])
def test_options_of_fields_default_to_what_the_fields_do(kind: type) -> None:
    values = {name: value for name, value in parse(options.options_of(kind)).items() if value is not None}
    assert kind(**values) == kind()
    assert {"SceneOptions": 0, "SegmentOptions": 8, "FineTuneOptions": 9}[kind.__name__] <= len(values)


@pytest.mark.parametrize("kind", [SceneOptions, SegmentOptions])
def test_python_and_the_command_line_have_the_same_defaults(kind: type) -> None:
    parameters = inspect.signature(floodmap.segment).parameters
    for field in fields(kind):
        if field.name == "scene":
            continue
        default = None if field.metadata["shown"] else field.default
        assert parameters[field.name].default == default, field.name


def test_windows_of_a_grid_default_to_those_of_a_run() -> None:
    grid = Grid(width=1, height=1)
    assert parse(options.options_of(SegmentOptions, "tile_size", "overlap")) == {
        "tile_size": grid.tile_size, "overlap": grid.overlap,
    }  # fmt: skip


def test_scene_options_are_parsed(tmp_path: Path) -> None:
    (tmp_path / "å.gpkg").touch()
    args = ["--bands", " 4,3 ,2", "--nodata", "nan", "--resolution", "0.5", "--aoi", str(tmp_path / "å.gpkg")]
    values = parse(scene_options, *args, "--collar", "off", "--crs", "EPSG:32643")
    assert values["bands"] == (4, 3, 2)
    assert values["nodata"] != values["nodata"]
    assert values["resolution_m"] == 0.5
    assert values["aoi"] == tmp_path / "å.gpkg"
    assert (values["collar"], values["crs"], values["mask"]) == ("off", "EPSG:32643", None)


@pytest.mark.parametrize("value", ["0,1,2", "a", "1,,2", "", "-1", "1.5", "1;2", "²"])
def test_bands_that_are_none_are_refused(value: str) -> None:
    assert "band numbers" in refusal(scene_options, f"--bands={value}")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_resolution_must_be_a_positive_number(value: str) -> None:
    assert "number above 0" in refusal(scene_options, f"--resolution={value}")


def test_files_that_are_not_there_are_wrong_usage(tmp_path: Path) -> None:
    for option in ("--mask", "--aoi"):
        assert "none.gpkg" in refusal(scene_options, option, str(tmp_path / "none.gpkg"))
        assert "directory" in refusal(scene_options, option, str(tmp_path))


def test_formats_are_split_checked_and_kept_in_order() -> None:
    assert parse(format_option) == {"formats": ("gpkg",)}
    assert parse(format_option, "--format", "SHP, .gpkg,shp") == {"formats": ("shp", "gpkg")}
    message = refusal(format_option, "--format", "gpkg,kml")
    assert "kml is no format" in message
    assert all(name in message for name in options.FORMATS)
    assert "choose from" in refusal(format_option, "--format", ",")


@pytest.mark.parametrize("value", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_devices_are_accepted(value: str) -> None:
    assert parse(options.device_option, "--device", value) == {"device": value}


@pytest.mark.parametrize("value", ["gpu", "cuda:", "CPU", "cuda:-1", ""])
def test_what_is_no_device_is_refused(value: str) -> None:
    assert "choose from auto" in refusal(options.device_option, f"--device={value}")


def test_flags_default_to_off() -> None:
    assert parse(options.json_option) == {"as_json": False}
    assert parse(options.overwrite_option) == {"overwrite": False}
    assert parse(options.model_option) == {"model": "finetuned"}
    assert parse(options.verbosity_options, "-vvv") == {"verbosity": 2}
    assert parse(options.verbosity_options, "-q") == {"verbosity": -1}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOODMAP_CACHE", str(tmp_path / "cache"))
    tiny = models.Model(
        name="tiny", file="tiny.pth", architecture="vit_b", sha256=hashlib.sha256(b"tiny").hexdigest(), size_mb=0.001
    )
    monkeypatch.setattr(models, "_SAM", (*models._SAM, tiny))
    (tmp_path / "brought.pth").write_bytes(b"tiny")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.pth").write_bytes(b"tiny")
    monkeypatch.setenv("FLOODMAP_MODEL_URL", (tmp_path / "mirror").as_uri())
    return tmp_path / "cache"


def test_models_list_names_them_all_and_where_they_stand(cache: Path, capsys) -> None:
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(bytes(250))
    assert run(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(models.registry())
    assert "25 % fetched" in lines[-1]
    assert run(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == list(models.registry())
    assert {"state", "sha256", "url", "path", "licence"} <= set(listed[0])


def test_models_add_verify_and_info_follow_a_file(cache: Path, tmp_path: Path, capsys) -> None:
    assert run(["models", "verify", "tiny"]) == 1
    assert "tiny: absent" in capsys.readouterr().out
    assert run(["models", "add", str(tmp_path / "brought.pth")]) == 0
    assert capsys.readouterr().out == f"tiny: {cache / 'tiny.pth'}\n"
    assert run(["models", "verify", "tiny"]) == 0
    assert capsys.readouterr().out == f"tiny: ok ({cache / 'tiny.pth'})\n"
    assert run(["models", "info", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "fetched"
    (cache / "tiny.pth").write_bytes(b"tinY")
    assert run(["models", "verify"]) == 1
    assert "tiny: damaged" in capsys.readouterr().out


def test_models_pull_fetches_and_mends(cache: Path, capsys) -> None:
    assert run(["models", "pull", "tiny"]) == 0
    (cache / "tiny.pth").write_bytes(b"damaged")
    assert run(["models", "pull", "tiny"]) == 0
    assert (cache / "tiny.pth").read_bytes() == b"tiny"
    assert capsys.readouterr().out == f"tiny: {cache / 'tiny.pth'}\n" * 2


def test_models_refuse_unknown_names_and_files_in_one_line(cache: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    for args in (["pull", "none"], ["info", "none"], ["verify", "none"], ["add", str(tmp_path / "other.pth")]):
        assert run(["models", *args]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("floodmap: error: ") and err.count("\n") == 1


def test_models_info_describes_a_file(cache: Path, tmp_path: Path, capsys) -> None:
    assert run(["models", "info", str(tmp_path / "brought.pth")]) == 0
    out = capsys.readouterr().out
    assert hashlib.sha256(b"tiny").hexdigest() in out and "vit_b" in out


def test_sample_passes_its_options_to_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    from floodmap.synthetic import sample

    calls: list[tuple[Any, dict[str, Any]]] = []

    def write_sample(path: Path, **settings: Any) -> tuple[Path, Path]:
        settings.pop("progress")(0.5)
        calls.append((path, settings))
        return path, path.with_name("scene_reference.tif")

    monkeypatch.setattr(sample, "write_sample", write_sample)
    scene = tmp_path / "scene.tif"
    assert run(["sample", str(scene), "--size", "300", "--width", "200", "--seed", "5", "--gsd", "0.1"]) == 0
    assert calls == [(scene, {"width": 200, "height": 300, "seed": 5, "gsd_m": 0.1, "overwrite": False})]
    assert capsys.readouterr().out.splitlines() == [str(scene), str(tmp_path / "scene_reference.tif")]


@pytest.mark.parametrize("args", [["--size", "0"], ["--gsd", "0"], ["--seed", "-1"], ["--width", "1.5"]], ids=" ".join)
def test_sample_refuses_wrong_sizes(args: list[str], tmp_path: Path) -> None:
    assert run(["sample", str(tmp_path / "scene.tif"), *args]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sample_writes_a_scene_and_its_reference_and_no_second_time(tmp_path: Path, capsys) -> None:
    import rasterio

    scene = tmp_path / "scène.tif"
    assert run(["sample", str(scene), "--size", "64", "--seed", "5"]) == 0
    with rasterio.open(scene) as image, rasterio.open(tmp_path / "scène_reference.tif") as reference:
        assert (image.width, image.height, image.count) == (64, 64, 3)
        assert (reference.width, reference.height, reference.count) == (64, 64, 1)
        assert image.transform == reference.transform and image.crs == reference.crs
    assert run(["sample", str(scene), "--size", "64"]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert run(["sample", str(scene), "--size", "64", "--overwrite"]) == 0


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys) -> None:
    with progress_bar("work") as update:
        update(0.5)
        update(1, None)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("work", unit="bytes") as update:
        update(500, 1000)
        update(1000, 1000)
    out, err = capsys.readouterr()
    assert out == "" and "work" in err and "100%" in err


def test_the_group_is_click_s_own_when_it_is_embedded() -> None:
    assert CliRunner().invoke(cli, ["--help"]).exit_code == 0
