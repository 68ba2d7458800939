"""Fine-tuning on a user's labelled imagery; the header of the new weights records the training pictures."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from floodmap._runtime.extras import require
from floodmap._runtime.files import atomic_path, write_whole
from floodmap.errors import LabelError, ModelError, OutputError, writing
from floodmap.masks.audit import Audit, audit, split_labels
from floodmap.masks.labels import find_labels, no_usable_picture
from floodmap.models.digest import with_digest
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.meta_sam import architecture_of
from floodmap.models.sam.vit import VIT
from floodmap.models.training_record import TrainedModel, keys_as_json, read_log, run_folder
from floodmap.options import FineTuneOptions
from floodmap.training.config import TrainConfig
from floodmap.training.distributed import ProcessGroup
from floodmap.training.labelled import find_swapped_masks, fingerprint_of, pieces, sources
from floodmap.training.loop import Checkpoint, train

log = logging.getLogger(__name__)
PAIRS_PER_STEP = 9
"""Mean number of pairs of views in a step; the number of steps of an epoch is computed from this number."""
SAM_SIZES = ((256, 1024, 1),)
"""`TrainConfig.sizes` for Meta's encoders, which resize every view to 1024 pixels."""
SAM_PAIRS = 4
"""Number of pairs of views in a step for Meta's encoders; each pair is a batch, and the gradients are accumulated."""
CURVES = (
    {"loss": "training", "val_loss": "validation"}, {"train_iou": "training", "val_iou": "validation"},
)  # fmt: skip
"""Curves that `draw_curves` draws: one dictionary for the left chart (loss), one for the right chart (mean IoU).
The keys are columns of the training log; the values are the labels of the curves in the legend."""


def fine_tune(
    data: Path,
    out: Path,
    options: FineTuneOptions,
    *,
    overwrite: bool = False,
    resume: bool = False,
    report: Callable[[float, str], None] = lambda *_: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda _: None,
) -> TrainedModel:
    """Train a model on labelled imagery.

    Args:
        data: a folder in one of the layouts of `labels.find_labels`.
        out: path of the new weights, a `.safetensors` file. Beside this file, a folder holds the log, the curves and
            the checkpoint for resuming, during the training and afterwards. For `x.safetensors` the folder is `x_run`.
        options: settings of the run.
        overwrite: True: replace existing results.
        resume: True: go on with an interrupted run.
        report: called with the share of a stage that is done, 0 to 1, and the name of the stage: "encode" or "train".
        on_checkpoint: called at every checkpoint with a `Checkpoint`: the progress, losses and IoU scores of the run.
            In a new run, the first call comes before the first step, with the scores of the base weights.

    Returns:
        A `TrainedModel`: path, training pictures and validation scores of the new weights.

    Raises:
        LabelError: the labels cannot be used.
        ModelError: the base weights cannot be trained with these options.
        OutputError: there are results already, or an unfinished run that cannot be resumed with these arguments.
    """
    require("matplotlib", "training")
    folder = run_folder(out)
    group = ProcessGroup(options.device)
    if group.is_first:
        _refuse_existing(out, folder, overwrite=overwrite, resume=resume)
    base = _read_base(options.base, options.what)
    audited = audit(find_labels(data), flood_value=options.flood_value, ignore_values=options.ignore_values)
    swapped = find_swapped_masks(load_segmenter(resolve(options.base), str(group.device)), audited.usable, audited.rule)
    audited = replace(audited, findings=(*audited.findings, *swapped))
    _refuse_findings(audited, data, strict=options.strict)
    train_on, validate_on = split_labels(audited.usable, audited.groups, val_share=options.val_share, seed=options.seed)
    samples = [[piece for one in side for piece in pieces(one, audited.rule)] for side in (train_on, validate_on)]
    if not all(samples):
        raise LabelError(
            f"{data} has no labelled and observed pixel for training or validation; check nodata and masks"
        )
    config = _config(options, base, len(samples[0]), group.size)
    record = {
        "data": fingerprint_of(audited.usable), "base": options.base, "train": [one.name for one in train_on],
        "val": [one.name for one in validate_on], "flood_values": list(audited.flood_values),
        "ignored_values": list(audited.rule.ignored),
        "keys": keys_as_json([one.image for one in train_on], [one.image for one in validate_on]),
    }  # fmt: skip
    if group.is_first:
        settings = {**record, "options": repr(replace(options, device=""))}
        _begin_or_take_over(folder, settings, overwrite=overwrite, resume=resume)
    group.wait()
    view_sources = sources(train_on, samples[0], options.augment)
    best = train(config, view_sources, samples[1], folder, base.path, report, on_checkpoint)
    if group.is_first:
        _write_result(best, out, record)
    group.wait()
    return TrainedModel.read(out)


@dataclass(frozen=True, slots=True)
class _BaseWeights:
    """File of the initial weights, and architecture of the network of these weights."""

    path: Path
    architecture: str
    encoder: EncoderConfig


def _config(options: FineTuneOptions, base: _BaseWeights, n_samples: int, n_processes: int) -> TrainConfig:
    """Build the training settings for `options.epochs` epochs.

    Args:
        options: settings of the command `train`.
        base: the initial weights.
        n_samples: number of training samples.
        n_processes: number of training processes.
    """
    config = TrainConfig(
        architecture=base.architecture, encoder=base.encoder, what=options.what, learning_rate=options.learning_rate,
        settled=1.0, patience=options.patience, seed=options.seed, device=options.device,
        workers=_workers(options.device, n_processes),
    )  # fmt: skip
    pairs = PAIRS_PER_STEP
    if base.architecture != "flood_sam":
        config = replace(config, sizes=SAM_SIZES, size_shares=(1.0,), accumulate=SAM_PAIRS, steadiness=0.0)
        pairs = SAM_PAIRS
    steps = max(1, round(options.epochs * n_samples / (pairs * n_processes)))
    cached = -(-options.views * n_samples * config.accumulate // pairs) if options.what == "decoder" else 0
    return replace(
        config, steps=steps, checkpoint_steps=max(1, round(steps / (2 * options.epochs))), cached_batches=cached
    )


def _workers(device: str, n_processes: int) -> int:
    """Return `TrainConfig.workers`: the number of processes that draw batches in advance for each training process.

    On a GPU, the number of CPU cores is divided by the number of training processes; the result is at most 8. On a CPU,
    and on operating systems without fork, the result is 0: the training process itself draws batches.
    """
    if device == "cpu" or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    return min(8, (os.cpu_count() or 1) // n_processes)


def _refuse_existing(out: Path, folder: Path, *, overwrite: bool, resume: bool) -> None:
    if out.suffix != ".safetensors":
        raise OutputError(f"{out} must end in .safetensors, as weights do")
    if overwrite:
        return
    if out.exists():
        raise OutputError(f"{out} exists already; choose another name or add --overwrite")
    if folder.exists() and not resume:
        raise OutputError(f"{folder} holds an unfinished run; go on with --resume, or start afresh with --overwrite")


def _read_base(name: str, what: str) -> _BaseWeights:
    path = resolve(name).path
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
            architecture = header.get("architecture", "unknown")
        else:
            architecture = architecture_of(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        encoder = EncoderConfig()
        if architecture == "flood_sam":
            encoder = EncoderConfig.from_json(json.loads(header["config"])["encoder"])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # torch.load may raise errors of any type on an invalid file
        raise ModelError(f"{path} cannot be trained further: {str(error).splitlines()[0]}") from error
    if architecture not in ("flood_sam", *VIT):
        known = ", ".join(["flood_sam", *VIT])
        raise ModelError(f"{path}: its architecture ({architecture}) cannot be trained; supported: {known}")
    if what == "lora" and architecture == "flood_sam":
        raise ModelError(f"{path}: --train lora works only with a SAM encoder; use --train decoder or full")
    return _BaseWeights(path, architecture, encoder)


def _refuse_findings(audited: Audit, data: Path, *, strict: bool) -> None:
    for finding in audited.findings:
        log.warning("%s: %s: %s", finding.kind, finding.name, finding.text)
    if strict and audited.findings:
        raise LabelError(f"{data} has {len(audited.findings)} findings; correct them, or run without --strict")
    if not audited.usable:
        raise no_usable_picture(data, audited.findings)


def _begin_or_take_over(folder: Path, settings: dict[str, Any], *, overwrite: bool, resume: bool) -> None:
    """Keep the run of a folder if it is to be resumed and has the same settings; else begin a new run.

    Raises:
        OutputError: the run to resume has other settings, and `overwrite` is False.
    """
    path, text = folder / "run.json", json.dumps(settings, indent=1, sort_keys=True)
    is_other = path.exists() and path.read_text("utf-8") != text
    if resume and is_other and not overwrite:
        raise OutputError(f"{folder} holds a run of other data or settings; start afresh with --overwrite")
    if resume and is_other:
        log.warning("%s held a run of other data or settings; training begins anew", folder)
    if overwrite and (is_other or not resume):
        shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def _write_result(best: Path, out: Path, record: dict[str, Any]) -> None:
    """Write the result of a training: the weights with a training record in the header, and the training curves.

    The score `val_iou_before` is added to the scores in the header: the mean IoU of the base weights on the validation
    pictures. The curves are written to `curves.png` in the folder of `best`.

    Args:
        best: .safetensors file of the trained weights, in the folder of the training log.
        out: path of the new .safetensors file.
        record: training record, as JSON types: the name of the base weights, names and keys (`picture_key`) of the
            training and validation pictures, a hash of all pictures and masks, the mask values that mean flood, and the
            mask values that are ignored.
    """
    with safe_open(best, framework="pt") as file:
        header = dict(file.metadata())
    state, log_file = load_file(best), best.parent / "log.csv"
    before = read_log(log_file)["val_iou"][0]  # the first row scores the base weights
    header["scores"] = json.dumps({**json.loads(header["scores"]), "val_iou_before": float(before)})
    with writing(out), atomic_path(out) as partial:
        save_file(state, partial, metadata=with_digest(state, {**header, "training": json.dumps(record)}))
    draw_curves(log_file, best.parent / "curves.png")


def draw_curves(log_file: Path, path: Path) -> None:
    """Draw the training curves: loss and mean IoU by step, on training and on validation pictures.

    Args:
        log_file: path of the training log, `log.csv`.
        path: path of the new PNG file.
    """
    from matplotlib.figure import Figure

    columns = read_log(log_file)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    sides = zip(figure.subplots(1, 2), CURVES, ("Loss", "Mean IoU"), strict=True)
    for axis, names, title in sides:
        for (name, label), colour in zip(names.items(), ("#7f8c9b", "#1668a8"), strict=True):
            axis.plot(columns["step"], columns[name], color=colour, label=label)
        axis.set(title=title, xlabel="step")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
