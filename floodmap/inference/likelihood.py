"""Unsupervised flood likelihood of each pixel, from colour, texture and, if the scene has near infrared, NDWI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import PromptError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SIDE = 256
"""Longer side in pixels to which larger images are shrunk before the analysis. Smaller images are not resampled."""
_COLOUR_BINS = 10
_TEXTURE_BINS = 3
"""Numbers of histogram bins: 10 for each of L*, a* and b*, and 3 for texture (`_Features.fine`)."""
_RANGES = ((0.0, 100.0), (-24.0, 24.0), (-24.0, 40.0), (-0.7, 2.7))
"""Ranges (lowest, highest) that the bins of L*, a*, b* and texture span. Values outside a range are counted in the
first or last bin."""
_ITERATIONS = 5
_SEED_WEIGHT = 0.1
"""Weight of the first guess in the log odds of every iteration."""
_COLOUR_WEIGHT = 1.6
"""Weight of the log of the ratio between the histograms of flood and of dry ground."""
_PRIOR_WEIGHT = 0.25
"""Weight, 0 to 1, of the log of the prior odds of flood.
The prior odds are the ratio of flood to dry ground in the previous iteration. With weight 0, the prior odds have no
effect: flood and dry ground are equally likely a priori. With weight 1, the iterations diverge: all ground becomes
flood, or all ground becomes dry."""
_NDWI_WEIGHT = 10.0
"""Weight of NDWI in the log odds: an NDWI of 0.1 adds 1 to the log odds. McFeeters classifies pixels with an NDWI above
0 as water."""


def likelihood(
    rgb: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    *,
    nir: NDArray[np.uint8] | None = None,
    gsd_m: float | None = None,
) -> NDArray[np.float32]:
    """Estimate the flood likelihood of every pixel, without training and without a reference.

    The first guess is high for smooth pixels that are brighter than the median of the image, and whose green value is
    not above the red value. Muddy and grey water has such colours; vegetation does not. The guess is then refined in
    iterations. Simantiris and Panagiotakis (Remote Sensing 16:2126, 2024) refine in a similar way: they estimate the
    dominant colour of the flood in the image. Each iteration computes two histograms over CIE L*a*b* and texture, of
    flood and of dry ground, as in GrabCut (Rother et al., ACM TOG 23:309, 2004). The weight of a pixel in the histogram
    of flood is its likelihood after the previous iteration; in the first iteration, it is the first guess. In the
    histogram of dry ground, the weight is 1 minus this likelihood. The log of the ratio of the two histograms is
    smoothed by a guided filter, which preserves edges (He et al., IEEE TPAMI 35:1397, 2013). The log odds of the new
    likelihood are the weighted sum of the smoothed log ratio and of the first guess. With near infrared, log odds from
    NDWI (McFeeters, IJRS 17:1425, 1996) are added to the first guess, and to the sum of every iteration. Sky counts as
    dry.

    The result ranks the pixels of one image; it does not show whether the image has any flood.

    Args:
        rgb: uint8 (3, h, w), of any size. If the longer side is above 256 pixels, the image is shrunk to 256 pixels.
        valid: bool (h, w), True for observed pixels.
        nir: near infrared, uint8 (h, w), stretched like the green band; None if the scene has no such band.
        gsd_m: ground sample distance in metres; None if it is not known. It only decides whether sky is searched for:
            with None, the image may be an oblique photograph, and sky is searched for; with any number, the image is
            seen from above and has no sky.

    Returns:
        Flood likelihood, float32 (h, w), 0 to 1; 0 for pixels that are not valid. Pixels of 0.5 and above are the flood
        mask.

    Raises:
        PromptError: the shapes do not agree.
    """
    _check(rgb, valid, nir)
    if not valid.any():
        return np.zeros(valid.shape, np.float32)
    bands = rgb if nir is None else np.concatenate([rgb, nir[None]])
    small, observed = _shrink(bands, valid)
    features = _describe(small[:3], observed, sky=gsd_m is None)
    water = np.zeros(observed.shape) if nir is None else _ndwi_evidence(small)
    probability = _refine(_first_guess(features) + water, features, water)
    return np.where(valid, np.clip(_enlarge(probability, valid.shape), 0.0, 1.0), 0.0).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Features:
    """Features of each pixel of the shrunken image; float64 (h, w) unless noted otherwise."""

    lab: Floats
    """CIE L*a*b*, float64 (3, h, w), for the white point D65."""
    lightness: Floats
    """L*, smoothed by a Gaussian filter."""
    redness: Floats
    """(R - G) / (R + G), smoothed by a Gaussian filter; negative on vegetation."""
    fine: Floats
    """Log of the local standard deviation of L* over about 3 pixels."""
    coarse: Floats
    """Log of the local standard deviation of L* over about 12 pixels."""
    ground: Bools
    """Bool (h, w), True for pixels that are observed and not sky."""

    def centred(self, feature: Floats) -> Floats:
        """Return a feature (h, w) minus the median of this feature over the pixels of `ground`."""
        return feature - (np.median(feature[self.ground]) if self.ground.any() else 0.0)


def _check(rgb: NDArray[np.uint8], valid: NDArray[np.bool_], nir: NDArray[np.uint8] | None) -> None:
    if rgb.ndim != 3 or rgb.shape[0] != 3 or 0 in rgb.shape:
        raise PromptError(f"rgb of shape {rgb.shape} must be (3, height, width)")
    if valid.shape != rgb.shape[1:]:
        raise PromptError(f"valid of shape {valid.shape} must have the rgb's (height, width) {rgb.shape[1:]}")
    if nir is not None and nir.shape != valid.shape:
        raise PromptError(f"nir of shape {nir.shape} must have the rgb's (height, width) {valid.shape}")


def _shrink(bands: NDArray[np.uint8], valid: NDArray[np.bool_]) -> tuple[Floats, Bools]:
    """Shrink bands to a longer side of at most 256 pixels. Each output pixel is the mean of the valid input pixels.

    An output pixel without valid input pixels has the value of the nearest output pixel with valid input pixels.

    Returns:
        Two arrays: the means, float64 (bands, h, w), and bool (h, w), True for output pixels with valid input pixels.
    """
    scale = min(1.0, _SIDE / max(valid.shape))
    rows, cols = (np.linspace(0, side, max(1, round(side * scale)), endpoint=False).astype(int) for side in valid.shape)

    def total(image: Floats) -> Floats:
        return np.asarray(np.add.reduceat(np.add.reduceat(image, rows, axis=-2), cols, axis=-1))

    count = total(valid.astype(np.float64))
    mean = total(bands.astype(np.float64) * valid) / np.maximum(count, 1.0)
    row, col = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    return mean[:, row, col], count > 0


def _enlarge(image: Floats, shape_hw: tuple[int, ...]) -> Floats:
    """Enlarge an image to (height, width) by bilinear interpolation. Both images cover the same rectangle of ground."""
    for axis, side in enumerate(shape_hw):
        cells = image.shape[axis]
        at = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        low = np.minimum(at.astype(int), max(cells - 2, 0))
        high = np.minimum(low + 1, cells - 1)
        part = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image


def _describe(rgb: Floats, observed: Bools, *, sky: bool) -> _Features:
    lab = _to_lab(rgb)
    red, green, _ = rgb
    deviation = _deviation(lab[0], 1.0)
    ground = observed & ~_sky(rgb, lab, deviation) if sky else observed
    return _Features(
        lab=lab,
        lightness=_smooth(lab[0]),
        # 20 in the denominator suppresses the colour noise of black shadows.
        redness=_smooth((red - green) / (red + green + 20.0)),
        fine=np.log(_smooth(deviation) + 0.5),
        coarse=np.log(_deviation(lab[0], 4.0) + 0.5),
        ground=ground,
    )


def _first_guess(features: _Features) -> Floats:
    """Return the first guess from general rules on smoothness, colour and lightness: log odds of flood, (h, w)."""
    smoothness = -1.2 * features.centred(features.fine) - 0.6 * features.centred(features.coarse)
    colour = 16.0 * (features.redness - 0.01)
    # Water under a clouded sky is brighter than vegetation and shadow, and darker than white roofs and clouds.
    light = 0.03 * features.centred(features.lightness) - 0.2 * np.maximum(features.lightness - 85.0, 0.0)
    return smoothness + colour + light


def _ndwi_evidence(bands: Floats) -> Floats:
    """Return the log odds of flood, (h, w), from NDWI. `bands` are red, green, blue and near infrared, (4, h, w).

    NDWI = (green - NIR) / (green + NIR) is smoothed, clipped to -0.5 to 0.5, and multiplied by `_NDWI_WEIGHT`.
    """
    green, nir = bands[1], bands[3]
    return _NDWI_WEIGHT * np.clip(_smooth((green - nir) / (green + nir + 1.0)), -0.5, 0.5)


def _refine(guess: Floats, features: _Features, water: Floats) -> Floats:
    """Compute the flood probability of each pixel, by iterative estimates of the colours of flood in the image.

    Args:
        guess: log odds of flood of the first guess, with `water` already added, (h, w).
        features: features of the same pixels.
        water: log odds of flood from NDWI, (h, w); zeros without near infrared.

    Returns:
        Flood probabilities (h, w), 0 to 1; 0 for unobserved pixels and sky.
    """
    ground, smooth = features.ground, _edge_aware(features.lightness)
    shape = (_COLOUR_BINS,) * 3 + (_TEXTURE_BINS,)
    index = _bin(features, shape)

    def histogram(weights: Floats) -> Floats:
        counts = np.bincount(index[ground], weights[ground], minlength=int(np.prod(shape))).reshape(shape)
        return np.asarray(ndimage.gaussian_filter(counts, (1.5, 1.5, 1.5, 1.0)))

    everything = histogram(np.ones(guess.shape))
    odds = guess
    for _ in range(_ITERATIONS if ground.any() else 0):
        flood = histogram(_sigmoid(odds))
        dry = np.maximum(everything - flood, 0.0)
        share = np.clip(flood.sum() / everything.sum(), 1e-3, 1 - 1e-3)
        floor = 1e-6 * everything.sum()
        ratio = np.log((flood + floor * share) / (dry + floor * (1 - share)))
        ratio -= (1 - _PRIOR_WEIGHT) * np.log(share / (1 - share))
        odds = _COLOUR_WEIGHT * smooth(np.clip(ratio, -4.0, 4.0).ravel()[index]) + _SEED_WEIGHT * guess + water
    return np.where(ground, _sigmoid(odds), 0.0)


def _bin(features: _Features, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return for each pixel the index of the histogram bin that holds its L*, a*, b* and texture.

    Args:
        features: features of the pixels.
        shape: numbers of bins for L*, a*, b* and texture.

    Returns:
        Indices into the flattened histogram, int64 (h, w).
    """
    bins = [
        np.clip((value - low) / (high - low) * size, 0, size - 1).astype(np.int64)
        for value, (low, high), size in zip((*features.lab, features.fine), _RANGES, shape, strict=True)
    ]
    return np.asarray(np.ravel_multi_index(bins, shape))


def _sky(rgb: Floats, lab: Floats, deviation: Floats) -> Bools:
    """Return the sky pixels, bool (h, w).

    Candidates are connected areas of bright, smooth, bluish or white pixels that touch the top of the image. If they
    fill the image, there is no sky. Else a candidate is sky if all of these conditions hold:

    - It spans at least 0.3 of the image's width, and covers 0.001 to 0.5 of the image's area.
    - Its mean L* is at least 10 above the median L* of the pixels outside all candidates.
    - Its mean L*a*b* colour is rare outside all candidates. Let n be the number of pixels of the candidate: at most
      0.3 n smooth pixels outside all candidates have a similar colour, at a distance of less than 8 in L*a*b*. The
      reason is that grey water at the top of the image may look like sky, but water is usually found further down, too.

    Args:
        rgb: float64 (3, h, w), 0 to 255.
        lab: the same pixels in CIE L*a*b*, float64 (3, h, w).
        deviation: local standard deviation of L*, float64 (h, w).
    """
    red, green, blue = rgb
    soft = np.stack([_smooth(channel) for channel in lab])
    candidate = (blue >= red - 5) & (blue >= green - 5) & (soft[0] > 62) & (deviation < 3)
    seed = np.zeros_like(candidate)
    seed[:2] = candidate[:2]
    reached = ndimage.binary_propagation(seed, mask=candidate)
    sky: Bools = np.zeros(candidate.shape, np.bool_)
    if not reached.any() or reached.all():
        return sky
    below = ~reached & (deviation < 3)
    ground_lightness = np.median(soft[0][~reached])
    labels, _ = ndimage.label(reached)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels == label
        mean = soft[:, part].mean(axis=1)
        again = (((soft - mean[:, None, None]) ** 2).sum(axis=0) < 8.0**2) & below
        wide = box[1].stop - box[1].start >= 0.3 * sky.shape[1]
        sized = 0.001 * sky.size <= part.sum() <= 0.5 * sky.size
        if wide and sized and mean[0] >= ground_lightness + 10 and again.sum() <= 0.3 * part.sum():
            sky |= part
    return sky


def _to_lab(rgb: Floats) -> Floats:
    """Convert sRGB, 0 to 255, to CIE L*a*b* for the white point D65 (IEC 61966-2-1, CIE 15); both (3, h, w)."""
    srgb = rgb / 255.0
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    white = np.array([[0.95047], [1.0], [1.08883]])
    xyz = np.tensordot(to_xyz / white, linear, axes=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _edge_aware(guide: Floats) -> Callable[[Floats], Floats]:
    """Return a guided filter (He et al., eq. 5 to 8): a function that smooths images, but preserves the guide's edges.

    Images are (h, w); `guide` is smoothed L*, (h, w). An edge is preserved if the standard deviation of the guide is
    far above 7 in a square of 11 x 11 pixels. If it is far below 7, the image is averaged over the square.
    """

    def box(image: Floats) -> Floats:
        return np.asarray(ndimage.uniform_filter(image, 11, mode="nearest"))

    mean = box(guide)
    variance = box(guide * guide) - mean * mean + 50.0

    def smooth(image: Floats) -> Floats:
        average = box(image)
        slope = (box(guide * image) - mean * average) / variance
        return box(slope) * guide + box(average - slope * mean)

    return smooth


def _smooth(image: Floats) -> Floats:
    return np.asarray(ndimage.gaussian_filter(image, 1.0))


def _deviation(image: Floats, sigma: float) -> Floats:
    mean, square = ndimage.gaussian_filter(image, sigma), ndimage.gaussian_filter(image * image, sigma)
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0.0)))


def _sigmoid(odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0)))
