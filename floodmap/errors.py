"""Exceptions of floodmap. Each message is one line for the user: what is wrong, in which file, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FloodmapError(Exception):
    """Base class of the exceptions of floodmap. The command line prints the message and exits with code 1."""


class SceneError(FloodmapError, ValueError):
    """Exception raised if a raster cannot be read as a scene or as probabilities."""


class RemoteError(FloodmapError):
    """Exception raised if a file cannot be read over the network, or has changed while it was read.

    The run stops, and can be resumed. The class is not a `SceneError`: after a `SceneError`, the part of the scene that
    cannot be read becomes unobserved. After an error of the network the data is probably intact.
    """


class RemoteFileError(RemoteError):
    """Exception raised if a server has no such file, refuses access to it, or has another file under its name now.

    Other files of the same server may be readable: of many scenes or frames, only one fails.
    """


class MissingCRSError(SceneError):
    """Exception raised if an operation needs a CRS, and a file has no CRS."""


class GridError(FloodmapError, ValueError):
    """Exception raised if a scene cannot be divided into windows with the given tile size and overlap."""


class VectorError(FloodmapError, ValueError):
    """Exception raised if a vector file (area of interest, mask, prompts, reference) cannot be used."""


class PromptError(FloodmapError, ValueError):
    """Exception raised if prompts are malformed or lie outside the scene."""


class ModelError(FloodmapError):
    """Exception raised if a model is unknown, cannot be downloaded, or has a corrupt or unsuitable file."""


class DownloadError(ModelError, OSError):
    """Exception raised if a file cannot be downloaded."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class EvaluationError(FloodmapError, ValueError):
    """Exception raised if a prediction and a reference cannot be compared."""


class LabelError(FloodmapError, ValueError):
    """Exception raised if labelled imagery is missing, or cannot be used for training or for comparing models."""


class OutputError(FloodmapError, OSError):
    """Exception raised if a result exists already or cannot be written, or if a run cannot be resumed.

    A full disk is one cause.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class WorkerError(FloodmapError):
    """Exception raised if worker processes cannot be used."""


class PoolError(WorkerError):
    """Exception raised if no worker can be used any more: the connection was lost, or workers are not alike.

    The exception stops a run over many scenes. Any other `WorkerError` concerns one scene.
    """


class MissingPackageError(FloodmapError, ImportError):
    """Exception raised if an optional package is not installed."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError in the `with` block into an OutputError with a message for the user.

    Causes are, for example, a missing permission, a full disk, or a file in the place of a folder.

    Args:
        path: the file or folder that the block writes, for the message.
    """
    try:
        yield
    except FloodmapError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; free disk space or check the permissions, or choose "
            "another output folder"
        ) from error
