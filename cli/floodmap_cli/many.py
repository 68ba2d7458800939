"""Many scenes of `floodmap segment`: side by side in worker processes, with a catalogue of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .terminal import progress_bar

if TYPE_CHECKING:
    from floodmap.catalogue.run import Catalogue, ScenesProgress
    from floodmap.catalogue.side_by_side import SceneOutcome
    from floodmap.geo.source_name import SourceName
    from floodmap.models.protocol import Segmenter
    from floodmap.options import SegmentOptions
    from floodmap.output.rehearsal import Helper
    from floodmap.output.results import FloodMap
    from floodmap.scaleout.workers.run import Workers

Opened = AbstractContextManager["tuple[Segmenter, Workers | None]"]

FAILED, INCOMPLETE = 1, 3
"""Exit codes: no scene is done, or without a catalogue a scene failed (1); the catalogue is complete but for failed
scenes, or windows failed (3)."""


def segment_many(
    scenes: list[tuple[str, SourceName]],
    out: Path,
    path: Path | None,
    opened: Opened,
    options_of: Callable[[int | None], SegmentOptions],
    *,
    items: Path | None = None,
    helper: Helper | None,
    print_result: Callable[[FloodMap], None],
    as_json: bool,
    verbosity: int,
) -> int:
    """Segment scenes, write their catalogue, and report.

    Args:
        scenes: names and scenes.
        out: folder for the results.
        path: the catalogue; None: no catalogue.
        opened: context of the model and of the workers; entered after the catalogue has been checked.
        options_of: function from the best batch size of the model, or None if it is not known yet, to the settings.
        items: file for a STAC item of each scene; None: no STAC items.
        helper: helper process for the first rehearsal.
        print_result: function that reports the results of a scene.
        as_json: True: write the reports of all scenes to standard output.
        verbosity: -1 for -q.

    Returns:
        The exit code.
    """
    from floodmap.catalogue.run import reserved, run_scenes

    reports: list[dict[str, Any]] = []
    with (
        reserved(path, scenes, out, options_of(None), items) as folder,
        opened as (segmenter, workers),
        _shown(len(scenes), verbosity) as show,
    ):

        def on_scene(outcome: SceneOutcome, progress: ScenesProgress) -> None:
            show(progress)
            if outcome.flood_map is not None:
                print_result(outcome.flood_map)
                reports.extend([outcome.flood_map.report] if as_json else [])

        try:
            catalogue = run_scenes(
                scenes, out, segmenter, options_of(segmenter.best_batch_size), path=path, folder=folder,
                items=items, workers=workers, helper=helper, on_scene=on_scene,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the same command with --resume to continue") from None
    _report(catalogue, out, as_json, verbosity)
    if as_json:
        click.echo(json.dumps(reports, indent=2, ensure_ascii=False, default=str))
    return exit_code(catalogue)


def exit_code(catalogue: Catalogue) -> int:
    """Return the exit code of a run over many scenes."""
    if len(catalogue.failed) == len(catalogue.scenes) or (catalogue.failed and not catalogue.paths):
        return FAILED
    return INCOMPLETE if catalogue.failed or catalogue.incomplete else 0


@contextmanager
def _shown(total: int, verbosity: int) -> Iterator[Callable[[ScenesProgress], None]]:
    """Context manager: show the number of finished scenes. Yields the function that receives the progress."""
    with progress_bar(f"0 of {total:,} scenes", unit="scenes", hidden=verbosity < 0) as update:

        def show(progress: ScenesProgress) -> None:
            failed = f", {progress.failed:,} failed" if progress.failed else ""
            update(progress.done, progress.total, f"{progress.done:,} of {progress.total:,} scenes{failed}", "segment")

        update(0, total)
        yield show


def _report(catalogue: Catalogue, out: Path, as_json: bool, verbosity: int) -> None:
    """Write the summary; to standard error if scenes failed or with --json. With -q, only failures are reported."""
    problems = catalogue.failed or catalogue.incomplete
    if problems or verbosity >= 0:
        click.echo(catalogue.summary(), err=bool(problems) or as_json)
    if verbosity < 0:
        return
    if len(catalogue.failed) < len(catalogue.scenes):
        click.echo(f"Results are in {os.path.join(out, '')}", err=as_json)
    if catalogue.paths:
        click.echo(f"The catalogue is {', '.join(map(str, reversed(catalogue.paths)))}", err=as_json)
    if catalogue.items_path:
        click.echo(f"The STAC items are in {catalogue.items_path}", err=as_json)
