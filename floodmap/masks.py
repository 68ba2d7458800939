"""Rasters of flood, read window by window as flooded, dry and unobserved pixels of any frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterWindow

from floodmap.errors import EvaluationError, MissingCRSError
from floodmap.frames import FLOOD, UNOBSERVED, Codes, FloodRule, Frame, Reader
from floodmap.gdal import gdal_env
from floodmap.grid import Window
from floodmap.ground import is_placed

__all__ = ["FLOOD", "UNOBSERVED", "FloodRule", "ImageryError", "RasterMask", "flood_values", "is_imagery"]

_MANY = 16
"""A raster with more distinct values than this is no mask, and its values are not worth counting further."""


class ImageryError(EvaluationError):
    """A raster of several bands stands where a mask is needed."""


class RasterMask:
    """A raster of one band, open for reading on any frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()
        try:
            # QGIS and ArcGIS put the CRS of a PNG into a sidecar, which GDAL reads only with PAM enabled.
            with warnings.catch_warnings(), gdal_env(pam=Path(f"{path}.aux.xml").exists()):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._dataset: DatasetReader = self._open.enter_context(rasterio.open(path))
        except RasterioError as error:
            raise EvaluationError(f"{path} cannot be read as a raster: {_line(error)}") from error
        self._alpha = _alpha_band(self._dataset)
        if np.dtype(self._dataset.dtypes[0]).kind == "c":
            self.close()
            raise EvaluationError(f"{path} holds complex numbers, so it is no mask")
        bands = self._dataset.count - (self._alpha is not None)
        if bands != 1:
            self.close()
            raise ImageryError(f"{path} has {bands} bands: it is imagery, not a mask; give a raster of one band")

    @property
    def frame(self) -> Frame:
        """The raster's own pixels. A CRS without a transform, or of no place on Earth, counts as none."""
        source = self._dataset
        bare = source.transform.is_identity or source.transform == Affine.scale(1, -1)
        transform = Affine.identity() if bare else source.transform
        crs = source.crs if is_placed(source.crs) and not bare else None
        return Frame(crs=crs, transform=transform, height=source.height, width=source.width)

    @property
    def nodata(self) -> float | None:
        """Declared nodata value."""
        return None if self._dataset.nodata is None else float(self._dataset.nodata)

    def values(self) -> set[float]:
        """Distinct values of its valid pixels; not all of them where there are too many for a mask."""
        found: set[float] = set()
        for window in self.frame.blocks(2048):
            band, valid = self._read(self._dataset, self._alpha, window)
            found.update(float(value) for value in np.unique(band[valid])[: _MANY + 1])
            if len(found) > _MANY:
                break
        return found

    def on(self, frame: Frame, rule: FloodRule) -> Reader:
        """Read it on a frame: as it is where the pixels are the same, else warped (nearest neighbour).

        Raises:
            MissingCRSError: one of both has no CRS, and their sizes differ.
            EvaluationError: the rule does not suit this raster, or it lies elsewhere.
        """
        self._check(rule)
        source: Any = self._dataset
        alpha = self._alpha
        if not self._aligned(frame):
            source = self._warped(frame)
            alpha = source.count
        values = np.array(rule.values)

        def read(window: Window) -> Codes:
            band, valid = self._read(source, alpha, window)
            if rule.threshold is not None:
                flood = band >= rule.threshold
            else:
                flood = np.isin(band, values) if len(values) > 1 else band == values[0]
                if band.dtype == np.uint8 and UNOBSERVED not in rule.values:
                    valid &= band != UNOBSERVED
            return np.where(valid, flood, UNOBSERVED).astype(np.uint8)

        return read

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def _require_overlap(self, frame: Frame, crs: CRS) -> None:
        own = self.frame
        try:
            bounds = transform_bounds(own.crs or crs, crs, *_bounds(own))
        except (RasterioError, CPLE_BaseError) as error:
            raise EvaluationError(f"{self.path} cannot be brought to the other side's CRS: {_line(error)}") from error
        if not np.isfinite(bounds).all():
            raise EvaluationError(f"{self.path} lies where the other side's CRS ({crs}) does not reach; is each right?")
        west, south, east, north = _bounds(frame)
        if bounds[0] >= east or bounds[2] <= west or bounds[1] >= north or bounds[3] <= south:
            raise EvaluationError(
                f"{self.path} does not overlap the other side: in that one's CRS it spans "
                f"{bounds[0]:g}, {bounds[1]:g} to {bounds[2]:g}, {bounds[3]:g}, "
                f"the other {west:g}, {south:g} to {east:g}, {north:g}; is each CRS the right one?"
            )

    def _read(self, source: Any, alpha: int | None, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        part = RasterWindow(window.col_off, window.row_off, window.width, window.height)
        try:
            band = source.read(1, window=part)
            # Masks of float rasters do not know their alpha band (GDAL scales alpha to 255), so it is read itself.
            valid = (source.read_masks(1, window=part) if alpha is None else source.read(alpha, window=part)) > 0
        except RasterioError as error:
            raise EvaluationError(f"{self.path} cannot be read: {_line(error)}; is the file complete?") from error
        if band.dtype.kind == "f":
            valid &= ~np.isnan(band)
        return band, valid

    def _check(self, rule: FloodRule) -> None:
        kind = np.dtype(self._dataset.dtypes[0]).kind
        if rule.attribute:
            raise EvaluationError(f"{self.path} is a raster and has no attribute {rule.attribute}; name a value of it")
        if rule.threshold is None and not rule.values:
            raise EvaluationError(f"nothing says which value of {self.path} is flood")
        if rule.threshold is not None and 0 < rule.threshold < 1 and kind in "ui":
            raise EvaluationError(
                f"threshold {rule.threshold:g} is below every pixel of {self.path} but 0, as it holds whole numbers; "
                f"give it in the raster's units ({100 * rule.threshold:g} for per cent)"
            )
        if self.nodata in rule.values:
            raise EvaluationError(
                f"{self.path} declares {self.nodata:g} as nodata, so it cannot be flood; where it is, undo that with: "
                f"gdal_edit.py -unsetnodata {self.path.name}"
            )

    def _aligned(self, frame: Frame) -> bool:
        """Whether the frame's pixels are this raster's own."""
        own = self.frame
        same_size = (own.height, own.width) == (frame.height, frame.width)
        placed = [side.crs is not None or not side.transform.is_identity for side in (own, frame)]
        if same_size and not all(placed):
            return True
        if (own.crs is None) != (frame.crs is None) or not all(placed):
            if same_size and _same_pixels(own, frame):
                return True
            if self._dataset.gcps[0]:
                raise MissingCRSError(
                    f"{self.path} is placed by control points alone; "
                    f"warp it first: gdalwarp {self.path.name} warped.tif"
                )
            raise MissingCRSError(
                f"{self.path} ({own.width} x {own.height} pixels) and the other side ({frame.width} x {frame.height}) "
                "cannot be laid over each other: without a CRS on both, they must have the same pixels; "
                "assign one with: rio edit-info --crs EPSG:CODE FILE"
            )
        return same_size and own.crs == frame.crs and _same_pixels(own, frame)

    def _warped(self, frame: Frame) -> Any:
        # Two world files without any CRS share a plane; GDAL wants it named, and between equal names projects nothing.
        plane = CRS.from_epsg(3857)
        own = self.frame
        self._require_overlap(frame, frame.crs or plane)
        try:
            return self._open.enter_context(
                WarpedVRT(
                    self._dataset,
                    src_crs=own.crs or plane,
                    crs=frame.crs or plane,
                    transform=frame.transform,
                    width=frame.width,
                    height=frame.height,
                    resampling=Resampling.nearest,
                    tolerance=0.01,  # the default lets a neighbour be an eighth of a pixel off
                    add_alpha=self._alpha is None,
                )
            )
        except RasterioError as error:
            raise EvaluationError(f"{self.path} cannot be warped to the other side's grid: {_line(error)}") from error


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _alpha_band(source: DatasetReader) -> int | None:
    interpretations = source.colorinterp
    return interpretations.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in interpretations else None


def is_imagery(path: Path) -> bool:
    """Whether a raster has several bands, so that it is a picture; a file that does not open is not known to be one."""
    try:
        RasterMask(path).close()
    except ImageryError:
        return True
    except EvaluationError:
        return False
    return False


def _bounds(frame: Frame) -> tuple[float, float, float, float]:
    """West, south, east and north of a frame, which may be rotated."""
    corners = [frame.transform @ (col, row) for col in (0, frame.width) for row in (0, frame.height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _same_pixels(a: Frame, b: Frame) -> bool:
    """Whether two frames of one size agree to 1/100 of a pixel at every corner."""
    across = ~b.transform @ a.transform
    corners = ((0, 0), (a.width, 0), (0, a.height), (a.width, a.height))
    return all(abs(got - want) < 0.01 for corner in corners for got, want in zip(across @ corner, corner, strict=True))


def flood_values(paths: Iterable[Path], option: str) -> tuple[float, ...]:
    """Which value is flood in masks that do not say so: 1 of 0 and 1, 255 of 0 and 255.

    All masks of one side are looked at together, since one that is all dry or all flood tells nothing. 255 beside 0
    and 1 means unobserved, as in the masks floodmap writes.

    Args:
        paths: rasters of one side; those that cannot be read are passed over.
        option: the option that would answer the question, for the error.

    Raises:
        EvaluationError: the values leave it open.
    """
    found: set[float] = set()
    nodata: set[float] = set()
    names = []
    for path in paths:
        try:
            mask = RasterMask(path)
        except EvaluationError:
            continue
        try:
            found |= mask.values()
            nodata |= {mask.nodata} if mask.nodata is not None else set()
        except EvaluationError:
            continue
        finally:
            mask.close()
        names.append(path)
    where = str(names[0]) if len(names) == 1 else f"{names[0].parent} ({len(names)} masks)" if names else ""
    if 0.0 in nodata and found in ({1.0}, {255.0}):
        raise EvaluationError(
            f"{where} declares its 0 as nodata, so nothing in it is dry; where 0 means dry, undo that with "
            f"gdal_edit.py -unsetnodata, else confirm with {option} {found.pop():g}"
        )
    if found <= {0.0, 1.0} or found == {0.0, 1.0, 255.0}:
        return (1.0,)
    if found == {0.0, 255.0} and 255.0 not in nodata:
        return (255.0,)
    shown = ", ".join(f"{value:g}" for value in sorted(found)[:6]) + (", ..." if len(found) > 6 else "")
    raise EvaluationError(f"{where} holds the values {shown}; say which of them is flood with {option}")
