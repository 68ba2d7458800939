"""Segmentation of many scenes: small scenes side by side in worker processes, large scenes one after the other."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from floodmap.catalogue.probe import probe_in
from floodmap.catalogue.rows import SceneRow
from floodmap.catalogue.size import are_large
from floodmap.catalogue.task import SceneAnswer, SceneTask, error_text, segment_whole, shares_files
from floodmap.errors import OutputError, writing
from floodmap.geo.source_name import SourceName
from floodmap.models.protocol import Segmenter
from floodmap.options import SegmentOptions
from floodmap.output.paths import result_paths, wanted_files
from floodmap.output.rehearsal import Helper
from floodmap.output.results import FloodMap, output_folder, refuse_existing
from floodmap.pipeline import segment_scene, work_folder
from floodmap.scaleout.workers.pool import Call, Lost, in_order
from floodmap.scaleout.workers.run import Workers
from floodmap.strips.journal import has_strips

log = logging.getLogger(__name__)

NamedScene = tuple[str, SourceName]
"""Name of a scene, with which the names of its results begin, and the scene."""


@dataclass(frozen=True, slots=True)
class SceneOutcome:
    """A scene that is done or failed."""

    index: int
    """Position of the scene in the list of all scenes, from 0."""
    row: SceneRow
    flood_map: FloodMap | None
    """Results of the scene; None if the scene failed."""


def segment_scenes(
    scenes: Sequence[NamedScene],
    out: Path,
    segmenter: Segmenter,
    options: SegmentOptions,
    *,
    workers: Workers | None = None,
    helper: Helper | None = None,
) -> Iterator[SceneOutcome]:
    """Segment scenes, and yield the outcome of each scene. A scene that fails does not stop the others.

    With workers, each small scene is segmented by one worker, and the windows of a large scene by all workers; see
    `size.is_large`. If there are fewer small scenes than workers, they count as large.

    Args:
        scenes: the scenes with different names.
        out: folder for the results.
        segmenter: the model; with workers, `workers.segmenter`.
        options: settings of all scenes.
        workers: worker processes; None: this process segments the scenes one after the other.
        helper: helper process for the first rehearsal; see `pipeline.segment_scene`.

    Raises:
        PoolError: the workers differ, or the connection to them was lost.
    """
    numbered = list(enumerate(scenes))
    small = [] if workers is None else _small(numbered)
    sources = [source for _, (_, source) in small]
    if workers is not None and (len(small) < workers.size or not _share_folders(workers, out, sources)):
        small = []
    done, rehearsed = set[int](), set[Hashable]()
    if workers is not None and small:
        for outcome in _apart(small, out, options, workers):
            done.add(outcome.index)
            yield outcome
    for index, (name, source) in numbered:
        if index not in done:
            try:
                result = segment_scene(
                    source, out, segmenter, options, name=name, helper=helper, workers=workers, rehearsed=rehearsed
                )
            except Exception as error:
                yield _failure(index, name, source, error_text(source, error))
                continue
            yield SceneOutcome(index, SceneRow.of(result, source), result)


def _apart(
    numbered: Sequence[tuple[int, NamedScene]], out: Path, options: SegmentOptions, workers: Workers
) -> Iterator[SceneOutcome]:
    """Segment each scene in one worker, several scenes at the same time; see `segment_scenes`.

    There is no outcome for a scene whose worker has other folders than this process.
    """
    free = list[tuple[int, NamedScene]]()
    for index, (name, source) in numbered:
        try:
            _refuse_results(out, name, options)
            free.append((index, (name, source)))
        except OutputError as error:
            yield _failure(index, name, source, str(error))
    # Nothing of these scenes exists. If a worker ends, its scene begins again with what the worker left.
    options = options if options.resume else replace(options, overwrite=True)
    with probe_in(out) as probe:
        calls = (
            Call(segment_whole, (SceneTask(
                name=name, source=source, out=out, options=options, model=workers.model, expected=workers.expected,
                probe=probe,
            ),))
            for _, (name, source) in free
        )  # fmt: skip
        with closing(in_order(workers.pool, calls, ahead=4 * workers.size)) as answers:
            for (index, (name, source)), answer in zip(free, answers, strict=True):
                if isinstance(answer, Lost) or not answer.elsewhere:
                    yield _outcome(index, name, source, answer)


def _outcome(index: int, name: str, source: SourceName, answer: SceneAnswer | Lost) -> SceneOutcome:
    if isinstance(answer, Lost):
        return _failure(index, name, source, f"{source}: {answer.why}; free memory, or use fewer workers")
    for line in answer.warnings:
        log.warning("%s", line if source.label in line else f"{name}: {line}")
    if answer.flood_map is None:
        return _failure(index, name, source, answer.error)
    if not answer.flood_map.mask_path.exists():
        error = f"{source}: its results are not in the output folder; give a folder that all workers share"
        return _failure(index, name, source, error)
    return SceneOutcome(index, SceneRow.of(answer.flood_map, source), answer.flood_map)


def _failure(index: int, name: str, source: SourceName, error: str) -> SceneOutcome:
    row = SceneRow.of_failure(name, source, error)
    log.error("%s", row.error)
    return SceneOutcome(index, row, None)


def _refuse_results(out: Path, name: str, options: SegmentOptions) -> None:
    """Check that a scene has neither results nor unfinished work, unless it is resumed or replaced.

    Raises:
        OutputError: a result or unfinished work exists.
    """
    if options.overwrite or options.resume:
        return
    refuse_existing(result_paths(out, name, options.formats, **wanted_files(options)))
    if has_strips(folder := work_folder(out, name)):
        raise OutputError(f"{folder}: holds an unfinished run; go on with --resume, or start afresh with --overwrite")


def _small(numbered: Sequence[tuple[int, NamedScene]]) -> list[tuple[int, NamedScene]]:
    large = are_large([source for _, (_, source) in numbered])
    return [one for one, is_large in zip(numbered, large, strict=True) if not is_large]


def _share_folders(workers: Workers, out: Path, sources: Sequence[SourceName]) -> bool:
    """Return whether all workers find the files of this process under the same names.

    A new file in the output folder is tested, and one scene of each local folder with scenes.
    """
    local = [container[0].absolute() for source in sources if (container := source.container)]
    scenes = {path.parent: path for path in local if path.exists()}.values()
    with output_folder(out), writing(out), tempfile.NamedTemporaryFile(dir=out, prefix=".floodmap-") as file:
        return all(workers.pool.everywhere(shares_files, [Path(file.name).absolute(), *scenes], os.getcwd()))
