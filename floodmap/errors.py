"""Errors that floodmap raises on purpose. The message is one line for the user: what is wrong, where, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FloodmapError(Exception):
    """Base class of floodmap's errors; the command line prints it as one line and exits with code 1."""


class SceneError(FloodmapError, ValueError):
    """A raster cannot be read as a scene."""


class MissingCRSError(SceneError):
    """An operation needs coordinates on the ground, and the file has none."""


class GridError(FloodmapError, ValueError):
    """Windows cannot be laid over a scene with these settings."""


class VectorError(FloodmapError, ValueError):
    """A vector file (area of interest, mask, prompts, reference) cannot be used."""


class PromptError(FloodmapError, ValueError):
    """Prompts are malformed or lie outside the scene."""


class ModelError(FloodmapError):
    """A model is unknown, its file is damaged or does not fit, or it cannot be fetched."""


class DownloadError(ModelError, OSError):
    """A file cannot be fetched over the network."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class EvaluationError(FloodmapError, ValueError):
    """A prediction and a reference cannot be compared."""


class LabelError(FloodmapError, ValueError):
    """Labelled imagery is not there, or not fit to train on or compare with."""


class OutputError(FloodmapError, OSError):
    """A result cannot be written: it exists already, the disk is full, or a run cannot be resumed."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingPackageError(FloodmapError, ImportError):
    """An optional package is not installed."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context manager: an OSError becomes OutputError, where a file or folder cannot be written.

    No permission, a full disk, a file where a folder should be.
    """
    try:
        yield
    except FloodmapError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; make room or choose another output folder"
        ) from error
