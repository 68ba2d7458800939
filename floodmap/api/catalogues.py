"""Public function for many scenes: segment_many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from floodmap.api.scenes import file_of, load_model
from floodmap.catalogue.finding import find_scenes
from floodmap.catalogue.run import Catalogue, ScenesProgress, reserved, run_scenes
from floodmap.geo.names import local_or_gdal
from floodmap.models.protocol import Segmenter
from floodmap.options import MODEL, OUTPUT_FOLDER, SceneOptions, SegmentOptions, SegmentSettings
from floodmap.scaleout.workers.opening import needs_workers, open_workers
from floodmap.scaleout.workers.run import Workers

if TYPE_CHECKING:
    from distributed import Client


def segment_many(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | Path = OUTPUT_FOLDER,
    catalogue: str | Path | None = None,
    stac_items: str | Path | None = None,
    model: str | Path | Segmenter = MODEL,
    device: str = "auto",
    flips: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    scheduler: str | Client | None = None,
    allow_mixed: bool = False,
    progress: Callable[[ScenesProgress], None] | None = None,
    **settings: Unpack[SegmentSettings],
) -> Catalogue:
    """Find flood water in many scenes, as `floodmap segment --catalogue` does. A failed scene does not stop the others.

    Each scene has the same results as with `segment`. With workers, small scenes are segmented side by side, one by
    each worker, and the windows of large scenes by all workers.

    Args:
        sources: files, folders, glob patterns, names that GDAL opens, and STAC collections; one or several.
        out: folder for the results; created if it is missing.
        catalogue: file with the polygons of all scenes, and a row for each scene: GeoPackage (.gpkg) or GeoParquet
            (.parquet). None: no catalogue.
        stac_items: file for a STAC item of each scene, in the format stac-geoparquet (.parquet). None: no STAC items.
        model: a name (`floodmap models list`), a file, or, without workers, a model from `load_model`.
        device: as for `segment`.
        flips: as for `segment`.
        batch_size: as for `segment`.
        workers: number of worker processes on this machine; None: this process segments one scene after the other.
        scheduler: address of a Dask scheduler, or a `distributed.Client`. Scenes are segmented side by side if the
            workers find the scenes and the output folder under the same names as this process.
        allow_mixed: as for `segment`.
        progress: function that is called with a `ScenesProgress` after every scene.
        **settings: further keyword arguments of `segment`, such as `resume=True`.

    Returns:
        The row of each scene, and the files of the catalogue.

    Raises:
        FloodmapError: there is no scene, the model cannot be loaded, or the catalogue cannot be written. The message is
            one line on what is wrong and what to do. Errors of single scenes are not raised: see `Catalogue.failed`.
        TypeError: a setting is no argument of `segment`.
    """
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    folder, path = Path(out), None if catalogue is None else Path(catalogue)
    items = None if stac_items is None else Path(stac_items)
    scenes = find_scenes([os.fspath(one) for one in given], folder)
    chosen = _options(settings)
    with ExitStack() as stack:
        unfinished = stack.enter_context(reserved(path, scenes, folder, chosen(1), items))
        runner: Workers | None = None
        if needs_workers(workers, scheduler, device):
            runner = stack.enter_context(open_workers(
                file_of(model), workers=workers, scheduler=scheduler, device=device, flips=flips,
                allow_mixed=allow_mixed,
            ))  # fmt: skip
        segmenter = runner.segmenter if runner else load_model(model, device=device, flips=flips)
        return run_scenes(
            scenes, folder, segmenter, chosen(batch_size or segmenter.best_batch_size), path=path, folder=unfinished,
            items=items, workers=runner, on_scene=lambda _, state: progress(state) if progress else None,
        )  # fmt: skip


def _options(settings: SegmentSettings) -> Callable[[int], SegmentOptions]:
    """Return a function from the batch size to the options of a run.

    Raises:
        TypeError: a setting has an unknown name.
    """
    given: dict[str, Any] = dict(settings)
    for name in ("mask", "aoi", "prompts", "permanent_water"):
        if given.get(name) not in (None, "auto", "none"):
            given[name] = local_or_gdal(given[name])
    of_scene = {one.name: given.pop(one.name) for one in fields(SceneOptions) if one.name in given}
    scene = SceneOptions(**of_scene)
    return lambda batch_size: SegmentOptions(scene=scene, batch_size=batch_size, **given)
