"""oneDNN layers fused with their activation (convolution and ReLU6, linear and GELU), for inference on x86 CPUs.

Without fusion, the activation reads and writes the layer's output once more. The second reading and writing may take as
long as the layer itself. The fused calls belong to torch's compiler and are not documented. Plain layers (the
layers of `torch.nn`) are used on CPUs other than x86, for which the fused calls were not measured. Plain layers are
also used if torch lacks the fused calls, or if `check` finds an error or a different result.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_X86 = platform.machine().lower() in ("x86_64", "amd64")
_CONVOLUTION: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if _X86 else None
_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _X86 else None
_PACK: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None) if _X86 else None
_ROWS = 4096
"""Number of input rows for which oneDNN chooses the memory layout of a linear layer's weights.

The layer accepts any number of rows. Its result does not depend on the layout, except for rounding. The layout makes
the layer fast for this number. 4096 is the number of rows in SAM's encoder: one for each of the 64 x 64 positions of
the image embedding.
"""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest accepted relative difference (in the 2-norm) between the results of fused and of plain layers, by dtype."""

log = logging.getLogger(__name__)
_disabled: dict[str, str] = {}
"""Texts that say why a feature of oneDNN is disabled, by name of the feature; empty if no feature is disabled.

"convolution" or "linear": why the fused call of this name is not used; see `check`.
"bfloat16": torch's error message, if torch raised an error in `multiplies_bfloat16`.
"""


def check(dtype: torch.dtype) -> None:
    """Compare the fused calls with plain layers, and disable each call that raises an error or has another result.

    A warning is logged for each disabled call. Call this function whenever a model is loaded onto a CPU.

    Args:
        dtype: dtype of the model's weights, float32 or bfloat16.
    """
    trials: dict[str, Callable[[torch.dtype], float]] = {"convolution": _try_convolution, "linear": _try_linear}
    for name, trial in trials.items():
        before = _disabled.pop(name, None)
        try:
            with torch.inference_mode():
                difference = trial(dtype)
            why = "" if difference <= _TOLERANCE[dtype] else f"the result differs by {difference:.1g}"
        except Exception as error:  # an undocumented call may raise errors of any type
            why = (str(error) or type(error).__name__).splitlines()[0]
        if why:
            _disabled[name] = why
            if why != before:
                log.warning("models run more slowly: torch's fused %s layers do not work here (%s)", name, why)


def _try_convolution(dtype: torch.dtype) -> float:
    """Return the largest relative difference between fused and plain convolutions; 0 if torch has no fused call."""
    if not _CONVOLUTION:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 24, 24, generator=generator).to(dtype).to(memory_format=torch.channels_last)
    worst = 0.0
    for conv in (nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1)):
        conv = conv.to(dtype).to(memory_format=torch.channels_last)
        for parameter in conv.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
        worst = max(worst, _relative_difference(conv_relu6(conv, x), F.relu6(conv(x))))
    return worst


def _try_linear(dtype: torch.dtype) -> float:
    """Return the largest relative difference between fused and plain linear layers; 0 if torch has no fused call."""
    if not (_LINEAR and _PACK):
        return 0.0
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(32, 48).to(dtype)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    x = torch.randn(1, 20, 32, generator=generator).to(dtype)
    plain = _relative_difference(PackedLinear(linear)(x), linear(x))
    return max(plain, _relative_difference(PackedLinear(linear, "gelu")(x), F.gelu(linear(x))))


def _relative_difference(result: Tensor, expected: Tensor) -> float:
    """Return the relative difference of two tensors in the 2-norm; infinite for a NaN or for different shapes."""
    if result.shape != expected.shape:
        return float("inf")
    difference = float((result.float() - expected.float()).norm() / expected.float().norm())
    return difference if difference == difference else float("inf")


def conv_relu6(conv: nn.Conv2d, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
    """Compute a convolution followed by ReLU6, fused in inference mode on a CPU.

    The results of the fused call and of plain layers are equal in every bit. The fused call takes as little as a third
    of the time.

    Args:
        conv: the convolution.
        x: input, (B, C, H, W).
        padding: a pair (rows, columns). `rows` is the number of rows of zeros that are added at the top, and also at
            the bottom. `columns` is the number of columns of zeros at the left, and also at the right. The pair
            replaces the padding of `conv`. None: the padding of `conv`. A pair may only be given if no gradients are
            computed.

    Returns:
        The result, (B, channels, height, width), 0 to 6.
    """
    pad = padding or (int(conv.padding[0]), int(conv.padding[1]))
    fused = _CONVOLUTION and "convolution" not in _disabled
    if fused and x.device.type == "cpu" and x.dtype == conv.weight.dtype and torch.is_inference_mode_enabled():
        settings = list(pad), list(conv.stride), list(conv.dilation), conv.groups
        result: Tensor = _CONVOLUTION(x, conv.weight, conv.bias, *settings, "hardtanh", [0.0, 6.0], "")
        return result
    if padding:
        return F.relu6(F.conv2d(x, conv.weight, conv.bias, conv.stride, pad, groups=conv.groups), inplace=True)
    return F.relu6(conv(x), inplace=True)


class PackedLinear(nn.Module):
    """Linear layer with weights in oneDNN's memory layout, optionally fused with GELU.

    The layer has no parameters, and can therefore be neither trained nor moved to another device.

    Args:
        linear: plain layer, whose weights are copied.
        then: activation after the layer: `gelu`, or `none`.
    """

    def __init__(self, linear: nn.Linear, then: Literal["none", "gelu"] = "none") -> None:
        super().__init__()
        self.dtype, self.then = linear.weight.dtype, then
        self._weight = _PACK(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the result of the layer, (..., output features), for `x`, (..., input features).

        Computation and result have the dtype of the weights.
        """
        result: Tensor = _LINEAR(x.to(self.dtype), self._weight, self._bias, self.then, [], "none")
        return result


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer of a module by a `PackedLinear`, in place, for inference on a CPU.

    Nothing changes if torch lacks the fused calls, or if `check` has disabled the fused linear layer.
    """
    if not (_LINEAR and _PACK) or "linear" in _disabled:
        return
    for child in list(module.modules()):
        for name, layer in list(child.named_children()):
            if not isinstance(layer, nn.Linear):
                continue
            after = getattr(child, "act", None) if name == "lin1" else None  # names of segment_anything's MLPBlock
            gelu = isinstance(after, nn.GELU) and after.approximate == "none"
            setattr(child, name, PackedLinear(layer, "gelu" if gelu else "none"))
            if gelu:
                child.act = nn.Identity()


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 instructions; without these, oneDNN emulates bfloat16, which is slow."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported())
    except Exception as error:  # an undocumented call may raise errors of any type
        why = (str(error) or type(error).__name__).splitlines()[0]
        if _disabled.get("bfloat16") != why:
            log.warning("models run in float32: bfloat16 support of this CPU cannot be detected (%s)", why)
        _disabled["bfloat16"] = why
        return False
