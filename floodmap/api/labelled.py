"""Public functions for labelled pictures: train and compare; and for corrected scenes: adapt."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from floodmap.api.scenes import load_model
from floodmap.geo.vectors import as_file
from floodmap.imagery.opened import Source, named
from floodmap.models.protocol import Segmenter
from floodmap.options import MODEL, OUTPUT_FOLDER, AdaptOptions, FineTuneOptions, SceneOptions, TrainSettings

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from floodmap.comparison.run import Comparison
    from floodmap.comparison.study import Trial
    from floodmap.models.training_record import TrainedModel
    from floodmap.training.adaptation.result import Adaptation
    from floodmap.training.loop import Checkpoint


def train(
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[float, str], None] | None = None,
    on_checkpoint: Callable[[Checkpoint], None] | None = None,
    **settings: Unpack[TrainSettings],
) -> TrainedModel:
    """Train a model on labelled imagery, as `floodmap train` does.

    Args:
        data: folder with images/ and masks/, or with scenes and references: x.tif beside x_reference.tif or x.gpkg.
        out: file for the weights, `.safetensors`; None: a file in the current folder, named after the folder `data`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        overwrite: True: replace existing files.
        resume: True: continue an interrupted run.
        progress: function called with two arguments: the finished share of a stage, 0 to 1, and the stage's name.
        on_checkpoint: function called at every checkpoint of the training, with one `Checkpoint`: an object with the
            finished share of the run, and with losses and IoU. The first call is for the initial weights.
        settings: fields of `FineTuneOptions`, for instance `epochs=40`.

    Returns:
        Path of the weights, names of the training and validation pictures, and scores on the validation pictures.

    Raises:
        FloodmapError: the run failed; the message is one line on what is wrong and what to do.
    """
    from floodmap.models.loading import pick_device
    from floodmap.training.finetune import fine_tune

    folder = Path(data)
    weights = Path(f"{folder.resolve().name or 'mine'}.safetensors") if out is None else Path(out)
    return fine_tune(
        folder, weights, FineTuneOptions(device=str(pick_device(device)), **settings), overwrite=overwrite,
        resume=resume, report=progress or (lambda *_: None), on_checkpoint=on_checkpoint or (lambda _: None),
    )  # fmt: skip


def adapt(
    source: Source,
    *,
    corrections: str | os.PathLike[str] | GeoDataFrame,
    out: str | os.PathLike[str] = "adapted.safetensors",
    base: str | os.PathLike[str] = MODEL,
    parts: int = 3,
    even_if_worse: bool = False,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> Adaptation:
    """Tune the decoder and the calibration of a model to corrections of one scene, as `floodmap adapt` does.

    Args:
        source: the scene: a file, another name that GDAL opens, an open dataset of rasterio, or an xarray.DataArray.
        corrections: polygons and points with a field `label` or `class` (1 or flood, 0 or dry), a path or a
            GeoDataFrame; or the file of `floodmap.review`, with edits, and with places that are accepted, rejected or
            redrawn.
        out: file for the weights, `.safetensors`.
        base: name or file of the old weights.
        parts: number of parts of the corrections, 2 or more. Each is kept out of a tuning of its own, and tells whether
            tuned weights are better there.
        even_if_worse: True: write the weights also if they did not help, or if too few corrections are there to find
            out.
        seed: seed of the division into parts.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        overwrite: True: replace an existing file.
        progress: function called with two arguments: the finished share of a stage, 0 to 1, and the stage's name.
        options: fields of `SceneOptions`, for instance `bands=(4, 3, 2)`; give `segment` the same.

    Returns:
        Scores of the old and the new weights on the corrections that were kept out. `path` is None if the new weights
        did not help, and were therefore not written.

    Raises:
        FloodmapError: the scene, the corrections or the weights cannot be used; the message is one line.
    """
    from floodmap.training.adaptation.run import adapt_model

    settings = AdaptOptions(base=str(base), parts=parts, even_if_worse=even_if_worse, seed=seed)
    with named(source) as scene, as_file(corrections, "corrections") as edits:
        return adapt_model(
            scene, edits, Path(out), settings, scene_options=SceneOptions(**options), device=device,
            overwrite=overwrite, report=progress or (lambda *_: None),
        )  # fmt: skip


def compare(
    data: str | os.PathLike[str],
    *,
    models: Sequence[str | Path | Segmenter] = (MODEL,),
    prompts: Sequence[str] = ("auto", "none"),
    out: str | os.PathLike[str] = OUTPUT_FOLDER,
    split: Literal["all", "train", "val", "test"] = "all",
    flood_value: str | None = None,
    ignore_values: tuple[str, ...] = (),
    device: str = "auto",
    flips: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[Trial], None] | None = None,
) -> Comparison:
    """Score models with several kinds of prompt on labelled pictures, as `floodmap compare` does.

    Args:
        data: folder with images/ and masks/, or with scenes and references: x.tif beside x_reference.tif or x.gpkg.
        models: names, files, or models from `load_model`. Models that cannot be downloaded are left out, and listed in
            the field `missing` of the result.
        prompts: kinds of prompt. `auto`: the prompts that `segment` computes. `none`: no prompts. `point`: one point in
            the largest area of flood. `points:N`: N points, 1 to 64, such as `points:8`. The first point is that of
            `point`. The model predicts after each point, and the next point, flood or dry, lies in the largest
            area that was predicted wrongly. `box`: one box around all flood. The points and the box are computed from
            the reference. Their scores are oracle scores, which a user does not reach, because a user has no reference.
        out: folder for report.html, scores.csv and summary.json; created if it is missing.
        split: part of the data that is scored: `train`, `val` or `test`, as assigned by the data's folders or by
            splits.csv; `all`: every picture, whether or not the data have splits.
        flood_value: values of the masks that mean flood, such as "1" or "1,2"; None: found from the masks.
        ignore_values: values of the masks that mean neither flood nor dry, such as ("0", "9").
        device: device for models that are given by name or file: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        flips: True: test-time augmentation with the mirror image, for models that are given by name or file.
        seed: seed of the random numbers. Pictures are resampled at random for the confidence intervals (bootstrap), and
            divided at random into folds for the cross-validated calibration error.
        overwrite: True: replace existing files.
        progress: function called with the result of every trial: one picture with one model and one kind of prompt.

    Returns:
        Scores of every model with every kind of prompt on every picture, and problems found in the labels.

    Raises:
        FloodmapError: the comparison failed; the message is one line on what is wrong and what to do.
    """
    from floodmap.comparison.run import Contestant, compare_models, refuse_comparison, resolve_models

    folder = Path(out)
    refuse_comparison(folder, overwrite=overwrite)
    loaded = [Contestant(load_model(one)) for one in models if not isinstance(one, str | os.PathLike)]
    resolved, missing = resolve_models([one for one in models if isinstance(one, str | os.PathLike)])
    named_ones = [Contestant(load_model(one.path, device=device, flips=flips), one.path) for one in resolved]
    return compare_models(
        Path(data), [*named_ones, *loaded], prompts, folder, missing=missing, split=split, flood_value=flood_value,
        ignore_values=ignore_values, seed=seed, overwrite=overwrite, report=progress or (lambda _: None),
    )  # fmt: skip
