"""Synthetic aerial flood scenes with an exact reference mask, drawn from a seed, one rectangle of pixels at a time.

Every pixel depends only on the parameters of the scene and on the position of the pixel in the scene. A scene is drawn
in fixed blocks of `BLOCK` x `BLOCK` pixels. Random numbers for smooth noise (of the terrain, say) and for objects are
hashes of positions, so that scenes of any size are drawn in bounded memory. Positions are in metres from the top left
corner of the scene, x to the east, y to the south. Colours are floats on a scale of 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from affine import Affine

from floodmap.errors import FloodmapError
from floodmap.synthetic.landscape import BLOCK, PAD, SIDE, Canvas, decide_look, fractal, uniform
from floodmap.synthetic.painting import draw_houses, draw_trees, paint_ground, paint_objects, paint_roads, paint_water

EPSG = 32643
"""EPSG code of the scenes' CRS: UTM zone 43 north, in metres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticScene:
    """Synthetic aerial scene of a flooded landscape. The pixels depend only on the attributes below."""

    width: int
    """Scene columns, in pixels."""
    height: int
    """Scene rows, in pixels."""
    seed: int
    """Seed of the properties that have no field here: place on the Earth, terrain, colours, sun, haze, water, density
    of objects."""
    gsd_m: float = 0.3
    """Ground sample distance, in metres."""
    collar: bool = True
    """Whether a slightly rotated, irregular nodata collar surrounds the picture."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or not self.gsd_m > 0:
            raise FloodmapError(f"a scene of {self.width} x {self.height} pixels of {self.gsd_m} m cannot be drawn")
        if self.seed < 0:
            raise FloodmapError(f"seed {self.seed} must not be negative")

    @property
    def transform(self) -> Affine:
        """Affine transform from (column, row) to UTM. The origin depends on the seed and lies on whole metres."""
        east, north = np.random.default_rng([self.seed, 1]).integers((300_000, 900_000), (700_000, 3_000_000))
        return Affine(self.gsd_m, 0.0, float(east), 0.0, -self.gsd_m, float(north))

    def window(self, row_off: int, col_off: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw a rectangle of the scene. Every pixel has the same value in any rectangle that contains the pixel.

        Args:
            row_off: first row, counted from 0.
            col_off: first column, counted from 0.
            height: number of rows.
            width: number of columns.

        Returns:
            rgb: uint8 (3, height, width); (0, 0, 0) in the collar only.
            mask: uint8 (height, width): 1 flooded, 0 dry (roofs and tree crowns included), 255 collar.
        """
        if not (0 <= row_off <= row_off + height <= self.height and 0 <= col_off <= col_off + width <= self.width):
            raise FloodmapError(
                f"window {row_off}, {col_off}, {height} x {width} leaves the scene of {self.height} x {self.width}"
            )
        out = np.empty((4, height, width), np.uint8)
        for row in range(row_off // BLOCK, -(-(row_off + height) // BLOCK)):
            for col in range(col_off // BLOCK, -(-(col_off + width) // BLOCK)):
                top, left = max(row * BLOCK, row_off), max(col * BLOCK, col_off)
                bottom, right = min((row + 1) * BLOCK, row_off + height), min((col + 1) * BLOCK, col_off + width)
                out[:, top - row_off : bottom - row_off, left - col_off : right - col_off] = _block(self, row, col)[
                    :, top - row * BLOCK : bottom - row * BLOCK, left - col * BLOCK : right - col * BLOCK
                ]
        return out[:3], out[3]


def _valid(scene: SyntheticScene, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return bool (rows, columns): True at pixels of the picture, False in the collar around the picture.

    `rows` and `cols` are row and column numbers in the scene. The edges of the picture are slightly rotated, ragged,
    and stepped as at the ends of flight lines.
    """
    if not scene.collar:
        return np.ones((len(rows), len(cols)), bool)
    rng = np.random.default_rng([scene.seed, 3])
    depth, angle = rng.uniform(0.012, 0.03, 4), np.tan(rng.uniform(-0.02, 0.02))
    side = min(scene.width, scene.height)
    edges = []
    for edge, (at, extent) in enumerate(((rows, scene.height),) * 2 + ((cols, scene.width),) * 2):
        share, line = at / extent, np.full(len(at), edge)
        step = 0.008 * (uniform(np.floor(share * 7.3), line, scene.seed) - 0.5)
        ragged = 0.0015 * fractal(share * 9, line * 9.7, 1.0, 4, 0.45, scene.seed)
        lean = (share - 0.5) * (extent / side) * angle * (1, -1, -1, 1)[edge]
        edges.append(np.maximum(side * (depth[edge] + abs(angle) / 2 + lean + step + ragged), 1.0))
    left, right, top, bottom = edges
    inside: np.ndarray = (cols >= left[:, None]) & (cols < scene.width - right[:, None])
    inside &= (rows[:, None] >= top) & (rows[:, None] < scene.height - bottom)
    return inside


def _expose(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Simulate the sensor: apply blur, contrast, haze, white balance and noise to the colours of a block.

    Return RGB, uint8 (3, SIDE, SIDE). `SIDE` is the side of the canvas in pixels: a block and a margin of `PAD` pixels
    around the block. `_block` cuts the margin off. Values are 1 to 255, because 0 is the nodata value.
    """
    look = canvas.look
    shot = rng.standard_normal((SIDE, SIDE), np.float32) * look.noise
    grey = canvas.rgb.mean(0) * (1 - look.saturation)
    out = np.empty((3, SIDE, SIDE), np.uint8)
    for channel in range(3):
        plane = canvas.rgb[channel] * look.saturation + grey
        for a in (plane, plane.T):
            a[1:-1] = a[1:-1] * (1 - 2 * look.blur) + look.blur * (a[:-2] + a[2:])
        plane = (plane - 110) * look.contrast + 110
        plane = (plane * (1 - look.haze) + (168, 176, 186)[channel] * look.haze) * look.balance[channel]
        plane += shot + rng.standard_normal((SIDE, SIDE), np.float32) * (0.5 * look.noise)
        out[channel] = np.clip(plane, 1, 255)
    return out


@lru_cache(maxsize=8)
def _block(scene: SyntheticScene, row: int, col: int) -> np.ndarray:
    """Draw one block: uint8 (4, BLOCK, BLOCK), RGB and mask. The array is cached and read-only.

    `row` and `col` count blocks from the top left corner of the scene.
    """
    canvas = Canvas(decide_look(scene), row, col)
    paint_ground(canvas)
    paint_roads(canvas)
    flooded = paint_water(canvas)
    draw_houses(canvas)
    draw_trees(canvas)
    paint_objects(canvas, flooded)
    flood = flooded & (canvas.roof < 0.5) & (canvas.canopy <= 0)
    rgb = _expose(canvas, np.random.default_rng([scene.seed, 4, row, col]))
    core = np.s_[PAD : PAD + BLOCK]
    block = np.concatenate([rgb[:, core, core], flood[None, core, core].astype(np.uint8)])
    valid = _valid(scene, row * BLOCK + np.arange(BLOCK), col * BLOCK + np.arange(BLOCK))
    block[:3, ~valid] = 0
    block[3, ~valid] = 255
    block.setflags(write=False)
    return block
