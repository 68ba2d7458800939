"""Layers with what follows them in one go, as oneDNN has them and torch's own compiler calls them.

Writing what a layer gives to memory and reading it again for a ReLU6 or a GELU may take as long as the layer. The calls
are not documented; where torch lacks them, and beside x86, where they were measured, the same is done step by step.
"""

from __future__ import annotations

import platform
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


def conv_relu6(conv: nn.Conv2d, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
    """A convolution and its ReLU6; `padding` (rows, columns) instead of its own, where no gradients are wanted.

    In inference mode on a CPU in one go: the same bits in down to a third of the time.
    """
    pad = padding or (int(conv.padding[0]), int(conv.padding[1]))
    if _CONVOLUTION and x.device.type == "cpu" and x.dtype == conv.weight.dtype and torch.is_inference_mode_enabled():
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
    if not (_LINEAR and _PACK):
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
