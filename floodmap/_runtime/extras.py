"""Optional packages, and the extra of floodmap that installs each."""

from __future__ import annotations

from importlib.util import find_spec

from floodmap.errors import MissingPackageError

EXTRAS = {"pyarrow": "parquet", "matplotlib": "train", "accelerate": "multi-gpu"}
"""The extra of `pip install 'floodmap[...]'` that brings each package."""


def require(package: str, what: str) -> None:
    """Raise MissingPackageError if an optional package is not installed.

    Args:
        package: a key of `EXTRAS`.
        what: the feature that needs it, as the beginning of a sentence.
    """
    if find_spec(package) is None:
        raise MissingPackageError(
            f"{what} needs {package}, which is not installed; run: pip install 'floodmap[{EXTRAS[package]}]'"
        )
