"""Public functions of labelled pictures: train and compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from floodmap.api.scenes import load_model
from floodmap.models.protocol import Segmenter
from floodmap.options import MODEL, OUTPUT_FOLDER, FineTuneOptions, TrainSettings

if TYPE_CHECKING:
    from floodmap.comparison.run import Comparison
    from floodmap.comparison.study import Trial
    from floodmap.models.training_record import TrainedModel
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
        data: a folder with images/ and masks/, or with scenes beside references (x.tif, x_reference.tif or x.gpkg).
        out: file for the weights, `.safetensors`; by default named after the data, in the current folder.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        overwrite: replace existing files.
        resume: continue an interrupted run.
        progress: called with the share done, 0 to 1, and the stage.
        on_checkpoint: called with the scores of every checkpoint; the first are those of the initial weights.
        settings: fields of `FineTuneOptions`: `epochs=40`, say.

    Raises:
        FloodmapError: one line that says what is wrong and what to do.
    """
    from floodmap.models.loading import pick_device
    from floodmap.training.finetune import fine_tune

    folder = Path(data)
    weights = Path(f"{folder.resolve().name or 'mine'}.safetensors") if out is None else Path(out)
    return fine_tune(
        folder, weights, FineTuneOptions(device=str(pick_device(device)), **settings), overwrite=overwrite,
        resume=resume, report=progress or (lambda *_: None), on_checkpoint=on_checkpoint or (lambda _: None),
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
    """Score models and kinds of prompt on labelled pictures, as `floodmap compare` does.

    Args:
        data: a folder with images/ and masks/, or with scenes beside references.
        models: names, files, or models from `load_model`. Those that cannot be downloaded are in `missing`.
        prompts: auto, none, point, box, points:N; the last three are taken from the reference (oracle).
        out: folder for report.html, scores.csv and summary.json; created if it is missing.
        split: part of the data, where the data has splits.
        flood_value: what is flood in the masks: "1", or "1,2"; None: found out.
        ignore_values: values of the masks that are neither flood nor dry.
        device: of models that are given by name or file.
        flips: predict every window in a mirror, too, with models that are given by name or file.
        seed: of the bootstrap.
        overwrite: replace existing files.
        progress: called after every picture, model and kind of prompt.

    Raises:
        FloodmapError: one line that says what is wrong and what to do.
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
