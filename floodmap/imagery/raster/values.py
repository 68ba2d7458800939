"""Meaning of a raster's stored values: palette, nodata, alpha, and values of fewer than 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as GdalWindow

from floodmap.errors import SceneError
from floodmap.geo.gdal import forget_error
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.bands import BandChoice

_PALETTE_ALPHA = 3
_OPAQUE = (1.0, 255.0, 65535.0)
"""Values that programs write for opaque pixels. `opacity_values` adds the largest value of an integer dtype."""


def sample_of(dataset: DatasetReader, bands: tuple[int, ...]) -> NDArray[Any]:
    """Read stored values for statistics: 8 x 8 squares of 128 x 128 pixels, evenly spaced over a raster.

    In a small raster, the squares overlap. A side of 128 pixels that is longer than the raster is cut to the raster.

    Args:
        dataset: the open raster.
        bands: numbers of the bands to read, from 1.

    Returns:
        (bands, pixels), in the dtype of the raster. Squares that cannot be read are left out.
    """
    found = []
    for part in _spread(dataset.height, dataset.width, count=8, side=128):
        try:
            found.append(dataset.read(list(bands), window=part).reshape(len(bands), -1))
        except RasterioError:
            forget_error(dataset)
    return np.concatenate(found, axis=1) if found else np.empty((len(bands), 0), dataset.dtypes[bands[0] - 1])


def smallest_opaque(dataset: DatasetReader, alpha: int | None, *, lossy: bool) -> float:
    """Return the limit of alpha: pixels with an alpha below the limit are transparent, and therefore unobserved.

    Args:
        dataset: the open raster.
        alpha: number of the alpha band, from 1; None: there is no alpha band.
        lossy: whether the raster has lossy compression, which changes alpha beside transparent areas.

    Returns:
        Without lossy compression, the smallest number above 0: 1 for integers, about 1e-38 for floats. With lossy
        compression, half of the alpha of opaque pixels, and at least 1; the alpha of opaque pixels is estimated from
        the pixels that `sample_of` reads. Without an alpha band, 1.
    """
    if alpha is None or alpha > dataset.count:  # the alpha band that GDAL adds to a warped raster
        return 1
    kind = np.dtype(dataset.dtypes[alpha - 1])
    if not lossy:
        return 1 if kind.kind in "iu" else float(np.finfo(np.float32).tiny)
    sample = sample_of(dataset, (alpha,))
    top = float(sample.max(initial=0))
    # Files of 16 bits may hold an alpha of 0 to 255. So opaque is the median of all alpha above half of the maximum.
    opaque = float(np.median(sample[sample > top / 2])) if top > 0 else 255.0
    return max(1.0, opaque / 2)


def scale_of(dataset: DatasetReader, choice: BandChoice, dtype: np.dtype[Any]) -> NDArray[np.uint8] | None:
    """Return a lookup table that scales stored values of fewer than 8 bits to 0 to 255.

    Args:
        dataset: the open raster.
        choice: which bands are red, green, blue, near infrared and alpha. The number of bits is that of the red band,
            or of the only band.
        dtype: dtype of the stored values.

    Returns:
        uint8 (256,), indexed by the stored value; None for a palette and for values of 8 bits or more.
    """
    bits = int(dataset.tags(choice.rgb[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
    if dtype != np.uint8 or choice.palette or bits >= 8:
        return None
    most = 2**bits - 1
    scale: NDArray[np.uint8] = np.rint(np.minimum(np.arange(256), most) * (255 / most)).astype(np.uint8)
    return scale


def alpha_is_infrared(dataset: DatasetReader) -> bool:
    """Return whether the fourth of four bands is called alpha but holds near infrared.

    By default GDAL marks the fourth of four 8-bit bands as alpha, so a file of RGB and near infrared is read as RGBA.
    Near infrared is 0 on deep water. If the band were used as alpha, deep water would be transparent, and therefore
    unobserved.

    Near infrared has many different values, and alpha usually has two. 4 x 4 squares of 64 x 64 pixels are read, evenly
    spaced over the raster. The band is near infrared if both conditions hold:

    - More than half of the pixels read have a value between 6 and 94 % of the largest value read.
    - These pixels have more than 32 different values.

    If the squares cannot be read, the result is False.
    """
    if dataset.count != 4 or dataset.colorinterp[3] != ColorInterp.alpha:
        return False
    try:
        parts = _spread(dataset.height, dataset.width)
        sample = np.concatenate([dataset.read(4, window=part).ravel() for part in parts])
    except RasterioError:
        forget_error(dataset)
        return False
    top = float(sample.max(initial=0))
    between = sample[(sample > 0.06 * top) & (sample < 0.94 * top)]  # without lossy variants of 0 and of opaque
    return bool(between.size > 0.5 * sample.size and len(np.unique(between)) > 32)


def opacity_values(
    dataset: DatasetReader, band: int, *, lossy: bool, nodata: float | Literal["none"] | None = None
) -> tuple[float, ...]:
    """Return the values of a band if it is a mask of opacity: 0 at transparent pixels, one value at all others.

    Some programs write RGBA, but do not mark the fourth band as alpha in the file. If such a band were used as near
    infrared, the near infrared would be bright everywhere, and all water would be predicted as dry.

    8 x 8 squares of 128 x 128 pixels are read, evenly spaced over the raster. The band is a mask of opacity if the
    squares contain 0 and one opaque value, or one opaque value alone. Opaque values are 1, 255, 65535 and the largest
    value of an integer dtype. Near infrared may contain 0 and an opaque value, too (black and saturated pixels), but it
    contains further values.

    Args:
        dataset: the open raster.
        band: number of the band, from 1.
        lossy: whether the raster has lossy compression. If True, and the band is uint8, each square is changed before
            its values are judged. If at least nine tenths of its pixels have values below 16 or above 239, values below
            16 become 0, values above 239 become 255, and all other values are ignored. A square with fewer such pixels
            stays unchanged.
        nodata: nodata value given by the user; the text "none": every value is valid; None: the file's own value. If
            the squares contain this value alone, they show nothing of the band, and it is no mask.

    Returns:
        The values of the mask: (opaque,) or (0, opaque). Empty if the band is no mask of opacity. NaN in a float band
        is ignored, and is not among the values.
    """
    found: set[float] = set()
    for part in _spread(dataset.height, dataset.width, count=8, side=128):
        try:
            square = dataset.read(band, window=part)
        except RasterioError:
            forget_error(dataset)
            continue
        if lossy and square.dtype == np.uint8:
            ends = square[(square < 16) | (square > 239)]
            square = np.where(ends < 16, np.uint8(0), np.uint8(255)) if ends.size >= 0.9 * square.size else square
        found.update(np.unique(square[square == square]).tolist())  # without NaN
        if len(found) > 2:
            return ()
    if found == {dataset.nodatavals[band - 1] if nodata is None else nodata}:
        return ()
    kind = np.dtype(dataset.dtypes[band - 1])
    opaque = {*_OPAQUE, float(np.iinfo(kind).max)} if kind.kind in "iu" else set(_OPAQUE)
    return tuple(sorted(found)) if found - {0.0} and found - {0.0} <= opaque and len(found - {0.0}) == 1 else ()


def opacity_text(name: SourceName, choice: BandChoice, values: Sequence[float]) -> str:
    """Return a message: the values of a band look like opacity, so the band is used as alpha, not as near infrared.

    The message also has the value of the option `--bands` with which the band is near infrared. `name` is the name of
    the raster. `choice.alpha` is the number of the band. `values` is the result of `opacity_values` for the band.
    """
    held = " and ".join(f"{value:.9g}" for value in values)
    rgb = ",".join(map(str, choice.rgb))
    result = "pixels where it is 0 are unobserved" if 0 in values else "near infrared is not used"
    return (
        f"{name}: band {choice.alpha} holds only {held}, so it is taken for a mask (alpha), not for near infrared; "
        f"{result} (--bands {rgb},{choice.alpha}: it is near infrared; --bands {rgb}: it is neither)"
    )


def _spread(height: int, width: int, *, count: int = 4, side: int = 64) -> list[GdalWindow]:
    """Return `count` x `count` squares of `side` x `side` pixels, evenly spaced over a raster, as windows of rasterio.

    The raster has `height` x `width` pixels. A side that is longer than the raster is cut to the raster.
    """
    rows = np.linspace(0, max(height - side, 0), count).astype(int)
    cols = np.linspace(0, max(width - side, 0), count).astype(int)
    return [GdalWindow(col, row, min(side, width), min(side, height)) for row in rows for col in cols]


def palette_of(dataset: DatasetReader, choice: BandChoice) -> NDArray[np.uint8] | None:
    """Return the colour table: uint8 (entries, 4), RGBA, indexed by the stored value; None without a palette."""
    if not choice.palette:
        return None
    entries = dataset.colormap(choice.rgb[0])
    table = np.zeros((max(entries, default=0) + 1, _PALETTE_ALPHA + 1), np.uint8)
    table[list(entries)] = list(entries.values())
    return table


def nodata_of(
    dataset: DatasetReader,
    choice: BandChoice,
    given: float | Literal["none"] | None,
    dtype: np.dtype[Any],
    name: SourceName,
) -> tuple[float | None, ...]:
    """Return the nodata value of each colour band of a raster; None for a band of which every value is valid.

    A band without a nodata value has that of the first colour band, because programs often declare it in one band only.

    GDAL accepts the nodata value -9999 in an 8-bit file, although -9999 would become 241 as uint8. So a nodata value of
    the file is ignored if the dtype cannot hold the value.

    Args:
        dataset: the open raster.
        choice: which bands are red, green, blue, near infrared and alpha. The colour bands are red, green and blue, or
            the only band.
        given: value given by the user; the text "none": every value is valid; None: the file's own value.
        dtype: dtype of the stored values.
        name: name of the raster, for messages.

    Raises:
        SceneError: the value given by the user does not fit the dtype.
    """
    count = len(choice.rgb)
    if given == "none":
        return (None,) * count
    if given is None:
        own = [dataset.nodatavals[band - 1] for band in choice.rgb]
        held = [value if _holds(dtype, value) else None for value in own]
        return tuple(held[0] if value is None else value for value in held)
    if not _holds(dtype, given):
        limits = np.iinfo(dtype)
        held_values = f"{dtype}, {limits.min} to {limits.max}"
        raise SceneError(f"nodata {given:g} cannot occur in {name}, whose values are {held_values}")
    return (given,) * count


def _holds(dtype: np.dtype[Any], value: float | None) -> bool:
    """Return whether a dtype can hold a nodata value; True for None and for a floating-point dtype."""
    if value is None or dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and bool(limits.min <= value <= limits.max)
