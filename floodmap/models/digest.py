"""A digest in the header of weights: safetensors has no checksum, and a flipped bit is a weight like any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from floodmap.errors import ModelError

DIGEST = "digest"
"""Key of the header under which it stands."""


def with_digest(state: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """The header with the digest of these tensors and of the rest of it, as they are to be written.

    Raises:
        ModelError: a weight is no finite number: training diverged.
    """
    _require_finite(state, "training diverged; try a lower --learning-rate")
    return {**header, DIGEST: digest_of(state, header)}


def check_digest(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Refuse tensors that are not what was written.

    Files from before there was a digest have none, and of these it is known only that their weights are numbers.

    Args:
        path: the file, for the error.
        state: its tensors, in the types they are stored in.
        header: its metadata.

    Raises:
        ModelError: they have changed, or a weight is no finite number.
    """
    if DIGEST in header and header[DIGEST] != digest_of(state, header):
        raise ModelError(f"{path} was changed or damaged after it was written; fetch or train it again")
    _require_finite(state, f"{path} is damaged; fetch or train it again")


def digest_of(state: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of the tensors, with their names, types and shapes, and of the header but for the digest."""
    told = {key: value for key, value in header.items() if key != DIGEST}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_finite(state: Mapping[str, Tensor], advice: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} has weights that are no finite numbers: {advice}")
