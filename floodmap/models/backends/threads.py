"""Operators of torch whose last bits depend on the number of threads, computed in one thread.

On a CPU, torch cuts an array into one part for each thread. At the ends of the parts, GELU and the sigmoid use another
approximation than elsewhere. For small products of matrices, MKL uses other kernels in one thread than in several. The
results of a run would then depend on the number of cores, and on the number of worker processes among which the cores
are divided. One thread costs little: these operators take one per cent of the time of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def one_thread() -> Iterator[None]:
    """Context manager: torch uses one thread for the operators that the calling thread runs, if nothing is trained."""
    before = torch.get_num_threads()
    if before == 1 or not torch.is_inference_mode_enabled():
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OneThread(nn.Module):
    """Layer without weights that is computed in one thread.

    Args:
        layer: the layer, such as `nn.GELU`.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        with one_thread():
            result: Tensor = self.layer(x)
            return result


def compute_gelu_in_one_thread(network: nn.Module) -> None:
    """Replace every layer `nn.GELU` of a network, in place, by a layer that is computed in one thread."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GELU) and not isinstance(module, OneThread):
                setattr(module, name, OneThread(child))
