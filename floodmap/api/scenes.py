"""Public functions for scenes (segment, predict), and load_model, which loads a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import ModelError, OutputError
from floodmap.geo.names import local_or_gdal
from floodmap.geo.source_name import SourceName
from floodmap.imagery.arrays import open_array
from floodmap.imagery.opened import Source, named
from floodmap.inference.loop import Progress, segment_whole
from floodmap.inference.prompting import make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.tiling import Grid
from floodmap.models.infrared import with_infrared
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.models.registry import ResolvedModel, resolve
from floodmap.options import (
    FORMAT,
    MODEL,
    OUTPUT_FOLDER,
    OVERLAP,
    THRESHOLD,
    TILE_SIZE,
    FloodType,
    Format,
    SceneOptions,
    Schema,
    SegmentOptions,
    check_threshold,
    in_percent,
)
from floodmap.output.results import FloodMap, as_probability
from floodmap.pipeline import refuse_other_run, segment_scene
from floodmap.scaleout.workers.opening import needs_workers, open_workers
from floodmap.scaleout.workers.run import Workers

if TYPE_CHECKING:
    from distributed import Client


def segment(
    source: Source,
    *,
    out: str | Path = OUTPUT_FOLDER,
    name: str | None = None,
    model: str | Path | Segmenter = MODEL,
    prompts: str | Path = "auto",
    resolution_m: float | None = None,
    bands: tuple[int, ...] | None = None,
    nir: Literal["auto", "off"] = "auto",
    nodata: float | Literal["none"] | None = None,
    mask: str | Path | None = None,
    aoi: str | Path | None = None,
    crs: str | None = None,
    collar: Literal["auto", "off"] = "auto",
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    threshold: float = THRESHOLD,
    permanent_water: str | Path | None = None,
    permanent_least: float | None = None,
    permanent_rim_m: float | None = None,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    formats: tuple[Format, ...] = (FORMAT,),
    device: str = "auto",
    flips: bool = False,
    batch_size: int | None = None,
    exhaustive: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    report: bool = False,
    pdf: bool = False,
    stac: bool = False,
    schema: Schema = "floodmap",
    flood_type: FloodType = "unknown",
    keep_features: bool = False,
    workers: int | None = None,
    scheduler: str | Client | None = None,
    allow_mixed: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> FloodMap:
    """Find flood water in one scene, as `floodmap segment` does.

    Args:
        source: a file, or another name that GDAL opens, such as `/vsizip/x.zip/a.tif`, `NETCDF:"f.nc":red`,
            `https://...`; a dataset open for reading in rasterio; or an xarray.DataArray with rioxarray's coordinates.
        out: folder for the results; created if it is missing.
        name: first part of the names of all result files; None: the scene's own name without suffix.
        model: a name (`floodmap models list`), a file, or a model from `load_model`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. For a model from `load_model`, give `device` there. Several
            devices separated by commas, such as `cuda:0,cuda:1`, start one worker process for each.
        workers: number of worker processes on this machine that compute the windows; None: this process computes them.
            Rasters and polygons have the same bytes. Workers load the model: give its name or file.
        scheduler: address of a Dask scheduler whose workers compute the windows, or a `distributed.Client`.
        allow_mixed: True: workers may differ in versions, device and precision. Results then depend on which worker
            computes which windows.
        flips: True: test-time augmentation. Each window is predicted twice, as it is and mirrored, and the two flood
            probabilities of each pixel are averaged. For a model from `load_model`, give `flips` there.
        batch_size: number of windows in a batch; None: the number with the highest throughput on the device.
        exhaustive: True: predict at full resolution everywhere; False: only in areas in which the coarse pass predicts
            a probability from 0.15 to 0.75.
        progress: function that is called with a `Progress` (counts of windows and pixels, and the stage of the run)
            after every window, and before results are written.
        prompts: `auto`: the result of the coarse pass, or for Meta's SAM an estimate of water from colours; `none`: no
            prompts; or a vector file with points (field `label`: 1 flood, 0 dry) and boxes around flood. Points and
            boxes are used together with what `auto` gives; with Meta's SAM, boxes replace it.
        resolution_m: ground sample distance of the working grid, in metres; None: the pixels of the file.
        bands: numbers of red, green, blue and perhaps near infrared, from 1; None: bands are found by name, colour
            interpretation or order.
        nir: `auto` uses near infrared if the scene has it; `off` leaves it out.
        nodata: value of pixels without data; None: the file's own value, and voids (undeclared nodata values such as
            -9999) that are found; `none`: every value is valid.
        mask: file that marks ground to leave unobserved, such as cloud: polygons or a raster. In a raster, every value
            except 0 and nodata marks such ground. Nodata marks such ground, too, if the raster has at least one pixel
            of value 0. If it has none, nodata is taken to mean ground that is not masked. None: no mask.
        aoi: file that marks the area of interest: polygons, or a raster in which values above 0, except nodata, mark
            it. None: the whole scene.
        crs: CRS of the scene, if the file has no CRS or a wrong CRS; None: the CRS in the file.
        collar: `auto` finds black and white borders and leaves them unobserved; `off` treats them as ground.
        tile_size: longest side of a window, in pixels.
        overlap: least number of pixels that neighbouring windows share.
        threshold: probability, 0.01 to 1, from which a pixel is flood in the mask.
        permanent_water: file of water that is always there, polygons or a raster: a class and a layer of its own, and
            no flood; see `masks.permanent_water.PermanentWater`, also for the next two. None: all water is flood.
        permanent_least: least value of permanent water in the raster; None: 50, or 1 in a raster of 0 and 1.
        permanent_rim_m: width in metres of the rim that counts as the bank; None: a pixel of the raster; polygons: 0.
        min_area_m2: smallest area of a polygon, in square metres; None: the area of 25 pixels.
        simplify_m: tolerance of the simplified outlines, in metres; 0 follows every pixel; None: one pixel.
        formats: vector formats: gpkg, shp, geojson, fgb, parquet.
        overwrite: True: replace existing results.
        resume: True: continue an interrupted run.
        report: True: also write an HTML page of the results.
        pdf: True: also write the results on A4 pages, as PDF.
        stac: True: also write a STAC item of the results.
        schema: `cems`: also write the layers in the schema of Copernicus EMS Rapid Mapping; `floodmap`: only the own.
        flood_type: kind of flood in the layers of Copernicus EMS: riverine, flash, coastal or ice-jam.
        keep_features: True: keep what corrections need in `NAME_features`; with `resume` and other points in `prompts`,
            only the windows with points are then predicted again.

    Returns:
        The results on disk: paths of mask, probability, vector files and reports, and the content of the JSON report.

    Raises:
        FloodmapError: the run failed; the message is one line on what is wrong and what to do.
        TypeError: the source or the model has a type that is not listed above.
    """
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise OutputError(f"{name!r} is no name for files; give one without folders")
    if isinstance(source, np.ndarray):
        raise TypeError("source is a numpy array; for a picture in memory use predict(rgb)")
    scene = SceneOptions(
        resolution_m=resolution_m, bands=bands, nir=nir, nodata=nodata, crs=crs, collar=collar,
        mask=None if mask is None else local_or_gdal(mask), aoi=None if aoi is None else local_or_gdal(aoi),
    )  # fmt: skip
    with named(source) as given, ExitStack() as stack:
        refuse_other_run(Path(out), name or SourceName.of(given).stem)  # before a model is loaded in vain
        runner: Workers | None = None
        if needs_workers(workers, scheduler, device):
            runner = stack.enter_context(open_workers(
                file_of(model), workers=workers, scheduler=scheduler, device=device, flips=flips,
                allow_mixed=allow_mixed,
            ))  # fmt: skip
        segmenter = runner.segmenter if runner else load_model(model, device=device, flips=flips)
        options = SegmentOptions(
            scene=scene, prompts=prompts if prompts in ("auto", "none") else local_or_gdal(prompts),
            permanent_water=None if permanent_water is None else local_or_gdal(permanent_water),
            permanent_least=permanent_least, permanent_rim_m=permanent_rim_m,
            tile_size=tile_size, overlap=overlap, threshold=threshold, min_area_m2=min_area_m2, simplify_m=simplify_m,
            formats=tuple(formats), batch_size=batch_size or segmenter.best_batch_size, exhaustive=exhaustive,
            overwrite=overwrite, resume=resume, report=report, pdf=pdf, stac=stac, schema=schema, flood_type=flood_type,
            keep_features=keep_features,
        )  # fmt: skip
        return segment_scene(given, Path(out), segmenter, options, name=name, progress=progress, workers=runner)


def file_of(model: str | Path | Segmenter) -> ResolvedModel:
    """Return the file of a model that workers load.

    Raises:
        ModelError: the model is loaded in this process already.
    """
    if not isinstance(model, str | os.PathLike):
        raise ModelError(
            f"{model.name} is loaded in this process, but workers load it themselves; give its name or file"
        )
    return resolve(model)


class Prediction(NamedTuple):
    """Mask and flood probability of a picture in memory."""

    mask: NDArray[np.uint8]
    """uint8 (height, width): 1 flood, 0 dry, 255 unobserved."""
    probability: NDArray[np.float32]
    """float32 (height, width), 0 to 1 in steps of 0.01; NaN at unobserved pixels."""


def predict(
    rgb: NDArray[np.uint8],
    *,
    nir: NDArray[np.uint8] | None = None,
    valid: NDArray[np.bool_] | None = None,
    gsd_m: float | None = None,
    model: str | Path | Segmenter = MODEL,
    prompts: Literal["auto", "none"] | Prompts = "auto",
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    threshold: float = THRESHOLD,
    exhaustive: bool = False,
) -> Prediction:
    """Find flood water in a picture in memory, by the same method as `segment`. No files are written.

    Args:
        rgb: uint8 (3, height, width) or (height, width, 3): red, green and blue.
        nir: uint8 (height, width): near infrared; None: the picture has no near infrared.
        valid: bool (height, width): True at observed pixels; None: all pixels are observed.
        gsd_m: ground sample distance, in metres; None: not known.
        model: a name (`floodmap models list`), a file, or a model from `load_model`.
        prompts: `auto`: the result of the coarse pass, or for Meta's SAM an estimate of water from colours; `none`: no
            prompts; or `Prompts`: points and boxes in pixels of the picture. Points and boxes are used together with
            what `auto` gives; with Meta's SAM, boxes replace it.
        tile_size: longest side of a window, in pixels.
        overlap: least number of pixels that neighbouring windows share.
        threshold: probability, 0.01 to 1, from which a pixel is flood in the mask.
        exhaustive: True: predict at full resolution everywhere; False: only in areas in which the coarse pass predicts
            a probability from 0.15 to 0.75.

    Returns:
        Mask, uint8 (height, width), and flood probability, float32 (height, width).

    Raises:
        FloodmapError: the prediction failed; the message is one line on what is wrong and what to do.
    """
    check_threshold(threshold)
    segmenter = load_model(model)
    with open_array(rgb, nir=nir, valid=valid, gsd_m=gsd_m) as scene:
        segmenter = with_infrared(segmenter, scene)
        grid = Grid(
            height=scene.height, width=scene.width, tile_size=tile_size, overlap=overlap, multiple=segmenter.multiple
        )  # fmt: skip
        prompter, proof = make_prompter(scene, segmenter, prompts, exhaustive=exhaustive), Proof()
        codes = segment_whole(scene, grid, segmenter, prompter, exhaustive=exhaustive, proof=proof)
        proof.end()
    flood = (codes >= in_percent(threshold)).astype(np.uint8)
    return Prediction(np.where(codes > 100, np.uint8(255), flood), as_probability(codes))


def load_model(model: str | Path | Segmenter = MODEL, *, device: str = "auto", flips: bool = False) -> Segmenter:
    """Load a model once, for many scenes.

    Args:
        model: a name (`floodmap models list`) or a file. A model that is already loaded is returned unchanged.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        flips: True: test-time augmentation. Each window is predicted twice, as it is and mirrored, and the two flood
            probabilities of each pixel are averaged.

    Returns:
        The model, for the argument `model` of `segment` and `predict`.

    Raises:
        ModelError: there is no model of this name; the file is damaged; the device is not available; or `model` is
            already loaded, and the call has another argument: a `device` other than `auto`, or `flips=True`.
        TypeError: `model` is neither a name, a file nor a model.
    """
    from floodmap.models.loading import load_segmenter
    from floodmap.models.mirrored import Mirrored

    if not isinstance(model, str | os.PathLike):
        if not hasattr(model, "predict"):
            raise TypeError(f"model is a {type(model).__name__}; give a name, a file, or what load_model returned")
        if device != "auto" or flips:
            raise ModelError(f"{model.name} is already loaded; give device and flips to load_model(...) instead")
        return model
    loaded = load_segmenter(resolve(model), device)
    return Mirrored(loaded) if flips else loaded
