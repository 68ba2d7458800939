"""Time saved by running only the windows where the coarse pass is uncertain: `python benchmarks/skipping.py`.

Synthetic scenes with a plateau on two fifths of the ground are segmented in full and by the rule, in turns. One has
crops and trees on it, of which the coarse pass is certain. The other also has smooth bare soils, which look like muddy
water from far. `benchmarks/skipped_by_coarse.py` measures the IoU that the rule loses.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from throughput import measure

from floodmap.synthetic import scene as synthetic
from floodmap.synthetic.landscape import Canvas, Look

PLATEAU = 0.585
"""Left edge of the plateau, as a share of the scene's width: two fifths of the windows lie on it entirely."""
EDGE_M, HEIGHT_M = 60.0, 40.0
"""Width of its slope and its height, in metres."""
BARE_SOILS = (4, 5, 6)
"""Their indices among the ground covers of `floodmap.synthetic.painting`."""


def paint(folder: Path, name: str, side: int) -> Path:
    """Path of the scene `crops` or `soils`; written if it does not exist."""
    path = folder / f"{name}_{side}.tif"
    if path.exists():
        return path
    terrain_m, paint_ground = Look.terrain_m, synthetic.paint_ground

    def raised(look: Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not look.level_m:  # the water level is being chosen, from the terrain without the plateau
            return terrain_m(look, x, y)
        return terrain_m(look, x, y) + HEIGHT_M * np.clip((x - PLATEAU * side * look.gsd_m) / EDGE_M, 0, 1)

    def grown_over(canvas: Canvas) -> None:
        if canvas.x0 > PLATEAU * side * canvas.look.gsd_m:
            shares = np.diff(canvas.look.covers, prepend=0.0)
            shares[list(BARE_SOILS)] = 0.0
            canvas.look = replace(canvas.look, covers=np.cumsum(shares / shares.sum()))
        paint_ground(canvas)

    Look.terrain_m = raised  # type: ignore[method-assign]
    synthetic.paint_ground = grown_over if name == "crops" else paint_ground
    try:
        synthetic.write_sample(path, width=side, height=side, seed=5)
    finally:
        Look.terrain_m, synthetic.paint_ground = terrain_m, paint_ground  # type: ignore[method-assign]
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--scenes", nargs="+", default=["crops", "soils"])
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.scenes:
        path, out = paint(options.folder, name, options.side), options.folder / "out"
        seconds = {"--exhaustive": 0.0, "": 0.0}
        for _ in range(options.turns):
            for flag in seconds:
                run = measure(path, options.side, out, [flag] if flag else [])
                seconds[flag] += run.seconds
        skipped_share = run.report["windows"]["skipped_by_coarse"] / sum(
            run.report["windows"][kind] for kind in ("run", "skipped_by_coarse")
        )
        full, ruled = (total / options.turns for total in seconds.values())
        print(
            f"{name}: {skipped_share:.0%} of the windows not run at all; as a whole {full:.1f} s, "
            f"by the rule {ruled:.1f} s: {full / ruled:.2f} times"
        )


if __name__ == "__main__":
    main()
