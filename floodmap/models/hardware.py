"""Threads and devices of this machine, as torch reports them."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

import torch

from floodmap.errors import ModelError
from floodmap.models.flood_segmenter import SIDE_BY_SIDE, FloodSegmenter
from floodmap.models.loading import load_segmenter, pick_device
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam_segmenter import SamSegmenter

_CPUINFO = Path("/proc/cpuinfo")
_FEATURES = frozenset((
    "avx2", "avx_vnni", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "avx10",
    "asimd", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme", "sme2",
))  # fmt: skip
"""Instruction sets by which oneDNN chooses its kernels, with the names of Linux. Torch has no public function for them
in all supported versions."""


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


def device_kind(device: str) -> str:
    """Return the kind of a device: what decides which kernels compute a model.

    Two devices of different kinds may give different last bits.

    Args:
        device: torch device, or `auto`; see `loading.pick_device`.

    Returns:
        Name, size and software of a GPU; or instruction sets and vendor of the CPU, such as "cpu AVX512 amx_bf16
        avx512_bf16 GenuineIntel".
    """
    picked = pick_device(device)
    if picked.type == "cuda":
        gpu = torch.cuda.get_device_properties(picked)
        cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        software = f"CUDA {torch.version.cuda or torch.version.hip}, cuDNN {cudnn}"
        return f"cuda {gpu.name}, {gpu.major}.{gpu.minor}, {gpu.multi_processor_count} processors, {software}"
    if picked.type != "cpu":
        return picked.type
    return f"cpu {torch.backends.cpu.get_cpu_capability()} {_cpu_features()}".rstrip()


def gpu_works(device: str) -> bool:
    """Return whether a GPU can still compute. After some errors, such as an illegal address, no call succeeds any more.

    Args:
        device: torch device of the GPU.
    """
    try:
        torch.cuda.synchronize(pick_device(device))
    except (RuntimeError, ModelError):
        return False
    return True


def _cpu_features() -> str:
    """Return the instruction sets of `_FEATURES` that the CPU has, and its vendor, as Linux reports them.

    On other systems, the result is the name of the CPU.
    """
    if not _CPUINFO.exists():
        return platform.processor()
    first = _CPUINFO.read_text().partition("\n\n")[0]
    lines = (line.partition(":") for line in first.splitlines())
    found = {key.strip(): value.strip() for key, _, value in lines}
    flags = set(f"{found.get('flags', '')} {found.get('Features', '')}".split())
    vendor = found.get("vendor_id") or found.get("CPU implementer") or ""
    return " ".join([*sorted(flags & _FEATURES), *([vendor] if vendor else [])])


if __name__ == "__main__":
    sys.stdout.write(str(batch_size_on_cpu(Path(sys.argv[1]))))
