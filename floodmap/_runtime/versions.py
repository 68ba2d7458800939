"""Versions of packages, and a digest of the code of floodmap, each read once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from functools import cache
from pathlib import Path


@cache
def version(package: str) -> str:
    """Return the version of an installed package. Reading it takes 5 ms, a hundredth of the time of a small scene."""
    return importlib.metadata.version(package)


def version_in_use(package: str) -> str:
    """Return the version of a package as imported by this process; if it is not imported, the installed version.

    The two differ in a process that was started before the package was installed again. Local parts, such as `+cpu`,
    are left out.
    """
    imported = getattr(sys.modules.get(package), "__version__", None)
    return str(imported or version(package)).partition("+")[0]


@cache
def code_digest() -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of all Python files of floodmap.

    The files are read at the first call. A process that calls this function early keeps the digest of its own code,
    also if the files change later.
    """
    digest, folder = hashlib.sha256(), Path(__file__).parent.parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:12]
