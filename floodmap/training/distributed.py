"""One process, or several that train together, each on a device of its own, through `accelerate`."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from floodmap._runtime.extras import require


class ProcessGroup:
    """The processes of a run; a single one unless `accelerate launch` or `torchrun` began more.

    Args:
        device: what a single process runs on.

    Raises:
        MissingPackageError: there are several and `accelerate` is not installed.
    """

    def __init__(self, device: str) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank, self.device = 0, torch.device(device)
        if self.size > 1:
            require("accelerate", "training in several processes")
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=device == "cpu")
            self.rank, self.device = self._accelerator.process_index, self._accelerator.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def average_gradients(self, model: nn.Module) -> None:
        """Give all processes the mean of their gradients."""
        if self.size > 1:
            for parameter in model.parameters():
                if parameter.requires_grad:  # some are without a gradient where a prompt of that kind was not drawn
                    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = self._accelerator.reduce(gradient, reduction="mean")

    def mean(self, value: float) -> float:
        """Mean of a number over all processes."""
        if self.size == 1:
            return value
        total: Tensor = self._accelerator.reduce(torch.tensor(value, device=self.device), reduction="mean")
        return float(total)

    def gathered(self, value: Any) -> list[Any]:
        """An object of every process, in order of rank."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def wait(self) -> None:
        """Until all have come so far."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()
