"""What a model's file says of its training: the pictures it learned from, and those that chose among its weights."""

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
"""Trained on; or validated on, which chose among the weights and made the calibration."""

HASH_CHARS = 16
"""Hexadecimal characters of a SHA-256 that are kept: two of a million files agree with a chance of 1 in 10^7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """The training of one model."""

    base: str
    """Name or file of the weights it began with."""
    train: frozenset[str]
    """Pictures it was trained on, as `picture_key` names them."""
    val: frozenset[str]
    """Pictures it was validated on."""

    @classmethod
    def of(cls, header: Mapping[str, str]) -> TrainingRecord | None:
        """The record in the header of a safetensors file; None where there is none.

        Raises:
            ModelError: it is damaged.
        """
        if "training" not in header:
            return None
        try:
            told = json.loads(header["training"])
            keys = told.get("keys", {})
            return cls(base=str(told["base"]), train=_keys(keys, "train"), val=_keys(keys, "val"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"what the model's file says of its training is damaged ({error})") from error

    def role_of(self, path: Path) -> Role | None:
        """Whether a picture was trained or validated on, by the content of its file; None: neither, or not known."""
        known: dict[Role, frozenset[str]] = {"train": self.train, "val": self.val}
        if not path.is_file() or path.stat().st_size not in {_size(key) for keys in known.values() for key in keys}:
            return None  # and most files need not be read
        key = picture_key(path)
        return next((role for role, keys in known.items() if key in keys), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """Weights that `train` made, and how good they are."""

    path: Path
    """The `.safetensors` file, which `segment` takes as its model."""
    base: str
    """What it began with."""
    train: tuple[str, ...]
    """Names of the pictures it was trained on."""
    val: tuple[str, ...]
    """Names of the pictures it was validated on, which chose the best weights."""
    val_iou: float
    """Mean IoU on these, prompted automatically."""
    val_iou_before: float
    """The same of the base."""

    @classmethod
    def read(cls, path: Path) -> TrainedModel:
        """From the header of weights that `train` made.

        Raises:
            ModelError: the file is another, or damaged.
        """
        from floodmap.models.registry import read_metadata

        header = read_metadata(path)
        try:
            told, scores = json.loads(header["training"]), json.loads(header["scores"])
            return cls(
                path=path, base=str(told["base"]), train=tuple(told["train"]), val=tuple(told["val"]),
                val_iou=float(scores["val_iou"]), val_iou_before=float(scores["val_iou_before"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} does not say how it was trained; train it again") from error

    @property
    def run_folder(self) -> Path:
        """Folder with the log, its curves and what is needed to go on."""
        return run_folder(self.path)


def run_folder(weights: Path) -> Path:
    """Folder beside weights that `train` makes: the log, its curves and what is needed to go on."""
    return weights.with_name(f"{weights.stem}_run")


def read_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a training log."""
    import numpy as np

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else ())}


def curves_of(weights: Path) -> dict[str, NDArray[np.float64]] | None:
    """Training log of weights that `train` made, if it still lies beside them."""
    path = run_folder(weights) / "log.csv"
    try:
        return read_log(path) if path.is_file() else None
    except (OSError, ValueError, TypeError, csv.Error):  # broken off in the middle of a line
        return None


def seen_before(model: str, trained: int, validated: int, total: int) -> str | None:
    """A line on scores of pictures that a model knows; None where it knows none."""
    counts = ((trained, "trained on"), (validated, "chosen and calibrated by"))
    said = " and ".join(f"{what} {count}" for count, what in counts if count)
    if not said:
        return None
    return f"{model} was {said} of these {total} pictures: its scores here say little about other pictures"


def picture_key(path: Path) -> str:
    """What tells a picture from others: the size of its file in bytes, and the beginning of its SHA-256."""
    with path.open("rb") as file:
        return f"{path.stat().st_size}-{hashlib.file_digest(file, 'sha256').hexdigest()[:HASH_CHARS]}"


def keys_as_json(train: Collection[Path], val: Collection[Path]) -> dict[Role, list[str]]:
    """Pictures as a header holds them, under `keys`."""
    return {"train": sorted({picture_key(path) for path in train}), "val": sorted({picture_key(path) for path in val})}


def _keys(told: Mapping[str, Any], role: Role) -> frozenset[str]:
    return frozenset(str(key) for key in told.get(role, ()))


def _size(key: str) -> int:
    return int(key.partition("-")[0])
