"""Speed of floodmap with SAM against `SamAutomaticMaskGenerator`: `python benchmarks/generator.py`.

ViT-B with random weights, which do not change the amount of work. The generator, with its defaults, gets one window of
1024 pixels. `floodmap segment` gets the scene of four windows that this one is cut from. Its time includes prompts,
decoding, rasters and polygons.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

import floodmap
from floodmap.synthetic.sample import write_sample
from floodmap.synthetic.scene import SyntheticScene

WINDOW = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(0)
    stock = sam_model_registry["vit_b"]().eval()
    side = 2 * WINDOW
    rgb, _ = SyntheticScene(width=side, height=side, seed=options.seed).window(0, 0, WINDOW, WINDOW)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(stock.state_dict(), folder / "vit_b.pth")
        write_sample(folder / "scene.tif", width=side, height=side, seed=options.seed)
        begun = time.perf_counter()
        result = floodmap.segment(
            folder / "scene.tif", out=folder / "out", model=folder / "vit_b.pth", tile_size=WINDOW
        )
        windows = result.report["windows"]["run"]
        ours = (time.perf_counter() - begun) / windows
    print(f"floodmap segment             {ours:7.1f} s a window, of {windows}, loading and all", flush=True)
    begun = time.perf_counter()
    found = SamAutomaticMaskGenerator(stock).generate(rgb.transpose(1, 2, 0))
    theirs = time.perf_counter() - begun
    print(f"SamAutomaticMaskGenerator    {theirs:7.1f} s a window, {len(found)} masks")
    print(f"floodmap is {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
