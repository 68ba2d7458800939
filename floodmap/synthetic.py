"""Synthetic aerial flood scenes with an exact reference mask, drawn window by window from a seed.

Every pixel is a function of (scene, absolute position): the plane is drawn in fixed blocks, smooth fields come from
hashed lattices and objects from hashed jittered cells, so scenes of any size stream in bounded memory. Distances are
metres from the top-left corner of the scene, x to the east, y to the south; colours are floats on the 0-255 scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window
from scipy.sparse import csr_array

from floodmap.errors import FloodmapError

_BLOCK = 512
_PAD = 8
_LATTICE = 8
_SIDE = _BLOCK + 2 * _PAD
_MACRO_M = 260.0
_REACH_M = 32.0
_CACHE_BYTES = 64 * 2**20

# Ground covers: red, green, blue, row amplitude, fine texture, mottling. The two smooth bare soils are there
# because colour alone confuses them with muddy water.
_COVERS = np.array(
    [
        (98, 120, 68, 0.12, 0.05, 0.05),
        (70, 94, 54, 0.10, 0.06, 0.05),
        (134, 146, 92, 0.06, 0.05, 0.06),
        (182, 165, 112, 0.07, 0.04, 0.05),
        (132, 108, 84, 0.10, 0.06, 0.07),
        (146, 122, 94, 0.00, 0.015, 0.03),
        (134, 130, 120, 0.00, 0.015, 0.03),
        (112, 122, 80, 0.02, 0.09, 0.10),
        (140, 132, 96, 0.00, 0.10, 0.14),
        (122, 120, 118, 0.00, 0.03, 0.02),
    ],
    dtype=np.float32,
)
_CAR_PARK = len(_COVERS) - 1
_ROOFS = np.array(
    [(168, 92, 68), (150, 74, 58), (120, 116, 112), (96, 94, 96), (226, 226, 222), (188, 190, 192), (92, 124, 160),
     (150, 138, 122)],
    dtype=np.float32,
)  # fmt: skip
_WATERS = np.array([(156, 128, 94), (138, 116, 84), (120, 118, 96), (104, 112, 94), (74, 80, 72), (168, 148, 116)])


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticScene:
    """A flooded landscape seen from the air, determined by its fields alone."""

    width: int
    """Scene columns, in pixels."""
    height: int
    """Scene rows, in pixels."""
    seed: int
    """Everything else (terrain, palette, sun, haze, water, density of objects) derives from it."""
    gsd_m: float = 0.3
    """Ground sample distance, in metres a pixel."""
    collar: bool = True
    """Whether a slightly rotated, irregular nodata collar surrounds the picture."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or self.gsd_m <= 0:
            raise FloodmapError(f"a scene of {self.width} x {self.height} pixels of {self.gsd_m} m cannot be drawn")

    @property
    def crs(self) -> CRS:
        """UTM zone 43 north, in metres."""
        return CRS.from_epsg(32643)

    @property
    def transform(self) -> Affine:
        """Pixel to CRS; the origin differs by seed, on whole metres."""
        east, north = np.random.default_rng([self.seed, 1]).integers((300_000, 900_000), (700_000, 3_000_000))
        return Affine(self.gsd_m, 0.0, float(east), 0.0, -self.gsd_m, float(north))

    def window(self, row_off: int, col_off: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw a window; every window equals the same crop of the whole scene.

        Returns:
            rgb: uint8 (3, height, width); 0, 0, 0 in the collar and nowhere else.
            mask: uint8 (height, width); 1 flooded, 0 dry (roofs and crowns included), 255 collar.
        """
        if not (0 <= row_off <= row_off + height <= self.height and 0 <= col_off <= col_off + width <= self.width):
            raise FloodmapError(
                f"window {row_off}, {col_off}, {height} x {width} leaves the scene of {self.height} x {self.width}"
            )
        out = np.empty((4, height, width), np.uint8)
        for row in range(row_off // _BLOCK, -(-(row_off + height) // _BLOCK)):
            for col in range(col_off // _BLOCK, -(-(col_off + width) // _BLOCK)):
                top, left = max(row * _BLOCK, row_off), max(col * _BLOCK, col_off)
                bottom, right = min((row + 1) * _BLOCK, row_off + height), min((col + 1) * _BLOCK, col_off + width)
                out[:, top - row_off : bottom - row_off, left - col_off : right - col_off] = _block(self, row, col)[
                    :, top - row * _BLOCK : bottom - row * _BLOCK, left - col * _BLOCK : right - col * _BLOCK
                ]
        return out[:3], out[3]


def write_sample(
    path: str | Path,
    *,
    width: int,
    height: int,
    seed: int,
    gsd_m: float = 0.3,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[Path, Path]:
    """Write a synthetic scene and its reference mask as tiled GeoTIFFs, block by block.

    Args:
        path: the RGB file; `<stem>_reference.tif` is written beside it.
        progress: called with the finished share, in (0, 1].

    Raises:
        FloodmapError: a target exists and `overwrite` is False.
    """
    scene = SyntheticScene(width=width, height=height, seed=seed, gsd_m=gsd_m)
    image = Path(path)
    targets = (image, image.with_name(f"{image.stem}_reference.tif"))
    for target in targets:
        if target.exists() and not overwrite:
            raise FloodmapError(f"{target} exists; pass overwrite=True to replace it")
    partial = tuple(target.with_name(f".{target.name}.{os.getpid()}.partial") for target in targets)
    try:
        _write_blocks(scene, partial, progress)
        for source, target in zip(partial, targets, strict=True):
            source.replace(target)
    finally:
        for source in partial:
            source.unlink(missing_ok=True)
    return targets


def _write_blocks(scene: SyntheticScene, paths: tuple[Path, ...], progress: Callable[[float], None] | None) -> None:
    profile = {
        "driver": "GTiff", "width": scene.width, "height": scene.height, "dtype": "uint8", "crs": scene.crs,
        "transform": scene.transform, "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK,
        "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    rgb_only = {"count": 3, "nodata": 0, "photometric": "rgb", "predictor": 2}
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES),
        rasterio.open(paths[0], "w", **profile, **rgb_only) as image,
        rasterio.open(paths[1], "w", **profile, count=1, nodata=255) as reference,
    ):
        for row in range(0, scene.height, _BLOCK):
            rows = min(_BLOCK, scene.height - row)
            for col in range(0, scene.width, _BLOCK):
                cols = min(_BLOCK, scene.width - col)
                rgb, mask = scene.window(row, col, rows, cols)
                image.write(rgb, window=Window(col, row, cols, rows))
                reference.write(mask, 1, window=Window(col, row, cols, rows))
            if progress is not None:
                progress((row + rows) / scene.height)


def _uniform(ix: np.ndarray, iy: np.ndarray, salt: int) -> np.ndarray:
    """Hash integer lattice points to float32 in [0, 1)."""
    bits = np.asarray(ix).astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
    bits = bits ^ (np.asarray(iy).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77))
    bits ^= np.uint32(salt & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def _fractal(x: np.ndarray, y: np.ndarray, spacing: float, octaves: int, gain: float, salt: int) -> np.ndarray:
    """Fractal value noise at points, about unit variance; octaves are rotated so that no lattice direction shows."""
    total, amplitude, power = np.zeros(np.broadcast_shapes(x.shape, y.shape)), 1.0, 0.0
    for octave in range(octaves):
        x, y = 0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y
        u, v = x / spacing, y / spacing
        ix, iy = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        u, v = u - ix, v - iy
        u, v = u * u * u * (u * (6 * u - 15) + 10), v * v * v * (v * (6 * v - 15) + 10)
        near, far = (
            _uniform(ix, iy + step, salt + octave) * (1 - u) + _uniform(ix + 1, iy + step, salt + octave) * u
            for step in (0, 1)
        )
        total += amplitude * (near * (1 - v) + far * v - 0.5)
        power += amplitude * amplitude
        spacing, amplitude = spacing / 2, amplitude * gain
    return total * (4.5 / np.sqrt(power))


def _spline(positions: np.ndarray) -> tuple[int, csr_array]:
    """Cubic B-spline weights (positions, lattice points), sparse, and the index of the first lattice point."""
    index = np.floor(positions).astype(np.int64)
    t = positions - index
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    columns = index[:, None] - index[0] + np.arange(4)
    starts = np.arange(len(t) + 1) * 4
    return int(index[0]) - 1, csr_array((taps.astype(np.float32).ravel(), columns.ravel(), starts))


def _resample(lattice: np.ndarray, down: csr_array, across: csr_array) -> np.ndarray:
    """Apply spline weights along both axes; four taps a pixel, and unlike BLAS the same sums on any machine."""
    return down @ np.ascontiguousarray((across @ np.ascontiguousarray(lattice.T, dtype=np.float32)).T)


_UPSAMPLE = _spline(np.arange(_SIDE) / _LATTICE)[1]


def _look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Attributes by index, as float32 so that no plane of pixels is widened."""
    return table.astype(np.float32).take(index)


def _upsample(lattice: np.ndarray) -> np.ndarray:
    """Interpolate a field on the block's lattice to its pixels, float32 (side, side)."""
    return _resample(lattice, _UPSAMPLE, _UPSAMPLE)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What the seed decides once for a scene."""

    seed: int
    gsd_m: float
    level_m: float
    sun_xy: tuple[float, float]
    """Shadow of a point one metre high, in metres."""
    water: np.ndarray
    """float (2, 3): the two colours that turbidity mixes."""
    clarity_m: float
    glint: float
    covers: np.ndarray
    """Cumulative shares of the ground covers."""
    tint: np.ndarray
    village: float
    wood: float
    asphalt: float
    track: float
    leaf: np.ndarray
    haze: float
    contrast: float
    saturation: float
    balance: np.ndarray
    noise: float
    blur: float

    def salt(self, name: str) -> int:
        """A seed for one noise field of this scene."""
        return crc32(f"{self.seed}/{name}".encode())

    def terrain_m(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Natural ground height at points."""
        bend_x = _fractal(x, y, 420.0, 2, 0.5, self.salt("bend x"))
        bend_y = _fractal(x, y, 420.0, 2, 0.5, self.salt("bend y"))
        return 2.2 * _fractal(x + 60 * bend_x, y + 60 * bend_y, 700.0, 8, 0.52, self.salt("terrain"))


@lru_cache(maxsize=16)
def _look(scene: SyntheticScene) -> _Look:
    rng = np.random.default_rng([scene.seed, 2])
    azimuth, cotangent = rng.uniform(0, 2 * np.pi), 1 / np.tan(np.radians(rng.uniform(33, 62)))
    water = _WATERS[rng.integers(len(_WATERS))] * rng.uniform(0.85, 1.1) + rng.normal(0, 3, 3)
    shares = rng.dirichlet([1.5, 1.2, 1.2, 1.0, 1.4, 1.4, 0.8, 2.0, 1.2])
    draft = _Look(
        seed=scene.seed,
        gsd_m=scene.gsd_m,
        level_m=0.0,
        sun_xy=(np.sin(azimuth) * cotangent, np.cos(azimuth) * cotangent),
        water=np.stack([water, water * rng.uniform(0.8, 0.95) + rng.normal(0, 3, 3)]),
        clarity_m=rng.uniform(0.06, 0.32),
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
    return _Look(**{**draft.__dict__, "level_m": float(level)})


class _Sites:
    """The landscape at points: warped position, height above the water, nearest macro cells, densities."""

    def __init__(self, look: _Look, x: np.ndarray, y: np.ndarray) -> None:
        self.look = look
        self.x = x + 14 * _fractal(x, y, 160.0, 2, 0.4, look.salt("warp x"))
        self.y = y + 14 * _fractal(x, y, 160.0, 2, 0.4, look.salt("warp y"))
        self.dry_m = look.terrain_m(x, y) - look.level_m
        self.village = _fractal(x, y, 420.0, 3, 0.5, look.salt("village")) - look.village
        self.wood = _fractal(x, y, 200.0, 4, 0.55, look.salt("wood")) - look.wood
        low = np.floor(np.array([self.x.min(), self.y.min()]) / _MACRO_M).astype(int) - 2
        high = np.floor(np.array([self.x.max(), self.y.max()]) / _MACRO_M).astype(int) + 3
        ix, iy = (a.ravel() for a in np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])))
        self.key = np.stack([ix, iy])
        self.seed_x = (ix + 0.15 + 0.7 * _uniform(ix, iy, look.salt("macro x"))) * _MACRO_M
        self.seed_y = (iy + 0.15 + 0.7 * _uniform(ix, iy, look.salt("macro y"))) * _MACRO_M
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
    """Attributes of the border between two macro cells, the same from either side."""

    def __init__(self, sites: _Sites, first: np.ndarray, second: np.ndarray) -> None:
        look, key = sites.look, sites.key
        dx, dy = sites.seed_x[second] - sites.seed_x[first], sites.seed_y[second] - sites.seed_y[first]
        self.length_m = np.hypot(dx, dy) + 1e-6
        sign = np.where((dx > 0) | ((dx == 0) & (dy > 0)), 1.0, -1.0) / self.length_m
        self.along_x, self.along_y = -dy * sign, dx * sign
        total = key[:, first] + key[:, second]
        dice = _uniform(total[0], total[1], look.salt("road"))
        self.half_m = np.where(dice < look.asphalt, 3.1, np.where(dice < look.track, 1.7, 0.0))
        self.asphalt = dice < look.asphalt
        self.bank_m = np.where(self.half_m > 2, 1.0, 0.4) * _uniform(total[0], total[1], look.salt("bank"))
        self.hedge = _uniform(total[0], total[1], look.salt("hedge"))
        self.side = key[0, first] * 7919 + key[1, first]


class _Canvas:
    """One padded block while it is drawn: smooth fields, then ground, water, objects and the sensor."""

    def __init__(self, look: _Look, row: int, col: int) -> None:
        self.look, self.row0, self.col0 = look, row * _BLOCK - _PAD, col * _BLOCK - _PAD
        steps = (np.arange(_UPSAMPLE.shape[1]) - 1) * _LATTICE + 0.5
        self.sites = _Sites(look, (self.col0 + steps[None, :]) * look.gsd_m, (self.row0 + steps[:, None]) * look.gsd_m)
        self.x0, self.y0 = (self.col0 + _SIDE / 2) * look.gsd_m, (self.row0 + _SIDE / 2) * look.gsd_m
        self.x_m = ((self.col0 + np.arange(_SIDE) + 0.5) * look.gsd_m)[None, :]
        self.y_m = ((self.row0 + np.arange(_SIDE) + 0.5) * look.gsd_m)[:, None]
        self.grain = self.noise(2.5, "grain")
        self.fine = 0.75 * self.noise(0.7, "fine") + 0.65 * self.noise(0.2, "finest")
        self.dry_m = _upsample(self.sites.dry_m)
        self.rgb = np.empty((3, _SIDE, _SIDE), np.float32)
        self.shadow, self.canopy, self.hue, self.roof = np.zeros((4, _SIDE, _SIDE), np.float32)
        self.roof_rgb = np.zeros((3, _SIDE, _SIDE), np.float32)
        self._split()

    def _split(self) -> None:
        """Macro cells by pixel: warped local x, y; cell and border index; distance to the border in metres.

        Squared distances without their common |p|^2 are linear in p, so half the difference of the two smallest
        over the distance of their seeds is the exact distance to the border.
        """
        sites = self.sites
        x, y = _upsample(sites.x - self.x0), _upsample(sites.y - self.y0)
        cells = np.unique(np.concatenate([sites.first, sites.second]))
        best, runner_up = np.full((2, _SIDE, _SIDE), np.inf, np.float32)
        first, second = np.zeros((2, _SIDE, _SIDE), np.int32)
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
        self.edge_m = (runner_up - best) / _look_up(2 * self.pairs.length_m, self.border)

    def noise(self, spacing_m: float, name: str, stretch: float = 1.0) -> np.ndarray:
        """Spline noise of about unit variance, float32 (side, side); `stretch` lengthens it to the east."""
        pixels = max(spacing_m / self.look.gsd_m, 2.0)
        first_row, down = _spline((self.row0 + np.arange(_SIDE)) / pixels)
        first_col, across = _spline((self.col0 + np.arange(_SIDE)) / (pixels * stretch))
        iy, ix = first_row + np.arange(down.shape[1]), first_col + np.arange(across.shape[1])
        lattice = (_uniform(ix[None, :], iy[:, None], self.look.salt(name)) - 0.5) * 7.2
        return _resample(lattice, down, across)

    def smooth(self, spacing_m: float, name: str, octaves: int = 2) -> np.ndarray:
        """Low-frequency fractal noise in the warped frame, float32 (side, side)."""
        return _upsample(_fractal(self.sites.x, self.sites.y, spacing_m, octaves, 0.5, self.look.salt(name)))

    def patch(self, x_m: tuple, y_m: tuple, reach_m: float) -> tuple | None:
        """The pixels within `reach_m` of a segment between two points: slices, and centres in metres; None outside."""
        gsd, row0, col0 = self.look.gsd_m, self.row0, self.col0
        left, right = int((min(x_m) - reach_m) / gsd) - col0, int((max(x_m) + reach_m) / gsd) + 2 - col0
        top, bottom = int((min(y_m) - reach_m) / gsd) - row0, int((max(y_m) + reach_m) / gsd) + 2 - row0
        if left >= _SIDE or top >= _SIDE or right <= 0 or bottom <= 0:
            return None
        rows, cols = slice(max(top, 0), min(bottom, _SIDE)), slice(max(left, 0), min(right, _SIDE))
        return (rows, cols), self.x_m[:, cols], self.y_m[rows]

    def scatter(self, cell_m: float, name: str) -> tuple[_Sites, np.ndarray, np.ndarray, np.ndarray]:
        """One jittered point a cell, in reach of the block: its site, x, y and eight dice (8, n)."""
        half = _SIDE / 2 * self.look.gsd_m + _REACH_M
        ix, iy = (
            a.ravel()
            for a in np.meshgrid(
                np.arange(np.floor((self.x0 - half) / cell_m), np.ceil((self.x0 + half) / cell_m)),
                np.arange(np.floor((self.y0 - half) / cell_m), np.ceil((self.y0 + half) / cell_m)),
            )
        )
        dice = np.stack([_uniform(ix, iy, self.look.salt(name) + n) for n in range(8)])
        x, y = (ix + 0.1 + 0.8 * dice[0]) * cell_m, (iy + 0.1 + 0.8 * dice[1]) * cell_m
        return _Sites(self.look, x, y), x, y, dice


def _cut(t: np.ndarray, row: np.ndarray, salt: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a line at jittered integers: the piece (int32) and the distance to the nearest cut."""
    nearest = np.rint(t).astype(np.int32)
    cut = nearest + np.float32(0.6) * (_uniform(nearest, row, salt) - np.float32(0.5))
    return nearest - (t < cut), np.abs(t - cut)


def _parcels(canvas: _Canvas) -> tuple:
    """Cut macro cells into jittered bricks: frame u, v, parcel index, margin (metres) and names to hash."""
    look, sites, cells = canvas.look, canvas.sites, canvas.cells
    ix, iy = sites.key[:, cells]
    angle = _uniform(ix, iy, look.salt("angle")) * np.pi
    deep, wide = (
        _look_up(low + 48 * _uniform(ix, iy, look.salt(name)), canvas.first)
        for name, low in (("deep", 45), ("wide", 24))
    )
    cos, sin = np.cos(angle), np.sin(angle)
    sx, sy = sites.seed_x[cells] - canvas.x0, sites.seed_y[cells] - canvas.y0
    c, s = _look_up(cos, canvas.first), _look_up(sin, canvas.first)
    u = canvas.x * c + canvas.y * s - _look_up(cos * sx + sin * sy, canvas.first)
    v = canvas.y * c - canvas.x * s - _look_up(cos * sy - sin * sx, canvas.first)
    owner = (ix * 7919 + iy * 104729).astype(np.int32)
    row, gap_v = _cut(v / deep, owner.take(canvas.first), look.salt("row"))
    col, gap_u = _cut(u / wide, owner.take(canvas.first) + row * 31, look.salt("col"))
    low_row, low_col = row.min(), col.min()
    shape = (len(cells), row.max() - low_row + 1, col.max() - low_col + 1)
    parcel = (canvas.first * shape[1] + (row - low_row)) * shape[2] + (col - low_col)
    grid = np.indices(shape).reshape(3, -1)
    names = owner[grid[0]] + (grid[1] + low_row) * 31, grid[2] + low_col
    return u, v, parcel, np.minimum(gap_v * deep, gap_u * wide), names


def _paint_ground(canvas: _Canvas) -> None:
    """Parcels with their crops, rows and tramlines; each lies a little above or below its neighbours."""
    look = canvas.look
    u, v, parcel, margin_m, names = _parcels(canvas)
    dice = np.stack([_uniform(*names, look.salt(f"parcel {n}")) for n in range(7)])
    cover = np.where(dice[6] < 0.03, _CAR_PARK, np.searchsorted(look.covers, dice[0]).clip(0, _CAR_PARK - 1))
    table = _COVERS[cover]
    # Rows finer than the pixels would alias into moire.
    pulse = 2 * np.pi / np.maximum(0.9 + 2.2 * dice[2] ** 2, 2.6 * look.gsd_m)
    lengthwise = dice[3] < 0.7
    phase = u * _look_up(pulse * lengthwise, parcel) + v * _look_up(pulse * ~lengthwise, parcel)
    texture = 1 + _look_up(table[:, 3], parcel) * np.sin(phase + 0.8 * canvas.grain)
    texture += _look_up(table[:, 4], parcel) * (0.7 * canvas.fine + 0.5 * canvas.grain)
    tram = np.abs(np.mod(np.where(lengthwise.take(parcel), u, v), 18.0) - 9.0)
    texture -= _look_up(0.12 * (table[:, 3] > 0.05), parcel) * ((tram > 0.6) & (tram < 1.1))
    texture *= 1 + _look_up(table[:, 5], parcel) * canvas.smooth(30.0, "mottle", 3)
    shade = look.tint[:, None] * (0.86 + 0.28 * dice[1]) + 0.06 * (dice[3:6] - 0.5)
    for channel in range(3):
        np.multiply(_look_up(table[:, channel] * shade[channel], parcel), texture, out=canvas.rgb[channel])
    canvas.dry_m += _look_up(0.5 * dice[4] - 0.25, parcel)
    lot = (cover == _CAR_PARK).take(parcel)
    _paint_yards(canvas, np.clip(1.2 - margin_m + 0.3 * canvas.grain, 0, 0.7), lot)
    _paint_car_park(canvas, np.flatnonzero(lot & (margin_m > 1.5)), u, v)


def _paint_yards(canvas: _Canvas, margin: np.ndarray, lot: np.ndarray) -> None:
    """Grassy field margins, and trodden grass between the houses of a village."""
    town = np.where(lot, 0, np.clip(_upsample(canvas.sites.village) * 2.5, 0, 0.9))
    trodden = np.clip(0.5 + 0.5 * canvas.smooth(9.0, "yard", 3), 0, 1)
    blade = 1 + 0.08 * canvas.fine
    for channel, (grass, dirt) in enumerate(((100, 150), (108, 134), (72, 110))):
        plane = canvas.rgb[channel]
        plane += margin * (grass * blade - plane)
        plane += town * ((grass + (dirt - grass) * trodden) * blade * canvas.look.tint[channel] - plane)


def _paint_car_park(canvas: _Canvas, where: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """Bays of 2.6 x 5.2 m either side of aisles, some of them taken."""
    if not len(where):
        return
    u, v = u.ravel()[where], v.ravel()[where]
    bay, rank = np.floor(u / 2.6), np.floor(v / 8.5)
    across, deep = np.abs(u - 2.6 * bay - 1.3), np.abs(v - 8.5 * rank - 2.6)
    dice = [_uniform(bay, rank, canvas.look.salt(f"bay {n}")) for n in range(3)]
    line = (across > 1.2) & (deep < 2.5)
    car = (across < 0.9) & (deep < 2.2) & (dice[0] < 0.45)
    glass = np.where((deep > 0.7) & (deep < 1.3), 0.45, 1.0)
    for channel in range(3):
        plane = canvas.rgb[channel].ravel()
        body = (50 + 190 * dice[1] + 50 * (dice[2] - 0.5) * (channel - 1)) * glass
        plane[where] = np.where(car, body, np.where(line, 205, plane[where]))
        canvas.rgb[channel] = plane.reshape(_SIDE, _SIDE)


def _paint_roads(canvas: _Canvas) -> None:
    """Asphalt roads with marks and cars, tracks with a grassy middle, and the banks that carry them."""
    look, pairs, edge_m = canvas.look, canvas.pairs, canvas.edge_m
    canvas.dry_m += _look_up(pairs.bank_m, canvas.border) * np.clip(1.8 - edge_m / 4, 0, 1)
    half = _look_up(pairs.half_m, canvas.border)
    where = np.flatnonzero((half > 0) & (edge_m < half + 2.5))
    pair, e, half = canvas.border.ravel()[where], edge_m.ravel()[where], half.ravel()[where]
    along = pairs.along_x[pair] * (canvas.x0 + canvas.x.ravel()[where])
    along += pairs.along_y[pair] * (canvas.y0 + canvas.y.ravel()[where])
    fine, grain = canvas.fine.ravel()[where], canvas.grain.ravel()[where]
    asphalt, gsd = pairs.asphalt[pair], look.gsd_m
    line = 0.75 * _cover(0.1 - e, gsd) * (np.mod(along, 9.0) < 4.0) + 0.6 * _cover(0.08 - np.abs(e - half + 0.35), gsd)
    rut = 0.6 * _cover(0.45 - e + 0.12 * grain, gsd)
    slot = np.floor(along / 13.0)
    dice = [_uniform(slot, pairs.side[pair], look.salt(f"car {n}")) for n in range(3)]
    car = _cover(np.minimum(2.1 - np.abs(along - 13 * slot - 6), 0.85 - np.abs(e - 1.55)), gsd)
    car *= asphalt & (dice[0] < 0.07)
    alpha = np.where(asphalt, _cover(half - e, gsd), np.clip((half - e) * 1.5 + 0.5 + 0.3 * grain, 0, 1))
    verge = np.clip(half + 2.2 - e, 0, 1) * 0.6
    for channel in range(3):
        plane = canvas.rgb[channel].ravel()
        old = plane[where] + verge * ((96, 110, 68)[channel] * (1 + 0.1 * fine) - plane[where])
        tar = (118, 117, 117)[channel] * (1 + 0.025 * fine + 0.03 * grain)
        soil = (164, 147, 118)[channel] * (1 + 0.04 * fine) * look.tint[channel]
        soil += rut * ((112, 116, 80)[channel] - soil)
        paint = np.where(asphalt, tar + np.minimum(line, 0.8) * (225 - tar), soil)
        paint += car * (50 + 190 * dice[1] + 50 * (dice[2] - 0.5) * (channel - 1) - paint)
        plane[where] = old + alpha * (paint - old)
        canvas.rgb[channel] = plane.reshape(_SIDE, _SIDE)


def _cover(inside_m: np.ndarray, gsd_m: float) -> np.ndarray:
    """The share of a pixel that a shape covers, from the signed distance of its centre to the outline."""
    return np.clip(inside_m / gsd_m + 0.5, 0, 1)


def _house_shadow(u, v, a, b, du, dv) -> np.ndarray:
    """Whether the ray from ground points towards the sun meets the box |u| < a, |v| < b within one shadow length."""
    lo, hi = np.zeros_like(u), np.ones_like(u)
    for position, half, step in ((u, a, du), (v, b, dv)):
        step = step if abs(step) > 1e-6 else 1e-6
        one, two = (position - half) / step, (position + half) / step
        lo, hi = np.maximum(lo, np.minimum(one, two)), np.minimum(hi, np.maximum(one, two))
    return lo < hi


def _draw_houses(canvas: _Canvas) -> None:
    """Houses where villages, roads and high ground are; a few stand in the water."""
    sites, x, y, dice = canvas.scatter(19.0, "house")
    pairs = sites.pairs
    near_road = (pairs.half_m > 0) & (sites.edge_m < 34)
    chance = np.clip(sites.village * 3, 0, 0.9) * np.where(near_road, 1.0, 0.45) + np.where(near_road, 0.04, 0.006)
    chance *= np.where(sites.dry_m > 0.3, 1.0, np.where(sites.dry_m > -1.2, 0.45, 0.08))
    long, short = 4.0 + 3.8 * dice[3] ** 2, 3.2 + 2.0 * dice[4]
    heading = np.arctan2(pairs.along_y, pairs.along_x) + 0.12 * (dice[5] - 0.5)
    for n in np.flatnonzero((dice[2] < chance) & (sites.edge_m > pairs.half_m + short + 2.0)):
        _draw_house(canvas, (float(x[n]), float(y[n])), float(long[n]), float(short[n]), float(heading[n]), dice[:, n])


def _draw_house(
    canvas: _Canvas, centre: tuple[float, float], long: float, short: float, heading: float, dice: np.ndarray
) -> None:
    """A gabled, hipped or flat roof whose facets the sun lights differently, and its cast shadow."""
    (x, y), (sun_x, sun_y), gsd = centre, canvas.look.sun_xy, canvas.look.gsd_m
    tall = float(3.0 + 3.5 * dice[6])
    spot = canvas.patch((x, x + sun_x * tall), (y, y + sun_y * tall), float(np.hypot(long, short)) + gsd)
    if spot is None:
        return
    where, px, py = spot
    c, s = np.cos(heading), np.sin(heading)
    u, v = (px - x) * c + (py - y) * s, (py - y) * c - (px - x) * s
    du, dv = (sun_x * c + sun_y * s) * tall, (sun_y * c - sun_x * s) * tall
    np.maximum(canvas.shadow[where], _house_shadow(u, v, long, short, du, dv), out=canvas.shadow[where])
    to_gable, to_eave = long - np.abs(u), short - np.abs(v)
    inside = np.minimum(to_gable, to_eave)
    alpha = _cover(inside, gsd)
    is_flat, is_hipped = dice[7] > 0.82, dice[7] < 0.35
    slope = np.where(is_hipped & (to_gable < to_eave), -np.sign(u) * du, -np.sign(v) * dv)
    light = 1 + 0.03 * np.sin(u * (2 * np.pi / 1.1)) + 0.025 * canvas.fine[where] + 0.04 * canvas.grain[where]
    if is_flat:
        light += 0.12 * (inside < 0.5)
    else:
        light += 0.2 * slope / (np.hypot(sun_x, sun_y) * tall) + 0.12 * (np.abs(v) < 0.25)
    colour = _ROOFS[int(dice[2] * 7919 % 1 * len(_ROOFS))] * (0.8 + 0.3 * dice[6])
    roof = canvas.roof_rgb[(slice(None), *where)]
    roof += alpha * (colour[:, None, None] * light - roof)
    np.maximum(canvas.roof[where], alpha, out=canvas.roof[where])


def _draw_trees(canvas: _Canvas) -> None:
    """Crowns as heights (to be lit by their slope) and their shadows: woods, hedges along borders, gardens, strays."""
    look = canvas.look
    sites, x, y, dice = canvas.scatter(5.5, "tree")
    hedge = (sites.pairs.hedge < 0.4) & (np.abs(sites.edge_m - sites.pairs.half_m - 3.5) < 2.5)
    wood = np.clip(sites.wood * 2.5, 0, 0.9)
    chance = wood + 0.6 * hedge + np.where(sites.village > 0.1, 0.1, 0.006)
    radius = (1.3 + 2.9 * dice[3] ** 1.5) * np.where(hedge, 0.75, 1 + 0.35 * wood)
    tall = radius * (1.6 + 0.8 * dice[4])
    rough = 0.22 * canvas.noise(1.3, "crown")
    for n in np.flatnonzero((dice[2] < chance) & (sites.edge_m > sites.pairs.half_m + 1.0)):
        for base in (0.0, 0.75 * float(tall[n])):
            cx, cy, reach = float(x[n]) + look.sun_xy[0] * base, float(y[n]) + look.sun_xy[1] * base, float(radius[n])
            spot = canvas.patch((cx,), (cy,), 1.3 * reach)
            if spot is None:
                continue
            where, px, py = spot
            square = ((px - cx) ** 2 + (py - cy) ** 2) * (1 / reach**2) + rough[where]
            if base:
                np.maximum(canvas.shadow[where], np.clip(2.5 - 2.5 * square, 0, 1), out=canvas.shadow[where])
                continue
            top = np.where(square < 1, tall[n] * (1 - 0.55 * square), 0)
            higher = top > canvas.canopy[where]
            np.copyto(canvas.canopy[where], top, where=higher, casting="same_kind")
            np.copyto(canvas.hue[where], dice[5, n], where=higher)


def _paint_water(canvas: _Canvas) -> np.ndarray:
    """Wet soil at the edge, then water, lighter where shallow; returns where the ground is under water."""
    look = canvas.look
    wet = np.exp(-np.maximum(canvas.dry_m, 0) / 0.18) * 0.32
    depth = np.maximum(-canvas.dry_m, 0)
    alpha = np.where(canvas.dry_m < 0, 1 - 0.65 * np.exp(-depth / look.clarity_m), 0).astype(np.float32)
    mix = np.clip(0.5 + 0.45 * canvas.smooth(120.0, "turbidity", 4), 0, 1)
    waves = canvas.noise(0.6, "waves", 2.0)
    sheen = np.clip(canvas.smooth(110.0, "glint", 3) * 0.7 - 0.8 + look.glint, 0, 1)
    sparkle = sheen * (14 + np.clip(14 * waves + 3 * canvas.grain, -4, 60)) + 1.2 * waves
    shallow = 12 * np.exp(-depth / 0.5)
    for channel in range(3):
        plane = canvas.rgb[channel] * (1 - wet)
        deep, thin = look.water[1, channel], look.water[0, channel]
        water = deep + (thin - deep) * mix + shallow + sparkle
        canvas.rgb[channel] = plane + alpha * (water - plane)
    return canvas.dry_m < 0


def _paint_objects(canvas: _Canvas, flooded: np.ndarray) -> None:
    """Shadows on ground and, fainter, on water; then roofs; then crowns lit by the slope of the canopy."""
    look = canvas.look
    shade = canvas.shadow * np.where(flooded, np.float32(0.5), np.float32(1.0))
    height = canvas.canopy + (canvas.canopy > 0) * (0.35 * canvas.fine)
    slope_y, slope_x = np.zeros((2, _SIDE, _SIDE), np.float32)
    slope_y[1:-1] = height[2:] - height[:-2]
    slope_x[:, 1:-1] = height[:, 2:] - height[:, :-2]
    length = np.hypot(*look.sun_xy)
    slope = (slope_x * look.sun_xy[0] + slope_y * look.sun_xy[1]) / (2 * look.gsd_m * length)
    light = 0.95 + 0.33 * np.clip(-slope, -1.6, 1.6) + 0.04 * canvas.grain
    crown = canvas.canopy > 0
    for channel in range(3):
        plane = canvas.rgb[channel]
        plane *= 1 - shade * (0.58, 0.53, 0.44)[channel]
        plane += canvas.roof * (canvas.roof_rgb[channel] - plane)
        leaf = (look.leaf[channel] + (30, 16, 8)[channel] * (canvas.hue - 0.4)) * light
        np.copyto(plane, leaf, where=crown)


def _expose(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """Haze, contrast, white balance, blur and noise: uint8 (3, side, side), never 0."""
    look = canvas.look
    shot = rng.standard_normal((_SIDE, _SIDE), np.float32) * look.noise
    grey = canvas.rgb.mean(0) * (1 - look.saturation)
    out = np.empty((3, _SIDE, _SIDE), np.uint8)
    for channel in range(3):
        plane = canvas.rgb[channel] * look.saturation + grey
        for a in (plane, plane.T):
            a[1:-1] = a[1:-1] * (1 - 2 * look.blur) + look.blur * (a[:-2] + a[2:])
        plane = (plane - 110) * look.contrast + 110
        plane = (plane * (1 - look.haze) + (168, 176, 186)[channel] * look.haze) * look.balance[channel]
        plane += shot + rng.standard_normal((_SIDE, _SIDE), np.float32) * (0.5 * look.noise)
        out[channel] = np.clip(plane, 1, 255)
    return out


def _valid(scene: SyntheticScene, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """True inside the picture: four edges, slightly rotated, stepped as flight strips end and a little ragged."""
    if not scene.collar:
        return np.ones((len(rows), len(cols)), bool)
    rng = np.random.default_rng([scene.seed, 3])
    depth, angle = rng.uniform(0.012, 0.03, 4), np.tan(rng.uniform(-0.02, 0.02))
    side = min(scene.width, scene.height)
    edges = []
    for edge, (at, extent) in enumerate(((rows, scene.height),) * 2 + ((cols, scene.width),) * 2):
        share, line = at / extent, np.full(len(at), edge)
        step = 0.008 * (_uniform(np.floor(share * 7.3), line, scene.seed) - 0.5)
        ragged = 0.0015 * _fractal(share * 9, line * 9.7, 1.0, 4, 0.45, scene.seed)
        lean = (share - 0.5) * (extent / side) * angle * (1, -1, -1, 1)[edge]
        edges.append(np.maximum(side * (depth[edge] + abs(angle) / 2 + lean + step + ragged), 1.0))
    left, right, top, bottom = edges
    inside_x = (cols >= left[:, None]) & (cols < scene.width - right[:, None])
    return inside_x & (rows[:, None] >= top) & (rows[:, None] < scene.height - bottom)


@lru_cache(maxsize=8)
def _block(scene: SyntheticScene, row: int, col: int) -> np.ndarray:
    """Draw one block: uint8 (4, _BLOCK, _BLOCK), RGB and mask."""
    canvas = _Canvas(_look(scene), row, col)
    _paint_ground(canvas)
    _paint_roads(canvas)
    flooded = _paint_water(canvas)
    _draw_houses(canvas)
    _draw_trees(canvas)
    _paint_objects(canvas, flooded)
    flood = flooded & (canvas.roof < 0.5) & (canvas.canopy <= 0)
    rgb = _expose(canvas, np.random.default_rng([scene.seed, 4, row, col]))
    core = np.s_[_PAD : _PAD + _BLOCK]
    block = np.concatenate([rgb[:, core, core], flood[None, core, core].astype(np.uint8)])
    valid = _valid(scene, row * _BLOCK + np.arange(_BLOCK), col * _BLOCK + np.arange(_BLOCK))
    block[:3, ~valid] = 0
    block[3, ~valid] = 255
    block.setflags(write=False)
    return block
