"""SHA-256 digest of a model's weights, stored in the header of the weights file.

The safetensors format has no checksum of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from floodmap.errors import ModelError

DIGEST = "digest"
"""Key of the digest in the header of the weights file."""


def with_digest(state: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the header of a model's file, with the digest added.

    Args:
        state: tensors of the model by name, in the dtypes in which the tensors will be stored.
        header: metadata of the file, without a digest.

    Returns:
        The copy, with one more key, `DIGEST`; see `digest_of`.

    Raises:
        ModelError: a weight is NaN or infinite, because training diverged.
    """
    _require_finite(state, "training diverged; try a lower --learning-rate")
    return {**header, DIGEST: digest_of(state, header)}


def check_digest(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Check tensors that were read from a file against the digest in the file's header.

    Files of early versions have no digest. Such files are only checked for weights that are NaN or infinite.

    Args:
        path: path of the file, for the error message.
        state: tensors of the file by name, in the dtypes in which the tensors are stored.
        header: metadata of the file.

    Raises:
        ModelError: the digest differs, or a weight is NaN or infinite.
    """
    if DIGEST in header and header[DIGEST] != digest_of(state, header):
        raise ModelError(f"{path} was changed or damaged after it was written; fetch or train it again")
    _require_finite(state, f"{path} is damaged; fetch or train it again")


def digest_of(state: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Return the SHA-256 of a model's tensors and header, in lower-case hexadecimal.

    Args:
        state: tensors by name. Name, dtype, shape and values of each tensor are part of the SHA-256.
        header: metadata of the file. All keys and values are part of the SHA-256, except the key `DIGEST`.
    """
    metadata = {key: value for key, value in header.items() if key != DIGEST}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_finite(state: Mapping[str, Tensor], advice: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} has weights that are no finite numbers: {advice}")
