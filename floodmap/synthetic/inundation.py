"""Floods painted on pictures of dry ground seen from above. Roofs, trees and cars stay dry.

Water stands where a smooth random terrain lies below a water level. The ground is visible through shallow water. Ground
beside the water is wet and dark. Shadows stay visible, and objects that stand out of the water are not painted over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Texture = Callable[..., Floats]

IGNORED = 255
"""Mask value of pixels that cannot be labelled as flooded or dry."""
_FAINT, _PLAIN = 0.12, 0.4
"""Two limits of the opacity of the painted water, 0 to 1, for the labels of pixels.

A pixel is dry below the first limit, flooded from the second limit upwards, and `IGNORED` between the two limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Water:
    """Appearance of the water of one flood. Lengths are in metres on the ground."""

    colours: NDArray[np.float64]
    """(2, 3): two RGB colours of the water, 0 to 1, which are mixed in smooth patches."""
    clarity_m: float
    """Depth of water in metres at which 1/e (about a third) of the light from the ground passes through the water."""
    ripple: float
    """Amplitude of ripples, as a share of the brightness of the water."""
    ripple_m: float
    """Wavelength of ripples, in metres."""
    sky: NDArray[np.float64]
    """(3,): RGB colour, 0 to 1, of the sky that the water reflects."""
    mirrored: float
    """Largest share of the reflected sky in the water's colour, 0 to 1; 0: no reflection."""
    glint: float
    """Share of pixels that glint in the sun, 0 to 1; 0: no pixel. Glint occurs in patches of the water. The share is
    that of the pixels in a patch, not of all pixels of the water."""
    shadow: float
    """Darkness of shadows on the water: 0 for no shadows, 1 for black."""
    wet: float
    """Brightness of wet ground beside the water, divided by the brightness of dry ground, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Picture of dry ground, seen straight down (nadir), with masks of objects and of low ground."""

    rgb: NDArray[np.uint8]
    """uint8 (3, height, width): red, green and blue."""
    stands: Bools
    """bool (height, width): True at roofs, trees, cars and other objects that water does not cover."""
    unknown: Bools
    """bool (height, width): True at unlabelled pixels. Unlabelled pixels may be painted over, and are not scored."""
    low: Bools
    """bool (height, width): True at low ground, such as roads, which is flooded first."""
    gsd_m: float
    """Ground sample distance, in metres."""


def draw_water(rng: np.random.Generator) -> Water:
    """Choose the appearance of a flood's water at random.

    The water is brown, olive, grey, black, blue-green or any other colour, with or without reflected sky and sun glint.
    """
    kinds = ["mud", "tea", "olive", "grey", "black", "lake", "any"]
    kind = rng.choice(kinds, p=[0.28, 0.16, 0.12, 0.12, 0.1, 0.12, 0.1])
    low, high = {
        "mud": ((0.42, 0.33, 0.24), (0.76, 0.63, 0.47)), "tea": ((0.12, 0.09, 0.07), (0.34, 0.25, 0.17)),
        "olive": ((0.15, 0.17, 0.09), (0.42, 0.44, 0.28)), "grey": ((0.25, 0.26, 0.25), (0.62, 0.63, 0.62)),
        "black": ((0.04, 0.05, 0.05), (0.16, 0.17, 0.17)), "lake": ((0.03, 0.09, 0.10), (0.22, 0.34, 0.36)),
        "any": ((0.08, 0.08, 0.08), (0.6, 0.6, 0.6)),
    }[str(kind)]  # fmt: skip
    first = np.array(low) + rng.random() * (np.array(high) - np.array(low))
    first = first * np.exp(rng.normal(0, 0.16 if kind == "any" else 0.05, 3))
    second = first * np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.05, 3))
    return Water(
        colours=np.clip([first, second], 0.01, 0.95), clarity_m=float(np.exp(rng.uniform(-3.4, -0.8))),
        ripple=float(rng.uniform(0, 0.28) ** 2), ripple_m=float(np.exp(rng.uniform(-1.2, 1.4))),
        sky=rng.uniform(0.45, 0.9) * np.exp(np.array([-0.12, -0.03, 0.08]) * rng.uniform(0, 1.3)),
        mirrored=float(rng.uniform(0.1, 0.75)) if rng.random() < 0.45 else 0.0,
        glint=float(rng.uniform(0.02, 0.3)) if rng.random() < 0.15 else 0.0,
        shadow=float(rng.uniform(0.1, 0.65)), wet=float(rng.uniform(0.55, 0.9)),
    )  # fmt: skip


def noise(shape_hw: tuple[int, int], cell: float, rng: np.random.Generator, *, across: float = 1.0) -> Floats:
    """Compute smooth noise: random values on a coarse grid, with bicubic interpolation between the grid points.

    Args:
        shape_hw: height and width of the result, in pixels.
        cell: spacing of the grid from row to row, in pixels.
        rng: random generator.
        across: spacing of the grid from column to column, as a multiple of `cell`.

    Returns:
        float32 (height, width), with a standard deviation of 1. The mean is random; it is near 0 if the grid has many
        points.
    """
    height, width = (max(2, round(side / each) + 2) for side, each in zip(shape_hw, (cell, cell * across), strict=True))
    cells = rng.standard_normal((height, width)).astype(np.float32)
    large = Image.fromarray(cells).resize((shape_hw[1], shape_hw[0]), Image.Resampling.BICUBIC)
    result = np.asarray(large, np.float32)
    return result / max(float(result.std()), 1e-6)


def flood(
    ground: Ground, water: Water, rng: np.random.Generator, share: float, texture: Texture = noise
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint a flood on a share of the open ground of a picture.

    Open ground is labelled ground without objects that stand out of the water.

    Args:
        ground: the picture and its masks.
        water: appearance of the water.
        rng: random generator of the terrain and the waves.
        share: flooded share of the open ground, 0 to 1.
        texture: function with the signature of `noise`, for the noise of the terrain and of the water.

    Returns:
        The painted picture, uint8 (3, height, width), and its mask, uint8 (height, width): 1 flood, 0 dry, 255 not
        scored.
    """
    shape, gsd = ground.stands.shape, ground.gsd_m
    rgb: Floats = ground.rgb.astype(np.float32) / np.float32(255)
    open_ground = ~(ground.stands | ground.unknown)
    hides = ground.stands | ground.unknown if rng.random() < 0.5 else ground.stands
    depth_m = _depths(ground, open_ground, share, rng, texture)
    opaque = 1 - np.exp(-np.maximum(depth_m, 0) / water.clarity_m)
    light = _light(rgb, open_ground)
    shade = 1 - water.shadow * _shadows(rgb, ground.stands, gsd)
    surface = _surface(water, shape, gsd, rng, texture) * light * shade
    dark = 1 - (1 - water.wet) * np.clip(1 + depth_m / rng.uniform(0.05, 0.4), 0, 1) ** 0.5
    flooded = surface * opaque + rgb * dark * (1 - opaque)
    cover = ndimage.gaussian_filter(hides.astype(np.float32), 0.6)
    painted = flooded + (rgb - flooded) * np.clip(cover * 1.4, 0, 1)
    painted += rng.normal(0, rng.uniform(0.0, 0.012), shape).astype(np.float32) * (opaque > _FAINT)
    mask = np.where(opaque >= _PLAIN, 1, np.where(opaque >= _FAINT, IGNORED, 0)).astype(np.uint8)
    mask[ground.stands] = 0
    rim = ndimage.binary_dilation(ground.stands) & ~ndimage.binary_erosion(ground.stands) & (opaque >= _FAINT)
    mask[rim | ground.unknown] = IGNORED
    return (np.clip(painted, 0, 1) * 255).round().astype(np.uint8), mask


def standing_out(rgb: NDArray[np.uint8], gsd_m: float) -> Bools:
    """Find cars and other small objects that differ from the surroundings in brightness or colour.

    Args:
        rgb: uint8 (3, height, width).
        gsd_m: ground sample distance, in metres.

    Returns:
        bool (height, width): True at objects.
    """
    picture = rgb.astype(np.float32) / 255
    around = np.stack([ndimage.uniform_filter(plane, max(3, round(5 / gsd_m))) for plane in picture])
    apart = picture - around
    distinct = (apart.mean(axis=0) > 0.16) | (np.ptp(apart, axis=0) > 0.16)
    few = ndimage.binary_opening(distinct, iterations=max(1, round(0.3 / gsd_m)))
    return np.asarray(ndimage.binary_dilation(few, iterations=max(1, round(0.3 / gsd_m))))


def leafy(rgb: NDArray[np.uint8], gsd_m: float) -> Bools:
    """Find trees and bushes by green colour and rough texture. Crop rows are also found.

    Args:
        rgb: uint8 (3, height, width).
        gsd_m: ground sample distance, in metres.

    Returns:
        bool (height, width): True at trees, bushes and crop rows.
    """
    picture = rgb.astype(np.float32) / 255
    green = picture[1] - np.maximum(picture[0], picture[2]) * 0.98
    grey = picture.mean(axis=0)
    side = max(3, round(1.5 / gsd_m))
    mean = ndimage.uniform_filter(grey, side)
    uneven = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, side) - mean**2, 0)) / (mean + 0.05)
    crowns = (ndimage.uniform_filter(green, side) > 0.01) & ((uneven > 0.16) | (mean < 0.25))
    rounds = max(1, round(0.4 / gsd_m))
    return np.asarray(ndimage.binary_closing(ndimage.binary_opening(crowns, iterations=rounds), iterations=rounds))


def _depths(ground: Ground, open_ground: Bools, share: float, rng: np.random.Generator, texture: Texture) -> Floats:
    """Return the depth of the water on a random terrain: float32 (height, width), in metres.

    The depth is negative at ground above the water level. The water level is chosen so that a share of the open ground
    is flooded. `share` is this share, 0 to 1. `open_ground` is bool (height, width), True at open ground.
    """
    shape, gsd = ground.stands.shape, ground.gsd_m
    broad = float(np.clip(np.exp(rng.uniform(3.2, 5.3)) / gsd, 0.2 * min(shape), 1.5 * max(shape)))
    height = texture(shape, broad, rng) + rng.uniform(0.05, 0.4) * texture(shape, broad / 5, rng)
    height += rng.uniform(0.0, 0.12) * texture(shape, max(4.0, broad / 20), rng)
    height += rng.uniform(0.0, 0.05) * texture(shape, max(3.0, broad / 60), rng)
    bright = ndimage.gaussian_filter(ground.rgb.mean(axis=0, dtype=np.float32), max(1.5, 1.5 / gsd))
    # Bright ground (paving) lies a little above dark ground (lawns), or below it, at random.
    height += rng.normal(0, 0.3) * (bright - bright.mean()) / max(float(bright.std()), 1.0)
    height -= rng.uniform(0.0, 1.2) * ndimage.gaussian_filter(ground.low.astype(np.float32), 1.0 / gsd)
    height *= np.float32(np.exp(rng.uniform(-1.2, 0.6)))
    level = float(np.quantile(height[open_ground], share)) if open_ground.any() else float(height.min()) - 1
    return np.asarray(level - height, np.float32)


def _light(rgb: Floats, open_ground: Bools) -> Floats:
    """Estimate the daylight from the brightness of the open ground.

    Return the factor by which the colours of the water are multiplied: near 1, equal for all bands, float32 (3, 1, 1).
    """
    median = np.median(rgb[:, open_ground], axis=1) if open_ground.any() else np.full(3, 0.45)
    day = float(np.clip(median.mean() / 0.45, 0.5, 1.4)) ** 0.6
    return np.asarray(day * np.ones((3, 1, 1)), np.float32)


def _shadows(rgb: Floats, stands: Bools, gsd: float) -> Floats:
    """Estimate the strength of the shadows in a picture: 0 (no shadow) to 1, float32 (height, width).

    A pixel counts as shadow if it is much darker than the ground around it.
    """
    grey = rgb.mean(axis=0)
    known = (~stands).astype(np.float32)
    side = max(5, round(14 / gsd))
    around = ndimage.uniform_filter(grey * known, side) / np.maximum(ndimage.uniform_filter(known, side), 0.05)
    dark = np.clip((0.62 - ndimage.gaussian_filter(grey, 0.3 / gsd) / np.maximum(around, 0.02)) / 0.3, 0, 1)
    return np.asarray(ndimage.gaussian_filter(dark, 0.3 / gsd), np.float32)


def _surface(water: Water, shape: tuple[int, int], gsd: float, rng: np.random.Generator, texture: Texture) -> Floats:
    """Compute the colours of a water surface: RGB, float32 (3, height, width), on a scale of 0 to 1.

    The appearance is that of `water`. The places of colours, reflected sky, ripples and sun glint are random. Sun glint
    may be brighter than 1.
    """
    mixture = 1 / (1 + np.exp(-2 * texture(shape, max(8.0, rng.uniform(8, 60) / gsd), rng)))
    first, second = water.colours.astype(np.float32)[:, :, None, None]
    surface = first + (second - first) * mixture
    if water.mirrored:
        seen = water.mirrored / (1 + np.exp(-3 * texture(shape, max(16.0, rng.uniform(15, 120) / gsd), rng)))
        surface = surface + (water.sky.astype(np.float32)[:, None, None] - surface) * seen
    fine = water.ripple * min(1.0, water.ripple_m / (2 * gsd))
    surface = surface * (1 + fine * texture(shape, max(1.5, water.ripple_m / gsd), rng, across=rng.uniform(1, 5)))
    if water.glint:
        where = texture(shape, max(16.0, rng.uniform(10, 40) / gsd), rng) > 1.2
        sparks = ndimage.gaussian_filter((rng.random(shape) < water.glint) * where.astype(np.float32), 0.7)
        surface = surface + sparks * 1.6
    return np.asarray(surface, np.float32)


def coarser(
    rgb: NDArray[np.uint8], mask: NDArray[np.uint8], factor: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Downsample a picture and its mask: each square block of pixels becomes one pixel.

    The colour of the new pixel is the mean colour of the block. The label of the new pixel is flood if more than 60 %
    of all pixels of the block are flood, dry if more than 60 % are dry, and otherwise 255. All pixels of the block
    count, also those that are not scored.

    Args:
        rgb: uint8 (3, height, width).
        mask: uint8 (height, width): 1 flood, 0 dry, 255 not scored.
        factor: side of a block, in pixels. Incomplete blocks at the right and lower edge are left out.

    Returns:
        Picture, uint8 (3, rows of blocks, columns of blocks), and mask, uint8 (rows of blocks, columns of blocks).
    """
    height, width = (side // factor * factor for side in mask.shape)
    blocks = (height // factor, factor, width // factor, factor)
    small = rgb[:, :height, :width].reshape(3, *blocks).mean(axis=(2, 4)).round().astype(np.uint8)
    wet, dry = ((mask[:height, :width] == code).reshape(blocks).mean(axis=(1, 3)) for code in (1, 0))
    return small, np.where(wet > 0.6, 1, np.where(dry > 0.6, 0, IGNORED)).astype(np.uint8)


def patchwork(
    tiles: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], per_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Join `per_side` x `per_side` pictures of one size into one picture, and the masks into one mask.

    Args:
        tiles: the pictures, not tiles of windows. Each picture is a pair: RGB values, uint8 (3, height, width), and
            mask, uint8 (height, width). The order is that of the joined picture: row by row from the top, each row from
            the left.
        per_side: number of pictures along each side of the joined picture.

    Returns:
        The joined picture and mask. Both have `per_side` times the height and the width of one picture.
    """
    rows = [tiles[first : first + per_side] for first in range(0, per_side**2, per_side)]
    rgb = np.concatenate([np.concatenate([tile[0] for tile in row], axis=2) for row in rows], axis=1)
    mask = np.concatenate([np.concatenate([tile[1] for tile in row], axis=1) for row in rows], axis=0)
    return rgb, mask
