"""Make the zip of the QGIS plugin: `python scripts/make_plugin.py [FOLDER]`, by default dist/floodmap-qgis-VERSION.zip.

The same files give the same bytes on every machine. QGIS installs the zip (Plugins, Install from ZIP).
"""

from __future__ import annotations

import configparser
import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1] / "qgis" / "floodmap"
MOST_BYTES = 1_000_000
DATE = (2020, 1, 1, 0, 0, 0)
"""Date of all files in the zip, because dates of files differ between clones."""
SUFFIXES = {".py", ".txt", ".svg", ""}
"""Suffixes of the files of the plugin; the licence has none."""
REQUIRED = ("name", "qgisMinimumVersion", "description", "about", "version", "author", "email", "license", "repository")


def files() -> list[Path]:
    """Return the files of the plugin, sorted by name."""
    found = (path for path in PLUGIN.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path for path in found if path.suffix in SUFFIXES and not path.name.startswith("."))


def metadata() -> configparser.SectionProxy:
    """Return the entries of metadata.txt.

    Raises:
        ValueError: an entry that plugins.qgis.org requires is missing.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(PLUGIN / "metadata.txt", encoding="utf-8")
    general = parser["general"]
    missing = [name for name in REQUIRED if not general.get(name)]
    if missing:
        raise ValueError(f"metadata.txt lacks {', '.join(missing)}")
    return general


def make(folder: Path) -> Path:
    """Write the zip into a folder; return its path.

    Raises:
        ValueError: the zip is too large, or metadata.txt is incomplete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"floodmap-qgis-{metadata()['version']}.zip"
    # Stored, not compressed: zlib's bytes differ between its versions.
    with zipfile.ZipFile(path, "w") as archive:
        for file in files():
            entry = zipfile.ZipInfo(f"floodmap/{file.relative_to(PLUGIN).as_posix()}", DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, also on Windows
            archive.writestr(entry, file.read_bytes())
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size} bytes, {MOST_BYTES} at most")
    return path


if __name__ == "__main__":
    made = make(Path(sys.argv[1]) if len(sys.argv) > 1 else PLUGIN.parents[1] / "dist")
    print(f"{made}: {made.stat().st_size / 1e3:.0f} kB, {len(files())} files")
