"""Loading of models from their files onto a device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from floodmap._runtime.forks import refuse_lost_gpu
from floodmap.errors import ModelError
from floodmap.models.backends.onednn import check, multiplies_bfloat16
from floodmap.models.calibration import Calibration
from floodmap.models.digest import check_digest
from floodmap.models.familiarity import PREFIX, Familiarity
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.meta_sam import Sam, build_sam
from floodmap.models.sam.vit import VIT
from floodmap.models.sam_segmenter import SamSegmenter

_DAMAGED = "{}: not a model floodmap can load ({}); fetch or train it again"


def load_segmenter(
    model: ResolvedModel, device: str = "auto", precision: str = "auto", *, share: int = 1
) -> FloodSegmenter | SamSegmenter:
    """Load a model's weights onto a device.

    On a CPU, the model uses as many threads as torch is set to at the time of this call.

    Args:
        model: path, name and SHA-256 of the weights.
        device: torch device such as `cpu`, `cuda`, `cuda:1` or `mps`, or `auto`; see `pick_device`.
        precision: `float32`, `bfloat16` or `auto`; see `pick_dtype`.
        share: number of processes that share the cores of the machine; see `FloodSegmenter`.

    Returns:
        A `FloodSegmenter` for a .safetensors file (trained by floodmap), a `SamSegmenter` for a .pth file of Meta.

    Raises:
        ModelError: the file cannot be read or fails the check of its digest, its architecture is unknown, or the device
            is not available.
    """
    chosen = pick_device(device)
    dtype = pick_dtype(chosen, precision)
    if chosen.type == "cpu":
        check(dtype)
    if model.path.suffix == ".safetensors":
        return FloodSegmenter(model, *_load_trained(model.path), chosen, dtype, share)
    return SamSegmenter(model, _load_sam(model.path), chosen, dtype)


def pick_device(wanted: str) -> torch.device:
    """Return the torch device for a name such as `cuda:1`; `auto` is CUDA if CUDA is available, else the CPU.

    Raises:
        ModelError: the device is not available.
    """
    if wanted == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        refuse_lost_gpu()
        return torch.device("cuda")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"device {wanted!r} is not available here ({str(error).splitlines()[0]}); use --device cpu"
        ) from error
    return device


def pick_dtype(device: torch.device, wanted: str) -> torch.dtype:
    """Return the dtype of a model's weights for a device and a precision.

    Args:
        device: the device of the model.
        wanted: `float32`, `bfloat16` or `auto`. `auto` is bfloat16 on a CPU or CUDA device with instructions for
            bfloat16, else float32.
    """
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        with torch.cuda.device(device):  # the call has no argument for the device
            native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def _load_trained(path: Path) -> tuple[FloodSam | Sam, Calibration, Familiarity | None]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        check_digest(path, stored, header)
        known = {name: stored.pop(name).numpy() for name in [*stored] if name.startswith(PREFIX)}
        network = _network(path, header, {name: tensor.float() for name, tensor in stored.items()})
        calibration = Calibration(**json.loads(header.get("calibration", "{}")))
        familiarity = Familiarity.stored(known, header)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(_DAMAGED.format(path, str(error).splitlines()[0])) from error
    return network, calibration, familiarity


def _network(path: Path, header: Mapping[str, str], state: Mapping[str, Tensor]) -> FloodSam | Sam:
    architecture = header.get("architecture", "unknown")
    if architecture in VIT:
        return build_sam(state)
    if architecture != "flood_sam":
        known = ", ".join(["flood_sam", *VIT])
        raise ModelError(
            f"{path}: its architecture ({architecture}) is not supported; supported: {known}; choose another --model"
        )
    network = FloodSam(EncoderConfig.from_json(json.loads(header["config"])["encoder"]))
    # Weights of early versions lack the layer `point_maps`. With its initial weights, zeros, the layer adds nothing.
    untrained = {name: value for name, value in network.state_dict().items() if name.startswith("point_maps.")}
    network.load_state_dict({**untrained, **state})
    return network


def _load_sam(path: Path) -> Sam:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return build_sam(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # torch.load may raise errors of any type on an invalid file
        raise ModelError(_DAMAGED.format(path, str(error).splitlines()[0])) from error
