"""Speed of Meta's SAM on a GPU: `python benchmarks/gpu.py [--model vit_h] [--side 10000] [--folder FOLDER]`.

Random weights: speed does not depend on them. First the encoder's FLOP rate is compared with that of a large matrix
product; operations are counted by FlopCounterMode over the package's encoder, without those on padding of windows. Then
`floodmap segment` of a whole scene is compared with its model alone, run on batches that are in GPU memory already.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
import torch
from numpy.typing import NDArray
from rasterio.enums import Resampling
from segment_anything import sam_model_registry
from throughput import lay_out
from torch.utils.flop_counter import FlopCounterMode

from floodmap.imagery.tile import Tile
from floodmap.inference import loop
from floodmap.inference.loop import Progress
from floodmap.inference.mosaic import Mosaic
from floodmap.models.backends import dispatch
from floodmap.models.backends.dispatch import Dispatcher
from floodmap.models.loading import load_segmenter
from floodmap.models.prompts import Prompts
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.common import FRAME
from floodmap.models.sam.meta_sam import build_sam
from floodmap.models.sam.vit import VIT
from floodmap.models.sam_segmenter import SamSegmenter, prompt_sets
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.synthetic.sample import write_sample

PAINTED = 3000
"""Side of the painted scene that is tiled to the size wanted, in pixels."""
PROMPTED_PX = 700
"""Side of the squares that hold one box, a point inside it and a point beside it, on average, in pixels."""
KEPT = 8
"""Batches of a run that are kept, to time the model alone."""


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of some calls on the GPU, in seconds, after two that are not counted."""
    times = []
    for _ in range(repeats + 2):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3)
    return float(np.median(times[2:]))


def matmul_rate() -> float:
    """Rate of a large bfloat16 matrix product, in FLOP/s."""
    side = 8192
    a, b = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    return 2 * side**3 / seconds(lambda: a @ b, 20)


def needed_flops(name: str, encoder: torch.nn.Module) -> float:
    """FLOP of one image, without queries, keys, values and projections of the padding, 70 x 70 - 64 x 64 cells."""
    shape = VIT[name]
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, FRAME, FRAME, device="cuda"))
    beyond = 70**2 - (FRAME // 16) ** 2
    return counter.get_total_flops() - (shape.depth - len(shape.global_attention)) * beyond * 8 * shape.embed_dim**2


@torch.inference_mode()
def encoders(name: str, stock: torch.nn.Module, batches: list[int]) -> None:
    """Print the encoder's speed against the rate of matrix products, and its relative error against the package's."""
    rate = matmul_rate()
    flops = needed_flops(name, stock.image_encoder)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: products at {rate / 1e12:.0f} TFLOP/s in bfloat16"
    )
    print(f"{name}: {flops / 1e12:.2f} TFLOP a window of {FRAME} pixels")
    image = torch.randn(max(batches), 3, FRAME, FRAME, device="cuda")
    expected = stock.image_encoder(image[:1])
    with torch.autocast("cuda", torch.bfloat16):
        theirs = seconds(lambda: stock.image_encoder(image[:1]), 5)
    print(f"package, bfloat16 by autocast, 1 window: {theirs * 1e3:.1f} ms", flush=True)
    ours = build_sam(stock.state_dict()).eval().requires_grad_(False).to("cuda")
    ours.image_encoder.to(torch.bfloat16)
    for kernels in (True, False):
        ours._kernels_fail = not kernels
        print("our kernels" if kernels else "torch's kernels")
        for batch in batches if kernels else batches[-1:]:
            part = image[:batch].bfloat16()
            error = float((ours._embed(part[:1]).float() - expected).norm() / expected.norm())
            took = seconds(lambda part=part: ours._embed(part), 10) / batch
            print(
                f"  {batch:2} windows at once: {took * 1e3:6.2f} ms each, {flops / took / 1e12:.0f} TFLOP/s, "
                f"{flops / took / rate:.1%} of the products' rate, {theirs / took:.1f} times the package's; "
                f"relative error {error:.1e}",
                flush=True,
            )


class RecordingSegmenter:
    """A segmenter that keeps some of its input batches."""

    def __init__(self, segmenter: SamSegmenter) -> None:
        self.segmenter, self.batches, self.prompted = segmenter, [], 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.segmenter, name)

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        self.prompted += sum(len(prompt_sets(one)) for one in prompts)
        if len(tiles) == self.best_batch_size and len(self.batches) < KEPT:
            self.batches.append((dispatch.tiles_to_device(tiles, self.device), list(prompts)))
        return self.segmenter.predict(tiles, prompts)

    def bare_seconds(self) -> float:
        """Mean time to encode and decode a window of the kept batches, with nothing else running."""
        times = [seconds(lambda batch=batch: self.segmenter._predict(*batch), 2) for batch in self.batches]
        return float(np.mean(times)) / self.best_batch_size


def write_prompts(scene: Path, path: Path) -> None:
    """Write boxes and points all over a scene: automatic prompts would be none there, and nothing would be decoded."""
    with rasterio.open(scene) as dataset:
        side, transform, crs = dataset.width, dataset.transform, dataset.crs
    rng = np.random.default_rng(0)
    count = (side // PROMPTED_PX) ** 2
    corners, sizes = rng.uniform(0, side - 500, (count, 2)), rng.uniform(100, 500, (count, 2))
    boxes = [shapely.box(*corner, *(corner + size)) for corner, size in zip(corners, sizes, strict=True)]
    points = [shapely.Point(xy) for xy in np.concatenate([corners + sizes / 2, corners + sizes * [0.5, 1.2]])]
    labels = [None] * count + [1] * count + [0] * count
    placed = shapely.transform([*boxes, *points], lambda xy: np.stack(transform @ xy.T, axis=1))
    geopandas.GeoDataFrame({"label": labels}, geometry=placed, crs=crs).to_file(path)


def timed(owner: Any, name: str, spent: Counter[str]) -> None:
    """Wrap a function so that it adds the wall-clock time of its calls to `spent`."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - begun

    setattr(owner, name, wrapped)


def whole(scene: Path, model: Path, out: Path) -> None:
    """Segment a scene, and print the share of the time that the model alone needs."""
    begun = time.perf_counter()
    segmenter = RecordingSegmenter(
        load_segmenter(ResolvedModel(path=model, name=model.stem, architecture=None, sha256=""), "cuda")
    )
    loaded = time.perf_counter()
    times: dict[int, float] = {}
    spent: Counter[str] = Counter()
    steps = [(loop, "read"), (loop, "asked"), (dispatch, "tiles_to_device"), (Dispatcher, "_launch"), (Mosaic, "add")]
    for owner, name in steps:
        timed(owner, name, spent)

    def progress(now: Progress) -> None:
        times[now.windows_done if now.stage == "segment" else -1] = time.perf_counter()

    prompts = out.with_name("prompts.gpkg")
    write_prompts(scene, prompts)
    options = SegmentOptions(batch_size=segmenter.best_batch_size, prompts=prompts, overwrite=True)
    result = segment_scene(scene, out, segmenter, options, progress=progress)
    ended = time.perf_counter()
    bare, size = segmenter.bare_seconds(), segmenter.best_batch_size
    last, first = max(times), size
    steady = (times[last] - times[first]) / (last - first)
    each = ", ".join(f"{name.strip('_')} {1e3 * spent[name] / last:.1f}" for _, name in steps)
    print(
        f"loading {loaded - begun:.1f} s, up to {first} windows {times[first] - loaded:.1f} s, the others "
        f"{times[last] - times[first]:.1f} s, finishing {ended - times[last]:.1f} s\n"
        f"of {last} windows one takes {steady * 1e3:.2f} ms, its encoding and decoding alone {bare * 1e3:.2f} ms: "
        f"{bare / steady:.1%} of their rate; of the whole run, with loading, {bare * last / (ended - begun):.1%}\n"
        f"{scene.name}: {result.report['pixels_processed'] / 1e6:.0f} megapixels processed, "
        f"{segmenter.prompted} prompt sets decoded\n"
        f"ms a window in {loop._READERS} threads that read and ask, 3 that send, 1 that tells, 1 that blends: {each}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_h", choices=list(VIT))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.device("cuda"):
        stock = sam_model_registry[options.model]().eval()
    for name, parameter in stock.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at first
            parameter.data.normal_(std=0.02)
    encoders(options.model, stock, options.batches)
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / f"{options.model}.pth"
    torch.save(stock.state_dict(), weights)
    del stock
    torch.cuda.empty_cache()
    scene = options.folder / f"scene_{options.side}.tif"
    if not scene.exists():
        painted = options.folder / "painted.tif"
        write_sample(painted, width=PAINTED, height=PAINTED, seed=5)
        lay_out(painted, scene, options.side)
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"), rasterio.open(scene, "r+") as dataset:
            dataset.build_overviews([4, 8], Resampling.average)  # as large orthophotos have them
    whole(scene, weights, options.folder / "out")


if __name__ == "__main__":
    main()
