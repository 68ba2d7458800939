"""The whole way from a raster to flood polygons, for one scene."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from floodmap.cog import write_rasters
from floodmap.errors import FloodmapError, MissingCRSError, SceneError
from floodmap.grid import Grid, Window
from floodmap.journal import Entry, Journal
from floodmap.prompter import Segmenter, make_prompter
from floodmap.prompts import Prompts
from floodmap.results import FloodMap, check_disk, finished_before, refuse_existing, take_census, write_report
from floodmap.scene import Scene, SceneOptions, Tile
from floodmap.stitch import Mosaic

log = logging.getLogger(__name__)

Format = Literal["gpkg", "shp", "geojson", "fgb", "parquet"]
READ_AHEAD = 3
"""Windows read while the model is busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """Settings of a run; those that decide the results are stored with them."""

    scene: SceneOptions = field(default_factory=SceneOptions)
    """How the raster is read."""
    prompts: Path | Literal["auto", "none"] = "auto"
    """`auto`: from a coarse pass; `none`; or a vector file with points and boxes."""
    tile_size: int = 1024
    """Longest side of a window, in pixels."""
    overlap: int = 64
    """Pixels shared by neighbouring windows."""
    threshold: float = 0.5
    """Flood where the probability is at least this."""
    min_area_m2: float | None = None
    """Smaller polygons are dropped; None: 25 pixels' worth where the scene has a CRS."""
    simplify_m: float | None = None
    """Tolerance of the outlines, in metres; None: one pixel where the scene has a CRS."""
    formats: tuple[Format, ...] = ("gpkg",)
    """Vector formats to write."""
    batch_size: int = 1
    """Windows at a time."""
    overwrite: bool = False
    """Replace results, and discard unfinished work."""
    resume: bool = False
    """Go on with unfinished work; begin where there is none."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.threshold <= 1.0:
            raise FloodmapError(f"threshold {self.threshold} must lie between 0.01 and 1")
        if self.batch_size < 1:
            raise FloodmapError(f"batch size {self.batch_size} must be at least 1")

    @property
    def threshold_percent(self) -> int:
        """The threshold as a code."""
        return max(1, round(self.threshold * 100))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    windows_done: int
    windows_total: int
    pixels_done: int
    """Scene pixels, each counted once."""
    stage: str


def segment(
    source: str | Path,
    *,
    out: str | Path = "floodmap_output",
    model: str | Path = "finetuned",
    prompts: Path | Literal["auto", "none"] = "auto",
    resolution_m: float | None = None,
    bands: tuple[int, ...] | None = None,
    nodata: float | None = None,
    mask: str | Path | None = None,
    aoi: str | Path | None = None,
    crs: str | None = None,
    collar: Literal["auto", "off"] = "auto",
    tile_size: int = 1024,
    overlap: int = 64,
    threshold: float = 0.5,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    formats: tuple[Format, ...] = ("gpkg",),
    device: str = "auto",
    batch_size: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> FloodMap:
    """Find flood water in one scene, as `floodmap segment` does.

    Args:
        source: any raster GDAL reads.
        out: folder for the results; made if it is not there.
        model: a name (`floodmap models list`) or a file.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        batch_size: windows at a time; None: 1 on a CPU, 8 on a GPU.
        progress: called after every window.
        resolution_m, bands, nodata, mask, aoi, crs, collar: see `SceneOptions`.
        prompts, tile_size and the others: see `SegmentOptions`.

    Raises:
        FloodmapError: one line that says what is wrong and what to do.
    """
    from floodmap.models import resolve
    from floodmap.segmenter import load_segmenter

    scene = SceneOptions(
        resolution_m=resolution_m, bands=bands, nodata=nodata, crs=crs, collar=collar,
        mask=None if mask is None else Path(mask), aoi=None if aoi is None else Path(aoi),
    )  # fmt: skip
    segmenter = load_segmenter(resolve(model), device)
    options = SegmentOptions(
        scene=scene, prompts=prompts if prompts in ("auto", "none") else Path(prompts), tile_size=tile_size,
        overlap=overlap, threshold=threshold, min_area_m2=min_area_m2, simplify_m=simplify_m, formats=tuple(formats),
        batch_size=batch_size or segmenter.best_batch_size, overwrite=overwrite, resume=resume,
    )  # fmt: skip
    return segment_scene(Path(source), Path(out), segmenter, options, progress=progress)


def segment_scene(
    source: Path,
    out: Path,
    segmenter: Segmenter,
    options: SegmentOptions,
    *,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FloodMap:
    """As `segment`, with a model that is loaded; `name` (by default the source's stem) begins the file names."""
    started = time.monotonic()
    with Scene.open(source, options.scene) as scene:
        name = name or scene.name
        if scene.crs is None:
            log.warning("%s has no CRS: it is mapped in pixels, without areas; assign one with --crs", source)
        options = with_defaults(options, scene)
        grid = Grid(
            height=scene.height,
            width=scene.width,
            tile_size=options.tile_size,
            overlap=options.overlap,
            multiple=segmenter.multiple,
        )
        out.mkdir(parents=True, exist_ok=True)
        check_disk(out, scene.width * scene.height)
        settings = describe(scene, segmenter, options)
        work = out / f".{name}.floodmap"
        if not options.overwrite:
            if options.resume and (done := finished_before(out, name, options.formats, settings)):
                log.info("%s: nothing left to do", name)
                return done
            if not work.exists():
                refuse_existing(out, name, options.formats)
        report = progress or (lambda _: None)
        with Journal(work, settings, resume=options.resume, discard=options.overwrite) as journal:
            run_windows(scene, grid, segmenter, options, journal, report)
            report(Progress(len(grid), len(grid), scene.width * scene.height, "write"))
            flood_map = finish(scene, options, journal, settings, out, name, started)
            journal.remove()
    return flood_map


def run_windows(
    scene: Scene,
    grid: Grid,
    segmenter: Segmenter,
    options: SegmentOptions,
    journal: Journal,
    report: Callable[[Progress], None],
) -> None:
    """Compute the strips the journal does not hold."""
    begun, rows = journal.finished(), len(grid.row_offsets)
    if begun == rows:
        return
    first = Mosaic.first_row_for(grid, begun)
    mosaic = Mosaic(grid, first)
    prompter = make_prompter(scene, segmenter, options.prompts)
    windows = (window for row in range(first, rows) for window in grid.row(row))
    tiles = read_ahead(scene, windows)
    done = first * len(grid.col_offsets)
    for row in range(first, rows):
        notes: dict[str, Any] = {"run": 0, "skipped": 0, "failed": [], "pixels": 0}
        remaining = len(grid.col_offsets)
        while remaining:
            batch = list(islice(tiles, min(options.batch_size, remaining)))
            remaining -= len(batch)
            for window, probability, reason in predict(segmenter, prompter, batch, notes):
                strip = mosaic.add(window, probability, reason)
                done += 1
                report(
                    Progress(done, len(grid), window.row_off * grid.width + window.height * window.col_end, "segment")
                )
        if strip is not None and row >= begun:
            journal.append(row, Entry(strip, notes))


Read = tuple[Window, Tile | SceneError]
Predicted = tuple[Window, NDArray[np.float32] | None, NDArray[np.uint8]]


def read_ahead(scene: Scene, windows: Iterator[Window]) -> Iterator[Read]:
    """Tiles in order, the next ones read in a thread meanwhile; a window that cannot be read comes with its error."""

    def read(window: Window) -> Read:
        try:
            return window, scene.read(window)
        except SceneError as error:
            return window, error

    with ThreadPoolExecutor(1, thread_name_prefix="read") as executor:
        pending: list[Future[Read]] = [executor.submit(read, window) for window in islice(windows, READ_AHEAD)]
        while pending:
            result = pending.pop(0).result()
            pending.extend(executor.submit(read, window) for window in islice(windows, 1))
            yield result


def predict(
    segmenter: Segmenter, prompter: Callable[[Tile], Prompts], batch: Sequence[Read], notes: dict[str, Any]
) -> Iterator[Predicted]:
    """Probabilities of a batch; windows without any observed pixel are skipped, those that fail are noted."""
    wanted = [tile for _, tile in batch if isinstance(tile, Tile) and tile.valid.any()]
    results: Iterator[NDArray[np.float32]] | None = None
    failure = ""
    if wanted:
        try:
            results = iter(segmenter.predict(wanted, [prompter(tile) for tile in wanted]))
        except (RuntimeError, MemoryError) as error:
            failure = str(error).splitlines()[0] if str(error) else type(error).__name__
    for window, tile in batch:
        if isinstance(tile, SceneError):
            yield window, None, _failed(notes, window, str(tile), np.zeros((window.height, window.width), np.uint8))
        elif not tile.valid.any():
            notes["skipped"] += 1
            yield window, None, tile.reason
        elif results is None:
            yield window, None, _failed(notes, window, failure, tile.reason)
        else:
            probability = next(results)
            if not np.isfinite(probability).all():
                yield window, None, _failed(notes, window, "the model gave no number", tile.reason)
                continue
            notes["run"] += 1
            notes["pixels"] += probability.size
            yield window, probability, tile.reason


def _failed(notes: dict[str, Any], window: Window, why: str, reason: NDArray[np.uint8]) -> NDArray[np.uint8]:
    log.warning("window at column %d, row %d failed and is unobserved: %s", window.col_off, window.row_off, why)
    notes["failed"].append({"window": asdict(window), "why": why})
    return reason


def with_defaults(options: SegmentOptions, scene: Scene) -> SegmentOptions:
    """Options with the smallest area and the tolerance filled in; in metres they need a place on the ground."""
    if scene.crs is None and "geojson" in options.formats:
        raise MissingCRSError(
            f"{scene.path} has no CRS and GeoJSON is always in WGS 84; choose gpkg, or assign one with --crs"
        )
    if scene.gsd_m is None:
        for value, flag in ((options.min_area_m2, "--min-area"), (options.simplify_m, "--simplify")):
            if value:
                raise MissingCRSError(
                    f"{scene.path} has no CRS, so {flag} cannot be measured on it; assign one with --crs"
                )
        return replace(options, min_area_m2=0.0, simplify_m=0.0)
    area = 25 * scene.gsd_m**2 if options.min_area_m2 is None else options.min_area_m2
    return replace(
        options, min_area_m2=area, simplify_m=scene.gsd_m if options.simplify_m is None else options.simplify_m
    )


def describe(scene: Scene, segmenter: Segmenter, options: SegmentOptions) -> dict[str, Any]:
    """Everything the results depend on: the source, the model, the settings, the versions."""
    chosen = asdict(options)
    for name in ("overwrite", "resume", "formats"):
        del chosen[name]
    return {
        "source": {
            "name": scene.path.name,
            "fingerprint": scene.fingerprint,
            "width": scene.width,
            "height": scene.height,
            "crs": scene.crs.to_string() if scene.crs else None,
            "transform": list(scene.transform)[:6],
            "gsd_m": scene.gsd_m,
            "bands": list(scene.bands),
            "nodata": scene.nodata,
            "date": scene.date.isoformat(),
        },
        "model": {"name": segmenter.name, "sha256": segmenter.sha256, "runs_on": segmenter.runs_on},
        "settings": jsonable(chosen),
        "versions": {name: version(name) for name in ("floodmap", "rasterio", "torch", "numpy", "shapely")},
    }


def jsonable(value: Any) -> Any:
    """Paths as text and tuples as lists, so that what is compared on resuming is what was stored."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def finish(
    scene: Scene,
    options: SegmentOptions,
    journal: Journal,
    settings: dict[str, Any],
    out: Path,
    name: str,
    started: float,
) -> FloodMap:
    """Finished strips to rasters, polygons and the report."""
    from floodmap.formats import write_layers
    from floodmap.polygons import polygonize

    notes = [entry.notes for entry in journal.entries()]
    place = {"crs": scene.crs, "transform": scene.transform}
    threshold = options.threshold_percent
    census = take_census((entry.strip for entry in journal.entries()), threshold=threshold, **place)
    layers = polygonize(
        journal.strips(), threshold=threshold, min_area_m2=options.min_area_m2 or 0.0,
        simplify_m=options.simplify_m or 0.0, model=settings["model"]["name"], source=scene.path.name, **place,
    )  # fmt: skip
    tags = {
        "TIFFTAG_SOFTWARE": f"floodmap {settings['versions']['floodmap']}",
        "model": settings["model"]["name"],
        "source": scene.path.name,
    }
    mask, probability = write_rasters(
        journal.strips(), out, name, width=scene.width, height=scene.height, threshold=threshold, tags=tags,
        overwrite=True, **place,
    )  # fmt: skip
    paths = write_layers(layers.flood, layers.unobserved, out, name, options.formats, date=scene.date, overwrite=True)
    summary = {
        "name": name,
        **census.as_json(),
        "polygons": {"flood": len(layers.flood), "unobserved": len(layers.unobserved)},
        "windows": {
            "run": sum(note["run"] for note in notes),
            "skipped": sum(note["skipped"] for note in notes),
            "failed": [failed for note in notes for failed in note["failed"]],
        },
        "pixels_processed": sum(note["pixels"] for note in notes),
        **settings,
        "run": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 2),
        },
    }
    report = out / f"{name}.json"
    write_report(report, summary)
    return FloodMap(name=name, mask=mask, probability=probability, layers=tuple(paths), report=report, summary=summary)
