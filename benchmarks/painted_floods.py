"""Floods painted on val pictures, and a sheet of them: `python benchmarks/painted_floods.py DATA SHEET.png`.

The paintings are the same in every run. Colours, textures and seeds differ from those of the training data. The sheet
shows them beside real floods.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from floodmap.synthetic.inundation import IGNORED, Ground, Water, flood
from floodmap.synthetic.landscape import fractal
from floodmap.training.samples import read_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from training_data import STANDING, ground_of, read_index

FINAL = ("fair_dhaka", "nrcan_newbrunswick")
"""Sources that are kept out of every choice of weights."""
COLOURS = {
    "milky coffee": ((173, 146, 118), (150, 124, 98)), "brick": ((146, 98, 74), (120, 84, 66)),
    "slate": ((92, 98, 104), (70, 76, 84)), "bottle green": ((58, 72, 56), (44, 54, 46)),
    "ink": ((30, 33, 36), (22, 25, 30)), "sand": ((188, 172, 136), (166, 150, 118)),
    "silver": ((150, 154, 156), (176, 182, 188)), "peat": ((66, 52, 40), (50, 41, 33)),
}  # fmt: skip
"""Two RGB colours of each kind of water, 0 to 255."""


@dataclass(frozen=True, slots=True)
class Painted:
    """A picture with a painted flood."""

    name: str
    source: str
    colour: str
    ground: Ground
    rgb: NDArray[np.uint8]
    """(3, height, width)."""
    mask: NDArray[np.uint8]
    """(height, width): 1 flood, 0 dry, 255 not scored."""
    stands: NDArray[np.bool_]
    """bool (height, width): roofs and trees in masks drawn by hand."""

    @property
    def dry(self) -> NDArray[np.uint8]:
        """The mask of the same picture without the flood."""
        return np.where(self.ground.unknown, IGNORED, 0).astype(np.uint8)


def paintings(folder: Path, *, final: bool = False) -> Iterator[Painted]:
    """One painting of each labelled val picture with buildings; `final`: of those kept out of every choice."""
    rows = [row for row in read_index(folder, "val") if (row["source"] in FINAL) == final]
    rows = [row for row in rows if row["source"] != "floodnet"]  # flooded already
    for number, row in enumerate(rows):
        ground, colour = ground_of(folder, row), list(COLOURS)[number % len(COLOURS)]
        rng = np.random.default_rng([2026, number])
        rgb, mask = flood(ground, _water(colour, rng), rng, float(rng.uniform(0.2, 0.8)), texture=_texture)
        stands = np.isin(read_mask(folder / row["mask"]), STANDING)
        mask[ground.stands & ~stands] = IGNORED  # trees and cars found by rule stay dry, but are not scored
        yield Painted(Path(row["file"]).stem, row["source"], colour, ground, rgb, mask, stands)


def _water(colour: str, rng: np.random.Generator) -> Water:
    """Random water of a colour."""
    return Water(
        colours=np.array(COLOURS[colour]) / 255, clarity_m=float(rng.choice([0.05, 0.12, 0.25])),
        ripple=float(rng.choice([0.0, 0.015, 0.04])), ripple_m=float(rng.choice([0.4, 1.0, 2.5])),
        sky=np.array([0.62, 0.68, 0.74]), mirrored=float(rng.choice([0.0, 0.0, 0.35])), glint=0.0,
        shadow=float(rng.choice([0.2, 0.45])), wet=float(rng.choice([0.65, 0.8])),
    )  # fmt: skip


def _texture(
    shape_hw: tuple[int, int], cell: float, rng: np.random.Generator, *, across: float = 1.0
) -> NDArray[np.float32]:
    """Fractal noise of hashed lattice points, in place of `inundation.noise`; computed coarsely where it is smooth."""
    salt, step = int(rng.integers(2**31)), max(1, int(cell / 12))
    y, x = (np.arange(0, side + step, step, dtype=np.float64) for side in shape_hw)
    wavy = fractal(x[None, :] / across, y[:, None], cell, 2 if cell > 8 else 1, 0.45, salt).astype(np.float32)
    large = Image.fromarray(wavy).resize((len(x) * step, len(y) * step), Image.Resampling.BICUBIC)
    result = np.asarray(large, np.float32)[: shape_hw[0], : shape_hw[1]]
    return np.asarray(result / max(float(result.std()), 1e-6), np.float32)


def sheet(data: Path, out: Path, side: int = 210) -> None:
    """Write a sheet of 24 paintings in three rows, and eight real floods below."""
    found = list(paintings(data / "labelled"))
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, 24).round().astype(int)]
    with (data / "nadir" / "index.csv").open() as file:
        real = [row["file"] for row in csv.DictReader(file) if row["source"] == "floodnet"][:8]
    tiles = [Image.fromarray(one.rgb.transpose(1, 2, 0)) for one in chosen]
    tiles += [Image.open(data / "nadir" / name).convert("RGB") for name in real]
    page = Image.new("RGB", (8 * side, 4 * side))
    for number, tile in enumerate(tiles):
        page.paste(ImageOps.fit(tile, (side, side)), (number % 8 * side, number // 8 * side))
    page.save(out, quality=82)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("sheet", type=Path)
    options = parser.parse_args()
    sheet(options.data, options.sheet)
