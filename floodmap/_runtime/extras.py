"""Optional packages, and the extras of floodmap (`pip install 'floodmap[...]'`) that install the packages."""

from __future__ import annotations

from importlib.util import find_spec

from floodmap.errors import MissingPackageError

EXTRAS = {"pyarrow": "parquet", "matplotlib": "train", "accelerate": "multi-gpu"}
"""Extra of floodmap that installs a package, by name of the package."""


def require(package: str, what: str) -> None:
    """Raise MissingPackageError if an optional package is not installed.

    Args:
        package: name of the package, a key of `EXTRAS`.
        what: the feature that needs the package, as subject of the sentence in the message.
    """
    if find_spec(package) is None:
        raise MissingPackageError(
            f"{what} needs {package}, which is not installed; run: pip install 'floodmap[{EXTRAS[package]}]'"
        )
