"""Adaptation of a model to one scene: read corrections, tune, score on parts kept out in turn, write what helped."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floodmap.errors import LabelError, OutputError
from floodmap.geo.names import refuse_unreadable
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.raster.stac import scene_of
from floodmap.imagery.scene import Scene
from floodmap.inference.prompting import Prompter, far_view, has_coarse_pass
from floodmap.models.calibration import Calibration, fit_scale
from floodmap.models.infrared import with_infrared
from floodmap.models.loading import load_segmenter, pick_device, pick_dtype
from floodmap.models.protocol import Segmenter
from floodmap.models.registry import ResolvedModel, resolve
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.training_record import picture_key
from floodmap.options import AdaptOptions, SceneOptions
from floodmap.training.adaptation.corrections import Corrections, read_corrections, without_ignored
from floodmap.training.adaptation.result import Adaptation
from floodmap.training.adaptation.scoring import Counts, Score, Touched, changed, counts
from floodmap.training.adaptation.split import Division, divide, undivided
from floodmap.training.adaptation.tuning import Tuning, tune, tuned_names
from floodmap.training.adaptation.views import Encoder, View
from floodmap.training.adaptation.weights import ADAPTED, Base

Report = Callable[[float, str], None]


def adapt_model(
    source: str | os.PathLike[str],
    corrections: Path,
    out: Path,
    options: AdaptOptions,
    *,
    scene_options: SceneOptions | None = None,
    device: str = "auto",
    overwrite: bool = False,
    report: Report = lambda *_: None,
    tuning: Tuning | None = None,
) -> Adaptation:
    """Tune the mask decoder of a model to the corrections of one scene.

    Args:
        source: the scene: a path, or a name that GDAL opens.
        corrections: vector file of the corrections; see `read_corrections`.
        out: file of the new weights, `.safetensors`.
        options: settings of the run.
        scene_options: options for reading the scene; give `segment` the same.
        device: `auto`, `cpu` or `cuda`.
        overwrite: True: replace an existing file.
        report: called with the share of a stage that is done, 0 to 1, and the name of the stage: "encode" or "tune".
        tuning: settings of the optimizer; None: default values.

    Returns:
        Scores before and after on corrections that were kept out. The weights are written only if they helped, or if
        `options.even_if_worse` is True. The written weights are tuned to all corrections. Those that were scored were
        tuned in the same way, without the part on which they were scored.

    Raises:
        FloodmapError: the scene, the corrections or the base weights cannot be used, or the file exists already.
    """
    began = time.monotonic()
    _refuse_existing(out, overwrite=overwrite)
    name = scene_of(SourceName.of(source))
    refuse_unreadable(name.path or "", out, corrections)
    base = Base.read(resolve(options.base))
    chosen = pick_device(device)
    with Scene.open(name, scene_options) as scene, tempfile.TemporaryDirectory(prefix="floodmap-") as folder:
        given = read_corrections(corrections, scene.grid)
        division = _divided(given, corrections, options)
        run = _Run(scene, base, chosen, Path(folder), tuning or Tuning(seed=options.seed), report, division)
        before, after, gain = run.cross_validated()
        tuned = run.tuned()
        result = Adaptation(
            path=out, base=options.base, before=before, after=after, gain=gain, corrected=division.whole.areas(),
            parts=len(division.parts), changed_elsewhere=run.changed_elsewhere(tuned),
            seconds=round(time.monotonic() - began, 1),
        )  # fmt: skip
        if not result.helped and not options.even_if_worse:
            return replace(result, path=None)
        record = {**result.as_json(), "scene": scene.name, "corrections": of_input(corrections), "seed": options.seed}
        record = {key: value for key, value in record.items() if key not in ("path", "seconds")}
        training = _training_record(base, name, options.base)
        base.write(out, tuned, run.calibration, **{ADAPTED: record, "training": training})
    return result


@dataclass
class _Run:
    """One adaptation: the scene, the old model, the settings, and the corrections."""

    scene: Scene
    base: Base
    device: torch.device
    folder: Path
    """Folder for weights that are tried."""
    tuning: Tuning
    report: Report
    division: Division
    calibration: Calibration = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = pick_dtype(self.device, "auto")
        self.calibration = self.base.calibration
        segmenter = load_segmenter(self.base.model, str(self.device))
        prompter = self._prompter(segmenter)
        self.encoder = Encoder(
            self.scene, self.base.network().to(self.device), self.calibration, self.device, self.dtype, self.division
        )
        self.far = self.encoder.far() if has_coarse_pass(self.scene, segmenter) else []
        self.report(0.3, "encode")
        self.near = self.encoder.near(prompter)
        self.report(0.7, "encode")
        self.touched = Touched(self.scene, segmenter.multiple)
        self.old = self.touched.predicted(segmenter, prompter, self.division.whole.corrections)
        self.report(1.0, "encode")

    def cross_validated(self) -> tuple[Score | None, Score | None, float | None]:
        """Tune without each part of the corrections in turn, score on this part, and fit the calibration on all parts.

        Returns:
            Scores of the old and of the tuned weights on all parts together, and the mean gain of the IoU of the parts
            with flood; None if nothing is kept out.
        """
        if not self.division.parts:
            return None, None, None
        before, after = np.zeros((2, 101, 2)), np.zeros((2, 101, 2))
        gains = []
        for number, part in enumerate(self.division.parts):
            segmenter = self._loaded(self.tuned(without=number))
            codes = self.touched.predicted(segmenter, self._prompter(segmenter), part.corrections)
            old, new = counts({cell: self.old[cell] for cell in codes}, self.old, part), counts(codes, self.old, part)
            before, after = before + old, after + new
            was, now = Score.of(*old).iou, Score.of(*new).iou
            gains += [] if was is None or now is None else [now - was]
        if self.tuning.calibrates:
            self.calibration = _refined(self.calibration, after.sum(axis=0))
        return Score.of(*before), Score.of(*after), float(np.mean(gains)) if gains else None

    def tuned(self, without: int | None = None) -> dict[str, Tensor]:
        """Tune, first without the tuned coarse pass, then with it; return the tuned tensors by name.

        Args:
            without: number of the part of the corrections that is kept out; None: none.
        """
        done, of = len(self.division.parts) if without is None else without, len(self.division.parts) + 1
        network = self.base.network().to(self.device)
        levels = [_taught(views, without) for views in (self.far, self.near)]

        def tune_round(number: int) -> None:
            tune(
                network, levels, self.tuning, dtype=self.dtype,
                report=lambda share: self.report((done + (number + share) / 2) / of, "tune"),
            )  # fmt: skip

        tune_round(0)
        if self.far:
            segmenter = self._loaded(self._tensors(network))
            levels[1] = _taught(self.encoder.with_masks(self.near, self._prompter(segmenter)), without)
        tune_round(1)
        return self._tensors(network)

    def changed_elsewhere(self, tuned: dict[str, Tensor]) -> float:
        """Return the share of the ground without a correction, near corrections, that tuned weights change."""
        corrections, segmenter = self.division.whole.corrections, self._loaded(tuned)
        return changed(self.touched.predicted(segmenter, self._prompter(segmenter), corrections), self.old, corrections)

    def _tensors(self, network: FloodSam) -> dict[str, Tensor]:
        """Return the tuned weights by name."""
        state = network.state_dict()
        return {name: state[name] for name in tuned_names(network, self.tuning)}

    def _loaded(self, tuned: dict[str, Tensor]) -> Segmenter:
        """Write weights to the temporary folder and load them, rounded as they will be stored."""
        path = self.folder / "tried.safetensors"
        self.base.write(path, tuned, self.calibration)
        model = ResolvedModel(path=path, name=path.stem, architecture="flood_sam", sha256="")
        return load_segmenter(model, str(self.device))

    def _prompter(self, segmenter: Segmenter) -> Prompter:
        return far_view(self.scene, with_infrared(segmenter, self.scene), exhaustive=False)


def _refuse_existing(out: Path, *, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise OutputError(f"{out} must end in .safetensors, as weights do")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already; choose another name or add --overwrite")


def _divided(given: Corrections, path: Path, options: AdaptOptions) -> Division:
    """Divide corrections; nothing is kept out if there are too few, and if the weights shall be written anyway."""
    try:
        return divide(given, count=options.parts, seed=options.seed)
    except LabelError as error:
        if options.even_if_worse and len(without_ignored(given)):
            return undivided(given)
        raise LabelError(f"{path}: {error}, or add --even-if-worse for weights that are not checked") from error


def _taught(views: Sequence[View], without: int | None) -> list[View]:
    """Return the views that hold corrections, after those of a part, if one is given, are taken away."""
    taught = views if without is None else [view.without(without) for view in views]
    return [view for view in taught if bool((view.flood + view.dry).any())]


def _refined(calibration: Calibration, counts: Counts) -> Calibration:
    """Fit the scale of probabilities that are calibrated already, and join it with their calibration.

    The shift is not fitted: ground around corrections counts by the old probabilities, which would pull it back.
    """
    scale = fit_scale(counts).scale
    return Calibration(scale * calibration.scale, scale * calibration.shift)


def _training_record(base: Base, source: SourceName, name: str) -> dict[str, Any]:
    """Return the training record of the base with the scene among the training pictures."""
    record = json.loads(base.header.get("training", "{}"))
    keys = record.get("keys", {})
    own = [picture_key(source.path)] if source.path is not None and source.path.is_file() else []
    return {**record, "base": name, "keys": {**keys, "train": sorted({*keys.get("train", ()), *own})}}
