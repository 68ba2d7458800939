"""The record of a model's training in the header of its file: pictures of the training and validation sets."""

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
"""Role of a picture in training. `val` pictures selected the checkpoint and were used to fit the calibration."""

HASH_CHARS = 16
"""Hexadecimal characters of a SHA-256 that are kept; the chance of a collision among 10^6 files is 1 in 10^7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """The training and validation pictures of one model."""

    base: str
    """Name or file of the initial weights."""
    train: frozenset[str]
    """Keys of the training pictures; see `picture_key`."""
    val: frozenset[str]
    """Keys of the validation pictures."""

    @classmethod
    def of(cls, header: Mapping[str, str]) -> TrainingRecord | None:
        """Read the record from the header of a safetensors file; None where there is none.

        Raises:
            ModelError: it is damaged.
        """
        if "training" not in header:
            return None
        try:
            record = json.loads(header["training"])
            keys = record.get("keys", {})
            return cls(base=str(record["base"]), train=_keys(keys, "train"), val=_keys(keys, "val"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"what the model's file says of its training is damaged ({error})") from error

    def role_of(self, path: Path) -> Role | None:
        """Role of a picture in the training, by the content of its file; None: neither, or not known."""
        known: dict[Role, frozenset[str]] = {"train": self.train, "val": self.val}
        if not path.is_file() or path.stat().st_size not in {_size(key) for keys in known.values() for key in keys}:
            return None  # most files differ in size and need not be read
        key = picture_key(path)
        return next((role for role, keys in known.items() if key in keys), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """Weights that `train` wrote, and their validation scores."""

    path: Path
    """The `.safetensors` file, which `segment` takes as its model."""
    base: str
    """Name or file of the initial weights."""
    train: tuple[str, ...]
    """Names of the training pictures."""
    val: tuple[str, ...]
    """Names of the validation pictures, which selected the best checkpoint."""
    val_iou: float
    """Mean IoU on the validation pictures with automatic prompts, 0 to 1."""
    val_iou_before: float
    """The same score of the initial weights."""

    @classmethod
    def read(cls, path: Path) -> TrainedModel:
        """Read from the header of weights that `train` wrote.

        Raises:
            ModelError: the file is damaged or was not written by `train`.
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
            raise ModelError(f"{path} does not say how it was trained; train it again") from error

    @property
    def run_folder(self) -> Path:
        """Folder with the training log, its curves and the checkpoint from which a run is resumed."""
        return run_folder(self.path)


def run_folder(weights: Path) -> Path:
    """Folder beside weights that `train` writes, with the log, its curves and the checkpoint for `--resume`."""
    return weights.with_name(f"{weights.stem}_run")


def read_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a training log, by name, float64 (rows,)."""
    import numpy as np

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else ())}


def curves_of(weights: Path) -> dict[str, NDArray[np.float64]] | None:
    """Training log of weights that `train` wrote, if it still lies beside them and can be read."""
    path = run_folder(weights) / "log.csv"
    try:
        return read_log(path) if path.is_file() else None
    except (OSError, ValueError, TypeError, csv.Error):  # the run was killed in the middle of a line
        return None


def seen_before(model: str, trained: int, validated: int, total: int) -> str | None:
    """Warning for scores on pictures that a model was trained or validated on; None where there are none.

    Args:
        model: the model's name.
        trained: number of pictures from its training set.
        validated: number of pictures from its validation set.
        total: number of pictures.
    """
    counts = ((trained, "trained on"), (validated, "chosen and calibrated by"))
    roles = " and ".join(f"{role} {count}" for count, role in counts if count)
    if not roles:
        return None
    return f"{model} was {roles} of these {total} pictures: its scores here say little about other pictures"


def picture_key(path: Path) -> str:
    """Key of a picture's content: the size of its file in bytes, and the beginning of its SHA-256."""
    with path.open("rb") as file:
        return f"{path.stat().st_size}-{hashlib.file_digest(file, 'sha256').hexdigest()[:HASH_CHARS]}"


def keys_as_json(train: Collection[Path], val: Collection[Path]) -> dict[Role, list[str]]:
    """Keys of the training and validation pictures, as a header holds them under `keys`."""
    return {"train": sorted({picture_key(path) for path in train}), "val": sorted({picture_key(path) for path in val})}


def _keys(keys: Mapping[str, Any], role: Role) -> frozenset[str]:
    return frozenset(str(key) for key in keys.get(role, ()))


def _size(key: str) -> int:
    return int(key.partition("-")[0])
