"""Raster masks and probability rasters, read window by window as flooded, dry and unobserved pixels of any grid.

In this module, the rule (`FloodRule`) is the definition of flooded and unobserved pixels.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from floodmap.errors import EvaluationError, SceneError
from floodmap.geo.crs import flat, is_placed
from floodmap.geo.gdal import gdal_env, gdal_reason
from floodmap.geo.geogrid import UNPLACED, GeoGrid, is_unplaced
from floodmap.geo.source_name import SourceName
from floodmap.geo.window import Window
from floodmap.imagery.raster.anatomy import anatomy, lost_part_text
from floodmap.masks.alignment import absent_in, absent_on_grid, is_aligned, warped
from floodmap.masks.rules import ROUNDING, Codes, FloodRule, Reader, among
from floodmap.strips.codes import UNOBSERVED

__all__ = ["ImageryError", "RasterMask", "is_imagery"]

_MAX_CLASSES = 16
"""Largest number of distinct values in a mask. A raster with more values is no mask, and counting stops."""
MASK, PROBABILITY = "flood mask", "flood probability"
"""Band descriptions of the masks and of the probability rasters that floodmap writes."""
LOG = logging.getLogger(__name__)

_PERCENT = ("%", "percent", "per cent", "pct")


class ImageryError(EvaluationError):
    """Exception raised if a mask (one band) is needed, but a raster has several bands."""


class RasterMask:
    """Raster of one band (a mask or probabilities), open for reading on any grid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()
        try:
            # QGIS and ArcGIS put the CRS of a PNG into a sidecar, which GDAL reads only with PAM enabled.
            with warnings.catch_warnings(), gdal_env(pam=Path(f"{path}.aux.xml").exists()):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                # rasterio would parse a relative path as an address.
                self._dataset: DatasetReader = self._open.enter_context(rasterio.open(path.absolute()))
        except RasterioError as error:
            raise EvaluationError(f"{path} cannot be read as a raster: {gdal_reason(error)}") from error
        self._alpha = _alpha_band(self._dataset)
        structure = anatomy(self._dataset, SourceName.of(path), (1,), self._open)
        for lost, why in structure.lost.items():
            self.close()
            raise EvaluationError(lost_part_text(path, lost, why))
        self._lossy = structure.lossy
        self._absent = None if structure.gaps is None else absent_in(structure.gaps)
        self._scale: int | None = None
        if np.dtype(self._dataset.dtypes[0]).kind == "c":
            self.close()
            raise EvaluationError(f"{path} holds complex numbers, so it is no mask")
        bands = self._dataset.count - (self._alpha is not None)
        if bands != 1:
            self.close()
            raise ImageryError(f"{path} has {bands} bands: it is imagery, not a mask; give a raster of one band")

    @property
    def grid(self) -> GeoGrid:
        """Grid of the raster, without a CRS if the raster has no transform, or if the CRS is a local CRS."""
        source = self._dataset
        bare = is_unplaced(source.transform, flat(source.crs))
        crs = flat(source.crs) if is_placed(source.crs) and not bare else None
        return GeoGrid(crs, UNPLACED if bare else source.transform, source.shape)

    @property
    def nodata(self) -> float | None:
        """Declared nodata value; None if the raster declares no nodata value."""
        return None if self._dataset.nodata is None else float(self._dataset.nodata)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixels."""
        dtype: np.dtype[Any] = np.dtype(self._dataset.dtypes[0])
        return dtype

    def values(self) -> set[float]:
        """Return the distinct values of the valid pixels; incomplete if there are more than 16 distinct values."""
        found: set[float] = set()
        for window in self.grid.blocks(2048):
            band, valid = self._read_own(window)
            found.update(float(value) for value in np.unique(band[valid])[: _MAX_CLASSES + 1])
            if len(found) > _MAX_CLASSES:
                break
        return found

    def on(self, grid: GeoGrid, rule: FloodRule) -> Reader:
        """Return a function that reads the classes of a window of a target grid (see `rules.Reader`).

        If raster and grid differ in size (rows, columns) or in position, the raster is warped to the grid by nearest
        neighbour. If one of the two has neither a CRS nor a transform, only the sizes are compared.

        Args:
            grid: the target grid.
            rule: the rule, with flood values or a threshold (see `meanings.settle`).

        Raises:
            MissingCRSError: the raster cannot be warped, because only one of raster and grid has a CRS, or because one
                of them has neither a CRS nor a transform.
            SceneError: the rule has a threshold, and the values are not probabilities, see `scale`.
            EvaluationError: the rule does not suit this raster, or the raster does not overlap the grid.
        """
        self._check(rule)
        sources: list[tuple[Any, int | None]] = [(self._dataset, self._alpha)]
        absent = self._absent
        if absent is not None:
            LOG.warning("%s: some blocks were never written; they are treated as unobserved", self.path)
        own = self.grid
        if not is_aligned(self._dataset, own, grid, self.path):
            sources = [(one, one.count) for one in warped(self._dataset, own, grid, self.path, self._open)]
            absent = None if absent is None else absent_on_grid(absent, own, grid)
        limit = None if rule.threshold is None else round(rule.threshold * self.scale(rule), 6)

        def read(window: Window) -> Codes:
            band, valid = self._read(*sources[0], window)
            for source, alpha in sources[1:]:
                further, there = self._read(source, alpha, window)
                band, valid = np.where(valid, band, further), valid | there
            if absent is not None and (missing := absent(window)) is not None:
                valid &= ~missing
            valid &= ~rule.hides(band)
            if limit is None:
                flood = among(band, rule.values)
            else:
                self._check_probabilities(band[valid], self.scale(rule))
                flood = band >= limit
            return np.where(valid, flood, UNOBSERVED).astype(np.uint8)

        return read

    def percent(self, window: Window, rule: FloodRule) -> NDArray[np.float32]:
        """Read probabilities in per cent: float32 (height, width), 0 to 100, NaN if unobserved.

        Args:
            window: the window, on the grid of the raster.
            rule: which values are unobserved. It must have a threshold, because only such a rule reads a raster as
                probabilities. The threshold itself is not applied here.
        """
        band, valid = self._read_own(window)
        valid &= ~rule.hides(band)
        self._check_probabilities(band[valid], self.scale(rule))
        percent: NDArray[np.float32] = np.where(valid, band, np.nan).astype(np.float32) * (100 / self.scale(rule))
        return percent.clip(0, 100)

    @property
    def declares_percent(self) -> bool:
        """True if the metadata of the raster declares per cent, as in the probability rasters that floodmap writes."""
        return self.described == PROBABILITY or f"{self._dataset.units[0] or ''}".strip().lower() in _PERCENT

    @property
    def described(self) -> str:
        """Description of the band, in lower case."""
        return f"{self._dataset.descriptions[0] or ''}".strip().lower()

    def scale(self, rule: FloodRule) -> int:
        """Return the stored value of probability 1: 100 if the raster is in per cent, else 1.

        The metadata decides. Without metadata, an integer raster is in per cent. A float raster is in per cent if
        `in_percent` of the rule is True, or if the raster has values above 1.

        Raises:
            SceneError: the raster is a mask, the values of the raster do not show the scale, or the band has a scale or
                an offset in the sense of GDAL. An integer raster may have the scale 0.01, which means per cent.
        """
        if self._scale is None:
            declared = round(self._dataset.scales[0], 6), self._dataset.offsets[0]
            if declared != (1, 0) and (declared != (0.01, 0) or self.dtype.kind == "f"):
                raise SceneError(
                    f"{self.path} declares a scale or an offset of its values, which floodmap does not apply to "
                    "probabilities; store the scaled values (gdal_calc.py)"
                )
            self._scale = 100 if self.declares_percent or rule.in_percent or self.holds_percent(rule) else 1
        return self._scale

    def tell_scale(self, rule: FloodRule) -> None:
        """Log the threshold in the unit of the raster, if the unit is per cent: 50 for the threshold 0.5."""
        if rule.threshold is not None and self.scale(rule) != 1:
            limit = round(rule.threshold * self.scale(rule), 6)
            LOG.warning("%s holds per cent: the threshold %g is used as %g", self.path, rule.threshold, limit)

    def holds_percent(self, rule: FloodRule) -> bool:
        """Return whether a raster is in per cent, judged by dtype and values: integers, or floats with values above 1.

        Raises:
            SceneError: an integer raster whose metadata do not declare per cent has no other values than 0, 1 and 255:
                it is a mask. A float raster has more than 16 distinct values below 0; fewer would be fill values. A
                float raster has values between 0 and 1, and exactly one value above 1, perhaps a fill value.
        """
        if self.dtype.kind != "f":
            if self.declares_percent:
                return True
            found = self.values() - set(rule.ignored)
            if self.described == MASK or (found & {1.0, 255.0} and found <= {0.0, 1.0, 255.0}):
                shown = ", ".join(f"{value:g}" for value in sorted(found))
                raise SceneError(f"{self.path} holds {shown}: a mask, not probabilities; leave out --threshold")
            return True
        above: set[float] = set()
        below: set[float] = set()
        has_shares = False
        for window in self.grid.blocks(2048):
            band, valid = self._read_own(window)
            below.update(map(float, np.unique(band[valid & (band < -ROUNDING)])[: _MAX_CLASSES + 1]))
            if len(below) > _MAX_CLASSES:
                raise SceneError(f"{self.path} holds many values below 0 ({min(below):g}): these are no probabilities")
            observed = band[valid & ~rule.hides(band)]
            above.update(map(float, np.unique(observed[observed > 1 + ROUNDING])[:2]))
            has_shares |= bool(((observed > 0) & (observed < 1)).any())
            if len(above) > 1:
                return True
        if above and has_shares:
            outlier = above.pop()
            raise SceneError(
                f"{self.path} holds shares of 0 to 1, and {outlier:g}; if {outlier:g} means nodata, declare it: "
                f"gdal_edit.py -a_nodata {outlier:g} {self.path.name}"
            )
        return bool(above)

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def _read_own(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window of the raster. Return the values, and bool, True for valid pixels; both (height, width)."""
        band, valid = self._read(self._dataset, self._alpha, window)
        if self._absent is not None and (missing := self._absent(window)) is not None:
            valid &= ~missing
        return band, valid

    def _read(self, source: Any, alpha: int | None, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window of a dataset. Return the values, and bool, True for valid pixels; both (height, width).

        Args:
            source: the raster, or the raster warped to another grid.
            alpha: number of the alpha band, counted from 1. None: GDAL's mask of band 1 is used instead.
            window: the window, on the grid of the dataset.
        """
        part = window.to_rasterio()
        try:
            band = source.read(1, window=part)
            # The alpha band is read, because GDAL's masks are wrong for float rasters with an alpha band: GDAL scales
            # alpha to 255.
            seen = source.read_masks(1, window=part) if alpha is None else source.read(alpha, window=part)
            valid = self._opaque(seen)
            if alpha is not None and source.nodata is not None:
                # A raster that is warped has its nodata value outside of its area too, where alpha may be anything.
                valid &= ~among(band, (source.nodata,))
        except RasterioError as error:
            raise EvaluationError(f"{self.path} cannot be read: {gdal_reason(error)}; is the file complete?") from error
        if band.dtype.kind == "f":
            valid &= np.isfinite(band)
        return band, valid

    def _opaque(self, alpha: NDArray[Any]) -> NDArray[np.bool_]:
        """Return bool in the shape of `alpha` (the alpha band, or GDAL's mask): True for pixels with alpha above 0.

        If the raster has an integer alpha band and lossy compression, alpha must be at least half of the largest value
        of the dtype (128 in uint8), because the compression changes alpha beside transparent areas.
        """
        half = self._alpha is not None and self._lossy and alpha.dtype.kind in "iu"
        return np.asarray(alpha >= (np.iinfo(alpha.dtype).max + 1) // 2 if half else alpha > 0)

    def _check_probabilities(self, observed: NDArray[Any], scale: int) -> None:
        low, high = (float(observed.min()), float(observed.max())) if len(observed) else (0.0, 0.0)
        if low < -ROUNDING or high > scale * (1 + ROUNDING):
            outlier = low if low < -ROUNDING else high
            raise SceneError(
                f"{self.path} holds {outlier:g}, which is no probability: these are 0 to 1, or 0 to 100 in per cent; "
                "rescale other values first (gdal_calc.py); for a mask give --flood-value instead"
            )

    def _check(self, rule: FloodRule) -> None:
        if rule.attribute:
            raise EvaluationError(f"{self.path} is a raster and has no attribute {rule.attribute}; give a pixel value")
        if rule.threshold is None and not rule.values:
            raise EvaluationError(
                f"{self.path}: the value of flood pixels is not given; use --flood-value (reference: --reference-value)"
            )
        if self._lossy and rule.threshold is None and len(self.values()) > _MAX_CLASSES:
            raise EvaluationError(
                f"{self.path} is compressed with loss, which has blurred its classes; give the mask as PNG, or as TIFF "
                "with DEFLATE or LZW"
            )
        if self.nodata in rule.values:
            raise EvaluationError(
                f"{self.path} declares {self.nodata:g} as nodata, so it cannot be flood; if it is flood, run: "
                f"gdal_edit.py -unsetnodata {self.path.name}"
            )


def _alpha_band(source: DatasetReader) -> int | None:
    interpretations = source.colorinterp
    return interpretations.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in interpretations else None


def is_imagery(path: Path) -> bool:
    """Return whether a raster has several bands and is therefore a picture; False if the file cannot be opened."""
    try:
        RasterMask(path).close()
    except ImageryError:
        return True
    except EvaluationError:
        return False
    return False
