"""Cloud-optimized GeoTIFFs (COG) of mask, probability or classes, written from strips, with consistent overviews."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from floodmap._runtime.forks import threads
from floodmap.errors import OutputError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import writable
from floodmap.geo.window import Window
from floodmap.output.pyramid import class_pyramid, pyramid, shrunk
from floodmap.strips.codes import UNOBSERVED

BLOCK_SIZE = 512
"""Side in pixels of the internal tiles of a COG; a raster that fits into one internal tile has no overviews."""
CACHE_BYTES = 32 * 2**20
"""Size in bytes of GDAL's block cache while rasters are written."""
STEP_COLUMNS = 4096
"""Number of columns for which overviews are computed at a time; a power of two.

Overviews are computed block by block. A block has `BLOCK_SIZE` rows and `STEP_COLUMNS` columns of the full resolution.
In a raster with n overviews, it has at least 2**n rows and 2**n columns, because a pixel of the last overview covers
2**n x 2**n pixels. The computation takes about 15 bytes of memory for each full-resolution pixel of one block."""
KINDS = ("mask", "probability")
"""The two rasters that are written for a scene. The names of their files end with these words, as in `x_mask.tif`."""

Codes = NDArray[np.uint8]
Strips = Iterable[tuple[int, Codes]]
Levels = Callable[..., Iterator[tuple[Codes, ...]]]
"""Function from a block of codes, and the argument `levels`, to the pixels of the rasters at each level."""


def write_rasters(
    strips: Strips,
    out_dir: Path,
    name: str,
    *,
    grid: GeoGrid,
    threshold: int,
    tags: Mapping[str, str],
    overwrite: bool = False,
    scratch: Path | None = None,
    permanent: bool = False,
) -> tuple[Path, Path]:
    """Write the COGs `NAME_mask.tif` and `NAME_probability.tif` to a folder, each with a `.qml` style for QGIS.

    Both rasters are uint8 with nodata 255 (unobserved). The mask is 1 if the probability is at least the threshold, and
    otherwise 0. Permanent water is 2. The probability is in per cent, 0 to 100, also for permanent water.

    Overview pixels are computed from the full-resolution pixels that they cover. In the mask, an overview pixel has the
    most frequent value; on a tie, unobserved precedes flood, flood permanent water, and permanent water dry. Flood and
    permanent water together are compared with dry first, so that both options agree on what is dry. In the probability
    raster, an overview pixel is the mean of the observed pixels; the same overview pixels as in the mask are
    unobserved. The bytes of the files depend only on the arguments.

    Args:
        strips: pairs of first row and codes, uint8 (rows, width), from the top of the scene to the bottom. Each row
            of the scene is in exactly one strip. The iterable is iterated once.
        out_dir: folder of the files, created if it is missing.
        name: beginning of the file names.
        grid: grid of the scene's pixels. If the transform of the grid is the identity, no transform is written.
        threshold: in per cent; codes from the threshold to 100 are flood.
        tags: GDAL metadata of both files.
        overwrite: True: replace files that exist.
        scratch: folder for temporary files, on the same disk as `out_dir`; None: `out_dir`.
        permanent: True: the style of the mask has permanent water.

    Returns:
        Paths of the mask and of the probability raster.

    Raises:
        OutputError: a file exists already, the strips do not cover the scene, or a file cannot be written.
    """
    styles = {kind: "mask_with_permanent_water" if permanent and kind == "mask" else kind for kind in KINDS}
    mask, probability = _write(
        strips, out_dir, name, styles, partial(pyramid, threshold=threshold), grid=grid, tags=tags,
        overwrite=overwrite, scratch=scratch,
    )  # fmt: skip
    return mask, probability


def write_classes(
    strips: Strips,
    out_dir: Path,
    name: str,
    kind: str,
    *,
    classes: Sequence[int],
    style: str,
    grid: GeoGrid,
    tags: Mapping[str, str],
    overwrite: bool = False,
    scratch: Path | None = None,
) -> Path:
    """Write the COG `NAME_KIND.tif` of classes to a folder, with a `.qml` style for QGIS.

    The raster is uint8 with nodata 255 (unobserved). For overviews see `pyramid.class_pyramid`; for the other arguments
    and errors see `write_rasters`.

    Args:
        strips: pairs of first row and classes, uint8 (rows, width). Values from `codes.FIRST_REASON` on are unobserved.
        kind: end of the file name.
        classes: all classes; on a tie in an overview, earlier classes precede later ones.
        style: name of the style in `styles`.

    Returns:
        Path of the raster.
    """
    levels_of = partial(class_pyramid, classes=classes)
    [path] = _write(
        strips, out_dir, name, {kind: style}, levels_of, grid=grid, tags=tags, overwrite=overwrite, scratch=scratch
    )
    return path


def _write(
    strips: Strips, out_dir: Path, name: str, styles: Mapping[str, str], levels_of: Levels, *, grid: GeoGrid,
    tags: Mapping[str, str], overwrite: bool, scratch: Path | None,
) -> list[Path]:  # fmt: skip
    """Write the COGs `NAME_KIND.tif` of one or more kinds, and return their paths; see `write_rasters`.

    Args:
        styles: name of the style of each kind.
        levels_of: function that computes the pixels of all kinds.
    """
    targets = [out_dir / f"{name}_{kind}{suffix}" for kind in styles for suffix in (".tif", ".qml")]
    for target in targets:
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists already; choose another folder or overwrite it")
    transform = None if grid.transform.is_identity else grid.transform
    profile = {"width": grid.width, "height": grid.height, "crs": grid.crs, "transform": transform}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        work_dir = Path(tempfile.mkdtemp(prefix=".rasters-", dir=scratch or out_dir))
        try:
            with (
                writable(work_dir, however_long=True) as plain,
                rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=CACHE_BYTES),
                warnings.catch_warnings(),
            ):
                # A scene without georeference is a supported input; a warning was given when it was opened.
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                _write_levels(strips, plain, tuple(styles), levels_of, profile)
                for kind, style in styles.items():
                    _assemble(plain, kind, tags)
                    qml = files("floodmap.output").joinpath("styles", f"{style}.qml").read_bytes()
                    (plain / f"{kind}.qml").write_bytes(qml)
            for target in targets:
                (work_dir / (target.name.removeprefix(f"{name}_"))).replace(target)
        finally:
            shutil.rmtree(work_dir, ignore_errors=True)
    except (RasterioError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {out_dir / name}_*.tif: {error}") from error
    return targets[::2]


def overview_levels(width: int, height: int) -> int:
    """Return the number of overviews of a raster. Each overview has half as many rows and columns as the level before.

    The last overview is the first that fits into one internal tile (`BLOCK_SIZE`).

    Args:
        width: number of columns of the raster.
        height: number of rows of the raster.
    """
    return max(0, (max(width, height) - 1).bit_length() - (BLOCK_SIZE - 1).bit_length())


def _write_levels(
    strips: Strips, work_dir: Path, kinds: Sequence[str], levels_of: Levels, profile: Mapping[str, Any]
) -> None:
    """Write the full resolution (level 0) and each overview (level 1 and above) of all rasters as separate GeoTIFFs.

    The files are `KIND_LEVEL.tif`. Only level 0 has a CRS and a transform.

    Args:
        strips: see `write_rasters`.
        work_dir: folder of the files.
        kinds: kinds of the rasters, in the order of the arrays of `levels_of`.
        levels_of: function that computes the pixels of all kinds.
        profile: width, height, CRS and transform of level 0, as arguments of `rasterio.open`.
    """
    width, height = profile["width"], profile["height"]
    levels = overview_levels(width, height)
    with ExitStack() as stack:
        outputs = []
        for level in range(levels + 1):
            grid = {**(profile if level == 0 else {}), "width": shrunk(width, level), "height": shrunk(height, level)}
            outputs.append([stack.enter_context(_create(work_dir / f"{kind}_{level}.tif", grid)) for kind in kinds])
        step = max(BLOCK_SIZE, 1 << levels)
        for row_off, band in _bands(strips, step, width, height):
            for col_off in range(0, width, max(step, STEP_COLUMNS)):
                codes = band[:, col_off : col_off + max(step, STEP_COLUMNS)]
                for level, arrays in enumerate(levels_of(codes, levels=levels)):
                    rows, cols = arrays[0].shape
                    window = Window(row_off >> level, col_off >> level, rows, cols).to_rasterio()
                    for output, values in zip(outputs[level], arrays, strict=True):
                        output.write(values, 1, window=window)


def _create(path: Path, grid: Mapping[str, Any]) -> Any:
    # PackBits takes a third of the time of the fastest DEFLATE, and keeps the temporary files smaller than the scene.
    return rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="uint8", tiled=True, blockxsize=BLOCK_SIZE, blockysize=BLOCK_SIZE,
        compress="PACKBITS", bigtiff="IF_SAFER", **grid,
    )  # fmt: skip


def _bands(strips: Strips, rows: int, width: int, height: int) -> Iterator[tuple[int, Codes]]:
    """Regroup strips into groups of `rows` full rows; the last group may have fewer rows.

    Yields:
        First row and codes, uint8 (rows, width), of each group. The array is reused for the next group.

    Raises:
        OutputError: the strips do not cover the scene.
    """
    band, filled, expected = np.empty((rows, width), np.uint8), 0, 0
    for row_off, codes in strips:
        if row_off != expected or codes.ndim != 2 or codes.shape[1] != width:
            raise OutputError(f"strip of shape {codes.shape} at row {row_off} does not follow row {expected}")
        expected += len(codes)
        taken = 0
        while taken < len(codes):
            step = min(rows - filled, len(codes) - taken)
            band[filled : filled + step] = codes[taken : taken + step]
            filled, taken = filled + step, taken + step
            if filled == rows:
                yield expected - len(codes) + taken - rows, band
                filled = 0
    if expected != height:
        raise OutputError(f"strips cover {expected} rows of a scene of {height}")
    if filled:
        yield height - filled, band[:filled]


def _assemble(work_dir: Path, kind: str, tags: Mapping[str, str]) -> None:
    """Combine the files `KIND_LEVEL.tif` of one raster into the COG `KIND.tif`.

    Overviews computed by GDAL cannot be used, because mask and probability would disagree. GDAL's resampling MODE
    chooses arbitrarily on ties. With AVERAGE, an overview pixel is nodata only if all its pixels are nodata, and GDAL
    computes each overview from the overview before, not from the full resolution.

    The COG driver copies the overviews of a source raster, and a VRT can name any file as an overview. Therefore a VRT
    of level 0 is written that names the files of the other levels as its overviews, and the COG driver copies the VRT.
    Copying also takes little memory. If a COG were opened for writing instead, GDAL would hold the whole COG in memory.
    """
    vrt_path = work_dir / f"{kind}.vrt"
    with rasterio.open(work_dir / f"{kind}_0.tif", "r+") as base:
        base.nodata = UNOBSERVED
        base.update_tags(**tags)
        base.set_band_description(1, f"flood {kind}")
        if kind == "probability":
            base.units = ("%",)
    rasterio.shutil.copy(work_dir / f"{kind}_0.tif", vrt_path, driver="VRT")
    # The VRT is edited as text: GDAL writes control characters in tags unescaped, and XML parsers reject them.
    before, end, after = vrt_path.read_bytes().rpartition(b"</VRTRasterBand>")
    if not end:
        raise OutputError(f"GDAL wrote no band into {vrt_path}")
    overviews = [
        f'<Overview><SourceFilename relativeToVRT="1">{kind}_{level}.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</Overview>"
        for level in range(1, len(list(work_dir.glob(f"{kind}_*.tif"))))
    ]
    vrt_path.write_bytes(b"".join((before, *(overview.encode() for overview in overviews), end, after)))
    # DEFLATE level 6 takes four times as long, and makes the probability raster a tenth smaller.
    rasterio.shutil.copy(
        vrt_path, work_dir / f"{kind}.tif", driver="COG", overviews="FORCE_USE_EXISTING", blocksize=BLOCK_SIZE,
        compress="DEFLATE", level=3, predictor="STANDARD" if kind == "probability" else "NO", bigtiff="IF_SAFER",
        num_threads=threads(2),
    )  # fmt: skip
