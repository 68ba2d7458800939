"""Threads and devices of this machine, as torch reports them."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch

from floodmap.models.flood_segmenter import SIDE_BY_SIDE, FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam_segmenter import SamSegmenter


@cache
def all_threads() -> int:
    """Return the number of threads that torch uses by default: its value at the first call of this function."""
    return torch.get_num_threads()


def load_on_share(model: ResolvedModel, device: str, share: int) -> tuple[FloodSegmenter | SamSegmenter, int]:
    """Load a model in one of several processes that share the cores of the machine.

    Args:
        model: path, name and SHA-256 of the weights.
        device: torch device, or `auto`.
        share: number of these processes. The model uses 1/`share` of torch's threads, at least one.

    Returns:
        The model, and the batch size that it has with all threads.
    """
    torch.set_num_threads(all_threads())
    loaded = load_segmenter(model, device, share=share)
    torch.set_num_threads(max(1, all_threads() // share))  # also for a model that sets no number of threads itself
    return loaded, loaded.best_batch_size


def batch_size_on_cpu(path: Path) -> int:
    """Return the batch size with which the model in a file segments on the CPU of this machine, with all threads."""
    return min(all_threads(), SIDE_BY_SIDE) if path.suffix == ".safetensors" else 1


def device_kind(runs_on: str) -> str:
    """Return the kind of a device: name of the GPU, or instruction set of the CPU, such as "cpu AVX512".

    Two CPUs of different kinds may give different last bits.

    Args:
        runs_on: device and precision of a model, as in `protocol.Segmenter.runs_on`.
    """
    device = runs_on.split()[0]
    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name()}"
    return f"{device} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


if __name__ == "__main__":
    sys.stdout.write(str(batch_size_on_cpu(Path(sys.argv[1]))))
