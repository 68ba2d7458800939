"""Record of a model's training in the header of the model's file: pictures of the training and validation sets."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from floodmap.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["train", "val"]
"""Role of a picture: in the training set (`train`), or in the validation set (`val`), which selected the checkpoint and
was used to fit the calibration."""

HASH_CHARS = 16
"""Number of hexadecimal characters of a SHA-256 that are part of a picture's key; see `picture_key`.
The chance of a collision among 10^6 files is 1 in 10^7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """Pictures of the training and validation sets of one model."""

    base: str
    """Name or file of the initial weights."""
    train: frozenset[str]
    """Keys of the training pictures; see `picture_key`."""
    val: frozenset[str]
    """Keys of the validation pictures; see `picture_key`."""

    @classmethod
    def of(cls, header: Mapping[str, str], path: Path) -> TrainingRecord | None:
        """Read the record from the header of a model's file; None if the header has no record.

        Args:
            header: metadata of the safetensors file: dictionary from the name of an entry to the text of the entry. The
                record is the text of the entry `training`, in JSON.
            path: path of the file, for messages.

        Raises:
            ModelError: the record has an invalid format.
        """
        if "training" not in header:
            return None
        try:
            record = json.loads(header["training"])
            keys = record.get("keys", {})
            return cls(base=str(record["base"]), train=_keys(keys, "train"), val=_keys(keys, "val"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{path}: the training record in the file is damaged ({error}); train or fetch it again"
            ) from error

    def role_of(self, path: Path) -> Role | None:
        """Return the role of a picture in the training; None if the record does not contain the picture.

        Pictures are compared by the content of their files, not by name.
        """
        known: dict[Role, frozenset[str]] = {"train": self.train, "val": self.val}
        if not path.is_file() or path.stat().st_size not in {_size(key) for keys in known.values() for key in keys}:
            return None  # keys begin with the size: a file of another size need not be read
        key = picture_key(path)
        return next((role for role, keys in known.items() if key in keys), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """Weights written by `train`, and the validation scores of these weights."""

    path: Path
    """Path of the `.safetensors` file, which `segment` accepts as model."""
    base: str
    """Name or file of the initial weights."""
    train: tuple[str, ...]
    """Names of the training pictures."""
    val: tuple[str, ...]
    """Names of the validation pictures, whose mean IoU selected the checkpoint."""
    val_iou: float
    """Mean IoU on the validation pictures, 0 to 1.

    Every picture is predicted twice, as `segment` predicts a scene. The first prediction, at a reduced size, is the
    mask prompt of the second prediction, which is scored."""
    val_iou_before: float
    """Mean IoU of the initial weights, measured in the same way, 0 to 1."""

    @classmethod
    def read(cls, path: Path) -> TrainedModel:
        """Read the training record and the validation scores from the header of a weights file that `train` wrote.

        Raises:
            ModelError: the header cannot be read, or was not written by `train`.
        """
        from floodmap.models.registry import read_metadata

        header = read_metadata(path)
        try:
            record, scores = json.loads(header["training"]), json.loads(header["scores"])
            return cls(
                path=path, base=str(record["base"]), train=tuple(record["train"]), val=tuple(record["val"]),
                val_iou=float(scores["val_iou"]), val_iou_before=float(scores["val_iou_before"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} has no valid training record; train it again") from error

    @property
    def run_folder(self) -> Path:
        """Folder with the training log, the training curves and the checkpoint for `--resume`."""
        return run_folder(self.path)


def run_folder(weights: Path) -> Path:
    """Return the folder, beside a weights file, in which `train` keeps log, curves and checkpoint for `--resume`."""
    return weights.with_name(f"{weights.stem}_run")


def read_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read a training log.

    Args:
        path: path of `log.csv` in a run folder; see `run_folder`.

    Returns:
        Dictionary from the name of each column to the values of the column, float64 (rows,), with one row for each
        checkpoint. The columns are the fields of `training.loop.Checkpoint`, except `share`: `step` (number of
        optimizer steps), `minutes` (duration of the run), `loss` (mean training loss since the last checkpoint),
        `val_loss` (mean loss on the validation pictures), and mean IoUs, 0 to 1. `train_iou` is measured on training
        pictures, and `val_iou` on validation pictures, both with the coarse pass as mask prompt. `val_iou_unprompted`
        is measured on validation pictures without a prompt. If the log has no rows, the dictionary is empty.
    """
    import numpy as np

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else ())}


def curves_of(weights: Path) -> dict[str, NDArray[np.float64]] | None:
    """Read the training log that belongs to weights written by `train`.

    Args:
        weights: path of the weights file; the log lies in the folder that `run_folder` returns for this path.

    Returns:
        Dictionary of the columns of the log by name; see `read_log`. None if there is no log, or if the log cannot be
        read.
    """
    path = run_folder(weights) / "log.csv"
    try:
        return read_log(path) if path.is_file() else None
    except (OSError, ValueError, TypeError, csv.Error):  # the run was killed in the middle of a line
        return None


def seen_before(model: str, trained: int, validated: int, total: int) -> str | None:
    """Return a warning if a model is scored on pictures of its own training or validation set, else None.

    Args:
        model: the model's name.
        trained: number of scored pictures that are in the model's training set.
        validated: number of scored pictures that are in the model's validation set.
        total: number of all scored pictures.
    """
    counts = ((trained, "trained on"), (validated, "selected and calibrated with"))
    roles = [f"{role} {count}" for count, role in counts if count]
    if not roles:
        return None
    role = roles[0] if len(roles) == 1 else f"{', and '.join(roles)},"
    return f"{model} was {role} of these {total} pictures: its scores here say little about other pictures"


def picture_key(path: Path) -> str:
    """Return the key of a picture file: size in bytes, a hyphen, and the first `HASH_CHARS` digits of the SHA-256."""
    with path.open("rb") as file:
        return f"{path.stat().st_size}-{hashlib.file_digest(file, 'sha256').hexdigest()[:HASH_CHARS]}"


def keys_as_json(train: Collection[Path], val: Collection[Path]) -> dict[Role, list[str]]:
    """Compute the keys of pictures by role, for the entry `keys` of the training record in a model's file.

    Args:
        train: paths of the training pictures.
        val: paths of the validation pictures.

    Returns:
        A dict that `json.dumps` accepts: `{"train": [...], "val": [...]}`. Each list holds the keys of one role, as
        from `picture_key`, sorted and without duplicates.
    """
    return {"train": sorted({picture_key(path) for path in train}), "val": sorted({picture_key(path) for path in val})}


def _keys(keys: Mapping[str, Any], role: Role) -> frozenset[str]:
    return frozenset(str(key) for key in keys.get(role, ()))


def _size(key: str) -> int:
    return int(key.partition("-")[0])
