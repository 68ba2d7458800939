"""Metadata that mark pixels of a raster as unobserved: corrected nodata values and alpha band, and masks of bands."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader, MemoryFile
from rasterio.vrt import WarpedVRT

from floodmap.geo.gdal import closed_by
from floodmap.geo.source_name import SourceName
from floodmap.geo.vrt import Vrt
from floodmap.imagery.raster.bands import BandChoice


def corrected(
    dataset: DatasetReader, name: SourceName, stack: ExitStack, choice: BandChoice, nodata: tuple[float | None, ...]
) -> DatasetReader:
    """Return the dataset, or a virtual copy (VRT) of the dataset with corrected metadata.

    The metadata must be correct, because GDAL leaves out nodata pixels and transparent pixels when it averages pixels.
    A copy is made only if the nodata values or the alpha band in the metadata of the dataset are wrong.

    Args:
        dataset: the open raster.
        name: name by which the raster was opened.
        stack: exit stack that closes the copy.
        choice: the bands of the raster by role. If `choice` has an alpha band, the copy declares this band, and no
            other, as alpha. If `choice` has no alpha band, the copy declares no band as alpha.
        nodata: correct nodata values, one for each colour band (the bands `choice.rgb`). None instead of a value: every
            value of this band is valid. A copy corrects the nodata value only if all colour bands have the same correct
            value. Values that differ from band to band need no copy: they are those of the file, and GDAL uses them.
    """
    declared = ColorInterp.alpha in dataset.colorinterp
    wrong_alpha = declared != (choice.alpha is not None)
    own = tuple(dataset.nodatavals[band - 1] for band in choice.rgb)
    # rasterio sets one value for all bands. Values that differ are those of the file, which GDAL uses without a copy.
    known = all(map(_is_same, own, nodata)) or not all(_is_same(nodata[0], value) for value in nodata)
    if known and not wrong_alpha:
        return dataset
    copy = _virtual_copy(dataset, name, stack)
    with rasterio.open(copy, "r+") as virtual:
        if not known:
            virtual.nodata = nodata[0]
        if wrong_alpha:
            kinds = [ColorInterp.undefined if kind == ColorInterp.alpha else kind for kind in virtual.colorinterp]
            if choice.alpha is not None:
                kinds[choice.alpha - 1] = ColorInterp.alpha
            virtual.colorinterp = kinds
    return closed_by(stack, rasterio.open(copy))


def _virtual_copy(dataset: DatasetReader, name: SourceName, stack: ExitStack) -> str:
    """Write a VRT over a raster into memory, and return its name. `name` is the name by which the raster was opened."""
    vrt = Vrt(dataset, name) if dataset.driver == "VRT" else None
    if vrt is not None and vrt.masks:  # GDAL (3.10) leaves relative names in masks, which are wrong in the copy
        absolute = closed_by(stack, MemoryFile(vrt.without((), {}), ext=".vrt"))
        dataset = closed_by(stack, rasterio.open(absolute.name))
    memory = closed_by(stack, MemoryFile(ext=".vrt"))
    rasterio.shutil.copy(dataset, memory.name, driver="VRT")
    return str(memory.name)


def masked_bands(dataset: DatasetReader | WarpedVRT, choice: BandChoice) -> tuple[int, ...]:
    """Return the numbers, from 1, of the colour bands whose masks must be read to find hidden pixels.

    If one mask applies to all bands, the result is the first colour band. If masks apply to one band each, the result
    is the colour bands that have a mask. The result is empty if the raster has no mask of its own. A mask that GDAL
    derives from an alpha band or from the nodata value of a band does not count.
    """
    flags = dataset.mask_flag_enums[choice.rgb[0] - 1]
    if MaskFlags.per_dataset in flags:
        return () if MaskFlags.alpha in flags else choice.rgb[:1]
    # GDAL has no flag for a mask that belongs to one band. The list of flags is then empty.
    return tuple(band for band in dict.fromkeys(choice.rgb) if not dataset.mask_flag_enums[band - 1])


def _is_same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second, equal_nan=True)
