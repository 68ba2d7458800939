"""Cost of training Meta's SAM in three ways: `python benchmarks/vit_training.py [--model vit_b] [--folder FOLDER]`.

Random weights (speed does not depend on them) and three small synthetic scenes. Each way runs `floodmap train` for a
few steps, and `floodmap segment` with the result. Printed are wall-clock times, and the peak memory of training.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from throughput import peak_bytes, tree

from floodmap.synthetic.sample import write_sample

FLOODMAP = [sys.executable, "-m", "floodmap_cli.main"]


def run(*arguments: str | Path) -> tuple[float, int]:
    """Seconds and peak bytes of a command of floodmap."""
    process = subprocess.Popen([*FLOODMAP, *map(str, arguments), "-q"])
    begun, peaks = time.monotonic(), dict[int, int]()
    while process.poll() is None:
        for pid in tree(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"floodmap {arguments[0]} failed with exit code {process.returncode}")
    return time.monotonic() - begun, sum(peaks.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_b", choices=["vit_b", "vit_l", "vit_h"])
    parser.add_argument("--folder", type=Path, default=Path("runs/vit_training"))
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    data, weights = options.folder / "data", options.folder / f"{options.model}.pth"
    data.mkdir(parents=True)
    for seed in range(3):
        write_sample(data / f"scene{seed}.tif", width=512, height=512, seed=seed)
    torch.manual_seed(0)
    torch.save(sam_model_registry[options.model]().state_dict(), weights)
    for way in ("decoder", "lora", "full"):
        trained = options.folder / f"{way}.safetensors"
        seconds, peak = run(
            "train", data, "-o", trained, "--base", weights, "--train", way, "--epochs", "0.5", "--views", "1",
        )  # fmt: skip
        spent, _ = run("segment", data / "scene0.tif", "--model", trained, "-o", options.folder / way)
        print(f"{way:8} trained in {seconds:.0f} s with {peak / 1e9:.1f} GB, segments in {spent:.0f} s", flush=True)
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
