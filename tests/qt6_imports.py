"""Import all modules of the QGIS plugin under Qt 6: `python tests/qt6_imports.py FOLDER`, with PyQt6 installed.

The package index has no QGIS for Qt 6. `qgis.PyQt` is PyQt6 itself, as in QGIS 4. `qgis.core` and `qgis.gui` are
stand-ins: each of their names is an empty class. Enums of Qt are strict in PyQt6, and also those inside of functions
are looked up: each chain such as `Qt.MouseButton.LeftButton` on a name from `qgis.PyQt` must exist.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from PyQt6 import QtCore, QtGui, QtWidgets

QT = {"QtCore": QtCore, "QtGui": QtGui, "QtWidgets": QtWidgets}


class Anything(type(QtCore.QObject)):  # type: ignore[misc]
    """Metaclass of stand-ins: an unknown name of a class, such as an enum, is a stand-in again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __or__(cls, other: object) -> Any:
        return cls


def stand_in(name: str) -> Any:
    """Return an empty class with a name. It is a QObject, so that it can have signals."""
    return Anything(name, (QtCore.QObject,), {})


class Module(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = stand_in(name)
        setattr(self, name, found)
        return found


def install() -> None:
    """Put `qgis` into the modules of this process."""
    package = types.ModuleType("qgis")
    package.__path__ = []  # type: ignore[attr-defined]
    pyqt = types.ModuleType("qgis.PyQt")
    pyqt.__path__ = []  # type: ignore[attr-defined]
    sys.modules.update({"qgis": package, "qgis.PyQt": pyqt})
    sys.modules.update({f"qgis.PyQt.{name}": module for name, module in QT.items()})
    sys.modules.update({f"qgis.{name}": Module(f"qgis.{name}") for name in ("core", "gui")})


def import_all(folder: Path) -> list[str]:
    """Import the plugin in a folder, and all its modules; return their names."""
    name = "floodmap_plugin"  # not `floodmap`, which is the library
    place = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert place is not None and place.loader is not None
    package = importlib.util.module_from_spec(place)
    sys.modules[name] = package
    place.loader.exec_module(package)
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        module = ".".join([name, *(part for part in parts if part != "__init__")])
        importlib.import_module(module)
        names.append(module)
    return names


def missing_names(folder: Path) -> list[str]:
    """Return chains of names of Qt, anywhere in the code, that PyQt6 does not have."""
    wrong = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: getattr(QT[node.module.rsplit(".", 1)[1]], alias.name, None)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qgis.PyQt.")
            for alias in node.names
        }
        for node in ast.walk(tree):
            chain = _chain(node)
            found = imported.get(chain[0]) if len(chain) > 1 else None
            for name in chain[1:] if found is not None else ():
                if not hasattr(found, name):
                    wrong.append(f"{path.name}:{node.lineno} {'.'.join(chain)}")  # type: ignore[attr-defined]
                    break
                found = getattr(found, name)
    return wrong


def _chain(node: ast.AST) -> list[str]:
    """Return the names of `a.b.c`; an empty list for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


if __name__ == "__main__":
    install()
    plugin = Path(sys.argv[1])
    modules = import_all(plugin)
    problems = missing_names(plugin)
    print(*problems, sep="\n")
    print(f"{len(modules)} modules imported under Qt {QtCore.QT_VERSION_STR}; {len(problems)} names of Qt are missing")
    sys.exit(bool(problems))
