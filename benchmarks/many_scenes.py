"""Memory of one process that segments many scenes with a model loaded once: `python benchmarks/many_scenes.py`.

Prints the resident memory after each scene, in MB, and the ratio of the last to the second; the first scene allocates
what all of them share.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import floodmap


def resident_mb() -> float:
    """Resident memory of this process now, in MB (10^6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--side", type=int, default=2000, help="pixels")
    options = parser.parse_args()
    model = floodmap.load_model("finetuned", device="cpu")
    after = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.scenes):
            scene, _ = floodmap.sample(
                Path(folder) / f"{seed}.tif", width=options.side, height=options.side, seed=seed
            )  # fmt: skip
            floodmap.segment(scene, out=Path(folder) / "out", model=model)
            after.append(resident_mb())
            print(f"scene {seed + 1}: {after[-1]:.0f} MB", flush=True)
    print(f"the last against the second: {after[-1] / after[1]:.3f}")


if __name__ == "__main__":
    main()
