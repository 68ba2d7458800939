"""Speed of SAM's encoders against the package's own: `python benchmarks/vit.py [--model vit_b] [--repeats 2]`.

Random weights: speed does not depend on them. The floor is the time of plain matrix products with the same number of
operations (FlopCounterMode).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from segment_anything import sam_model_registry
from torch.utils.flop_counter import FlopCounterMode

from floodmap._runtime.memory import freed_memory_kept
from floodmap.models.backends.onednn import pack_linears
from floodmap.models.sam.common import FRAME
from floodmap.models.sam.meta_sam import build_sam
from floodmap.models.sam_segmenter import in_precision


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of some calls, in seconds, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def floor_seconds(flops: float, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Seconds of matrix products of an encoder's size with so many operations: one after another, and at peak rate.

    The second is extrapolated from the fastest product: for 50 ms a processor runs faster than for seconds. Products
    write to memory allocated before: fresh pages would take a fifth of the time.
    """
    a, b = torch.randn(4096, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    product = torch.empty(4096, 3072, dtype=dtype)
    products = flops / (2 * 4096 * 768 * 3072)

    def work() -> None:
        for _ in range(round(products)):
            torch.mm(a, b, out=product)

    return seconds(work, repeats), products * seconds(lambda: torch.mm(a, b, out=product), 20)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_b", choices=["vit_b", "vit_l", "vit_h"])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    stock = sam_model_registry[options.model]().eval()
    for name, parameter in stock.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at first
            parameter.normal_(std=0.02)
    rgb = torch.randint(0, 256, (1, 3, FRAME, FRAME), dtype=torch.uint8)
    valid = torch.ones(1, FRAME, FRAME, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        expected = stock.image_encoder(stock.preprocess(rgb))
    flops = counter.get_total_flops()
    theirs = seconds(lambda: stock.image_encoder(stock.preprocess(rgb)), options.repeats)
    print(f"{options.model}, one window of {FRAME} pixels: {flops / 1e9:.0f} GFLOP, {torch.get_num_threads()} threads")
    print(f"package, float32    {theirs:6.2f} s")
    for dtype in (torch.float32, torch.bfloat16):
        ours = in_precision(build_sam(stock.state_dict()).eval().requires_grad_(False), dtype)
        pack_linears(ours.image_encoder)

        def encode(ours=ours, dtype=dtype) -> torch.Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return ours.encode(rgb, valid).embedding

        with freed_memory_kept():  # as while segmenting
            error = float((encode().float() - expected).norm() / expected.norm())
            took = seconds(encode, options.repeats)
        floor, fastest = floor_seconds(flops, dtype, options.repeats)
        print(
            f"floodmap, {str(dtype).removeprefix('torch.'):8}  {took:6.2f} s: {theirs / took:.2f} times as fast, "
            f"{took / floor:.2f} times the floor of {floor:.2f} s ({took / fastest:.2f} by the fastest product); "
            f"relative error {error:.1e}"
        )


if __name__ == "__main__":
    main()
