"""A fresh HOME with the QGIS plugin: fixtures `program` and `home` for tests that run QGIS."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROCESS = "/usr/bin/qgis_process.bin"  # Debian's qgis_process is a broken wrapper
SCENE = ROOT / "sample_tiles" / "village.tif"
PROFILE = ".local/share/QGIS/QGIS3/profiles/default"


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "QT_QPA_PLATFORM": "offscreen",
        "LC_ALL": "C.UTF-8",
    }  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `floodmap` of this working tree."""
    path = tmp_path_factory.mktemp("program") / "floodmap"
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}:{ROOT / "cli"}" exec "{sys.executable}" -m floodmap_cli.main "$@"\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Path:
    """A fresh HOME, with the plugin installed from its zip and enabled."""
    if not os.path.exists(PROCESS):
        pytest.skip(f"{PROCESS} is missing (Debian: apt-get install --no-install-recommends qgis)")
    folder = tmp_path_factory.mktemp("home")
    folder.chmod(0o700)
    subprocess.run([sys.executable, ROOT / "scripts" / "make_plugin.py", folder], check=True, capture_output=True)
    plugins = folder / PROFILE / "python" / "plugins"
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as archive:
        archive.extractall(plugins)
    settings = folder / PROFILE / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[PythonPlugins]\nfloodmap=true\nprocessing=true\n\n[floodmap]\nprogram={program}\n")
    return folder
