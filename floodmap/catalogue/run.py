"""A run over many scenes: the scenes are segmented, and a catalogue of all of them is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from floodmap.catalogue.file import check_target, files_of, work_folder, write_catalogue
from floodmap.catalogue.rows import SceneRow
from floodmap.catalogue.side_by_side import NamedScene, SceneOutcome, segment_scenes
from floodmap.catalogue.stac_items import check_items_file, write_items
from floodmap.models.protocol import Segmenter
from floodmap.options import FORMATS, SegmentOptions
from floodmap.output.paths import EVERY_FILE, result_paths
from floodmap.output.rehearsal import Helper
from floodmap.scaleout.workers.run import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScenesProgress:
    """Progress of a run over many scenes."""

    done: int
    """Number of scenes that are done or failed."""
    failed: int
    """Number of scenes that failed."""
    total: int
    """Number of scenes of the run."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The scenes of a run, and the files of their catalogue."""

    scenes: tuple[SceneRow, ...]
    """The row of each scene, in the order of the scenes."""
    paths: tuple[Path, ...]
    """Files of the catalogue; the file with the rows of the scenes is the last. Empty if no catalogue was written."""
    items_path: Path | None = None
    """File with a STAC item of each scene; None if it was not written."""

    @property
    def failed(self) -> tuple[SceneRow, ...]:
        """Scenes without results, or without polygons in the catalogue; `SceneRow.error` is the reason."""
        return tuple(row for row in self.scenes if row.status == "failed")

    @property
    def incomplete(self) -> tuple[SceneRow, ...]:
        """Scenes of which some windows failed."""
        return tuple(row for row in self.scenes if row.status == "failed windows")

    def summary(self) -> str:
        """Return the number of scenes that are done, and a line for each scene that failed or has failed windows."""
        done = len(self.scenes) - len(self.failed)
        lines = [f"{done:,} of {len(self.scenes):,} scenes are done"]
        lines += [f"  {row.name} failed: {row.error}" for row in self.failed]
        lines += [
            f"  {row.name}: {row.failed_windows} window{'' if row.failed_windows == 1 else 's'} failed: {row.error}"
            for row in self.incomplete
        ]
        return "\n".join(lines)


@contextmanager
def reserved(
    path: Path | None, scenes: Sequence[NamedScene], out: Path, options: SegmentOptions, items: Path | None = None
) -> Iterator[Path]:
    """Context manager: check that a catalogue can be written, and lock it until the end.

    Call it before the model is loaded, so that errors appear early.

    Args:
        path: the catalogue; None: no catalogue is written.
        scenes: scenes of the run.
        out: folder of their results.
        options: settings of the run.
        items: file for STAC items; None: no STAC items are written.

    Yields:
        Folder for unfinished files of the catalogue; `out` without a catalogue.

    Raises:
        OutputError: a file cannot be written or would replace another file, or another run writes the catalogue.
        MissingPackageError: a package for the format is not installed.
    """
    results = [file for name, _ in scenes for file in result_paths(out, name, FORMATS, **EVERY_FILE)]
    inputs = [Path(file) for file in options.files.values()]
    inputs += [container[0] for _, source in scenes if (container := source.container)]
    others = [*results, *inputs]
    if path is not None:
        check_target(path, overwrite=options.overwrite, resume=options.resume, others=others)
        others += files_of(path)
    if items is not None:
        check_items_file(items, overwrite=options.overwrite, resume=options.resume, others=others)
    with nullcontext(out) if path is None else work_folder(path) as folder:
        yield folder


def run_scenes(
    scenes: Sequence[NamedScene],
    out: Path,
    segmenter: Segmenter,
    options: SegmentOptions,
    *,
    path: Path | None,
    folder: Path,
    items: Path | None = None,
    workers: Workers | None = None,
    helper: Helper | None = None,
    on_scene: Callable[[SceneOutcome, ScenesProgress], None] = lambda *_: None,
) -> Catalogue:
    """Segment scenes, and write their catalogue; see `side_by_side.segment_scenes`.

    Args:
        scenes: the scenes with different names.
        out: folder for the results.
        segmenter: the model; with workers, `workers.segmenter`.
        options: settings of all scenes.
        path: the catalogue; None: no catalogue is written.
        folder: folder for unfinished files, from `reserved`.
        items: file for a STAC item of each scene; None: no STAC items are written.
        workers: worker processes; None: this process segments the scenes.
        helper: helper process for the first rehearsal.
        on_scene: function that is called after every scene, with its outcome and the number of scenes done so far.

    If all scenes failed, a catalogue that exists is not replaced.

    Raises:
        OutputError: the catalogue cannot be written. The results of the scenes are complete.
        PoolError: the workers differ, or the connection to them was lost.
    """
    rows: list[SceneRow | None] = [None] * len(scenes)
    failed = 0
    outcomes = segment_scenes(scenes, out, segmenter, options, workers=workers, helper=helper)
    for done, outcome in enumerate(outcomes, 1):
        rows[outcome.index] = outcome.row
        failed += outcome.flood_map is None
        on_scene(outcome, ScenesProgress(done, failed, len(scenes)))
    complete = tuple(row for row in rows if row is not None)
    paths: tuple[Path, ...] = ()
    if path is not None and not (failed == len(scenes) and _is_kept(path)):
        complete, paths = write_catalogue(complete, path, folder)
    written = items is not None and write_items(complete, items) > 0
    return Catalogue(complete, paths, items if written else None)


def _is_kept(path: Path) -> bool:
    """Return whether a catalogue exists, and log that it is kept: a catalogue without any scene is worth less."""
    if not path.exists():
        return False
    log.error("%s is left as it was, because all scenes failed", path)
    return True
