"""Landscape of a synthetic scene: noise, random parameters (`Look`), macro cells, and square blocks of pixels.

Macro cells are Voronoi cells of jittered lattice points. Roads, banks and hedges lie on the borders of macro cells.
Positions are in metres from the top left corner of the scene, x to the east, y to the south.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from floodmap.synthetic.scene import SyntheticScene

BLOCK = 512  # side of a block of the scene, in pixels
PAD = 8  # margin around a block while it is painted, in pixels
_LATTICE = 8  # distance between the points of the lattice on which smooth fields are computed, in pixels
SIDE = BLOCK + 2 * PAD  # side of a block with margin, in pixels
_MACRO_M = 260.0  # mean distance between the centres of neighbouring macro cells, in metres
_REACH_M = 32.0  # largest distance between a block and the centre of an object that reaches into the block, in metres
_WATERS = np.array([(156, 128, 94), (138, 116, 84), (120, 118, 96), (104, 112, 94), (74, 80, 72), (168, 148, 116)])
_Patch = tuple[tuple[slice, slice], np.ndarray, np.ndarray]


def uniform(ix: np.ndarray, iy: np.ndarray, salt: int) -> np.ndarray:
    """Return a hash of integers ix, iy and `salt`: pseudo-random float32 in [0, 1) in the broadcast shape of ix, iy."""
    bits = np.asarray(ix).astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
    bits = bits ^ (np.asarray(iy).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77))
    bits ^= np.uint32(salt & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def fractal(x: np.ndarray, y: np.ndarray, spacing: float, octaves: int, gain: float, salt: int) -> np.ndarray:
    """Compute fractal noise of about unit variance at points (x, y): floats in the broadcast shape of x and y.

    Octaves start at `spacing` (unit of x and y). Each next octave has half the spacing and `gain` times the amplitude.
    """
    total: np.ndarray = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    amplitude, power = 1.0, 0.0
    for octave in range(octaves):
        x, y = 0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y  # rotated, so that the directions of the lattice do not show
        u, v = x / spacing, y / spacing
        ix, iy = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        u, v = u - ix, v - iy
        u, v = u * u * u * (u * (6 * u - 15) + 10), v * v * v * (v * (6 * v - 15) + 10)
        near, far = (
            uniform(ix, iy + step, salt + octave) * (1 - u) + uniform(ix + 1, iy + step, salt + octave) * u
            for step in (0, 1)
        )
        total += amplitude * (near * (1 - v) + far * v - 0.5)
        power += amplitude * amplitude
        spacing, amplitude = spacing / 2, amplitude * gain
    total *= 4.5 / np.sqrt(power)
    return total


def _spline(positions: np.ndarray) -> tuple[int, csr_array]:
    """Compute cubic B-spline weights for n ascending positions, which are in units of the lattice spacing.

    Return the index k of the first lattice point used, and weights of m lattice points from k on: csr_array (n, m).
    """
    index = np.floor(positions).astype(np.int64)
    t = positions - index
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    columns = index[:, None] - index[0] + np.arange(4)
    starts = np.arange(len(t) + 1) * 4
    return int(index[0]) - 1, csr_array((taps.astype(np.float32).ravel(), columns.ravel(), starts))


def _resample(lattice: np.ndarray, down: csr_array, across: csr_array) -> np.ndarray:
    """Interpolate a lattice (r, c) to pixels, float32 (h, w), by `_spline` weights: `down` (h, r), `across` (w, c)."""
    wide = across @ np.ascontiguousarray(lattice.T, dtype=np.float32)  # sparse: the same sums on any machine
    pixels: np.ndarray = down @ np.ascontiguousarray(wide.T)
    return pixels


_UPSAMPLE = _spline(np.arange(SIDE) / _LATTICE)[1]


def upsample(lattice: np.ndarray) -> np.ndarray:
    """Interpolate values at every `_LATTICE`-th row and column of a block to all pixels: float32 (SIDE, SIDE)."""
    return _resample(lattice, _UPSAMPLE, _UPSAMPLE)


def look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the values of a one-dimensional table at integer indices: float32, in the shape of `index`."""
    return table.astype(np.float32).take(index)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Parameters of a synthetic scene, drawn from the seed of the scene. Colours are floats on a scale of 0 to 255."""

    seed: int
    gsd_m: float
    level_m: float
    """Height of the water level, in metres. The zero of heights is arbitrary, and the same as in `terrain_m`."""
    sun_xy: tuple[float, float]
    """Offset (x, y) of the shadow of a point one metre above the ground, in metres."""
    water: np.ndarray
    """float (2, 3): RGB of turbid water (row 0) and of less turbid, darker water (row 1). Noise mixes the two rows."""
    clarity_m: float
    """Depth of water that reduces the light from the ground to 1/e, in metres."""
    glint: float
    """Amount of sun glint, 0 to 1."""
    covers: np.ndarray
    """(9,): cumulative shares, 0 to 1, of the first nine ground covers in `painting._COVERS`, in the same order."""
    tint: np.ndarray
    """(3,): factors of the ground's colours in red, green and blue."""
    village: float
    """Threshold of a noise field: villages lie where the noise is above the threshold. `wood` is the same for woods."""
    wood: float
    asphalt: float
    """Share of the borders between macro cells that are asphalt roads, 0 to 1."""
    track: float
    """Share of the borders between macro cells that are asphalt roads or tracks, 0 to 1."""
    leaf: np.ndarray
    """(3,): RGB colour of tree crowns."""
    haze: float
    """Share of haze in the colours, 0 to 1."""
    contrast: float
    saturation: float
    """Factor of the saturation, 0 to 1."""
    balance: np.ndarray
    """(3,): factors of the white balance in red, green and blue."""
    noise: float
    """Standard deviation of the sensor's noise, in 8-bit values."""
    blur: float
    """Weight of each of the two neighbouring pixels in the blur along an axis."""

    def salt(self, name: str) -> int:
        """Return `salt` for `uniform`: a hash of the scene's seed and the name of a random quantity, such as "road"."""
        return crc32(f"{self.seed}/{name}".encode())

    def terrain_m(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Compute the height of the terrain in metres at points (x, y) in metres, in the broadcast shape of x and y."""
        bend_x = fractal(x, y, 420.0, 2, 0.5, self.salt("bend x"))
        bend_y = fractal(x, y, 420.0, 2, 0.5, self.salt("bend y"))
        return 2.2 * fractal(x + 60 * bend_x, y + 60 * bend_y, 700.0, 8, 0.52, self.salt("terrain"))


@lru_cache(maxsize=16)
def decide_look(scene: SyntheticScene) -> Look:
    """Draw the parameters of a synthetic scene from the seed of the scene."""
    rng = np.random.default_rng([scene.seed, 2])
    azimuth, cotangent = rng.uniform(0, 2 * np.pi), 1 / np.tan(np.radians(rng.uniform(33, 62)))
    water = _WATERS[rng.integers(len(_WATERS))] * rng.uniform(0.85, 1.1) + rng.normal(0, 3, 3)
    shares = rng.dirichlet([1.5, 1.2, 1.2, 1.0, 1.4, 1.4, 0.8, 2.0, 1.2])
    draft = Look(
        seed=scene.seed,
        gsd_m=scene.gsd_m,
        level_m=0.0,
        sun_xy=(np.sin(azimuth) * cotangent, np.cos(azimuth) * cotangent),
        water=np.stack([water, water * rng.uniform(0.8, 0.95) + rng.normal(0, 3, 3)]),
        clarity_m=rng.uniform(0.04, 0.16),
        glint=max(0.0, rng.uniform(-0.4, 1.0)),
        covers=np.cumsum(shares),
        tint=rng.normal(1.0, 0.04, 3) * rng.uniform(0.85, 1.08),
        village=rng.uniform(-0.2, 0.9),
        wood=rng.uniform(0.5, 1.8),
        asphalt=rng.uniform(0.15, 0.5),
        track=rng.uniform(0.5, 0.9),
        leaf=np.array([66, 86, 46]) * rng.uniform(0.75, 1.15) + rng.normal(0, 5, 3),
        haze=rng.uniform(0.0, 0.22),
        contrast=rng.uniform(0.85, 1.15),
        saturation=rng.uniform(0.6, 1.0),
        balance=rng.normal(1.0, 0.02, 3),
        noise=rng.uniform(1.0, 3.5),
        blur=rng.uniform(0.08, 0.2),
    )
    x = np.linspace(0, scene.width * scene.gsd_m, 96)
    y = np.linspace(0, scene.height * scene.gsd_m, 96)
    level = np.quantile(draft.terrain_m(x[None, :], y[:, None]), rng.uniform(0.25, 0.64))
    return Look(**{**draft.__dict__, "level_m": float(level)})


class _Sites:
    """Landscape at points (x, y). `dry_m` is the height above water. `village` is above 0 in villages, `wood` in woods.

    A point lies in the macro cell with the index `first`, `edge_m` metres from the border to the macro cell `second`.
    """

    def __init__(self, look: Look, x: np.ndarray, y: np.ndarray) -> None:
        self.look = look
        self.x = x + 14 * fractal(x, y, 160.0, 2, 0.4, look.salt("warp x"))
        self.y = y + 14 * fractal(x, y, 160.0, 2, 0.4, look.salt("warp y"))
        self.dry_m = look.terrain_m(x, y) - look.level_m
        self.village = fractal(x, y, 420.0, 3, 0.5, look.salt("village")) - look.village
        self.wood = fractal(x, y, 200.0, 4, 0.55, look.salt("wood")) - look.wood
        low = np.floor(np.array([self.x.min(), self.y.min()]) / _MACRO_M).astype(int) - 2
        high = np.floor(np.array([self.x.max(), self.y.max()]) / _MACRO_M).astype(int) + 3
        ix, iy = (a.ravel() for a in np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])))
        self.key = np.stack([ix, iy])
        self.seed_x = (ix + 0.15 + 0.7 * uniform(ix, iy, look.salt("macro x"))) * _MACRO_M
        self.seed_y = (iy + 0.15 + 0.7 * uniform(ix, iy, look.salt("macro y"))) * _MACRO_M
        square = (self.x.ravel() - self.seed_x[:, None]) ** 2 + (self.y.ravel() - self.seed_y[:, None]) ** 2
        every = np.arange(square.shape[1])
        self.first = square.argmin(0)
        nearest = square[self.first, every]
        square[self.first, every] = np.inf
        self.second = square.argmin(0)
        pairs = _Pairs(self, self.first, self.second)
        self.edge_m = (square[self.second, every] - nearest) / (2 * pairs.length_m)
        self.pairs = pairs


class _Pairs:
    """Roads, banks and hedges on the borders of n pairs of macro cells, `first` and `second`: indices of cells, (n,).

    `side`, int (n,), is a hash of cell `first`. Cars are drawn from this hash, and differ on the two sides of a road.
    """

    def __init__(self, sites: _Sites, first: np.ndarray, second: np.ndarray) -> None:
        look, key = sites.look, sites.key
        dx, dy = sites.seed_x[second] - sites.seed_x[first], sites.seed_y[second] - sites.seed_y[first]
        self.length_m = np.hypot(dx, dy) + 1e-6
        sign = np.where((dx > 0) | ((dx == 0) & (dy > 0)), 1.0, -1.0) / self.length_m
        self.along_x, self.along_y = -dy * sign, dx * sign
        total = key[:, first] + key[:, second]
        dice = uniform(total[0], total[1], look.salt("road"))
        self.half_m = np.where(dice < look.asphalt, 3.1, np.where(dice < look.track, 1.7, 0.0))
        self.asphalt = dice < look.asphalt
        self.bank_m = np.where(self.half_m > 2, 1.0, 0.4) * uniform(total[0], total[1], look.salt("bank"))
        self.hedge = uniform(total[0], total[1], look.salt("hedge"))
        self.side = key[0, first] * 7919 + key[1, first]


class Canvas:
    """Block, with its margin, while it is painted: SIDE x SIDE pixels of heights, colours, shadows, roofs and trees."""

    def __init__(self, look: Look, row: int, col: int) -> None:
        self.look, self.row0, self.col0 = look, row * BLOCK - PAD, col * BLOCK - PAD
        steps = (np.arange(_UPSAMPLE.shape[1]) - 1) * _LATTICE + 0.5
        self.sites = _Sites(look, (self.col0 + steps[None, :]) * look.gsd_m, (self.row0 + steps[:, None]) * look.gsd_m)
        self.x0, self.y0 = (self.col0 + SIDE / 2) * look.gsd_m, (self.row0 + SIDE / 2) * look.gsd_m
        self.x_m = ((self.col0 + np.arange(SIDE) + 0.5) * look.gsd_m)[None, :]
        self.y_m = ((self.row0 + np.arange(SIDE) + 0.5) * look.gsd_m)[:, None]
        self.grain = self.noise(2.5, "grain")
        self.fine = 0.75 * self.noise(0.7, "fine") + 0.65 * self.noise(0.2, "finest")
        self.dry_m = upsample(self.sites.dry_m)
        self.rgb = np.empty((3, SIDE, SIDE), np.float32)
        self.shadow, self.canopy, self.hue, self.roof = np.zeros((4, SIDE, SIDE), np.float32)
        self.roof_rgb = np.zeros((3, SIDE, SIDE), np.float32)
        self._split()

    def _split(self) -> None:
        """Compute for each pixel the macro cell, the nearest border of the cell, and the distance to the border."""
        # The distance of pixel p to the border is the difference of p's squared distances to the two nearest centres,
        # divided by twice the distance between them. |p|^2, which is equal for all centres, is left out.
        sites = self.sites
        x, y = upsample(sites.x - self.x0), upsample(sites.y - self.y0)
        cells = np.unique(np.concatenate([sites.first, sites.second]))
        best, runner_up = np.full((2, SIDE, SIDE), np.inf, np.float32)
        first, second = np.zeros((2, SIDE, SIDE), np.int32)
        centres = zip(sites.seed_x[cells] - self.x0, sites.seed_y[cells] - self.y0, strict=True)
        for index, (sx, sy) in enumerate(centres):
            square = np.float32(sx * sx + sy * sy) - x * np.float32(2 * sx) - y * np.float32(2 * sy)
            wins = square < best
            places = ~wins & (square < runner_up)
            second = np.where(wins, first, np.where(places, np.int32(index), second))
            runner_up = np.where(wins, best, np.where(places, square, runner_up))
            first, best = np.where(wins, np.int32(index), first), np.where(wins, square, best)
        grid = np.meshgrid(cells, cells, indexing="ij")
        self.x, self.y, self.cells, self.first = x, y, cells, first
        self.pairs = _Pairs(sites, grid[0].ravel(), grid[1].ravel())
        self.border = first * len(cells) + second
        self.edge_m = (runner_up - best) / look_up(2 * self.pairs.length_m, self.border)

    def noise(self, spacing_m: float, name: str, stretch: float = 1.0) -> np.ndarray:
        """Compute noise of variance 1, float32 (SIDE, SIDE), of spacing `spacing_m` in y, `stretch` times that in x."""
        pixels = max(spacing_m / self.look.gsd_m, 2.0)
        first_row, down = _spline((self.row0 + np.arange(SIDE)) / pixels)
        first_col, across = _spline((self.col0 + np.arange(SIDE)) / (pixels * stretch))
        iy, ix = first_row + np.arange(down.shape[1]), first_col + np.arange(across.shape[1])
        lattice = (uniform(ix[None, :], iy[:, None], self.look.salt(name)) - 0.5) * 7.2
        return _resample(lattice, down, across)

    def smooth(self, spacing_m: float, name: str, octaves: int = 2) -> np.ndarray:
        """Compute fractal noise at every `_LATTICE`-th row and column, interpolated to pixels: float32 (SIDE, SIDE)."""
        return upsample(fractal(self.sites.x, self.sites.y, spacing_m, octaves, 0.5, self.look.salt(name)))

    def patch(self, x_m: tuple[float, ...], y_m: tuple[float, ...], reach_m: float) -> _Patch | None:
        """Find the pixels in the box around points, widened by `reach_m`; None if the box lies outside the block.

        Return the slices (rows, columns) in the block, and the pixels' x (1, columns) and y (rows, 1) in metres.
        """
        gsd, row0, col0 = self.look.gsd_m, self.row0, self.col0
        left, right = int((min(x_m) - reach_m) / gsd) - col0, int((max(x_m) + reach_m) / gsd) + 2 - col0
        top, bottom = int((min(y_m) - reach_m) / gsd) - row0, int((max(y_m) + reach_m) / gsd) + 2 - row0
        if left >= SIDE or top >= SIDE or right <= 0 or bottom <= 0:
            return None
        rows, cols = slice(max(top, 0), min(bottom, SIDE)), slice(max(left, 0), min(right, SIDE))
        return (rows, cols), self.x_m[:, cols], self.y_m[rows]

    def scatter(self, cell_m: float, name: str) -> tuple[_Sites, np.ndarray, np.ndarray, np.ndarray]:
        """Choose one random point in each square with sides of `cell_m` metres, in and near the block.

        Return, for the n points: `_Sites`; x and y in metres, (n,); an array of random numbers from 0 to 1, (8, n). Its
        rows 0 and 1 determine x and y. Its rows 2 to 7 are for the caller, for example for the size of a tree.
        """
        half = SIDE / 2 * self.look.gsd_m + _REACH_M
        ix, iy = (
            a.ravel()
            for a in np.meshgrid(
                np.arange(np.floor((self.x0 - half) / cell_m), np.ceil((self.x0 + half) / cell_m)),
                np.arange(np.floor((self.y0 - half) / cell_m), np.ceil((self.y0 + half) / cell_m)),
            )
        )
        dice = np.stack([uniform(ix, iy, self.look.salt(name) + n) for n in range(8)])
        x, y = (ix + 0.1 + 0.8 * dice[0]) * cell_m, (iy + 0.1 + 0.8 * dice[1]) * cell_m
        return _Sites(self.look, x, y), x, y, dice
