"""Data-parallel training in one process, or through `accelerate` in several processes with one device each."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from floodmap._runtime.extras import require


class ProcessGroup:
    """Processes of a training run: a single process, unless `accelerate launch` or `torchrun` started several.

    Args:
        device: torch device of a single process. If there are several processes, `accelerate` chooses the devices.

    Raises:
        MissingPackageError: there are several processes, and `accelerate` is not installed.
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
        """Whether this is the process with rank 0, which writes all files."""
        return self.rank == 0

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the gradients of the model's parameters in every process by the mean over all processes."""
        if self.size > 1:
            for parameter in model.parameters():
                if parameter.requires_grad:  # parameters of prompts that were not drawn have no gradient
                    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = self._accelerator.reduce(gradient, reduction="mean")

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.size == 1:
            return value
        total: Tensor = self._accelerator.reduce(torch.tensor(value, device=self.device), reduction="mean")
        return float(total)

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all processes in order of rank; `value` is the value of this process."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def wait(self) -> None:
        """Wait until all processes have called this function (a barrier)."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()
