"""What windows that are not run save: `python benchmarks/skipping.py [--side 10000] [--folder FOLDER]`.

A synthetic scene of which the right two fifths are a plateau, dry for certain, is segmented by turns with every window
and without those the coarse pass is sure of. What that loses is told by `benchmarks/foregone.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from throughput import measure

from floodmap.landscape import Look
from floodmap.synthetic import write_sample

PLATEAU = 0.6
"""Where it begins, as a share of the scene's width."""
EDGE_M, HEIGHT_M = 60.0, 40.0


def paint(path: Path, side: int) -> None:
    """The scene, if it is not there."""
    if path.exists():
        return
    terrain_m = Look.terrain_m

    def raised(look: Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return terrain_m(look, x, y) + HEIGHT_M * np.clip((x - PLATEAU * side * look.gsd_m) / EDGE_M, 0, 1)

    Look.terrain_m = raised  # type: ignore[method-assign]
    write_sample(path, width=side, height=side, seed=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path, out = options.folder / f"plateau_{options.side}.tif", options.folder / "out"
    paint(path, options.side)
    seconds = {"--exhaustive": 0.0, "": 0.0}
    for _ in range(options.turns):
        for flag in seconds:
            seconds[flag] += measure(path, options.side, out, [flag] if flag else []).seconds
    every, some = (total / options.turns for total in seconds.values())
    print(
        f"every window {every:.1f} s, without those the coarse pass is sure of {some:.1f} s: {every / some:.2f} times"
    )


if __name__ == "__main__":
    main()
