"""Segmentation of a whole scene by one worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from floodmap.catalogue.probe import Probe
from floodmap.errors import FloodmapError, PoolError
from floodmap.geo.source_name import SourceName
from floodmap.options import SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap.scaleout.workers.model import ModelSource
from floodmap.scaleout.workers.worker import refuse_broken_gpu, segmenter_of, warnings_kept

_rehearsed: set[Hashable] = set()
"""Kinds of runs that this worker has rehearsed; see `rehearsal.rehearse`."""

_one_at_a_time = threading.Lock()
"""Lock of this worker. A Dask worker with several threads runs several calls, but files are written with settings of
GDAL that hold for the whole process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTask:
    """A scene to segment, with all settings.

    Relative paths refer to the current folder, which is the same for worker and client.
    """

    name: str
    source: SourceName
    out: Path
    options: SegmentOptions
    model: ModelSource
    expected: Mapping[str, str] | None
    """Properties of all workers; see `Workers.expected`."""
    probe: Probe
    """Folders of the client. A worker that joined later may have others."""


@dataclass(frozen=True, slots=True)
class SceneAnswer:
    """Outcome of a `SceneTask`: the results, or an error message."""

    flood_map: FloodMap | None
    error: str = ""
    warnings: tuple[str, ...] = ()
    """Lines that were logged, for the log of the client."""
    elsewhere: bool = False
    """True: the worker has other folders than the client, and computed nothing."""


def segment_whole(task: SceneTask) -> SceneAnswer:
    """Segment a scene in this worker, and write its results.

    Raises:
        PoolError: this worker differs from the others, or its GPU failed.
        ModelError: the model cannot be loaded.
    """
    if not task.probe.is_here():
        return SceneAnswer(None, elsewhere=True)
    segmenter = segmenter_of(task.model, task.expected)
    with _one_at_a_time, warnings_kept() as lines:
        try:
            result = segment_scene(
                task.source, task.out, segmenter, task.options, name=task.name, rehearsed=_rehearsed
            )  # fmt: skip
        except Exception as error:
            refuse_broken_gpu(segmenter)
            return SceneAnswer(None, error_text(task.source, error), tuple(lines))
    return SceneAnswer(result, warnings=tuple(lines))


def error_text(source: SourceName, error: Exception) -> str:
    """Return the message for a scene that failed, one line.

    Raises:
        PoolError: the error concerns all workers, and not the scene.
    """
    if isinstance(error, PoolError):
        raise error
    return str(error) if isinstance(error, FloodmapError) else f"{source}: unexpected {type(error).__name__}: {error}"


def shares_files(files: Sequence[Path], cwd: str) -> bool:
    """Return whether a worker has the current folder `cwd`, and finds all of some files of the client."""
    return os.getcwd() == cwd and all(file.exists() for file in files)
