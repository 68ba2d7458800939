"""The program `floodmap` on this machine, and a Python to make an environment for it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

LEAST_PYTHON = (3, 11)
"""Oldest Python that the program runs on."""
NEWEST_PYTHON = 15
"""Minor version up to which names such as python3.13 are tried."""
COMPLETE = "complete"
"""File in an environment that was made to its end. An environment without it is made anew."""
WINDOWS = os.name == "nt"

INSTALL = (
    "Install it with the algorithm 'Install the program floodmap' (floodmap:install), or choose its file in the panel "
    "floodmap under 'Program'."
)
"""What to do if there is no program."""


class NoProgramError(Exception):
    """The program cannot be found. The message is for the user."""


class Program(NamedTuple):
    """The program, and where it was found."""

    path: str
    origin: str
    """"settings", "PATH" or "environment of the plugin"."""


def find_program(chosen: str, environment_folder: str, environment: Mapping[str, str]) -> Program:
    """Return the program: that of the settings, else that of the plugin's environment, else that on PATH.

    Args:
        chosen: the file in the settings; "" if there is none.
        environment_folder: folder of the environment that the plugin makes.
        environment: environment variables, for PATH.

    Raises:
        NoProgramError: there is none, or the file of the settings is missing.
    """
    if chosen:
        path = shutil.which(os.path.expanduser(chosen), path=environment.get("PATH"))
        if path is None:
            what = "cannot be run" if os.path.exists(os.path.expanduser(chosen)) else "does not exist"
            raise NoProgramError(f"The program of the settings, {chosen}, {what}. {INSTALL}")
        return Program(path, "settings")
    own = script(environment_folder)
    if os.path.isfile(own) and os.path.isfile(os.path.join(environment_folder, COMPLETE)):
        return Program(own, "environment of the plugin")
    path = shutil.which("floodmap", path=environment.get("PATH"))
    if path is None:
        raise NoProgramError(f"The program floodmap is not on this machine, or not on PATH. {INSTALL}")
    return Program(path, "PATH")


def script(environment_folder: str, name: str = "floodmap") -> str:
    """Return the file of a program in an environment."""
    parts = ("Scripts", f"{name}.exe") if WINDOWS else ("bin", name)
    return os.path.join(environment_folder, *parts)


def pythons(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield files of Python that may be new enough: those on PATH, then that of QGIS."""
    names = [f"python3.{minor}" for minor in range(NEWEST_PYTHON, LEAST_PYTHON[1] - 1, -1)] + ["python3", "python"]
    found = [shutil.which(name, path=environment.get("PATH")) for name in names]
    # QGIS is no Python itself: on Windows and macOS sys.executable is QGIS.
    places = ("python.exe",), ("python3.exe",), ("bin", "python3")
    inside = [os.path.join(sys.base_prefix, *parts) for parts in places]
    seen = set()
    for path in (*found, *inside):
        if path and path not in seen and os.path.isfile(path):
            seen.add(path)
            yield path


def pick_python(
    candidates: Sequence[str], version_of: Callable[[str], Optional[Tuple[int, int]]]
) -> Tuple[str, Tuple[int, int]]:
    """Return the first Python that is new enough, and its version.

    Args:
        candidates: files of Python.
        version_of: function that runs one and returns its version; None if it does not run.

    Raises:
        NoProgramError: none is new enough.
    """
    tried: List[str] = []
    for path in candidates:
        version = version_of(path)
        if version is not None and version >= LEAST_PYTHON:
            return path, version
        tried.append(f"{path} ({'does not run' if version is None else '.'.join(map(str, version))})")
    least = ".".join(map(str, LEAST_PYTHON))
    raise NoProgramError(
        f"floodmap needs Python {least} or later, and there is none: {', '.join(tried) or 'no Python was found'}. "
        f"Install Python {least} or later, and give its file as 'Python'."
    )


VERSION_CODE = "import sys; print(*sys.version_info[:2])"
"""Code that prints the version of a Python."""


def install_lines(python: str, folder: str, wheels: str = "", index: str = "") -> List[List[str]]:
    """Return the command lines that make an environment and install the program there.

    Args:
        python: file of the Python to make it with.
        folder: folder of the environment.
        wheels: folder of wheels; then no network is used. "": the index of pip.
        index: address of another index; "": that of pip's configuration.
    """
    pip = [script(folder, "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--upgrade"]
    offline = ["--no-index", "--find-links", os.path.abspath(wheels)] if wheels else []
    other = ["--index-url", index] if index and not wheels else []
    return [[python, "-m", "venv", "--clear", folder], [*pip, *offline, *other, "floodmap"]]


def wheel_problem(wheels: str) -> str:
    """Return what is wrong with a folder of wheels; "" if nothing is."""
    names = [path.name for path in Path(wheels).glob("*.whl")] if os.path.isdir(wheels) else None
    if names is None:
        return f"{wheels} is no folder; give the folder that holds the wheels."
    if not any(name.startswith("floodmap-") for name in names):
        return f"{wheels} has no wheel of floodmap (floodmap-*.whl); make the folder with: make wheelhouse"
    return ""
