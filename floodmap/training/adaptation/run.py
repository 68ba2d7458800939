"""Adaptation of a model to one scene: read corrections, keep a part out, tune, score, and write what helped."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
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
from floodmap.training.adaptation.scoring import Codes, Counts, Score, Touched
from floodmap.training.adaptation.split import Division, divide, undivided
from floodmap.training.adaptation.tuning import Tuning, tune, tuned_names
from floodmap.training.adaptation.views import Encoder
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
        Scores before and after on the corrections that were kept out. The weights are written only if they helped, or
        if `options.even_if_worse` is True. The written weights are those that were scored.

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
        parts = _divided(given, corrections, options)
        run = _Run(scene, base, chosen, Path(folder), tuning or Tuning(seed=options.seed), report)
        tuned = run.tuned(parts.tuning.corrections)
        before, after, changed = run.calibrated_scores(tuned, given, parts)
        result = Adaptation(
            path=out, base=options.base, before=before, after=after, tuning=parts.tuning.areas(),
            kept_out=parts.kept_out.areas(), changed_elsewhere=changed, seconds=round(time.monotonic() - began, 1),
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
    """One adaptation: the scene, the old model, and the settings."""

    scene: Scene
    base: Base
    device: torch.device
    folder: Path
    """Folder for weights that are tried."""
    tuning: Tuning
    report: Report
    dtype: torch.dtype = field(init=False)
    segmenter: Segmenter = field(init=False)
    prompter: Prompter = field(init=False)
    calibration: Calibration = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = pick_dtype(self.device, "auto")
        self.segmenter = load_segmenter(self.base.model, str(self.device))
        self.prompter = self._prompter(self.segmenter)
        self.calibration = self.base.calibration

    def tuned(self, corrections: Corrections) -> dict[str, Tensor]:
        """Tune on corrections, first without the tuned coarse pass, then with it; return the tuned tensors by name."""
        network = self.base.network().to(self.device)
        encoder = Encoder(self.scene, network, self.calibration, self.device, self.dtype)
        far = encoder.far(corrections) if has_coarse_pass(self.scene, self.segmenter) else []
        self.report(0.5, "encode")
        near = encoder.near(corrections, self.prompter)
        self.report(1.0, "encode")
        tune(network, (far, near), self.tuning, dtype=self.dtype, report=lambda share: self.report(share / 2, "tune"))
        if far:
            near = encoder.with_masks(near, corrections, self._prompter(self._loaded(self._tensors(network))))
        tune(
            network, (far, near), self.tuning, dtype=self.dtype,
            report=lambda share: self.report((1 + share) / 2, "tune"),
        )  # fmt: skip
        return self._tensors(network)

    def _tensors(self, network: FloodSam) -> dict[str, Tensor]:
        """Return the tuned weights by name."""
        state = network.state_dict()
        return {name: state[name] for name in tuned_names(network, self.tuning)}

    def calibrated_scores(
        self, tuned: dict[str, Tensor], given: Corrections, parts: Division
    ) -> tuple[Score | None, Score | None, float]:
        """Fit the calibration on the part that was tuned on, then score the old and the new weights on the other part.

        Returns:
            Scores of the old and of the new weights, None if nothing is kept out, and the share of the ground without
            a correction that changed.
        """
        touched = Touched(self.scene, given, self.segmenter.multiple)
        old = touched.predicted(self.segmenter, self.prompter)
        new = self._predicted(touched, tuned)
        if self.tuning.calibrates:
            self.calibration = _refined(self.calibration, np.add(*touched.counts(new, old, parts.tuning)))
            new = self._predicted(touched, tuned)
        changed = touched.changed(new, old, given)
        if not len(parts.kept_out.corrections):
            return None, None, changed
        before, after = (Score.of(*touched.counts(codes, old, parts.kept_out)) for codes in (old, new))
        return before, after, changed

    def _predicted(self, touched: Touched, tuned: dict[str, Tensor]) -> list[Codes]:
        segmenter = self._loaded(tuned)
        return touched.predicted(segmenter, self._prompter(segmenter))

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
        return divide(given, share=options.keep_out, seed=options.seed)
    except LabelError as error:
        if options.even_if_worse and len(without_ignored(given)):
            return undivided(given)
        raise LabelError(f"{path}: {error}, or add --even-if-worse for weights that are not checked") from error


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
