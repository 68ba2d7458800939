"""Layers with what follows them in one go, as oneDNN has them and torch's own compiler calls them.

Writing what a layer gives to memory and reading it again for a ReLU6 or a GELU may take as long as the layer. The calls
are not documented; where torch lacks them, and beside x86, where they were measured, the same is done step by step.
So it is where `check` finds that they fail, or give something else.
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
"""Cells of an image, for which weights are packed."""
_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""How far results may lie from those of plain layers, of their norm."""

log = logging.getLogger(__name__)
_distrusted: dict[str, str] = {}
"""Calls that are not used, and why."""


def check(dtype: torch.dtype) -> None:
    """Hold the calls against plain layers of a precision; one that fails or differs is not used, and a line says so.

    To be called when a model is loaded onto a CPU.
    """
    trials: dict[str, Callable[[torch.dtype], float]] = {"convolution": _try_convolution, "linear": _try_linear}
    for name, trial in trials.items():
        before = _distrusted.pop(name, None)
        try:
            with torch.inference_mode():
                far = trial(dtype)
            why = "" if far <= _CLOSE[dtype] else f"it is {far:.1g} off"
        except Exception as error:  # whatever an undocumented call raises
            why = (str(error) or type(error).__name__).splitlines()[0]
        if why:
            _distrusted[name] = why
            if why != before:
                log.warning("models run more slowly: torch's fused %s layers do not work here (%s)", name, why)


def _try_convolution(dtype: torch.dtype) -> float:
    """How far those in one go are from those step by step, of their norm."""
    if not _CONVOLUTION:
        return 0.0
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 24, 24, generator=chance).to(dtype).to(memory_format=torch.channels_last)
    worst = 0.0
    for conv in (nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1)):
        conv = conv.to(dtype).to(memory_format=torch.channels_last)
        for parameter in conv.parameters():
            parameter.data = torch.randn(parameter.shape, generator=chance).to(dtype)
        worst = max(worst, _apart(conv_relu6(conv, x), F.relu6(conv(x))))
    return worst


def _try_linear(dtype: torch.dtype) -> float:
    if not (_LINEAR and _PACK):
        return 0.0
    chance = torch.Generator().manual_seed(0)
    linear = nn.Linear(32, 48).to(dtype)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=chance).to(dtype)
    x = torch.randn(1, 20, 32, generator=chance).to(dtype)
    plain = _apart(PackedLinear(linear)(x), linear(x))
    return max(plain, _apart(PackedLinear(linear, "gelu")(x), F.gelu(linear(x))))


def _apart(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    far = float((found.float() - expected.float()).norm() / expected.float().norm())
    return far if far == far else float("inf")


def conv_relu6(conv: nn.Conv2d, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
    """A convolution and its ReLU6; `padding` (rows, columns) instead of its own, where no gradients are wanted.

    In inference mode on a CPU in one go: the same bits in down to a third of the time.
    """
    pad = padding or (int(conv.padding[0]), int(conv.padding[1]))
    fused = _CONVOLUTION and "convolution" not in _distrusted
    if fused and x.device.type == "cpu" and x.dtype == conv.weight.dtype and torch.is_inference_mode_enabled():
        settings = list(pad), list(conv.stride), list(conv.dilation), conv.groups
        result: Tensor = _CONVOLUTION(x, conv.weight, conv.bias, *settings, "hardtanh", [0.0, 6.0], "")
        return result
    if padding:
        return F.relu6(F.conv2d(x, conv.weight, conv.bias, conv.stride, pad, groups=conv.groups), inplace=True)
    return F.relu6(conv(x), inplace=True)


class PackedLinear(nn.Module):
    """A linear layer, and its GELU if there is one, in the order of weights that oneDNN multiplies fastest.

    It has no parameters any more, so it neither learns nor moves.
    """

    def __init__(self, linear: nn.Linear, then: Literal["none", "gelu"] = "none") -> None:
        super().__init__()
        self.dtype, self.then = linear.weight.dtype, then
        self._weight = _PACK(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), in the precision of its weights."""
        result: Tensor = _LINEAR(x.to(self.dtype), self._weight, self._bias, self.then, [], "none")
        return result


def pack_linears(module: nn.Module) -> None:
    """Pack every linear layer of a module that learns no more and stays on the CPU, in place, where torch can."""
    if not (_LINEAR and _PACK) or "linear" in _distrusted:
        return
    for child in list(module.modules()):
        for name, layer in list(child.named_children()):
            if not isinstance(layer, nn.Linear):
                continue
            after = getattr(child, "act", None) if name == "lin1" else None  # as the package names them
            gelu = isinstance(after, nn.GELU) and after.approximate == "none"
            setattr(child, name, PackedLinear(layer, "gelu" if gelu else "none"))
            if gelu:
                child.act = nn.Identity()


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own: oneDNN also takes it where it emulates it."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported())
    except Exception as error:  # whatever an undocumented call raises
        why = (str(error) or type(error).__name__).splitlines()[0]
        if _distrusted.get("bfloat16") != why:
            log.warning("models run in float32: torch does not tell whether this CPU multiplies bfloat16 (%s)", why)
        _distrusted["bfloat16"] = why
        return False
