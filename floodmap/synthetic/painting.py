"""Painting of a block of a synthetic scene: parcels, roads, houses, trees, water. Colours are floats from 0 to 255."""

from __future__ import annotations

import numpy as np

from floodmap.synthetic.landscape import SIDE, Canvas, look_up, uniform, upsample

# Ground covers: red, green, blue, amplitude of crop rows, of fine texture and of mottling. The two smooth bare soils
# are included because colour alone confuses them with muddy water.
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


def _cut(t: np.ndarray, row: np.ndarray, salt: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide number lines into pieces by one random cut near each integer, and find the piece at each position.

    Args:
        t: positions on the lines, float. One piece is about 1 long.
        row: number of the line on which each position lies, int32, in the shape of `t`. Every line has its own cuts.
        salt: argument of `uniform`; every salt gives other cuts.

    Returns:
        Index of the piece, int32, and distance to the nearest cut in the unit of `t`, both in the shape of `t`.
    """
    nearest = np.rint(t).astype(np.int32)
    cut = nearest + np.float32(0.6) * (uniform(nearest, row, salt) - np.float32(0.5))
    return nearest - (t < cut), np.abs(t - cut)


def _parcels(
    canvas: Canvas,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Divide each macro cell (about 260 m wide, see `landscape`) into rows of parcels, like bricks, at a random angle.

    Returns:
        Five values. Four are arrays (SIDE, SIDE), with one value a pixel: coordinates u along and v across the rows of
        parcels, in metres; index of the parcel; distance to the edge of the parcel, in metres. The fifth is a tuple
        of two integer arrays, (parcels,). They identify each parcel, as arguments `ix` and `iy` of `uniform`.
    """
    look, sites, cells = canvas.look, canvas.sites, canvas.cells
    ix, iy = sites.key[:, cells]
    angle = uniform(ix, iy, look.salt("angle")) * np.pi
    deep, wide = (
        look_up(low + 48 * uniform(ix, iy, look.salt(name)), canvas.first) for name, low in (("deep", 45), ("wide", 24))
    )
    cos, sin = np.cos(angle), np.sin(angle)
    sx, sy = sites.seed_x[cells] - canvas.x0, sites.seed_y[cells] - canvas.y0
    c, s = look_up(cos, canvas.first), look_up(sin, canvas.first)
    u = canvas.x * c + canvas.y * s - look_up(cos * sx + sin * sy, canvas.first)
    v = canvas.y * c - canvas.x * s - look_up(cos * sy - sin * sx, canvas.first)
    owner = (ix * 7919 + iy * 104729).astype(np.int32)
    row, gap_v = _cut(v / deep, owner.take(canvas.first), look.salt("row"))
    col, gap_u = _cut(u / wide, owner.take(canvas.first) + row * 31, look.salt("col"))
    low_row, low_col = row.min(), col.min()
    shape = (len(cells), row.max() - low_row + 1, col.max() - low_col + 1)
    parcel = (canvas.first * shape[1] + (row - low_row)) * shape[2] + (col - low_col)
    grid = np.indices(shape).reshape(3, -1)
    names = owner[grid[0]] + (grid[1] + low_row) * 31, grid[2] + low_col
    return u, v, parcel, np.minimum(gap_v * deep, gap_u * wide), names


def paint_ground(canvas: Canvas) -> None:
    """Paint the parcels of a block: crops and soil, crop rows, tramlines (wheel tracks), yards and car parks.

    Each parcel is also raised or lowered by up to 0.25 m.
    """
    look = canvas.look
    u, v, parcel, margin_m, names = _parcels(canvas)
    dice = np.stack([uniform(names[0], names[1], look.salt(f"parcel {n}")) for n in range(7)])
    cover = np.where(dice[6] < 0.03, _CAR_PARK, np.searchsorted(look.covers, dice[0]).clip(0, _CAR_PARK - 1))
    table = _COVERS[cover]
    # Crop rows with a period below 2.6 pixels would alias (moire).
    pulse = 2 * np.pi / np.maximum(0.9 + 2.2 * dice[2] ** 2, 2.6 * look.gsd_m)
    lengthwise = dice[3] < 0.7
    phase = u * look_up(pulse * lengthwise, parcel) + v * look_up(pulse * ~lengthwise, parcel)
    texture = 1 + look_up(table[:, 3], parcel) * np.sin(phase + 0.8 * canvas.grain)
    texture += look_up(table[:, 4], parcel) * (0.7 * canvas.fine + 0.5 * canvas.grain)
    tram = np.abs(np.mod(np.where(lengthwise.take(parcel), u, v), 18.0) - 9.0)
    texture -= look_up(0.12 * (table[:, 3] > 0.05), parcel) * ((tram > 0.6) & (tram < 1.1))
    texture *= 1 + look_up(table[:, 5], parcel) * canvas.smooth(30.0, "mottle", 3)
    shade = look.tint[:, None] * (0.86 + 0.28 * dice[1]) + 0.06 * (dice[3:6] - 0.5)
    for channel in range(3):
        np.multiply(look_up(table[:, channel] * shade[channel], parcel), texture, out=canvas.rgb[channel])
    canvas.dry_m += look_up(0.5 * dice[4] - 0.25, parcel)
    lot = (cover == _CAR_PARK).take(parcel)
    _paint_yards(canvas, np.clip(1.2 - margin_m + 0.3 * canvas.grain, 0, 0.7), lot)
    _paint_car_park(canvas, np.flatnonzero(lot & (margin_m > 1.5)), u, v)


def _paint_yards(canvas: Canvas, margin: np.ndarray, lot: np.ndarray) -> None:
    """Paint grassy margins of parcels, and trodden grass between the houses of a village.

    `margin` is the share of grass that is mixed into the colour of each pixel at the margins, 0 to 1. `lot` is True at
    car parks, which have no trodden grass. Both are arrays (SIDE, SIDE).
    """
    town = np.where(lot, 0, np.clip(upsample(canvas.sites.village) * 2.5, 0, 0.9))
    trodden = np.clip(0.5 + 0.5 * canvas.smooth(9.0, "yard", 3), 0, 1)
    blade = 1 + 0.08 * canvas.fine
    for channel, (grass, dirt) in enumerate(((100, 150), (108, 134), (72, 110))):
        plane = canvas.rgb[channel]
        plane += margin * (grass * blade - plane)
        plane += town * ((grass + (dirt - grass) * trodden) * blade * canvas.look.tint[channel] - plane)


def _paint_car_park(canvas: Canvas, where: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """Paint parking bays of 2.6 x 5.2 m along aisles, and cars in some bays.

    `where` has the indices of the car parks' pixels in the flattened block. `u` and `v`, (SIDE, SIDE), are coordinates
    of the pixels in metres, along and across the rows of parcels (see `_parcels`). The aisles run along `u`.
    """
    if not len(where):
        return
    u, v = u.ravel()[where], v.ravel()[where]
    bay, rank = np.floor(u / 2.6), np.floor(v / 8.5)
    across, deep = np.abs(u - 2.6 * bay - 1.3), np.abs(v - 8.5 * rank - 2.6)
    dice = [uniform(bay, rank, canvas.look.salt(f"bay {n}")) for n in range(3)]
    line = (across > 1.2) & (deep < 2.5)
    car = (across < 0.9) & (deep < 2.2) & (dice[0] < 0.45)
    glass = np.where((deep > 0.7) & (deep < 1.3), 0.45, 1.0)
    for channel in range(3):
        plane = canvas.rgb[channel].ravel()
        body = (50 + 190 * dice[1] + 50 * (dice[2] - 0.5) * (channel - 1)) * glass
        plane[where] = np.where(car, body, np.where(line, 205, plane[where]))
        canvas.rgb[channel] = plane.reshape(SIDE, SIDE)


def paint_roads(canvas: Canvas) -> None:
    """Paint asphalt roads with markings and cars, and tracks with grass in the middle. Both lie on raised banks."""
    look, pairs, edge_m = canvas.look, canvas.pairs, canvas.edge_m
    canvas.dry_m += look_up(pairs.bank_m, canvas.border) * np.clip(1.8 - edge_m / 4, 0, 1)
    half = look_up(pairs.half_m, canvas.border)
    where = np.flatnonzero((half > 0) & (edge_m < half + 2.5))
    pair, e, half = canvas.border.ravel()[where], edge_m.ravel()[where], half.ravel()[where]
    along = pairs.along_x[pair] * (canvas.x0 + canvas.x.ravel()[where])
    along += pairs.along_y[pair] * (canvas.y0 + canvas.y.ravel()[where])
    fine, grain = canvas.fine.ravel()[where], canvas.grain.ravel()[where]
    asphalt, gsd = pairs.asphalt[pair], look.gsd_m
    line = 0.75 * _cover(0.1 - e, gsd) * (np.mod(along, 9.0) < 4.0) + 0.6 * _cover(0.08 - np.abs(e - half + 0.35), gsd)
    rut = 0.6 * _cover(0.45 - e + 0.12 * grain, gsd)
    slot = np.floor(along / 13.0)
    dice = [uniform(slot, pairs.side[pair], look.salt(f"car {n}")) for n in range(3)]
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
        canvas.rgb[channel] = plane.reshape(SIDE, SIDE)


def _cover(inside_m: np.ndarray, gsd_m: float) -> np.ndarray:
    """Return the share of a pixel that a shape covers, 0 to 1.

    `inside_m` is the signed distance of the pixel's centre to the outline, in metres, positive inside.
    """
    return np.clip(inside_m / gsd_m + 0.5, 0, 1)


def _house_shadow(u: np.ndarray, v: np.ndarray, a: float, b: float, du: float, dv: float) -> np.ndarray:
    """Return whether points on the ground lie in the shadow of a box with half sides `a` and `b`, all in metres.

    (u, v) are the points, relative to the box's centre. (du, dv) is the offset from the box's top to the top's shadow.
    A point is in shadow if the segment from (u, v) to (u - du, v - dv) meets the ground plan: |u| < a and |v| < b.
    """
    lo, hi = np.zeros_like(u), np.ones_like(u)
    for position, half, step in ((u, a, du), (v, b, dv)):
        step = step if abs(step) > 1e-6 else 1e-6
        one, two = (position - half) / step, (position + half) / step
        lo, hi = np.maximum(lo, np.minimum(one, two)), np.minimum(hi, np.maximum(one, two))
    meets: np.ndarray = lo < hi
    return meets


def draw_houses(canvas: Canvas) -> None:
    """Add roofs and shadows of houses to the block, mostly in villages, along roads and on high ground."""
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
    canvas: Canvas, centre: tuple[float, float], long: float, short: float, heading: float, dice: np.ndarray
) -> None:
    """Draw a gabled, hipped or flat roof, shaded by the direction of the sun, and the shadow that the house casts.

    `centre` is (x, y) in metres. `long` and `short` are half the sides of the house in metres. `heading` is the angle
    in radians from the x axis to the long side, positive towards y. `dice` are random numbers from 0 to 1, (8,).
    """
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


def draw_trees(canvas: Canvas) -> None:
    """Draw trees in woods, hedges and gardens, and single trees, into three arrays of the canvas.

    `canvas.shadow` gets the shadows of the trees, from 0 (no shadow) to 1. `canvas.canopy` gets the heights of the
    crowns in metres. `canvas.hue` gets a random number from 0 to 1 for each crown, from which its colour is computed.
    """
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


def paint_water(canvas: Canvas) -> np.ndarray:
    """Paint wet soil, then the water, lighter where it is shallow. Return bool (SIDE, SIDE): True at flooded ground."""
    look = canvas.look
    wet = np.exp(-np.maximum(canvas.dry_m, 0) / 0.18) * 0.32
    depth = np.maximum(-canvas.dry_m, 0)
    alpha = np.where(canvas.dry_m < 0, 1 - 0.55 * np.exp(-depth / look.clarity_m), 0).astype(np.float32)
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


def paint_objects(canvas: Canvas, flooded: np.ndarray) -> None:
    """Paint shadows, then roofs, then tree crowns. Crowns are shaded by the slope of the canopy.

    Args:
        canvas: the block that is painted.
        flooded: bool (SIDE, SIDE), True at flooded ground, on which shadows are fainter.
    """
    look = canvas.look
    shade = canvas.shadow * np.where(flooded, np.float32(0.5), np.float32(1.0))
    height = canvas.canopy + (canvas.canopy > 0) * (0.35 * canvas.fine)
    slope_y, slope_x = np.zeros((2, SIDE, SIDE), np.float32)
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
